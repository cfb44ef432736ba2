"""What is submitted, and when: attempts wait a moment for others, then for room, then for word of what became of it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from ...batch import Limits, Refused, Submitted, Unsure
from ...batch.pace import Backoff, Rate
from ...core.words import plural
from ...errors import TaskfarmerError
from ..disk import chance
from ..submissions import Request, Submissions, fresh_name
from ..workdir import Workdir
from .base import Exit, Launch
from .batches import TOLD, Batch, Batches
from .ends import Ends
from .errand import Errand
from .jobs import ELEMENTS, Jobs
from .left import Left, note_of
from .scheduler import Question, Scheduler
from .watching import Watching

GATHER_S = 0.5
"""How long attempts are gathered for one submission."""
AGAIN_S = 2.0
"""How soon it is asked once more what became of a submission."""


class Submitting:
    """Hands attempts to the scheduler. `note` writes a note into the farmer's journal, and returns whether to submit.

    `trouble`: why nothing will be submitted any more; mostly empty.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        batches: Batches,
        ends: Ends,
        watching: Watching,
        submissions: Submissions,
        left: Left,
        workdir: Workdir,
        jobs: Jobs,
        note: Callable[[str], bool],
    ) -> None:
        self.trouble = ""
        self._scheduler = scheduler
        self._batches = batches
        self._ends = ends
        self._watching = watching
        self._submissions = submissions
        self._left = left
        self._workdir = workdir
        self._jobs = jobs
        self._note = note
        self._waiting: dict[int, Launch] = {}
        self._since = 0.0
        self._limits: Limits | None = None
        self._most = ELEMENTS
        self._rate = Rate()
        self._backoff = Backoff()
        self._obstacle: str | None = None

    # -- what waits

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be submitted."""
        return bool(self._waiting)

    @property
    def is_hindered(self) -> bool:
        """Whether something keeps it from being submitted for now, a limit of the site's say."""
        return bool(self._obstacle)

    def wait_for(self, launch: Launch) -> None:
        """Submit an attempt in a moment."""
        if not self._waiting:
            self._since = self._scheduler.clock()
        self._waiting[launch.id] = launch

    def take_back(self, id: int) -> bool:
        """Do not submit an attempt; return whether it was still waiting for that."""
        return self._waiting.pop(id, None) is not None

    def give_up(self) -> None:
        """Submit nothing of what waits."""
        self._give_up(list(self._waiting.values()))

    def _give_up(self, launches: list[Launch]) -> None:
        for launch in launches:
            self._waiting.pop(launch.id, None)
            self._batches.end(Exit(launch.id, TOLD, reason="nostart"))

    def close(self) -> None:
        """Nothing hinders who is not there."""
        if self._obstacle:
            self._hinder("")

    def _hinder(self, why: str) -> None:
        """Say what keeps the attempts that wait from being submitted, here and to who looks; empty: nothing does."""
        if why:
            self._scheduler.say_once(why)
        if why != self._obstacle:
            with suppress(OSError):
                self._submissions.hinder(why)
                self._obstacle = why

    # -- handing over

    def question(self, now: float) -> Question | None:
        """Return what is to be asked of the scheduler: what the site allows, or to take jobs; None: not now."""
        if not self._waiting or now < max(self._since + GATHER_S, self._backoff.until):
            return None
        if self._limits is None:
            return Question(self._scheduler.system.limits(), self._limited)
        room = self._room(self._limits)
        if room <= 0:
            most, title = plural(self._limits.jobs or 0, "job"), self._scheduler.title
            allows = f"takes {most} of all users" if self._limits.of_all else f"lets its user have {most}"
            self._hinder(f"{title} {allows} at a time; the others wait for an end")
        elif not self._rate.wait_s(now):
            return self._submission(now, min(self._most, room, self._limits.elements))
        return None

    def _limited(self, errand: Errand[Any]) -> None:
        self._limits = errand.value or Limits()

    def _room(self, limits: Limits) -> int:
        """Return how many more jobs the site takes at most, as far as it said; jobs of others may count, too."""
        if limits.jobs is None:
            return ELEMENTS
        return limits.jobs - sum(element.over is None for _, _, element in self._batches.elements())

    def _submission(self, now: float, most: int) -> Question | None:
        """Hand over the attempts that need the same as the first one that waits, `most` of them."""
        chosen = self._jobs.together(self._waiting.values(), most)
        if self._limits is not None and self._limits.elements == 1:
            self._limits = None  # perhaps it could not be asked just then
        try:
            request = self._request(chosen)
        except TaskfarmerError as error:  # the system cannot do what is asked for
            self.trouble = str(error)
            self._give_up(chosen)
            return None
        except OSError as error:
            self._backoff.failed(now, chance())
            where = error.filename or self._workdir.jobs
            self._scheduler.say_once(f"nothing can be submitted, {where}: {error.strerror}")
            return None
        for launch in chosen:
            del self._waiting[launch.id]
        batch = self._batches.add(request, dict(enumerate(chosen, 1)))
        self._rate.note(now)
        steps = self._submissions.submit(self._scheduler.system, request)
        return Question(steps, lambda errand: self._submitted(batch, errand))

    def _request(self, launches: list[Launch]) -> Request:
        name = fresh_name()
        submission = self._jobs.submission(name, self._submissions.directory(name), launches)
        extra = self._jobs.extra(launches) | {"at": self._scheduler.at}
        now = self._scheduler.wall()
        request = self._submissions.request("tasks", self._scheduler.system, submission, now, extra)
        if not self._note(note_of(name)):
            self._submissions.withdraw(request)
            raise OSError(errno.EIO, "the journal cannot be written", str(self._workdir.journals))
        self._left.made(request)
        return request

    # -- what became of it

    def _submitted(self, batch: Batch, errand: Errand[Any]) -> None:
        title = self._scheduler.title
        if errand.error is not None:
            batch.request = self._submissions.answered(batch.request, Unsure(str(errand.error)))
        else:
            batch.request = cast("Request", errand.value)
        match batch.request.outcome:
            case Submitted(jobs):
                self._backoff.went_well()
                self._most = min(ELEMENTS, 2 * self._most)
                self._watching.after_submission()
                self._hinder("")
                many = f"{len(jobs)} jobs" if len(jobs) > 1 else f"job {jobs[0]}"
                self._scheduler.say(f"{many} submitted to {title} as {batch.name}")
            case Refused(why, again):
                self._refused(batch, why, again=again)
            case doubt:
                now = self._scheduler.clock()
                self._backoff.failed(now, chance())
                self._scheduler.pause.until = max(self._scheduler.pause.until, now + AGAIN_S)
                why = doubt.why if doubt is not None else ""
                self._scheduler.say_once(
                    f"{title} did not say whether it took {batch.name} ({why}); it is asked for that"
                )

    def _refused(self, batch: Batch, why: str, *, again: bool) -> None:
        """Nothing was submitted: later again, and less at once, since a limit may leave room for some; or never."""
        if not again:
            self._refused_for_good(batch, why)
            return
        launches = self._forget(batch)
        self._submissions.withdraw(batch.request)
        self._backoff.failed(self._scheduler.clock(), chance())
        self._most = max(1, batch.request.submission.count // 2)
        self._hinder(f"{self._scheduler.title} takes no jobs now ({why}); it is asked again")
        for launch in launches:
            self.wait_for(launch)

    def _refused_for_good(self, batch: Batch, why: str) -> None:
        self.trouble = f"{self._scheduler.title} refuses the jobs: {why}; correct the options, and run it again"
        self._give_up(self._forget(batch))

    def _forget(self, batch: Batch) -> list[Launch]:
        """Return the attempts of a submission that came to nothing; but for those that were to be cancelled, and those
        that left their ends all the same.
        """
        self._ends.take_in_results(batch)
        self._left.over(batch.name, list(batch.elements))
        launches = []
        for launch in [element.launch for element in batch.elements.values()]:
            if launch.id in self._batches.to_cancel:
                self._batches.end(Exit(launch.id, TOLD))
            else:
                self._batches.drop(launch.id)
                launches.append(launch)
        return launches

    # -- submissions of which nobody knows what became

    def doubt(self, now: float) -> Question | None:
        """Return what is to be asked about a submission of which nobody said what became."""
        if now < self._scheduler.pause.until:
            return None
        for batch in self._batches:
            if batch.request.is_open:
                return self._settlement(batch)
        return None

    def _settlement(self, batch: Batch) -> Question:
        steps = self._submissions.settle(self._scheduler.system, batch.request, self._scheduler.wall())
        return Question(steps, lambda errand: self._settled(batch, errand))

    def _settled(self, batch: Batch, errand: Errand[Any]) -> None:
        if errand.error is not None:
            self._scheduler.no_answer(errand.error)
            return
        self._scheduler.pause.went_well()
        batch.request = cast("Request", errand.value)
        if isinstance(batch.request.outcome, Submitted):
            self._backoff.went_well()
        elif isinstance(batch.request.outcome, Refused):  # its directory stays: it may yet come to the queue
            self._came_to_nothing(batch, batch.request.outcome)
        elif batch.request.is_open:
            self._scheduler.pause.until = self._scheduler.clock() + AGAIN_S
        self._watching.at_once()

    def _came_to_nothing(self, batch: Batch, refused: Refused) -> None:
        if not refused.again:
            self._refused_for_good(batch, refused.why)
            return
        if refused.ended_well:
            self._scheduler.say_once(f"{refused.why}; the jobs are submitted once more")
        for launch in self._forget(batch):
            self.wait_for(launch)
