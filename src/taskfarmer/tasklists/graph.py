"""Which task waits for which, while a list is read: 8 bytes a task and 8 a dependency, however long the list is."""

from __future__ import annotations

from array import array
from typing import Any

_SEVERAL = -1


class Graph:
    """Dependencies of tasks that are added in the order of their ids."""

    def __init__(self) -> None:
        self._targets = array("q")
        self._ends = array("q")  # of task i: the targets from _ends[i - 1] to _ends[i]
        self._names: dict[str, int] = {}
        self._forward = False

    def add(self, after: Any, name: object = None) -> tuple[int, ...]:
        """Add the next task and return the ids that it waits for, each once, in the order given.

        Raises:
            ValueError: `after` is no list of ids and names of earlier tasks, or names the task itself.
        """
        taskid = len(self._ends)
        if after is None:
            after = []
        if not isinstance(after, list):
            raise ValueError("'after' must be a list of ids or names of earlier tasks, such as [0, 1]")
        ids = tuple(dict.fromkeys(self._id(item) for item in after))
        if taskid in ids:
            raise ValueError(f"task {taskid} waits for itself; ids count from 0, in the order of the list")
        self._forward = self._forward or any(item > taskid for item in ids)
        self._targets.extend(ids)
        self._ends.append(len(self._targets))
        if isinstance(name, str):
            self._names[name] = _SEVERAL if name in self._names else taskid
        return ids

    def fault(self) -> tuple[int, str] | None:
        """Return a task that can never run, and why, or None; to be asked once, after the last task."""
        if not self._forward:
            return None  # who waits only for earlier ones cannot wait in a circle
        count = len(self._ends)
        for taskid in range(count):
            for target in self._after(taskid):
                if target >= count:
                    return taskid, f"task {taskid} waits for task {target}, but the last one is {count - 1}"
        return self._circle()

    def _id(self, item: object) -> int:
        if type(item) is int:
            if not 0 <= item < 2**63:
                raise ValueError(f"'after' has {item}: ids count from 0")
            return item
        if not isinstance(item, str):
            raise ValueError(f"'after' has {item!r}: it must be an id or the name of an earlier task")
        known = self._names.get(item)
        if known is None:
            raise ValueError(f"'after' has {item!r}: no task above has that name")
        if known == _SEVERAL:
            raise ValueError(f"'after' has {item!r}: several tasks above have that name; give an id")
        return known

    def _after(self, taskid: int) -> array[int]:
        return self._targets[self._ends[taskid - 1] if taskid else 0 : self._ends[taskid]]

    def _circle(self) -> tuple[int, str] | None:
        """Walk along the dependencies, depth first; to come back to a task of the walk itself is a circle."""
        state = bytearray(len(self._ends))  # 0 unseen, 1 on the walk, 2 known to end
        for first in range(len(state)):
            if state[first]:
                continue
            state[first] = 1
            walk = [(first, iter(self._after(first)))]
            while walk:
                taskid, rest = walk[-1]
                target = next(rest, None)
                if target is None:
                    state[taskid] = 2
                    walk.pop()
                elif state[target] == 1:
                    members = [task for task, _ in walk]
                    return target, _description([*members[members.index(target) :], target])
                elif state[target] == 0:
                    state[target] = 1
                    walk.append((target, iter(self._after(target))))
        return None


def _description(circle: list[int]) -> str:
    shown = circle if len(circle) <= 8 else [*circle[:4], *circle[-3:]]
    return f"tasks wait for each other in a circle: {' -> '.join(map(str, shown))}"
