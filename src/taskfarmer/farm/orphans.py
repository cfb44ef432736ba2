"""Ending jobs of tasks (`--one-job-per-task`) that nobody minds.

The farmer that has a task ends its job. If there is none, or it is dead, who tells the task to end sees to that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..batch import JobId, NoAnswer
from ..batch.words import user_name
from ..core.words import plural
from ..errors import InputError
from .executors.left import Journals, Left
from .ledger import Ledger
from .pilots import Pilots
from .recall import LEAVE_S
from .submissions import Request


@dataclass(frozen=True, slots=True)
class Job:
    """One element of a submission, the job of `task`."""

    request: Request
    element: int
    task: int

    @property
    def id(self) -> JobId:
        """Its id; empty while it is not known."""
        return self.request.jobs[self.element - 1] if self.request.jobs else JobId("")

    @property
    def has_ended(self) -> bool:
        """Whether its task has, so that it left a result. To be asked when the job is over: NFS remembers for half a
        minute that a name was looked up in vain.
        """
        return (self.request.submission.directory / "results" / str(self.element)).exists()


def end_jobs(pilots: Pilots, ledger: Ledger, chosen: Callable[[int], bool]) -> tuple[int, list[str]]:
    """End the jobs of the tasks that are `chosen`, and wait a while for that; but for those that have left a result.

    Return how many were ended, and why others may run on, a line for each batch system. A job that is over is noted, so
    that nobody attaches to it and counts its task as lost.

    Raises:
        OSError, TaskfarmerError: it cannot be looked up which there are.
    """
    left = Left(pilots.submissions, pilots.disk, Journals(ledger), trusts_list=True)
    there = [Job(request, element, task) for task, (request, element) in left.jobs().items()]
    over = {name: _results(pilots, name) for name in {job.request.submission.name for job in there}}
    mine = [job for job in there if chosen(job.task) and job.element not in over[job.request.submission.name]]
    ours = {job.task for job in mine}
    _revoke(pilots, {job.request.submission.name for job in there if job.task not in ours}, mine)
    systems: dict[str, list[Job]] = {}
    for job in mine:
        systems.setdefault(str(job.request.extra.get("batch", job.request.system)), []).append(job)
    count, problems = 0, []
    grace_s = float(ledger.state.config.get("rules", {}).get("stop_grace_s", 0.0))
    for batch, jobs in systems.items():
        ended, trouble = _Ending(pilots, batch, left, time.monotonic() + grace_s + LEAVE_S).end(jobs)
        count += ended
        problems += [f"{batch}: {trouble}"] if trouble else []
    return count, problems


def _results(pilots: Pilots, name: str) -> set[int]:
    """Return which elements of a submission have left a result, by the list of its directory."""
    with suppress(OSError):
        names = pilots.disk.names(f"{pilots.submissions.directory(name)}/results")
        return {int(name) for name in names if name.isdigit()}
    return set()


def _revoke(pilots: Pilots, used: set[str], jobs: list[Job]) -> None:
    """Have those that start from now on do nothing, where nothing else of their submission is needed."""
    for name, request in {job.request.submission.name: job.request for job in jobs}.items():
        if name not in used:
            with suppress(OSError):  # a full disk: they are cancelled all the same
                pilots.submissions.revoke(request)


@dataclass(frozen=True, slots=True)
class _Ending:
    """Ends jobs of one system, and waits for that until `deadline` on the monotonic clock."""

    pilots: Pilots
    batch: str
    left: Left
    deadline: float

    def end(self, jobs: list[Job]) -> tuple[int, str]:
        """Return how many were ended, and why others were not."""
        try:
            mine, troubles = self._within_reach(jobs)
            known, unknown = self._settled(mine)
            alive = self._alive(known)
            if alive:
                system = self.pilots.system(self.batch)
                self.pilots.ask(system, system.cancel([job.id for job in alive]))
        except (NoAnswer, InputError) as error:
            return 0, str(error)
        self._see_off(alive)
        if unknown:
            troubles.append(f"it is not known yet whether {plural(unknown, 'job')} came to the queue")
        return len(alive), "; ".join(troubles)

    def _within_reach(self, jobs: list[Job]) -> tuple[list[Job], list[str]]:
        """Return those that can be cancelled by this user with this scheduler, and why others cannot."""
        here, us = self.pilots.instance(self.batch), user_name()
        mine, troubles = [], set[str]()
        for job in jobs:
            at, user = str(job.request.extra.get("at") or here), str(job.request.extra.get("user") or us)
            if user != us:
                troubles.add(f"jobs of {user} cannot be cancelled by {us}")
            elif here and at != here:
                troubles.add(f"jobs were submitted to {at}, and here is {here}")
            else:
                mine.append(job)
        return mine, sorted(troubles)

    def _settled(self, jobs: list[Job]) -> tuple[list[Job], int]:
        """Return the jobs that are known, and the number of those of which nobody knows whether they were submitted."""
        system = self.pilots.system(self.batch)
        requests = {job.request.submission.name: job.request for job in jobs}
        for name, request in requests.items():
            if request.is_open:
                steps = self.pilots.submissions.settle(system, request, time.time())
                requests[name] = self.pilots.ask(system, steps)
        found = [Job(requests[job.request.submission.name], job.element, job.task) for job in jobs]
        return [job for job in found if job.id], sum(job.request.is_open for job in found)

    def _alive(self, jobs: list[Job]) -> list[Job]:
        system = self.pilots.system(self.batch)
        states = self.pilots.ask(system, system.poll([job.id for job in jobs])) if jobs else {}
        return [job for job in jobs if job.id in states and not states[job.id].state.is_over]

    def _see_off(self, jobs: list[Job]) -> None:
        """Wait for those that were cancelled, and note which are over and left no result."""
        alive, pause_s = jobs, 0.25
        with suppress(NoAnswer):  # it took the order
            while alive and time.monotonic() < self.deadline:
                time.sleep(pause_s)
                pause_s = min(4.0, pause_s * 2)
                alive = self._alive(alive)
        if alive is jobs:
            return
        living = {job.task for job in alive}
        over: dict[str, list[int]] = {}
        for job in jobs:
            if job.task not in living and not job.has_ended:
                over.setdefault(job.request.submission.name, []).append(job.element)
        for name, elements in over.items():
            self.left.over(name, elements)
