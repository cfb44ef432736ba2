"""Pilots beside farmers: how each stands in its queue, which farmers it became, what is wrong and what to do.

The batch systems are asked once, and for a few seconds at most: who looks at a farm must not wait for a scheduler.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..batch import BatchSystem, Call, JobState
from ..batch.calls import HUNG, Answer, run_call
from ..core.words import plural
from ..farm.keeping import in_vain, is_revoked
from ..farm.ledger import Ledger
from ..farm.pilots import Pilot, Pilots, Queue, joined, trouble_of
from .standing import SHORT
from .text import printable, table, without_empty

LIMIT_S = 5.0
"""How long all batch systems together are waited for."""
_MOST_ROWS = 20
"""Pilots that are listed one by one; of more, how many there are of each kind."""
_MOST_TROUBLES = 3
_MOST_WORDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotSummary:
    """One pilot, or job that keeps pilots (`kind`). `state`: `queued`, `running`, `held`, `ended`, `lost`, `gone` or
    `unknown`; `reason` in the system's words. `at`: which scheduler of the system it was given to. `farmers`: ids of
    those that it became. `trouble`: what is wrong with it and what to do; empty if nothing.
    """

    kind: str
    submission: str
    element: int
    system: str
    at: str
    job: str
    state: str
    exit_status: int | None
    reason: str
    host: str
    slots: int
    farmers: list[str]
    trouble: str

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return JobState(self.state).is_over


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSummary:
    """All pilots. `asked`: whether the batch systems were; `problems`: those that did not answer. `kept_by`: the
    process that keeps pilots in the queue, empty if none does.
    """

    asked: bool
    problems: list[str]
    kept_by: str
    pilots: list[PilotSummary]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values (docs/json.md)."""
        return {
            "asked": self.asked,
            "problems": self.problems,
            "kept_by": self.kept_by,
            "pilots": [asdict(pilot) for pilot in self.pilots],
        }


def pilots_of(
    ledger: Ledger,
    environ: Mapping[str, str],
    *,
    ask: bool = True,
    limit_s: float = LIMIT_S,
    systems: Callable[[str], BatchSystem] | None = None,
) -> QueueSummary:
    """Return how the pilots of a farm stand; without `ask`: what the workdir alone can tell."""
    pilots = Pilots(ledger, environ, run=_within(limit_s), systems=systems)
    queue = pilots.look(ask=ask, settle=os.access(ledger.workdir.jobs, os.W_OK))
    if any(pilot.is_over for pilot in queue.pilots):
        ledger.refresh()  # or one that was short would seem to have been no farmer
    farmers = joined(ledger.state)
    vain = {pilot.link: why for pilot, why in in_vain(queue, ledger)}
    holder = pilots.turns.last()
    kept_by = holder.who if holder is not None and holder.what == "keep" and holder.is_at_work else ""
    if not kept_by and (keeper := _gave_up(queue, ledger)):
        vain[keeper.link] = "it keeps pilots no longer, and tasks are left; what it said tells why"
    return QueueSummary(
        asked=ask,
        problems=queue.problems,
        kept_by=kept_by,
        pilots=[
            PilotSummary(
                kind=pilot.kind,
                submission=pilot.submission,
                element=pilot.element,
                system=pilot.system,
                at=pilot.at,
                job=pilot.job,
                state=pilot.status.state.value,
                exit_status=pilot.status.exit_status,
                reason=pilot.status.reason,
                host=pilot.status.host,
                slots=pilot.slots,
                farmers=[farmer.id for farmer in farmers.get(pilot.link, [])],
                trouble=vain.get(pilot.link) or _trouble(pilot),
            )
            for pilot in queue.pilots
        ],
    )


def _within(limit_s: float) -> Callable[[Call, Mapping[str, str]], Answer]:
    """Return what runs commands, none of them beyond so many seconds from now."""
    until = time.monotonic() + limit_s

    def run(call: Call, environ: Mapping[str, str]) -> Answer:
        left_s = until - time.monotonic()
        call = replace(call, limit_s=min(call.limit_s, max(0.0, left_s)))
        return run_call(call, environ) if left_s > 0 else Answer.of(call, HUNG)

    return run


