"""Attempts on this machine, in a farm of which tasks may still be running as batch jobs that nobody minds.

They are the business of a farmer that can ask their batch system (`executors.batch`). Others do not run such a task a
second time: they say so, start nothing more, and leave.
"""

from __future__ import annotations

from collections.abc import Iterable
from selectors import BaseSelector
from typing import TYPE_CHECKING

from ...errors import TaskfarmerError
from ..ledger import Ledger
from .base import Executor, Exit, Launch, StartError

if TYPE_CHECKING:
    from .left import Left, Told


class BesideJobs:
    """An executor of this machine (`Executor`) that heeds what other farmers submitted. `told`: by the journals, if not
    those of the ledger.
    """

    def __init__(self, inner: Executor, ledger: Ledger, told: Told | None = None) -> None:
        self.trouble = ""
        self.keeps_time = inner.keeps_time
        self._inner = inner
        self._ledger = ledger
        self._told = told
        self._left: Left | None = None

    def attach(self, selector: BaseSelector) -> None:
        """Register what wakes the executor."""
        self._inner.attach(selector)

    def start(self, launch: Launch) -> None:
        """Start an attempt, unless a job may be running its task. A first attempt has no job from before."""
        if launch.attempt > 1 and self._ledger.workdir.jobs.is_dir():
            self._heed_jobs(launch)
        self._inner.start(launch)

    def _heed_jobs(self, launch: Launch) -> None:
        from ..submissions import Submissions  # most farms never submitted anything
        from .left import Journals, Left, belongs_to

        if self._left is None:
            disk = self._ledger.disk
            submissions = Submissions(self._ledger.workdir.jobs, disk)
            self._left = Left(submissions, disk, self._told or Journals(self._ledger), trusts_list=True)
        try:
            found = self._left.job_of(launch.id)
        except (OSError, TaskfarmerError) as error:
            raise StartError(f"earlier jobs cannot be looked up: {error}", retryable=True) from error
        if found is not None:
            self.trouble = belongs_to(*found, launch.id)
            raise StartError(self.trouble, retryable=True)

    def holds(self, launch: Launch) -> bool:
        """Nothing of an attempt is there before it is started."""
        return False

    def reap(self) -> Iterable[Exit]:
        """Return the attempts that ended."""
        if self._left is not None:
            self._left.look_again()
        return self._inner.reap()

    def signal(self, id: int, number: int) -> None:
        """Send a signal to an attempt."""
        self._inner.signal(id, number)

    def let_go(self) -> None:
        """Processes of this machine end with their farmer."""

    def close(self) -> None:
        """Let go of everything."""
        self._inner.close()
