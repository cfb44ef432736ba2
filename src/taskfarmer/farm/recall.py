"""Ending pilots: those that wait are cancelled, those that run leave through the farm, or are cancelled if they do not.

Nobody submits others meanwhile, since the turn is taken away first; and what was submitted already but is not to be
seen yet does nothing when it starts, since its submission is revoked (`batch.script`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..batch import JobState
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
    """
    pilots.turns.end_all()
    queue = pilots.look()
    pilots.revoke(queue)
    ledger.refresh()
    farmers = joined(ledger.state)
    tell()
    live = [pilot for pilot in queue.pilots if not pilot.is_over]
    running = [pilot for pilot in live if pilot.kind == "pilots" and pilot.status.state is JobState.RUNNING]
    if mode != "waiting":  # who joined later was not told
        running = [pilot for pilot in running if any(farmer.alive for farmer in farmers.get(pilot.link, ()))]
    ended = [pilot for pilot in live if pilot not in running]
    problems = queue.problems + pilots.cancel(ended)
    if mode == "now" and running and not problems:
        running, more = _see_off(pilots, running, _grace_s(ledger))
        problems += pilots.cancel(running) + more
        ended, running = ended + running, []
    return Recalled(sum(bool(pilot.job) for pilot in ended), len(running), problems)


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
