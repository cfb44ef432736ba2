"""Attempts on this machine, in a farm of which tasks may still be running as batch jobs that nobody minds.

They are the business of a farmer that can ask their batch system (`executors.batch`). Others do not run such a task a
second time: they say so, start nothing more, and leave.
"""

from __future__ import annotations

from collections.abc import Iterable
from selectors import BaseSelector

from ...errors import TaskfarmerError
from .base import Executor, Exit, Launch, StartError
from .left import Left, belongs_to


class BesideJobs:
    """An executor of this machine (`Executor`) that minds what was submitted."""

    def __init__(self, inner: Executor, left: Left) -> None:
        self.trouble = ""
        self.keeps_time = inner.keeps_time
        self._inner = inner
        self._left = left

    def attach(self, selector: BaseSelector) -> None:
        """Register what wakes the executor."""
        self._inner.attach(selector)

    def start(self, launch: Launch) -> None:
        """Start an attempt, unless a job may be running its task. A first attempt has no job from before."""
        if launch.attempt > 1:
            try:
                found = self._left.job_of(launch.id)
            except (OSError, TaskfarmerError) as error:
                raise StartError(f"earlier jobs cannot be looked up: {error}", retryable=True) from error
            if found is not None:
                self.trouble = belongs_to(*found, launch.id)
                raise StartError(self.trouble, retryable=True)
        self._inner.start(launch)

    def holds(self, launch: Launch) -> bool:
        """Nothing of an attempt is there before it is started."""
        return False

    def reap(self) -> Iterable[Exit]:
        """Return the attempts that ended."""
        return self._inner.reap()

    def signal(self, id: int, number: int) -> None:
        """Send a signal to an attempt."""
        self._inner.signal(id, number)

    def let_go(self) -> None:
        """Processes of this machine end with their farmer."""

    def close(self) -> None:
        """Let go of everything."""
        self._inner.close()
