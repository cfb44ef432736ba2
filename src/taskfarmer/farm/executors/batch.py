"""Attempts as jobs of a batch system, one job a task: for long tasks with needs of their own.

Attempts that start in the same moment and need the same are one submission, an array where the system has them. The
job's program (`element`) runs the task as a farmer would and leaves its end in the workdir; the scheduler is asked for
what becomes of the others: jobs that ended without a word are *lost*, and are run again at no cost to the task.

A submission outlives the farmer. Who is given a task that a dead farmer had submitted attaches to that job rather than
submit another, and takes its end from there: so nothing runs twice because a farmer was killed (`left`). A farmer that
leaves though nobody wished its tasks to end (its terminal is closed, its own time is over) leaves its jobs likewise.

The scheduler is asked one thing at a time (`errand`), beside the loop.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from selectors import BaseSelector
from typing import Any, cast

from ...batch import (
    GONE,
    BatchSystem,
    JobId,
    JobState,
    JobStatus,
    Limits,
    NoAnswer,
    Refused,
    Steps,
    Submitted,
    Unsure,
)
from ...batch.pace import Backoff, Polling, Rate
from ...batch.script import UNSEEN
from ...core.words import plural
from ...errors import TaskfarmerError
from ..disk import Disk, chance
from ..submissions import SETTLED_S, Request, Submissions, fresh_name
from ..workdir import Workdir
from .base import Exit, Launch, StartError
from .errand import Errand
from .jobs import ELEMENTS, Jobs
from .left import Left, Told, belongs_to, note_of

GATHER_S = 0.5
"""How long attempts are gathered for one submission."""
LATE_S = 5.0
"""How much later than the end of its job a result may come up in the list of its directory. It is looked for by that
list alone, since NFS remembers for half a minute that a name was looked up in vain."""
CANCEL_S = 90.0
"""How long is waited for jobs to end that are to be cancelled, also if the scheduler does not answer; longer than it
takes to learn what became of a submission."""
SKEW_S = 60.0
"""How far apart the clocks of a node and of the farmer's host may be, for the node's to be believed."""
KILLED, TOLD = -9, -15


@dataclass(slots=True)
class _Element:
    """One job of ours. Times on the executor's clock: when it was seen to be over, when it was told to end.

    `known`: the scheduler has said something of it.
    """

    launch: Launch
    known: bool = False
    over: JobStatus | None = None
    over_at: float = 0.0
    told_at: float | None = None


@dataclass(slots=True)
class _Batch:
    """A submission, and which of its elements are still ours to wait for."""

    request: Request
    elements: dict[int, _Element] = field(default_factory=dict)

    def job(self, element: int) -> JobId:
        """Return the id of an element's job; empty while it is not known."""
        jobs = self.request.jobs
        return jobs[element - 1] if jobs else JobId("")


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
        self._system = system
        self._workdir = workdir
        self._disk = disk
        self._jobs = jobs
        self._say = say
        self._clock = clock
        self._wall = wall
        self._submissions = Submissions(workdir.jobs, disk)
        self._left = Left(self._submissions, disk, told)
        self._limits: Limits | None = None
        self._at: str | None = None
        self._waiting: dict[int, Launch] = {}
        self._since = 0.0
        self._most = ELEMENTS
        self._batches: dict[str, _Batch] = {}
        self._where: dict[int, tuple[str, int]] = {}
        self._ends: list[Exit] = []
        self._cancels: set[int] = set()
        self._lets_go = False
        self._let_go = 0
        self._errand: Errand[Any] | None = None
        self._then: Callable[[Errand[Any]], None] = _nothing
        self._began = 0.0
        self._asking = Backoff()
        self._submitting = Backoff()
        self._cancelling = Backoff(most_s=10.0)
        self._polling = Polling()
        self._rate = Rate()
        self._next_poll = 0.0
        self._next_look = 0.0
        self._said: set[str] = set()
        self._obstacle: str | None = None

    # -- the interface of an executor ----------------------------------------------------------------------------------

    def attach(self, selector: BaseSelector) -> None:
        """Nothing wakes this executor but time, and the ends of commands, which are children."""

    def start(self, launch: Launch) -> None:
        """Submit an attempt in a moment, or attach to a job of it that is there."""
        if self.trouble:
            raise StartError(self.trouble, retryable=True)
        found = self._job_left(launch)
        if found is None:
            self._wait_for(launch)
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
        self._go_on()
        self._look()
        ends, self._ends = self._ends, []
        return ends

    def signal(self, id: int, number: int) -> None:
        """Cancel the job of an attempt, whatever the signal; or leave it to the next farmer, after `let_go`."""
        if self._waiting.pop(id, None) is not None:
            self._ends.append(Exit(id, TOLD))
        elif id in self._where and self._lets_go:
            self._release(id)
        elif id in self._where:
            self._cancels.add(id)
            element = self._element(id)
            element.told_at = element.told_at or self._clock()

    def let_go(self) -> None:
        """From now on who is told to end is left in the queue, where that keeps it alive."""
        self._lets_go = self._system.lasting

    def close(self) -> None:
        """Let go; jobs that run are left to who attaches to them."""
        if self._errand is not None:
            self._errand.abandon()
        if self._obstacle:
            self._hinder("")
        if self._let_go:
            many = plural(self._let_go, "job")
            self._say(f"{many} left in the queue of {self._system.title}: the next farmer attaches to what is there")

    # -- jobs of earlier farmers ---------------------------------------------------------------------------------------

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
        at = request.extra.get("at")
        return request.system == self._system.name and (not at or not self._at or at == self._at)

    def _attach_to(self, request: Request, number: int, launch: Launch) -> None:
        name = request.submission.name
        batch = self._batches.setdefault(name, _Batch(request))
        batch.elements[number] = _Element(launch)
        self._where[launch.id] = name, number
        if self._jobs.logs:  # what the job writes is the output of this attempt
            written = os.path.basename(self._workdir.log_file(*request.extra["tasks"][number - 1]))
            with suppress(OSError):
                os.symlink(written, self._workdir.log_file(launch.id, launch.attempt))
        self._next_poll = self._next_look = 0.0

    def _tidy(self, said: Path) -> None:
        """Remove what a job itself had to say, if that was nothing."""
        with suppress(OSError):
            if not said.stat().st_size:
                self._disk.remove(str(said))

    def _release(self, id: int) -> None:
        """Wait no longer for a job, which is left to whoever is given its task next."""
        name, number = self._where.pop(id)
        batch = self._batches[name]
        del batch.elements[number]
        if not batch.elements:
            del self._batches[name]
        self._cancels.discard(id)
        self._ends.append(Exit(id, TOLD))
        self._let_go += 1

    # -- asking the scheduler ------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Take in what the scheduler answered, and ask the next thing."""
        while True:
            if self._errand is None and not self._next_errand(self._clock()):
                return
            assert self._errand is not None
            if not self._errand.advance():
                return
            errand, self._errand = self._errand, None
            self._then(errand)

    def _ask(self, steps: Steps[Any], then: Callable[[Errand[Any]], None]) -> bool:
        self._began = self._clock()
        self._then = then
        self._errand = Errand(steps, self._system.environ, self._clock)
        return True

    def _next_errand(self, now: float) -> bool:
        """What is most urgent: to end jobs, to learn what became of submissions, to submit, to ask how jobs are.

        Before all that: which scheduler this is, since the ids of jobs mean nothing to another one.
        """
        if self._at is None:
            wanted = (self._waiting or self._batches) and now >= self._asking.until
            return bool(wanted) and self._ask(self._system.instance(), self._introduced)
        if self._cancels and now >= self._cancelling.until:
            # Of a submission that is on its way nobody knows the jobs yet.
            ids = [id for id in self._cancels if not self._batch(id).request.is_open]
            if ids:
                jobs = [job for job in map(self._job, ids) if job]
                return self._ask(self._system.cancel(jobs), lambda errand: self._cancelled(ids, errand))
        if now >= self._asking.until:
            for batch in self._batches.values():
                if batch.request.is_open and batch.elements:
                    steps = self._submissions.settle(self._system, batch.request, self._wall())
                    return self._ask(steps, lambda errand, batch=batch: self._settled(batch, errand))  # type: ignore[misc]
        if self._waiting and now >= max(self._since + GATHER_S, self._submitting.until):
            if self._limits is None:
                return self._ask(self._system.limits(), self._limited)
            if self._room() <= 0:
                most = plural(self._limits.jobs or 0, "job")
                self._hinder(f"{self._system.title} lets its user have {most} at a time; the others wait for an end")
            elif not self._rate.wait_s(now):
                return self._submit(now)
        if now >= max(self._next_poll, self._asking.until) and (jobs := self._open_jobs()):
            return self._ask(self._system.poll(jobs), self._polled)
        return False

    def _introduced(self, errand: Errand[Any]) -> None:
        """Give back what was attached to, and is another scheduler's."""
        if errand.error is not None:
            self._no_answer(errand.error)
            return
        self._asking.went_well()
        self._at = str(errand.value)
        for name, batch in list(self._batches.items()):
            if not self._knows(batch.request):
                del self._batches[name]
                for number, element in batch.elements.items():
                    self.trouble = belongs_to(batch.request, number, element.launch.id)
                    self._cancels.discard(element.launch.id)
                    del self._where[element.launch.id]
                    self._ends.append(Exit(element.launch.id, TOLD, reason="nostart"))

    def _room(self) -> int:
        """Return how many more jobs the site lets its user have, as far as it said; others of the user count, too."""
        if self._limits is None or self._limits.jobs is None:
            return ELEMENTS
        return self._limits.jobs - sum(element.over is None for _, _, element in self._open_elements())

    def _limited(self, errand: Errand[Any]) -> None:
        self._limits = errand.value or Limits()

    # -- submitting ----------------------------------------------------------------------------------------------------

    def _wait_for(self, launch: Launch) -> None:
        if not self._waiting:
            self._since = self._clock()
        self._waiting[launch.id] = launch

    def _submit(self, now: float) -> bool:
        """Hand over the attempts that need the same as the first one that waits."""
        assert self._limits is not None
        chosen = self._jobs.together(self._waiting.values(), min(self._most, self._room(), self._limits.elements))
        if self._limits.elements == 1:
            self._limits = None  # perhaps it could not be asked just then
        try:
            request = self._request(chosen)
        except TaskfarmerError as error:  # the system cannot do what is asked for
            self.trouble = str(error)
            self._give_up(chosen)
            return False
        except OSError as error:
            self._submitting.failed(now, chance())
            self._say_once(f"nothing can be submitted, {error.filename or self._workdir.jobs}: {error.strerror}")
            return False
        name = request.submission.name
        batch = self._batches[name] = _Batch(request)
        for element, launch in enumerate(chosen, 1):
            del self._waiting[launch.id]
            batch.elements[element] = _Element(launch)
            self._where[launch.id] = name, element
        self._rate.note(now)
        return self._ask(self._submissions.submit(self._system, request), lambda errand: self._submitted(batch, errand))

    def _request(self, launches: list[Launch]) -> Request:
        name = fresh_name()
        submission = self._jobs.submission(name, self._submissions.directory(name), launches)
        extra = self._jobs.extra(launches) | {"at": self._at}
        request = self._submissions.request("tasks", self._system, submission, self._wall(), extra)
        if not self.note(note_of(name)):
            self._submissions.withdraw(request)
            raise OSError(errno.EIO, "the journal cannot be written", str(self._workdir.journals))
        self._left.made(request)
        return request

    def _submitted(self, batch: _Batch, errand: Errand[Any]) -> None:
        now = self._clock()
        if errand.error is not None:
            batch.request = self._submissions.answered(batch.request, Unsure(str(errand.error)))
        else:
            batch.request = cast("Request", errand.value)
        match batch.request.outcome:
            case Submitted(jobs):
                self._submitting.went_well()
                self._most = min(ELEMENTS, 2 * self._most)
                self._next_poll = min(self._next_poll, now + self._polling.least_s)
                self._hinder("")
                many = f"{len(jobs)} jobs" if len(jobs) > 1 else f"job {jobs[0]}"
                self._say(f"{many} submitted to {self._system.title} as {batch.request.submission.name}")
            case Refused(why, again):
                self._refused(batch, why, again=again)
            case _:
                why = batch.request.outcome.why if isinstance(batch.request.outcome, Unsure) else ""
                self._submitting.failed(now, chance())
                self._asking.until = max(self._asking.until, now + self._polling.least_s)
                name = batch.request.submission.name
                self._say_once(f"{self._system.title} did not say whether it took {name} ({why}); it is asked for that")

    def _refused(self, batch: _Batch, why: str, *, again: bool) -> None:
        """Nothing was submitted: later again, and less at once, since a limit may leave room for some; or never."""
        if again:
            launches = self._forget(batch)
            self._submissions.withdraw(batch.request)
            self._submitting.failed(self._clock(), chance())
            self._most = max(1, batch.request.submission.count // 2)
            self._hinder(f"{self._system.title} takes no jobs now ({why}); it is asked again")
            for launch in launches:
                self._wait_for(launch)
        else:
            self._refused_for_good(batch, why)

    def _hinder(self, why: str) -> None:
        """Say what keeps the attempts that wait from being submitted, here and to who looks; empty: nothing does."""
        if why:
            self._say_once(why)
        if why != self._obstacle:
            with suppress(OSError):
                self._submissions.hinder(why)
                self._obstacle = why

    def _refused_for_good(self, batch: _Batch, why: str) -> None:
        self.trouble = f"{self._system.title} refuses the jobs: {why}"
        self._give_up(self._forget(batch))

    def _forget(self, batch: _Batch) -> list[Launch]:
        """Return the attempts of a submission that came to nothing; but for those that were to be cancelled, and those
        that left their ends all the same.
        """
        self._take_in_results(batch)
        launches = []
        for element in batch.elements.values():
            del self._where[element.launch.id]
            if element.launch.id in self._cancels:
                self._cancels.discard(element.launch.id)
                self._ends.append(Exit(element.launch.id, TOLD))
            else:
                launches.append(element.launch)
        self._left.over(batch.request.submission.name, list(batch.elements))
        batch.elements.clear()
        self._batches.pop(batch.request.submission.name, None)
        return launches

    def _give_up(self, launches: list[Launch]) -> None:
        for launch in launches:
            self._waiting.pop(launch.id, None)
            self._ends.append(Exit(launch.id, TOLD, reason="nostart"))

    def _settled(self, batch: _Batch, errand: Errand[Any]) -> None:
        now = self._clock()
        if errand.error is not None:
            self._no_answer(errand.error)
            return
        self._asking.went_well()
        batch.request = cast("Request", errand.value)
        if isinstance(batch.request.outcome, Submitted):
            self._submitting.went_well()
        elif isinstance(batch.request.outcome, Refused):  # its directory stays: it may yet come to the queue
            self._came_to_nothing(batch, batch.request.outcome)
        elif batch.request.is_open:
            self._asking.until = now + self._polling.least_s
        self._next_poll = now

    def _came_to_nothing(self, batch: _Batch, refused: Refused) -> None:
        if not refused.again:
            self._refused_for_good(batch, refused.why)
            return
        if refused.ended_well:
            self._say_once(f"{refused.why}; the jobs are submitted once more")
        for launch in self._forget(batch):
            self._wait_for(launch)

    # -- how jobs are --------------------------------------------------------------------------------------------------

    def _job(self, id: int) -> JobId:
        name, element = self._where[id]
        return self._batches[name].job(element)

    def _batch(self, id: int) -> _Batch:
        return self._batches[self._where[id][0]]

    def _element(self, id: int) -> _Element:
        return self._batch(id).elements[self._where[id][1]]

    def _open_elements(self) -> Iterator[tuple[_Batch, int, _Element]]:
        for batch in self._batches.values():
            for number, element in batch.elements.items():
                yield batch, number, element

    def _open_jobs(self) -> list[JobId]:
        jobs = [batch.job(number) for batch, number, element in self._open_elements() if element.over is None]
        return [job for job in jobs if job]

    def _polled(self, errand: Errand[Any]) -> None:
        now = self._clock()
        if errand.error is not None:
            self._no_answer(errand.error)
            return
        self._asking.went_well()
        statuses = cast("dict[JobId, JobStatus]", errand.value)
        changed = False
        for batch, number, element in self._open_elements():
            status = statuses.get(batch.job(number))
            if status is None or element.over is not None or self._is_not_there_yet(batch, element, status):
                continue
            element.known = True
            if status.state.is_over:
                element.over, element.over_at, changed = status, now, True
                if status.state is JobState.LOST and element.told_at is None:
                    self._cancels.add(element.launch.id)  # it may be on hold, or come again by itself
            elif status.state is JobState.HELD:
                task, remedy = element.launch.id, status.remedy or "release it"
                self._say_once(f"job {batch.job(number)} (task {task}) is held: {status.reason or 'no reason given'};"
                               f" {remedy}, or `taskfarmer cancel` the task")  # fmt: skip
            elif status.state is JobState.UNKNOWN:
                why = status.reason or "no word"
                self._say_once(f"{self._system.title} does not tell of some jobs how they are ({why}): they may live,"
                               " and are waited for")  # fmt: skip
        self._next_poll = now + self._polling.next_s(changed=changed, took_s=now - self._began)
        self._next_look = now

    def _is_not_there_yet(self, batch: _Batch, element: _Element, status: JobStatus) -> bool:
        """Whether the scheduler may not know a job since it is so new: some tell of it seconds after they took it."""
        young = self._wall() - batch.request.time < SETTLED_S
        return young and status.state is JobState.GONE and not element.known

    def _no_answer(self, error: Exception) -> None:
        wait_s = self._asking.failed(self._clock(), chance())
        if not isinstance(error, (NoAnswer, OSError)):
            raise error
        self._say_once(f"{self._system.title} does not answer ({error}); jobs go on, it is asked again")
        self._next_poll = self._clock() + wait_s

    def _cancelled(self, ids: list[int], errand: Errand[Any]) -> None:
        now = self._clock()
        if errand.error is not None:
            if not isinstance(errand.error, (NoAnswer, OSError)):
                raise errand.error
            self._cancelling.failed(now, chance())
            self._say_once(f"jobs cannot be cancelled now ({errand.error}); it is tried again")
            return
        self._cancelling.went_well()
        self._cancels.difference_update(ids)
        self._polling.every_s = self._polling.least_s
        self._next_poll = now + 0.5

    # -- what jobs left behind -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take in the results that are there, and what became of jobs that left none."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + self._polling.least_s
        for batch in list(self._batches.values()):
            self._take_in_results(batch)
            for number, element in list(batch.elements.items()):
                end = self._end_without_result(batch, number, element, now)
                if end is not None:
                    if end.reason == "lost":
                        self._left.over(batch.request.submission.name, [number])
                    self._end(batch, number, end)
                elif element.told_at is not None and now - element.told_at > CANCEL_S:
                    self._release(element.launch.id)

    def _take_in_results(self, batch: _Batch) -> None:
        there = self._results(batch) if batch.elements else set()
        for number in there & batch.elements.keys():
            end = self._result(batch, number, batch.elements[number])
            if end is not None:
                self._tidy(batch.request.submission.directory / f"out.{number}")
                self._end(batch, number, end)

    def _results(self, batch: _Batch) -> set[int]:
        with suppress(OSError):
            names = self._disk.names(f"{batch.request.submission.directory}/results")
            return {int(name) for name in names if name.isdigit()}
        return set()

    def _result(self, batch: _Batch, number: int, element: _Element) -> Exit | None:
        """Return the end that a job wrote down."""
        path = f"{batch.request.submission.directory}/results/{number}"
        try:
            said = json.loads(self._disk.read(path))
            usage = float(said["user_s"]), float(said["system_s"]), int(said["rss_kib"])
            reason = "ended" if said["reason"] == "-" else str(said["reason"])
            start, end = self._when(batch.request, said)
            return Exit(element.launch.id, int(said["status"]), *usage, reason=reason, start=start, end=end)
        except (OSError, ValueError, KeyError, TypeError):  # out of reach for a moment
            return None

    def _when(self, request: Request, said: dict[str, Any]) -> tuple[float, float]:
        """Return when a job ran by its own words, made to fit our clock; (0, 0): they cannot be."""
        start, end = float(said.get("start", 0.0)), float(said.get("end", 0.0))
        now = self._wall()
        if not request.time - SKEW_S <= start <= end <= now + SKEW_S:
            return 0.0, 0.0
        return min(max(start, request.time), now), min(max(end, request.time), now)

    def _end_without_result(self, batch: _Batch, number: int, element: _Element, now: float) -> Exit | None:
        """Return the end of a job that is over and has written none: it was lost, whatever its script's status says.

        Before that is said the result is looked for by its name, once, since the list may be older than that.
        """
        id, job = element.launch.id, batch.job(number)
        if element.over is None and batch.request.jobs and not job:  # the submission was found, without this element
            element.over, element.over_at = GONE, now
        status = element.over
        if status is None or (id in self._cancels and now - element.over_at < CANCEL_S):
            return None
        told = element.told_at is not None and status.state is not JobState.ENDED
        if not told and now - element.over_at < LATE_S:
            return None
        if (end := self._result(batch, number, element)) is not None:
            return end
        if told:
            return Exit(id, TOLD, reason="lost")
        if status.exit_status == UNSEEN:
            why = "the node does not see the workdir; see its output in " + str(batch.request.submission.directory)
        elif status.state is JobState.LOST:
            why = "; ".join(filter(None, (status.reason or "its end is not the task's", status.remedy)))
        else:
            what = status.reason or "ended" if status.exit_status is None else f"ended with status {status.exit_status}"
            why = f"it {what} before the task's end was written down"
        self._say(f"task {id}: job {job} is lost ({why})")
        return Exit(id, KILLED, reason="lost")

    def _end(self, batch: _Batch, number: int, end: Exit) -> None:
        del batch.elements[number]
        del self._where[end.id]
        self._cancels.discard(end.id)
        self._ends.append(end)
        if not batch.elements:
            del self._batches[batch.request.submission.name]

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def _nothing(_errand: Errand[Any]) -> None:
    """Nothing is to be done with the answer."""
