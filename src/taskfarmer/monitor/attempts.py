"""Every attempt at tasks, from the journals: who ran what, when, where, and how it ended."""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..core.state import FAILED, FINISHED, Farmer, State
from ..farm.ledger import Ledger
from ..farm.slices import Open, Slice, read_slices
from .text import duration

_REASONS = {
    "timeout": "it took too long",
    "nostart": "it could not be started",
    "lost": "it was not started",
    "evicted": "its batch job was told to end",
}
_FEW = 20
"""Up to so many tasks are searched for; for more of them all is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt at a task. Times in seconds since the epoch, by the clock of `host`.

    `ending` is `finished`, `failed`, `retried` (failed, to be tried again), `stopped` (to be done again), `cancelled`,
    `lost` (its farmer died; with the reason `lost`, its batch job; with `evicted`, the batch system told its farmer's
    job to end) or `running`; `status` the exit status, or minus a signal, None where nothing is known. `counted`: its
    end is that of the task. `superseded`: it ended, but that does not count: its farmer had been buried by then, or the
    task had been cancelled. `buried`: why its farmer was buried, if that is the reason for either.
    `number` is the farmer's, from 1, in the order of joining.
    """

    task: int
    attempt: int
    farmer: str
    number: int
    host: str
    slot: int
    start: float
    end: float | None
    ending: str
    status: int | None
    reason: str
    cpu_s: float
    rss_kib: int
    counted: bool = False
    superseded: bool = False
    buried: str = ""

    @property
    def seconds(self) -> float | None:
        """How long it ran; None while it does."""
        return None if self.end is None else max(0.0, self.end - self.start)

    @property
    def signal(self) -> str:
        """The name of the signal that ended it, or the empty string."""
        return signal_name(self.status) if self.status is not None else ""

    def how(self) -> str:
        """Return how it ended, in words."""
        return ", ".join([self.ending, *self.details()])

    def details(self) -> list[str]:
        """Return what else is to be said of its end."""
        parts = []
        if self.reason not in ("", "-", self.ending):
            parts.append(_REASONS.get(self.reason, self.reason))
        if self.status is not None and self.ending != "finished":
            parts.append(self.signal or f"exit status {self.status}")
        if self.seconds is not None and (self.ending != "lost" or self.status is not None):
            parts.append(f"after {duration(self.seconds)}")
        if self.superseded:
            after = ", it came after its farmer was buried" if self.buried else ""
            parts.append(f"superseded: this result does not count{after}")
        return parts

    def to_json(self) -> dict[str, Any]:
        """Return the attempt as JSON values (docs/json.md)."""
        values = asdict(self)
        del values["number"]
        return values | {"seconds": self.seconds, "signal": self.signal}


def signal_name(status: int) -> str:
    """Return the name of the signal that a status means; the empty string for an exit status."""
    if status >= 0:
        return ""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def attempts(ledger: Ledger, tasks: Collection[int] | None = None) -> Iterator[AttemptRecord]:
    """Yield every attempt (at `tasks`), farmer by farmer, each in the order of its journal.

    The state must include the tails of the journals (`Ledger.read_tails`). A journal counts up to the cut of its
    farmer's end.
    """
    for item, superseded in slices(ledger, tasks):
        yield _record(ledger.state, item, superseded)


def slices(ledger: Ledger, tasks: Collection[int] | None = None) -> Iterator[tuple[Slice, bool]]:
    """Yield what `attempts` yields, as (slice, whether it is superseded); one that runs has the outcome `running`.

    Superseded is what stands behind the cut of a burial, and what ended well but is not what the task rests on.
    """
    few = tasks if tasks is not None and len(tasks) <= _FEW else None
    wanted = None if tasks is None else set(tasks)
    state = ledger.state
    for number, farmer in enumerate(state.farmers, 1):
        for item, counts in _of_farmer(ledger, number, farmer, few):
            # A tail may be ahead of the log, and tell of tasks that were added since.
            if item.task < len(state) and (wanted is None or item.task in wanted):
                yield item, not counts or _is_outdone(state, item)


def attempts_at(ledger: Ledger, task: int) -> list[AttemptRecord]:
    """Return every attempt at one task, in the order in which they began."""
    return sorted(attempts(ledger, (task,)), key=lambda record: (record.attempt, record.start))


def _of_farmer(
    ledger: Ledger, number: int, farmer: Farmer, few: Collection[int] | None
) -> Iterator[tuple[Slice, bool]]:
    """Yield (attempt, whether it stands before the cut)."""
    path = ledger.workdir.journals / farmer.id
    begun: Open = {}
    for item in read_slices(path, number, 0, farmer.seen, begun, few):
        begun.pop(item.task, None)
        yield item, True
    if farmer.ended:
        for item in read_slices(path, number, farmer.seen, _size(ledger, farmer), begun, few):
            begun.pop(item.task, None)
            yield item, False
    outcome = "lost" if farmer.ended else "running"
    for task, (attempt, slot, start) in begun.items():
        end = max(start, farmer.until)
        yield Slice(end, number, 0, task, attempt, outcome, 0, slot, start, 0.0, 0, "-"), True


def _size(ledger: Ledger, farmer: Farmer) -> int:
    try:
        return (ledger.workdir.journals / farmer.id).stat().st_size
    except OSError:
        return 0


def _is_outdone(state: State, item: Slice) -> bool:
    """Whether the task does not rest on this good end before the cut. A living farmer's may be ahead of the log."""
    if item.outcome != "ok" or is_counted(state, item):
        return False
    return state.status[item.task] == FINISHED or not state.farmers[item.farmer - 1].alive


def is_counted(state: State, item: Slice) -> bool:
    """Whether the task stands as this attempt at it has ended; to be asked only of what is before the cut."""
    stands = {"ok": FINISHED, "fail": FAILED}.get(item.outcome)
    return state.status[item.task] == stands and item.attempt == max(1, state.tries_of(item.task).attempts)


def _record(state: State, item: Slice, superseded: bool) -> AttemptRecord:
    farmer = state.farmers[item.farmer - 1]
    return AttemptRecord(
        task=item.task,
        attempt=item.attempt,
        farmer=farmer.id,
        number=item.farmer,
        host=str(farmer.host.get("host", "")),
        slot=item.slot,
        start=item.start,
        end=None if item.outcome == "running" else item.end,
        ending=item.ending,
        status=None if item.is_unseen else item.status,
        reason=item.reason,
        cpu_s=item.cpu_s,
        rss_kib=item.rss_kib,
        counted=not superseded and is_counted(state, item),
        superseded=superseded,
        buried=farmer.why if farmer.ended == "buried" and (superseded or item.outcome == "lost") else "",
    )
