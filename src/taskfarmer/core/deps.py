"""Who waits for whom: 8 bytes a dependency, in two arrays sorted by the task that is waited for."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence


class Dependencies:
    """The edges of the graph of tasks. Ids are 0 <= id < 2**32."""

    def __init__(self) -> None:
        self._before = array("I")
        self._then = array("I")
        self.waits_for: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._before)

    def add(self, edges: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Take in (task, the tasks that it waits for); a task is named once."""
        pairs = list(zip(self._before, self._then, strict=True))
        for task, before in edges:
            self.waits_for[task] = tuple(before)
            pairs.extend((other, task) for other in set(before))
        pairs.sort()
        self._before = array("I", (before for before, _ in pairs))
        self._then = array("I", (then for _, then in pairs))

    def after(self, task: int) -> Iterator[int]:
        """Yield the tasks that wait for `task`."""
        place = bisect_left(self._before, task)
        while place < len(self._before) and self._before[place] == task:
            yield self._then[place]
            place += 1
