"""Tasks that can never run here, as far as was looked. Pure.

There may be a million of them before the first that can. So a byte a task says of what kind it is, by what it needs, of
which there are few; and what is free to take and none of these is found by looking at both bytes of many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .model import Task
from .state import READY, State

_WINDOW = 1 << 12
"""How many tasks are looked at in one go."""
_STEP = 8
"""The first mark, and the distance of two: how a task stands is less, so that both fit into one byte."""
_MORE = 31 * _STEP
"""The mark of all kinds for which there is none left."""


class Misfits:
    """Those of the tasks of `state`, as somebody finds out who describes them."""

    def __init__(self, state: State, describe: Callable[[int], Task]) -> None:
        self._state = state
        self._describe = describe
        self._marks = bytearray()
        self._kinds: dict[tuple[int, int, int], int] = {}
        self.known = 0
        """How many there are, as far as was looked."""

    def add(self, id: int, task: Task) -> None:
        """Note that a task can never run here."""
        needs = task.cpus, task.memory_bytes, task.gpus
        mark = self._kinds.get(needs) or min((len(self._kinds) + 1) * _STEP, _MORE)
        if mark < _MORE:
            self._kinds[needs] = mark
        self._marks.extend(bytes(max(0, len(self._state) - len(self._marks))))
        self._marks[id] = mark
        self.known += 1

    def __contains__(self, id: int) -> bool:
        return id < len(self._marks) and self._marks[id] > 0

    def others(self) -> Iterator[int]:
        """Yield what is free to take and is none of these, in order."""
        place = next(self._state.ready(1), len(self._state))
        while place < len(self._state):
            window = self._window(place, place + _WINDOW)
            at = window.find(READY)
            while at >= 0:
                yield place + at
                at = window.find(READY, at + 1)
            place = self._state.next_ready(self._next_unmarked(place + len(window)))

    def _next_unmarked(self, place: int) -> int:
        found = self._marks.find(0, place)
        return found if found >= 0 else max(place, len(self._marks))

    def _window(self, first: int, end: int) -> bytes:
        """Return a byte for each task from `first` to before `end`: how it stands, and the mark of its kind, if any."""
        stands = self._state.status[first:end]
        both = int.from_bytes(stands, "little") | int.from_bytes(self._marks[first:end], "little")
        return both.to_bytes(len(stands), "little")

    def left(self) -> tuple[int, int]:
        """Return how many of these are free to take, and the first of them (0, if there is none)."""
        count, first = 0, len(self._state)
        if self._marks:
            window = self._window(0, len(self._state))
            for mark in range(_STEP, _MORE + 1, _STEP):
                if found := window.count(mark):
                    count, first = count + found, min(first, window.find(mark))
        return count, first if count else 0

    def kinds_left(self) -> Iterator[Task]:
        """Yield one of each kind of these of which some are free to take."""
        if not self._marks:
            return
        window = self._window(0, len(self._state))
        for mark in self._kinds.values():
            if (found := window.find(mark)) >= 0:
                yield self._describe(found)
        found = window.find(_MORE)
        while found >= 0:
            yield self._describe(found)
            found = window.find(_MORE, found + 1)
