"""What a farmer can give to tasks at once: slots, memory and GPUs; and which parts an attempt has."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from .model import Task


@dataclass(frozen=True, slots=True)
class Share:
    """What one attempt has: slot numbers (the first names it), bytes of memory, indices of GPUs."""

    slots: tuple[int, ...]
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()


@dataclass(slots=True)
class Resources:
    """What is free. `slots` >= 1; `memory_bytes` 0 means: not limited; `gpus` as CUDA_VISIBLE_DEVICES names them."""

    slots: int
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()
    _free: list[int] = field(init=False)
    _free_memory: int = field(init=False)
    _free_gpus: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._free = list(range(self.slots))
        self._free_memory = self.memory_bytes
        self._free_gpus = list(self.gpus)

    @property
    def free(self) -> int:
        """Slots that are empty."""
        return len(self._free)

    def never(self, task: Task) -> str:
        """Return why `task` can never run here, or the empty string."""
        if task.cpus > self.slots:
            return f"needs {task.cpus} cpus; this farmer has {self.slots} slots"
        if self.memory_bytes and task.memory_bytes > self.memory_bytes:
            return f"needs {task.memory_bytes} bytes of memory; this farmer has {self.memory_bytes}"
        if task.gpus > len(self.gpus):
            return f"needs {task.gpus} GPUs; this farmer has {len(self.gpus)}"
        return ""

    def take_one(self) -> Share | None:
        """Return one slot, for a task that asks for nothing else; None when all are busy."""
        return Share((heapq.heappop(self._free),)) if self._free else None

    def take(self, task: Task) -> Share | None:
        """Return what `task` asks for, lowest slots first; None when that is not free now."""
        if task.cpus > len(self._free) or task.gpus > len(self._free_gpus):
            return None
        if self.memory_bytes and task.memory_bytes > self._free_memory:
            return None
        memory = task.memory_bytes if self.memory_bytes else 0
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
