"""Ending pilots: those that wait are cancelled, those that run leave through the farm, or are cancelled if they do not.

Nobody submits others meanwhile, since the turn is taken away first; and what was submitted already but is not to be
seen yet does nothing when it starts, since its submission is revoked (`batch.script`). Where nothing of that can be
written, on a full disk, the batch system is told all the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ..batch import JobState
from ..core.words import plural
from ..errors import Stopped, WorkdirError
from .ledger import Ledger
from .pilots import Pilot, Pilots, Queue, joined

LEAVE_S = 15.0
"""How long running pilots are waited for, beyond the grace of their tasks, before they are cancelled."""

Mode = Literal["now", "drain", "waiting"]


@dataclass(frozen=True, slots=True)
class Recalled:
    """How many pilots were cancelled, and how many run on (and leave by themselves); what went wrong."""

    cancelled: int
    left: int
    problems: list[str]


def recall(pilots: Pilots, ledger: Ledger, mode: Mode, tell: Callable[[], object]) -> Recalled:
    """End the pilots of a farm. `tell` tells its farmers, between what must come before and after.

    `now`: all; `drain`: those that are farmers already do what they have begun; `waiting`: those that run are let be.
    Pilots that run and are no farmers yet have done nothing, and are cancelled like those that wait.

    Raises:
        Stopped: the farm could not be told, since nothing can be written there. What could be cancelled was.
    """
    unsaid: list[str] = []
    with _noted(unsaid):
        pilots.turns.end_all()
    with _noted(unsaid):
        pilots.revoke(pilots.look(ask=False, settle=False))
    ledger.refresh()
    farmers = joined(ledger.state)
    with _noted(unsaid):
        tell()
    queue = pilots.look()  # last: who works need not wait until a scheduler that hangs is given up
    live = [pilot for pilot in queue.pilots if not (pilot.is_over or pilot.elsewhere) and pilot.is_ours]
    doubts = _in_doubt(queue)
    if unsaid and mode == "now":
        problems = queue.problems + pilots.cancel(live) + doubts
        raise _untold(unsaid[-1], problems, sum(bool(pilot.job) for pilot in live))
    running = [pilot for pilot in live if pilot.kind == "pilots" and pilot.status.state is JobState.RUNNING]
    if mode != "waiting":  # who joined later was not told
        running = [pilot for pilot in running if any(farmer.alive for farmer in farmers.get(pilot.link, ()))]
    ended = [pilot for pilot in live if pilot not in running]
    problems = queue.problems + pilots.cancel(ended)
    if mode == "now" and running and not problems:
        running, more = _see_off(pilots, running, _grace_s(ledger))
        problems += pilots.cancel(running) + more
        ended, running = ended + running, []
    cancelled = sum(bool(pilot.job) for pilot in ended)
    if unsaid:
        raise _untold(unsaid[-1], problems + doubts, cancelled)
    return Recalled(cancelled, len(running), problems + doubts + _out_of_reach(queue.pilots))


@contextmanager
def _noted(unsaid: list[str]) -> Iterator[None]:
    """Note what could not be written, and go on."""
    try:
        yield
    except OSError as error:
        unsaid.append(f"{error.filename or 'the workdir'}: {error.strerror}")
    except WorkdirError as error:
        unsaid.append(error.message)


def _untold(why: str, problems: list[str], cancelled: int) -> Stopped:
    done = f"{plural(cancelled, 'pilot')} cancelled"
    return Stopped(
        "; ".join([f"the farm cannot be told, {why}", done, *problems]),
        hint="make room there, or say it where it can be written: farmers that are no pilots go on",
    )


def _in_doubt(queue: Queue) -> list[str]:
    """Return what to say of submissions that may still be on their way, since who made them was killed just now: what
    comes of them waits in the queue for nothing.
    """
    count = sum(request.submission.count for request in queue.open)
    if not count or queue.problems:
        return []
    return [f"it is not known yet whether {plural(count, 'pilot')} came to the queue; say it again in a minute"]


def _out_of_reach(pilots: Iterable[Pilot]) -> list[str]:
    """Return what to say of pilots that cannot be cancelled from here."""
    left = Counter(
        pilot.at if pilot.elsewhere and pilot.is_ours else pilot.user
        for pilot in pilots
        if not pilot.is_over and (pilot.elsewhere or not pilot.is_ours)
    )
    return [f"{plural(count, 'pilot')} of {where} cannot be cancelled from here" for where, count in left.items()]


def _see_off(pilots: Pilots, running: list[Pilot], grace_s: float) -> tuple[list[Pilot], list[str]]:
    """Wait until they have left; return those that have not, and why they could not be asked for."""
    links = {pilot.link for pilot in running}
    deadline, pause_s = time.monotonic() + grace_s + LEAVE_S, 0.5
    queue = Queue([], [], [])
    while links and time.monotonic() < deadline:
        time.sleep(pause_s)
        pause_s = min(4.0, pause_s * 2)
        queue = pilots.look(settle=False)
        if not queue.problems:
            links &= {pilot.link for pilot in queue.live()}
    return [pilot for pilot in running if pilot.link in links], queue.problems


def _grace_s(ledger: Ledger) -> float:
    return float(ledger.state.config.get("rules", {}).get("stop_grace_s", 0.0))