def _gave_up(queue: Queue, ledger: Ledger) -> Pilot | None:
    """Return the last job that kept pilots, if it ended before the farm did without being told to."""
    counts = ledger.state.counts()
    keepers = [pilot for pilot in queue.pilots if pilot.kind == "keeper"]
    if not keepers or not counts["toprocess"] + counts["running"]:
        return None
    return keepers[-1] if all(p.is_over for p in keepers) and not is_revoked(ledger, keepers[-1]) else None


def _trouble(pilot: Pilot) -> str:
    held = ", or end it with `taskfarmer stop`" if pilot.status.state is JobState.HELD else ""
    return trouble_of(pilot.status) + held


# -- for people --------------------------------------------------------------------------------------------------------


def queue_lines(queue: QueueSummary) -> Iterator[str]:
    """Yield what `status` prints of pilots."""
    if not queue.pilots and not queue.problems:
        return
    yield ""
    there = [pilot for pilot in queue.pilots if not pilot.is_over]
    if len(there) > _MOST_ROWS:
        yield from _together(there)
    elif there:
        head = ["pilot", "system", "state", "host", "slots", "farmer", "reason"]
        yield table(without_empty([head, *map(_row, there)]), right={4})
    yield from _past([pilot for pilot in queue.pilots if pilot.is_over])
    if queue.kept_by:
        yield f"pilots are kept in the queue by {printable(queue.kept_by)}"
    if not queue.asked and there:
        yield "the queue was not asked how they are"
    for problem in queue.problems:
        yield printable(f"the queue cannot be looked at: {problem}")
    yield from _troubles(queue.pilots)


def _row(pilot: PilotSummary) -> list[str]:
    return [
        printable(pilot.job or pilot.submission) + (" (keeps pilots)" if pilot.kind == "keeper" else ""),
        pilot.system,
        pilot.state,
        printable(pilot.host),
        str(pilot.slots),
        ", ".join(farmer[:SHORT] for farmer in pilot.farmers[-2:]),
        printable(pilot.reason),
    ]


def _together(pilots: list[PilotSummary]) -> Iterator[str]:
    counted = Counter((pilot.system, pilot.state, pilot.reason) for pilot in pilots)
    rows = [
        [str(count), system, state, printable(reason)] for (system, state, reason), count in sorted(counted.items())
    ]
    yield table(without_empty([["pilots", "system", "state", "reason"], *rows]), right={0})


def _past(pilots: list[PilotSummary]) -> Iterator[str]:
    over = Counter(pilot.state for pilot in pilots if pilot.kind == "pilots")
    if over:
        parts = [f"{count} {state}" + _lost_for(pilots, state) for state, count in sorted(over.items())]
        yield f"of the pilots that there were: {', '.join(parts)}"


def _lost_for(pilots: list[PilotSummary], state: str) -> str:
    """Return the reasons for which pilots were lost, in the words of their systems, the most frequent first."""
    why = Counter(p.reason for p in pilots if p.kind == "pilots" and p.state == state == "lost" and p.reason)
    words = [f"{count} {reason[:_MOST_WORDS]}" for reason, count in why.most_common(_MOST_TROUBLES)]
    more = ["..."] if len(why) > _MOST_TROUBLES else []
    return printable(f" ({'; '.join(words + more)})") if words else ""


def _troubles(pilots: list[PilotSummary]) -> Iterator[str]:
    """What is wrong, the latest of each kind, with what to do."""
    counted = Counter(pilot.trouble for pilot in pilots if pilot.trouble)
    latest = {pilot.trouble: pilot for pilot in pilots if pilot.trouble}
    for trouble, count in counted.most_common(_MOST_TROUBLES):
        pilot = latest[trouble]
        who = f"{plural(count, 'pilot')}, the last {pilot.job}" if count > 1 else f"pilot {pilot.job}"
        yield printable(f"{who}: {trouble} (jobs/{pilot.submission}/out.{pilot.element})")
