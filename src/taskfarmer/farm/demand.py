"""How many pilots a farm needs, by numbers alone."""

from __future__ import annotations

import math
from collections.abc import Collection

from ..core.model import Task
from ..core.state import State
from .pilot_jobs import Plan
from .pilots import Queue, joined


def useful(state: State, plan: Plan, dead: Collection[str] = ()) -> int:
    """Return how many more pilots would find something to do, those that are no farmers yet included.

    One at least while anything is left and nobody is at work: what a dead farmer held must be taken over. `dead`: ids
    of farmers that are, although the log does not say so.
    """
    counts = state.counts()
    at_once = 1 if any(segment.special for _, segment in state.segments) else plan.slots * plan.needs.nodes
    more = math.ceil(counts["toprocess"] / at_once)
    at_work = any(farmer.id not in dead for farmer in state.alive())
    return max(more, 1) if counts["running"] and not at_work else more


def missing(wanted: int, queue: Queue, state: State, plan: Plan, dead: Collection[str] = ()) -> int:
    """Return how many pilots to submit, so that there are `wanted`, and none is without work; >= 0.

    Those that are no farmers yet will take some of what is left. `state` must be as old as `queue`, or older. `dead`:
    ids of farmers that are, although nobody has buried them; so are those whose pilot is over.
    """
    live, farmers = queue.live(), joined(state)
    over = {pilot.link for pilot in queue.pilots if pilot.is_over}
    dead = {*dead, *(farmer.id for link in over for farmer in farmers.get(link, ()))}
    to_come = sum(not any(farmer.alive for farmer in farmers.get(pilot.link, ())) for pilot in live)
    return max(0, min(wanted - len(live), useful(state, plan, dead) - to_come))


def slots_for(task: Task, plan: Plan) -> float:
    """Return how many of a pilot's slots a task takes, those included that no other like it can use beside it.

    One that asks for more than a pilot has counts as one that fills it.
    """
    needs = plan.needs
    fit = plan.slots // task.cpus
    if task.memory_bytes and needs.memory_bytes is not None:
        fit = min(fit, needs.memory_bytes // task.memory_bytes)
    if task.gpus:
        fit = min(fit, needs.gpus // task.gpus)
    return plan.slots / max(1, fit)


def elastic(most: int, left: float, plan: Plan, *, typical_s: float | None, within_s: float | None) -> int:
    """Return how many pilots there should be, `most` at the most, for `left` tasks that take `typical_s` each.

    Tasks of several slots count as so many (`slots_for`). Without knowing how long tasks take, or how soon all is to be
    done: as many as have a task for each slot.
    """
    slots = plan.slots * plan.needs.nodes
    if typical_s is None or within_s is None:
        return min(most, math.ceil(left / slots))
    rounds = max(1.0, within_s // max(typical_s, 1e-3))  # tasks that a slot does one after the other in that time
    return min(most, math.ceil(left / (slots * rounds)))
