"""How jobs are: the scheduler is asked for all in one question, and what keeps one from running is said once."""

from __future__ import annotations

from typing import Any, cast

from ...batch import JobId, JobState, JobStatus
from ...batch.pace import Polling
from ..submissions import SETTLED_S
from .batches import Batch, Batches, Element
from .ends import Ends
from .errand import Errand
from .scheduler import Question, Scheduler


class Watching:
    """Learns from the scheduler which jobs are over, and which are held."""

    def __init__(self, scheduler: Scheduler, batches: Batches, ends: Ends) -> None:
        self._scheduler = scheduler
        self._batches = batches
        self._ends = ends
        self._pace = Polling()
        self._next = 0.0

    def at_once(self) -> None:
        """Ask next time, since there is something new."""
        self._next = 0.0

    def after_submission(self) -> None:
        """Something came to the queue."""
        self._next = min(self._next, self._scheduler.clock() + self._pace.least_s)

    def after_cancel(self) -> None:
        """Jobs were told to end, which takes a moment."""
        self._pace.every_s = self._pace.least_s
        self._next = self._scheduler.clock() + 0.5

    def question(self, now: float) -> Question | None:
        """Return what is to be asked, if it is time."""
        if now >= max(self._next, self._scheduler.pause.until) and (jobs := self._batches.open_jobs()):
            return Question(self._scheduler.system.poll(jobs), self._polled)
        return None

    def _polled(self, errand: Errand[Any]) -> None:
        now = self._scheduler.clock()
        if errand.error is not None:
            self._scheduler.no_answer(errand.error)
            return
        self._scheduler.pause.went_well()
        statuses = cast("dict[JobId, JobStatus]", errand.value)
        changed = False
        for batch, number, element in self._batches.elements():
            status = statuses.get(batch.job(number))
            if status is None or element.over is not None or self._is_not_there_yet(batch, element, status):
                continue
            changed = self._note(batch.job(number), element, status, now) or changed
        self._next = now + self._pace.next_s(changed=changed, took_s=now - self._scheduler.asked_at)
        self._ends.look_soon()

    def _is_not_there_yet(self, batch: Batch, element: Element, status: JobStatus) -> bool:
        """Whether the scheduler may not know a job since it is so new: some tell of it seconds after they took it."""
        young = self._scheduler.wall() - batch.request.time < SETTLED_S
        return young and status.state is JobState.GONE and not element.known

    def _note(self, job: JobId, element: Element, status: JobStatus, now: float) -> bool:
        """Take in how a job is; return whether it is over."""
        element.known = True
        element.held = status if status.state is JobState.HELD else None
        if status.state.is_over:
            element.over, element.over_at = status, now
            if status.state is JobState.LOST and element.told_at is None:
                self._batches.to_cancel.add(element.launch.id)  # it may be on hold, or come again by itself
        elif status.state is JobState.HELD:
            task, remedy = element.launch.id, status.remedy or "release it"
            self._scheduler.say_once(
                f"job {job} (task {task}) is held: {status.reason or 'no reason given'};"
                f" {remedy}, or `taskfarmer cancel` the task"
            )
        elif status.state is JobState.UNKNOWN:
            self._scheduler.say_once(
                f"{self._scheduler.title} does not tell of some jobs how they are ({status.reason or 'no word'}):"
                " they may live, and are waited for"
            )
        return status.state.is_over
