"""What a farmer can give to tasks at once: slots, memory and GPUs; and which parts an attempt has.

Farmers on one host must not promise it twice: a `Claim` is what one of them has of it. Claims are made in the log, one
after the other, so each knows those before it.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .model import Task
from .words import plural

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a farmer has of its host, or would like to: `slots` >= 0, and the numbers of the CPUs that they stand for.

    `memory_bytes` None: not limited. `asked`: which of `slots`, `memory` and `gpus` somebody asked for by name; these
    are had, whoever else has them.
    """

    slots: int
    cpus: tuple[int, ...] = ()
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    asked: frozenset[str] = frozenset()

    def part(self, place: int, parts: int) -> Claim:
        """Return part `place` (from 0) of `parts` >= 1 that have nothing in common and together are the whole."""
        return replace(
            self,
            slots=_share(self.slots, place, parts),
            cpus=_run(self.cpus, place, parts),
            memory_bytes=None if self.memory_bytes is None else self.memory_bytes // parts,
            gpus=_run(self.gpus, place, parts),
        )

    def besides(self, others: Collection[Claim]) -> Claim:
        """Return what is left of this when the others have what is theirs."""
        busy = {cpu for other in others for cpu in other.cpus}
        free = [cpu for cpu in self.cpus if cpu not in busy]
        slots = self.slots
        if "slots" in self.asked:
            free += [cpu for cpu in self.cpus if cpu in busy]
        else:
            slots = max(0, slots - (len(self.cpus) - len(free)))
        memory = self.memory_bytes
        if memory is not None and "memory" not in self.asked:
            memory = max(0, memory - sum(other.memory_bytes or 0 for other in others))
        gpus = self.gpus
        if "gpus" not in self.asked:
            used = {gpu for other in others for gpu in other.gpus}
            gpus = tuple(gpu for gpu in gpus if gpu not in used)
        return replace(self, slots=slots, cpus=tuple(free[:slots]), memory_bytes=memory, gpus=gpus)


def claim(wish: Claim, others: Collection[Claim], loops: Sequence[Claim] = (), *, place: int = 0, of: int = 1) -> Claim:
    """Return what loop `place` of `of` of one farmer may claim, who wishes for all of `wish`.

    `others` are the claims of other farmers on the host, `loops` those of its own loops by now. The loops share what
    the others leave; the others may have come or gone since the first of them did so.
    """
    whole = wish.besides(others)
    part = whole.part(place, of)
    left = replace(part, memory_bytes=whole.memory_bytes).besides(loops)
    if part.memory_bytes is None or left.memory_bytes is None:
        return left
    return replace(left, memory_bytes=min(part.memory_bytes, left.memory_bytes))


def _share(count: int, place: int, parts: int) -> int:
    return count // parts + (place < count % parts)


def _run(items: Sequence[_Item], place: int, parts: int) -> tuple[_Item, ...]:
    """Neighbours stay together: they share caches and memory."""
    start = sum(_share(len(items), before, parts) for before in range(place))
    return tuple(items[start : start + _share(len(items), place, parts)])


@dataclass(frozen=True, slots=True)
class Share:
    """What one attempt has: slot numbers (the first names it), bytes of memory, indices of GPUs."""

    slots: tuple[int, ...]
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()


@dataclass(slots=True)
class Room:
    """What is free, to see what fits together: `slots`, `memory_bytes` (None: not limited), number of `gpus`."""

    slots: int
    memory_bytes: int | None = None
    gpus: int = 0
    each_one: bool = False
    """Whether a slot is all that any task needs here."""

    def take(self, task: Task) -> bool:
        """Take what `task` asks for; False if that is not free."""
        if self.each_one:
            return self.take_one()
        if task.cpus > self.slots or task.gpus > self.gpus:
            return False
        if self.memory_bytes is not None:
            if task.memory_bytes > self.memory_bytes:
                return False
            self.memory_bytes -= task.memory_bytes
        self.slots -= task.cpus
        self.gpus -= task.gpus
        return True

    def take_one(self) -> bool:
        """Take a slot; False if none is free."""
        had, self.slots = self.slots, max(0, self.slots - 1)
        return had > 0


@dataclass(slots=True)
class Resources:
    """What is free. `slots` >= 1; `memory_bytes` None: not limited; `gpus` as CUDA_VISIBLE_DEVICES names them."""

    slots: int
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    _free: list[int] = field(init=False)
    _free_memory: int = field(init=False)
    _free_gpus: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._free = list(range(self.slots))
        self._free_memory = self.memory_bytes or 0
        self._free_gpus = list(self.gpus)

    @property
    def free(self) -> int:
        """Slots that are empty."""
        return len(self._free)

    def never(self, task: Task) -> str:
        """Return why `task` can never run here, or the empty string."""
        if task.cpus > self.slots:
            return f"needs {task.cpus} cpus; this farmer has {plural(self.slots, 'slot')}"
        if self.memory_bytes is not None and task.memory_bytes > self.memory_bytes:
            return f"needs {task.memory_bytes} bytes of memory; this farmer has {self.memory_bytes}"
        if task.gpus > len(self.gpus):
            return f"needs {task.gpus} GPUs; this farmer has {len(self.gpus)}"
        return ""

    def room(self) -> Room:
        """Return what is free now."""
        return Room(len(self._free), None if self.memory_bytes is None else self._free_memory, len(self._free_gpus))

    def take_one(self) -> Share | None:
        """Return one slot, for a task that asks for nothing else; None when all are busy."""
        return Share((heapq.heappop(self._free),)) if self._free else None

    def take(self, task: Task) -> Share | None:
        """Return what `task` asks for, lowest slots first; None when that is not free now."""
        if not self.room().take(task):
            return None
        memory = task.memory_bytes if self.memory_bytes is not None else 0
        self._free_memory -= memory
        gpus = tuple(self._free_gpus[: task.gpus])
        del self._free_gpus[: task.gpus]
        return Share(tuple(heapq.heappop(self._free) for _ in range(task.cpus)), memory, gpus)

    def give(self, share: Share) -> None:
        """Take back what an attempt had."""
        for slot in share.slots:
            heapq.heappush(self._free, slot)
        self._free_memory += share.memory_bytes
        self._free_gpus = sorted([*self._free_gpus, *share.gpus])


class JobSlots(Resources):
    """Where each attempt is a job of a batch system: so many at once, whatever each asks that system for."""

    def never(self, task: Task) -> str:
        """Return the empty string: what can run is for the batch system to say."""
        return ""

    def room(self) -> Room:
        """Return the slots that are free."""
        return Room(self.free, each_one=True)

    def take(self, task: Task) -> Share | None:
        """Return one slot; None when all are busy."""
        return self.take_one()
