"""The farmers, one by one and by host: how each stands, what it has done, what became of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.entries import Bury
from ..core.records import Ended
from ..core.state import Farmer
from ..farm.damage import unreadable_lines
from ..farm.journal import read_tail
from ..farm.ledger import Ledger
from ..farm.slices import Open, read_slices
from .standing import WORDS, file_time, host_of, natural, run_of, silence_s, standing_at

RECENT_S = 60.0
_AT_LEAST = 20
_RECENT_BYTES = 64 << 10
_LEAST_S = 0.1
_SEARCHED_BYTES = 8 << 20
"""Of journals that are searched for attempts that were lost: 0.2 s."""
_SEARCHED_ENTRIES = 256
"""Of the log that are searched for burials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmerSummary:
    """One farmer. `standing`: `alive`, `silent` (no sign of life for three heartbeats; perhaps only its host is slow),
    `gone` (certainly dead; the next farmer on its host buries it), `left`, or `buried` (dead, or presumed so).

    `silence_s`: seconds since its last sign of life, for those that have not ended. `until`, `why`: their end;
    `buried_by`: the farmer that saw to it, None if nobody did, or the log has forgotten. `guardian`: the process that
    people started; `run`: the `number` of the first of its `loops` farmers, the same for all. `lost`: attempts that
    died with it, None if its journal was not searched for them. `damaged`: lines of it that could not be read.
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
    guardian: int
    run: int
    loops: int
    lost: int | None
    rate_per_s: float
    buried_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSummary:
    """The farmers of a host that stand alike. `loops` >= `farmers`: several loops of one `taskfarmer run` are one.

    What farmers of the past finished, failed and lost on that host is counted in its first group. `since`: when the
    first of them joined; of those that are over, when the last one ended.
    """

    host: str
    standing: str
    farmers: int
    loops: int
    slots: int
    running: int
    finished: int
    failed: int
    lost: int | None
    rate_per_s: float
    since: float
    silence_s: float | None


def farmers_of(ledger: Ledger, *, most_bytes: float = _SEARCHED_BYTES) -> list[FarmerSummary]:
    """Return all farmers, in the order of joining; the ledger must have been caught up with.

    `most_bytes` of journals are searched for attempts that were lost, those of the latest farmers first.
    """
    state = ledger.state
    runs: dict[tuple[object, ...], list[int]] = {}
    for number, farmer in enumerate(state.farmers, 1):
        runs.setdefault(run_of(farmer), []).append(number)
    farm = _Farm(
        ledger=ledger,
        now=file_time(ledger) if state.alive() else 0.0,
        running=Counter(ran.farmer for ran in state.running.values()),
        runs=runs,
        lost=_losses(ledger, most_bytes),
        undertakers=_undertakers(ledger),
    )
    return [_summary(farm, number, farmer) for number, farmer in enumerate(state.farmers, 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Farm:
    """What is found out once for all farmers: `running` by number, `runs` by guardian, the rest by id."""

    ledger: Ledger
    now: float
    running: Mapping[int, int]
    runs: Mapping[tuple[object, ...], list[int]]
    lost: Mapping[str, int | None]
    undertakers: Mapping[str, str]


def _summary(farm: _Farm, number: int, farmer: Farmer) -> FarmerSummary:
    ledger, run = farm.ledger, farm.runs[run_of(farmer)]
    stands = farmer.ended or standing_at(ledger, farmer, farm.now)
    return FarmerSummary(
        id=farmer.id,
        number=number,
        host=host_of(farmer),
        pid=int(farmer.host.get("pid", 0)),
        slots=farmer.slots,
        standing=stands,
        finished=farmer.finished,
        failed=farmer.failed,
        running=farm.running.get(number, 0),
        since=farmer.since,
        until=farmer.until if farmer.ended else None,
        why=farmer.why,
        silence_s=None if farmer.ended else silence_s(ledger, farmer, farm.now),
        damaged=unreadable_lines(ledger, farmer),
        guardian=int(farmer.host.get("guardian", 0)),
        run=run[0],
        loops=len(run),
        lost=farm.lost.get(farmer.id, 0),
        rate_per_s=_rate(ledger, farmer) if stands == "alive" else 0.0,
        buried_by=farm.undertakers.get(farmer.id),
    )


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
    count = max(sum(end > now - RECENT_S for end in ends), min(_AT_LEAST, len(ends)))
    if count < len(ends):
        before = ends[-count - 1]
    elif start:  # there were more before that, which were not read: of very short tasks that is a second or less
        before, count = ends[0], count - 1
    else:
        before = farmer.since
    return count / max(now - before, _LEAST_S if start else 1.0)


def _losses(ledger: Ledger, most_bytes: float) -> dict[str, int | None]:
    """How many attempts each buried farmer lost; None where that is not searched for."""
    found: dict[str, int | None] = {}
    for farmer in reversed(ledger.state.farmers):
        if farmer.ended == "buried":
            most_bytes -= farmer.seen
            path = str(ledger.workdir.journals / farmer.id)
            found[farmer.id] = _lost(path, farmer.seen) if most_bytes >= 0 else None
    return found


@lru_cache(maxsize=4096)
def _lost(journal: str, cut: int) -> int:
    """How many attempts have no end before the cut; what a burial cuts never changes again."""
    begun: Open = {}
    for item in read_slices(Path(journal), 0, 0, cut, begun):
        begun.pop(item.task, None)
    return len(begun)


def _undertakers(ledger: Ledger) -> dict[str, str]:
    """Who buried whom, as far as the end of the log tells."""
    state, found = ledger.state, dict[str, str]()
    if not any(farmer.ended == "buried" for farmer in state.farmers):
        return found
    with suppress(FileNotFoundError):  # a snapshot took the place of older entries
        for number in range(state.number, max(0, state.number - _SEARCHED_ENTRIES), -1):
            entry = ledger.log.read(number)
            if isinstance(entry.body, Bury):
                found[entry.body.farmer] = entry.by  # the first to say so comes last
    return found


# -- together ----------------------------------------------------------------------------------------------------------


def hosts_of(farmers: Iterable[FarmerSummary]) -> list[HostSummary]:
    """Return the farmers by host, and on each by how they stand; hosts where all are over come last."""
    by_host: dict[str, list[FarmerSummary]] = {}
    for farmer in farmers:
        by_host.setdefault(farmer.host, []).append(farmer)
    found = [group for host in sorted(by_host, key=natural) for group in _of_host(host, by_host[host])]
    return sorted(found, key=lambda group: group.standing in ("left", "buried"))


def _of_host(host: str, farmers: list[FarmerSummary]) -> Iterator[HostSummary]:
    over = [farmer for farmer in farmers if farmer.until is not None]
    for stands in WORDS:
        group = [farmer for farmer in farmers if farmer.standing == stands and farmer.until is None]
        if group:
            yield _together(host, stands, group, over)
            over = []
    for stands in ("left", "buried") if len(over) == len(farmers) else ():
        if group := [farmer for farmer in over if farmer.standing == stands]:
            yield _together(host, stands, group, [])


def _together(host: str, stands: str, group: list[FarmerSummary], over: list[FarmerSummary]) -> HostSummary:
    worked = group + over
    return HostSummary(
        host=host,
        standing=stands,
        farmers=len({farmer.run for farmer in group}),
        loops=len(group),
        slots=sum(farmer.slots for farmer in group),
        running=sum(farmer.running for farmer in group),
        finished=sum(farmer.finished for farmer in worked),
        failed=sum(farmer.failed for farmer in worked),
        lost=None if any(farmer.lost is None for farmer in worked) else sum(farmer.lost or 0 for farmer in worked),
        rate_per_s=sum(farmer.rate_per_s for farmer in group),
        since=max(f.until or 0.0 for f in group) if group[0].until is not None else min(f.since for f in group),
        silence_s=max((f.silence_s for f in group if f.silence_s is not None), default=None),
    )
