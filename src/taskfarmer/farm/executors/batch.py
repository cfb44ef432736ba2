"""Attempts as jobs of a batch system, one job a task: for long tasks with needs of their own.

Attempts that start in the same moment and need the same are one submission, an array where the system has them. The
job's program (`element`) runs the task as a farmer would and leaves its end in the workdir; the scheduler is asked for
what becomes of the others: jobs that ended without a word are *lost*, and are run again at no cost to the task.

A submission outlives the farmer. Who is given a task that a dead farmer had submitted attaches to that job rather than
submit another, and takes its end from there: so nothing runs twice because a farmer was killed (`left`). A farmer that
leaves though nobody wished its tasks to end (its terminal is closed, its own time is over) leaves its jobs likewise.

What is here is what the loop sees, and in which order things are asked of the scheduler (`scheduler`), one at a time,
beside the loop. Each of the parts says what it would ask next: `submitting`, `watching` how jobs are, `cancelling`.
`ends` are found in the workdir; what is waited for stands in `batches`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from selectors import BaseSelector
from typing import Any

from ...batch import BatchSystem
from ...errors import TaskfarmerError
from ..disk import Disk
from ..submissions import Request, Submissions
from ..workdir import Workdir
from .base import Exit, Launch, StartError
from .batches import TOLD, Batches
from .cancelling import Cancelling
from .ends import Ends
from .errand import Errand
from .jobs import Jobs
from .left import Left, Told, belongs_to
from .scheduler import Question, Scheduler
from .submitting import Submitting
from .watching import Watching


class BatchJobs:
    """Starts attempts as batch jobs (`Executor`). `say` tells people what becomes of them.

    `told` is what the journals say of jobs; `note` writes a note into the farmer's own, and returns whether it stands
    there and this farmer may still start what it was given: only then is something submitted.
    """

    keeps_time = True

    def __init__(
        self,
        system: BatchSystem,
        workdir: Workdir,
        disk: Disk,
        jobs: Jobs,
        say: Callable[[str], None],
        told: Told,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.trouble = ""
        self.note: Callable[[str], bool] = lambda _text: True
        self._workdir = workdir
        self._jobs = jobs
        submissions = Submissions(workdir.jobs, disk)
        self._left = left = Left(submissions, disk, told)
        self._scheduler = scheduler = Scheduler(system, say, clock, wall)
        self._batches = batches = Batches()
        self._ends = ends = Ends(scheduler, batches, disk, left)
        self._watching = watching = Watching(scheduler, batches, ends)
        self._cancelling = Cancelling(scheduler, batches, watching)
        self._submitting = Submitting(scheduler, batches, ends, watching, submissions, left, workdir, jobs, self._note)

    def _note(self, text: str) -> bool:
        return self.note(text)

    def attach(self, selector: BaseSelector) -> None:
        """Nothing wakes this executor but time, and the ends of commands, which are children."""

    def start(self, launch: Launch) -> None:
        """Submit an attempt in a moment, or attach to a job of it that is there."""
        if self.trouble:
            raise StartError(self.trouble, retryable=True)
        found = self._job_left(launch)
        if found is None:
            self._submitting.wait_for(launch)
        elif self._knows(found[0]):
            self._attach_to(*found, launch)
        else:
            self.trouble = belongs_to(*found, launch.id)
            raise StartError(self.trouble, retryable=True)

    def holds(self, launch: Launch) -> bool:
        """Whether there is a job to attach to; also if that cannot be looked up now, which `start` will say."""
        try:
            return self._job_left(launch) is not None
        except StartError:
            return True

    def reap(self) -> Iterable[Exit]:
        """Return what ended; go on with what the scheduler is to be asked."""
        self._left.look_again()
        self._scheduler.go_on(self._next_question)
        self.trouble = self._submitting.trouble or self.trouble
        if self._ends.look():
            self._cancelling.leave_what_does_not_end()
            if self.trouble:
                self._leave_what_is_held()
        return self._batches.take_ends()

    def signal(self, id: int, number: int) -> None:
        """Cancel the job of an attempt, whatever the signal; or leave it to the next farmer, after `let_go`."""
        if self._submitting.take_back(id):
            self._batches.end(Exit(id, TOLD))
        elif id in self._batches:
            self._cancelling.tell(id)

    def let_go(self) -> None:
        """From now on who is told to end is left in the queue, where that keeps it alive."""
        self._cancelling.let_go()

    def close(self) -> None:
        """Let go; jobs that run are left to who attaches to them."""
        self._scheduler.abandon()
        self._submitting.close()
        self._cancelling.say_what_is_left()

    def _leave_what_is_held(self) -> None:
        """Where nothing will be submitted any more, wait for no job that waits until somebody does something, nor for
        the room that it takes.
        """
        if self._cancelling.all_are_held() and (self._submitting.is_hindered or not self._submitting.is_waiting):
            self._submitting.give_up()
            self._cancelling.leave_what_is_held()

    # -- what is asked of the scheduler

    def _next_question(self, now: float) -> Question | None:
        """Return what is most urgent: to end jobs, to learn what became of submissions, to submit, to ask how jobs are.

        Before all that: which scheduler this is, since the ids of jobs mean nothing to another one.
        """
        if self._scheduler.at is None:
            wanted = (self._submitting.is_waiting or self._batches) and now >= self._scheduler.pause.until
            return Question(self._scheduler.system.instance(), self._introduced) if wanted else None
        return (
            self._cancelling.question(now)
            or self._submitting.doubt(now)
            or self._submitting.question(now)
            or self._watching.question(now)
        )

    def _introduced(self, errand: Errand[Any]) -> None:
        """Give back what was attached to, and is another scheduler's."""
        if errand.error is not None:
            self._scheduler.no_answer(errand.error)
            return
        self._scheduler.pause.went_well()
        self._scheduler.at = str(errand.value)
        for batch in self._batches:
            if not self._knows(batch.request):
                for number, element in list(batch.elements.items()):
                    self.trouble = belongs_to(batch.request, number, element.launch.id)
                    self._batches.end(Exit(element.launch.id, TOLD, reason="nostart"))

    # -- jobs of earlier farmers

    def _job_left(self, launch: Launch) -> tuple[Request, int] | None:
        """Return the job of an earlier attempt that may run, or whose end nobody recorded."""
        if launch.attempt <= 1:
            return None
        try:
            return self._left.job_of(launch.id)
        except (OSError, TaskfarmerError) as error:
            raise StartError(f"earlier jobs cannot be looked up: {error}", retryable=True) from error

    def _knows(self, request: Request) -> bool:
        """Whether the scheduler that is asked here has the jobs of a submission, as far as that is known yet."""
        at, here = request.extra.get("at"), self._scheduler.at
        return request.system == self._scheduler.system.name and (not at or not here or at == here)

    def _attach_to(self, request: Request, number: int, launch: Launch) -> None:
        self._batches.add(request, {number: launch})
        if self._jobs.logs:  # what the job writes is the output of this attempt
            written = os.path.basename(self._workdir.log_file(*request.extra["tasks"][number - 1]))
            with suppress(OSError):
                os.symlink(written, self._workdir.log_file(launch.id, launch.attempt))
        self._watching.at_once()
        self._ends.look_soon()
