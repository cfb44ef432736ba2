"""What of all that is free to take fits here, and who else waits for some of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .misfits import Misfits
from .model import Task
from .resources import Resources, Room
from .state import READY, TAKEN, Farmer, State

NEAR_LOOK = 1000
"""Among how many that are free to take, and cannot end in time, one is looked for that can; and among how many that do
not fit now, one that does."""
FAR_LOOK = 20_000
"""Among how many that do not fit now, or may not, one is looked for that asks for nothing but a slot; and among how
many that others have, some that ask for more."""
MISFIT_LOOK = 2000
"""After how many that turned out never to fit here a look ends, and the next one goes on: each must be read."""


class Others:
    """The other farmers of the farm, as number `number` of `state` knows them by the log."""

    def __init__(self, state: State, number: int) -> None:
        self._state = state
        self._me = number

    def alive(self) -> list[Farmer]:
        """Return those that have joined and not left."""
        me = self._state.farmers[self._me - 1]
        return [farmer for farmer in self._state.alive() if farmer is not me]

    def waiting(self) -> list[Farmer]:
        """Return those that have said that they have empty slots."""
        return [farmer for farmer in self.alive() if farmer.want]

    def may_take(self) -> list[Farmer]:
        """Return those of them that may find something in what is free to take: there is more than when they asked."""
        ready = self._state.status.count(READY)
        return [farmer for farmer in self.waiting() if farmer.passed_over < ready]

    def holding(self) -> Iterator[Iterator[int]]:
        """Yield for each of them the tasks that it has taken and not ended, as far as the log tells."""
        return (self._state.held_by(self._state.index[farmer.id]) for farmer in self.alive())

    def unserved(self, a_second: float) -> int:
        """Return how many of their empty slots what is free to take will not fill, of which `a_second` tasks keep one
        busy for a second.

        What was free when somebody asked does not fit there. So who asked last has the least to choose from, and is
        served first: what came back since an old wish, whose farmer may be at work again, hides no new one.
        """
        ready, used, left = self._state.status.count(READY), 0, 0
        for farmer in sorted(self.waiting(), key=lambda farmer: -farmer.passed_over):
            there = int(max(0, ready - farmer.passed_over) / a_second)
            served = min(farmer.want, max(0, there - used))
            used += served
            left += farmer.want - served
        return left


@dataclass(frozen=True, slots=True)
class Wish:
    """What is looked for: `count` tasks, and of those that ask for more than a slot (GPUs, memory, several CPUs)...

    `together`: such as fit at once beside all that was found before them. Else, in a queue, each for itself will do,
    or one that does not fit now, unless somebody who waits may run it (`is_theirs`). `left_s`: what ends within so many
    seconds.
    """

    count: int
    together: bool
    left_s: float
    is_theirs: Callable[[Task], bool]


class Search:
    """Looks for tasks that fit into `resources` among what `state` has free to take."""

    def __init__(
        self, state: State, resources: Resources, describe: Callable[[int], Task], is_special: Callable[[int], bool]
    ) -> None:
        self._state = state
        self._resources = resources
        self._describe = describe
        self._is_special = is_special
        self.misfits = Misfits(state, describe)
        """Tasks that can never run here, as far as was looked."""
        self.goes_on = False
        """Whether the last look found nothing, and ended early at what can never run here."""
        self.given: set[int] = set()
        """What was given back since it did not fit, and has not begun since, here or elsewhere."""
        self._gave_in_vain = False
        self.too_late_s: float | None = None
        """Nothing that is free to take can end in time, as far as was looked: what the shortest of it needs."""

    def find(self, wish: Wish, needs_s: Callable[[int], float]) -> list[int]:
        """Return up to `wish.count` tasks, in order. `needs_s`: how long one is expected to take.

        If there are only such as cannot end in time, it is noted in `too_late_s`; while that is so, nothing is found.
        """
        found: list[int] = []
        self.goes_on = False
        if self.too_late_s is not None:
            return found
        status = self._state.status
        self.given = {task for task in self.given if status[task] in (READY, TAKEN) and task not in self._state.running}
        self._gave_in_vain = self._resources.free > 0 and any(status[task] == READY for task in self.given)
        hurries = wish.left_s < float("inf")
        late: list[float] = []
        room, passed, end = self._resources.room(), 0, self.misfits.known + MISFIT_LOOK
        for task in self.misfits.others():
            if len(found) >= wish.count or len(late) >= NEAR_LOOK or passed >= FAR_LOOK:
                break
            if self.misfits.known >= end:
                self.goes_on = not found
                break
            if not self._is_special(task):
                room.take_one()
            elif passed >= NEAR_LOOK or not self._may_have(task, room, wish):
                passed += task not in self.misfits
                continue
            if hurries and (needed_s := needs_s(task)) > wish.left_s:
                late.append(needed_s)
            else:
                found.append(task)
        if late and not found and not self.goes_on:
            self.too_late_s = min(late)
        return found

    def why_never(self, task: int) -> str:
        """Return why a task can never run here, or the empty string."""
        return self._resources.never(self._describe(task))

    def _may_have(self, task: int, room: Room, wish: Wish) -> bool:
        """Whether a task that asks for more than a slot is to be taken; if it fits, there is so much less `room`."""
        described = self._describe(task)
        if self._resources.never(described):
            self.misfits.add(task, described)
            return False
        if room.take(described) or (not wish.together and self._resources.room().take(described)):
            return True
        # Who waits would have it from us at once, and we again from them, if it were taken without a place to run.
        # And while some of that is free and so are slots here, nothing else is taken to be given back as well.
        return not (wish.together or self._gave_in_vain or task in self.given or wish.is_theirs(described))
