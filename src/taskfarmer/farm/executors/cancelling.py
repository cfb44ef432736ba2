"""Jobs that are to end, and those that are left in the queue rather than waited for."""

from __future__ import annotations

from typing import Any

from ...batch import JobId, JobStatus, NoAnswer
from ...batch.pace import Backoff
from ...core.words import plural
from ..disk import chance
from .base import Exit
from .batches import CANCEL_S, TOLD, Batches
from .errand import Errand
from .scheduler import Question, Scheduler
from .watching import Watching

AGAIN_S = 30.0
"""After how long a job that is still there is told to end again: the first time it may have been about to start."""
NAMED = 5
"""How many jobs are named of those that wait for the same."""


class Cancelling:
    """Ends jobs, or leaves them to whoever is given their tasks next."""

    def __init__(self, scheduler: Scheduler, batches: Batches, watching: Watching) -> None:
        self._scheduler = scheduler
        self._batches = batches
        self._watching = watching
        self._backoff = Backoff(most_s=10.0)
        self._lets_go = False
        self._left = 0
        self._again_at = 0.0

    def let_go(self) -> None:
        """From now on who is told to end is left in the queue, where that keeps it alive."""
        self._lets_go = self._scheduler.system.lasting

    def tell(self, id: int) -> None:
        """The job of a task is to end; or to be left in the queue, after `let_go`."""
        if self._lets_go:
            self._leave(id)
        else:
            self._batches.to_cancel.add(id)
            element = self._batches.element(id)
            element.told_at = element.told_at or self._scheduler.clock()

    def question(self, now: float) -> Question | None:
        """Return what is to be asked of the scheduler now. Of a submission on its way nobody knows the jobs yet."""
        if now >= self._again_at:
            self._again_at = now + AGAIN_S / 4
            self._tell_again(now)
        if not self._batches.to_cancel or now < self._backoff.until:
            return None
        ids = [id for id in self._batches.to_cancel if not self._batches.batch(id).request.is_open]
        if not ids:
            return None
        jobs = [job for job in map(self._batches.job, ids) if job]
        return Question(self._scheduler.system.cancel(jobs), lambda errand: self._cancelled(ids, errand))

    def _tell_again(self, now: float) -> None:
        for _, _, element in self._batches.elements():
            cancelled_at = element.cancelled_at
            if cancelled_at is not None and element.over is None and now - cancelled_at >= AGAIN_S:
                self._batches.to_cancel.add(element.launch.id)

    def _cancelled(self, ids: list[int], errand: Errand[Any]) -> None:
        if errand.error is not None:
            if not isinstance(errand.error, (NoAnswer, OSError)):
                raise errand.error
            self._backoff.failed(self._scheduler.clock(), chance())
            self._scheduler.say_once(f"jobs cannot be cancelled now ({errand.error}); it is tried again")
            return
        self._backoff.went_well()
        self._batches.to_cancel.difference_update(ids)
        for id in ids:
            if id in self._batches:
                self._batches.element(id).cancelled_at = self._scheduler.clock()
        self._watching.after_cancel()

    # -- leaving jobs in the queue

    def leave_what_does_not_end(self) -> None:
        """Wait no longer for jobs that were told to end long ago."""
        now = self._scheduler.clock()
        told = [(element.launch.id, element.told_at) for _, _, element in self._batches.elements()]
        for id, told_at in told:
            if told_at is not None and now - told_at > CANCEL_S:
                self._leave(id)

    def all_are_held(self) -> bool:
        """Whether there are jobs, and each waits until somebody does something, and nobody wants it to end."""
        return bool(self._batches) and all(
            element.held and element.told_at is None for _, _, element in self._batches.elements()
        )

    def leave_what_is_held(self) -> None:
        """Wait for no job that is held: it is left to the next farmer, or cancelled if it would not outlive ours."""
        lasting = self._scheduler.system.lasting
        held = {e.launch.id: (batch.job(n), e.held) for batch, n, e in self._batches.elements() if e.held}
        becomes = "stay in the queue" if lasting else "are cancelled"
        self._scheduler.say(f"what is left are jobs that are held, which {becomes}: {_in_words(held)}")
        for id in held:
            if lasting:
                self._leave(id)
            else:
                self._batches.element(id).given_up = True
                self.tell(id)

    def _leave(self, id: int) -> None:
        """Wait no longer for a job, which is left to whoever is given its task next."""
        self._batches.end(Exit(id, TOLD, reason="nostart"))
        self._left += 1

    def say_what_is_left(self) -> None:
        """Say how many jobs were left in the queue, if any."""
        if self._left:
            there = f"{plural(self._left, 'job')} left in the queue of {self._scheduler.title}"
            self._scheduler.say(f"{there}: the next farmer attaches to what is there")


def _in_words(held: dict[int, tuple[JobId, JobStatus]]) -> str:
    """Return which jobs are held, by task, why, and what to do about them."""
    alike: dict[tuple[str, str], list[str]] = {}
    for task, (job, status) in held.items():
        alike.setdefault((status.reason, status.remedy), []).append(f"{job} (task {task})")
    parts = []
    for (reason, remedy), jobs in alike.items():
        more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
        parts.append(f"{', '.join(jobs[:NAMED])}{more}: {reason or 'no reason given'}; {remedy or 'release it'}")
    return f"{'; '.join(parts)}, or `taskfarmer cancel` the task"
