"""What the loop asks of an executor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from selectors import BaseSelector
from typing import Protocol

from ...core.model import Task
from ...core.resources import Share
from ...errors import TaskfarmerError


@dataclass(frozen=True, slots=True)
class Launch:
    """An attempt to be started."""

    id: int
    attempt: int
    task: Task
    share: Share


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of an attempt. `status`: exit status 0..255, or minus a signal; times in seconds, memory in KiB.

    `reason`: what the executor knows of why: `timeout`, `lost` (its host or its batch job was, it is not the task's
    fault), `nostart`, `ended` (by itself for sure, also if it was to be told to end just then); empty: it ended by
    itself, or because it was told to.
    """

    id: int
    status: int
    user_s: float = 0.0
    system_s: float = 0.0
    rss_kib: int = 0
    reason: str = ""
    start: float = 0.0
    end: float = 0.0


class StartError(TaskfarmerError):
    """An attempt could not be started.

    `retryable`: the machine is at fault (no processes, no space), not the task; the attempt is given back and the farm
    tries again in a while. Otherwise the attempt failed with `status` (126: cannot run, 127: not found, as in a shell).
    """

    def __init__(self, message: str, *, retryable: bool, status: int = 126) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.status = status


class Executor(Protocol):
    """Starts attempts, tells of their ends, stops them. At most one attempt of a task is there at a time.

    The loop calls everything from one thread. `attach` is called once, before the first start: the executor registers
    its descriptors with data=a callable that the loop calls when they are readable. Children's ends wake the loop by
    SIGCHLD, so `reap` is asked after each wake-up. Order of ends is the order in which they are seen.

    `keeps_time`: it ends attempts at their time-out itself. `trouble`: why no attempt will ever start again, so that
    the farmer leaves when those that run have ended; mostly empty.
    """

    keeps_time: bool
    trouble: str

    def attach(self, selector: BaseSelector) -> None:
        """Register what wakes this executor."""

    def start(self, launch: Launch) -> None:
        """Start an attempt. Returns as soon as it is a process.

        Raises:
            StartError: it was not started; no Exit will come.
        """

    def holds(self, launch: Launch) -> bool:
        """Whether `start` would attach to what an earlier farmer started of this task, rather than run it again."""

    def reap(self) -> Iterable[Exit]:
        """Return the attempts that ended since the last call, without waiting. What they wrote can be read by then."""

    def signal(self, id: int, number: int) -> None:
        """Send a signal to all processes of an attempt; one that has ended is forgiven."""

    def let_go(self) -> None:
        """The farmer leaves, though nobody wishes its attempts to end: those that outlive it are not to be ended by the
        signals that follow, but left to the next one; they are reported as ended.
        """

    def close(self) -> None:
        """Let go of everything; attempts that run are not waited for."""
