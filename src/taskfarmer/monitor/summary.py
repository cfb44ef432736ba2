"""How a farm stands: tasks by state, farmers, rate. From the log and the ends of journals only, so it is quick."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.records import Ended
from ..core.state import STATES, Farmer
from ..farm.host import Place, is_gone
from ..farm.journal import read_tail
from ..farm.ledger import Ledger

RECENT_S = 60.0
_AT_LEAST = 20
_RECENT_BYTES = 64 << 10
_SILENT_BEATS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmerSummary:
    """One farmer. `standing`: `alive`, `silent` (no sign of life for three heartbeats; perhaps only its host is slow),
    `gone` (certainly dead; the next farmer on its host takes over its tasks), `left`, or `buried` (presumed dead).

    `silence_s`: seconds since its last sign of life, for those that have not ended. `until`, `why`: their end.
    `damaged`: lines of its journal that could not be read.
    """

    id: str
    number: int
    host: str
    pid: int
    slots: int
    standing: str
    finished: int
    failed: int
    running: int
    since: float
    until: float | None
    why: str
    silence_s: float | None
    damaged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmSummary:
    """A farm. `rate_per_s`: tasks that ended a second, by what farmers did lately; `left_s`: seconds until
    all are done at that rate, None if it cannot be told. `damaged`: lines of journals that cannot be read.
    """

    workdir: Path
    tasklist: str
    total: int
    counts: dict[str, int]
    rate_per_s: float
    left_s: float | None
    farmers: list[FarmerSummary]
    damaged: int

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
            "farmers": [asdict(farmer) for farmer in self.farmers],
        }


def summary(ledger: Ledger) -> FarmSummary:
    """Return how the farm stands; the ledger must have been caught up with (`refresh`, `read_tails`)."""
    state = ledger.state
    counted = state.counts()
    counts = {name: counted[name] for name in STATES}
    running = Counter(ran.farmer for ran in state.running.values())
    farmers = [_farmer(ledger, number, farmer, running[number]) for number, farmer in enumerate(state.farmers, 1)]
    at_work = [state.farmers[f.number - 1] for f in farmers if f.standing == "alive"]
    rate = sum((_rate(ledger, farmer) for farmer in at_work), 0.0)
    left = counts["toprocess"] + counts["running"]
    return FarmSummary(
        workdir=ledger.workdir.path,
        tasklist=str(state.config.get("tasklist", "")),
        total=len(state),
        counts=counts,
        rate_per_s=rate,
        left_s=left / rate if rate else None,
        farmers=farmers,
        damaged=sum(farmer.damaged for farmer in farmers),
    )


def _farmer(ledger: Ledger, number: int, farmer: Farmer, running: int) -> FarmerSummary:
    silence = None if farmer.ended else _silence_s(ledger, farmer)
    return FarmerSummary(
        id=farmer.id,
        number=number,
        host=str(farmer.host.get("host", "")),
        pid=int(farmer.host.get("pid", 0)),
        slots=farmer.slots,
        standing=standing(ledger, farmer),
        finished=farmer.finished,
        failed=farmer.failed,
        running=running,
        since=farmer.since,
        until=farmer.until if farmer.ended else None,
        why=farmer.why,
        silence_s=silence,
        damaged=farmer.unreadable + _damaged_tail(ledger, farmer),
    )


def _damaged_tail(ledger: Ledger, farmer: Farmer) -> int:
    """How many lines of which the log has no news cannot be read."""
    if farmer.ended or farmer.id not in ledger.damaged:
        return 0
    return read_tail(ledger.workdir.journals / farmer.id, farmer.told, farmer.seen).damaged


def standing(ledger: Ledger, farmer: Farmer) -> str:
    """Return how a farmer stands, as `FarmerSummary` has it."""
    if farmer.ended:
        return farmer.ended
    place = Place.from_json(farmer.host)
    if place is not None and is_gone(place):
        return "gone"
    return "silent" if _silence_s(ledger, farmer) > _SILENT_BEATS * ledger.state.heartbeat_s else "alive"


def _silence_s(ledger: Ledger, farmer: Farmer) -> float:
    """Seconds since it wrote something, by the file server's clock and ours: good enough to look at."""
    last = farmer.since
    for path in (ledger.workdir.alive / farmer.id, ledger.workdir.journals / farmer.id):
        try:
            last = max(last, os.stat(path).st_mtime)
        except OSError:
            continue
    return max(0.0, time.time() - last)


def _rate(ledger: Ledger, farmer: Farmer) -> float:
    """Tasks a second that one farmer ended in the last minute, or its last twenty if those took longer."""
    path = ledger.workdir.journals / farmer.id
    start = max(0, farmer.seen - _RECENT_BYTES)
    # The first line of what is read is mostly cut in the middle, and skipped as damaged.
    records = read_tail(path, start, farmer.seen).records
    ends = [record.time for record in records if isinstance(record, Ended) and record.outcome in ("ok", "fail")]
    if not ends:
        return 0.0
    now = max(ends[-1], time.time())
    count = max(sum(end > now - RECENT_S for end in ends), min(_AT_LEAST, len(ends) - (start > 0)))
    before = ends[-count - 1] if len(ends) > count else farmer.since
    return count / max(now - before, 1.0)
