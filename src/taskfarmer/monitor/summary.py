"""How a farm stands: tasks by state, farmers, rate. From the log and the ends of journals only, so it is quick."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.state import STATES
from ..farm.ledger import Ledger
from .farmers import FarmerSummary, HostSummary, farmers_of, hosts_of

if TYPE_CHECKING:
    from .jobs import Waiting
    from .pilots import QueueSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmSummary:
    """A farm. `rate_per_s`: tasks that ended a second, by what farmers did lately; `left_s`: seconds until
    all are done at that rate, None if it cannot be told. `damaged`: lines of journals that cannot be read. `hosts`: the
    same farmers, put together. `lease_s`: a farmer that is silent for so long is buried. `queue`: pilots, None where
    there never were any. `queued`: of the tasks that run, how many are batch jobs in a queue; None where none ever was
    a job. `unsubmitted`: how many of them have no job yet, and `unsubmitted_why`: why not, as far as that is known.
    `left_in_queue`: how many tasks that nobody has have a job that an earlier farmer left to the next.
    """

    workdir: Path
    tasklist: str
    total: int
    counts: dict[str, int]
    rate_per_s: float
    left_s: float | None
    farmers: list[FarmerSummary]
    hosts: list[HostSummary]
    lease_s: float
    damaged: int
    queue: QueueSummary | None = None
    queued: int | None = None
    unsubmitted: int | None = None
    unsubmitted_why: str = ""
    left_in_queue: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values (docs/json.md)."""
        return {
            "workdir": str(self.workdir),
            "tasklist": self.tasklist,
            "total": self.total,
            "tasks": self.counts,
            "rate_per_s": round(self.rate_per_s, 6),
            "left_s": None if self.left_s is None else round(self.left_s, 3),
            "damaged": self.damaged,
            "lease_s": self.lease_s,
            "hosts": [_rounded(asdict(host)) for host in self.hosts],
            "farmers": [_rounded(asdict(farmer)) for farmer in self.farmers],
            "queue": None if self.queue is None else self.queue.to_json(),
            "queued": self.queued,
            "unsubmitted": self.unsubmitted,
            "unsubmitted_why": self.unsubmitted_why,
            "left_in_queue": self.left_in_queue,
        }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"rate_per_s": round(values["rate_per_s"], 6)}


def summary(ledger: Ledger, queue: QueueSummary | None = None) -> FarmSummary:
    """Return how the farm stands; the ledger must have been caught up with (`refresh`, `read_tails`).

    `queue`: how its pilots stand, as far as that was asked.
    """
    state = ledger.state
    counted = state.counts()
    counts = {name: counted[name] for name in STATES}
    farmers = farmers_of(ledger)
    rate = sum((farmer.rate_per_s for farmer in farmers), 0.0)
    left = counts["toprocess"] + counts["running"]
    waiting = _waiting(ledger)
    return FarmSummary(
        workdir=ledger.workdir.path,
        tasklist=str(state.config.get("tasklist", "")),
        total=len(state),
        counts=counts,
        rate_per_s=rate,
        left_s=left / rate if rate else None,
        farmers=farmers,
        hosts=hosts_of(farmers),
        lease_s=state.lease_s,
        damaged=sum(farmer.damaged for farmer in farmers),
        queue=queue,
        queued=None if waiting is None else len(waiting.queued),
        unsubmitted=None if waiting is None else len(waiting.unsubmitted),
        unsubmitted_why="" if waiting is None else waiting.why,
        left_in_queue=None if waiting is None else len(waiting.left),
    )


def _waiting(ledger: Ledger) -> Waiting | None:
    if not ledger.workdir.jobs.is_dir():
        return None
    from .jobs import waiting  # most farms never had any

    return waiting(ledger)
