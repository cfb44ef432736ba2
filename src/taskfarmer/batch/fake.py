"""A batch system in memory, for tests: ours, and those of programs that use taskfarmer.

Nothing runs and no command is called. Time passes when `advance` says so; jobs start as slots allow, and end when told
to (`end`, `lose`), after `run_s`, or when what `on_start` began tells so. It can be made to misbehave as real ones do:

    batch = Fake(slots=2)
    batch.misbehave("submit", Refused("Batch job submission failed: Invalid partition"))
    batch.misbehave("submit", UNSURE_AND_SUBMITTED)
    batch.misbehave("poll", NoAnswer("squeue did not answer within 60 s"), times=3)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from .base import (
    GONE,
    BatchSystem,
    JobId,
    JobState,
    JobStatus,
    Limits,
    NoAnswer,
    Outcome,
    Refused,
    Submission,
    Submitted,
    Unsure,
)
from .calls import Steps, at_once
from .script import job_script

UNSURE_AND_SUBMITTED: Final = "unsure, and submitted"
UNSURE_AND_NOT: Final = "unsure, and not submitted"
Method = Literal["submit", "poll", "cancel", "find"]
Trouble = Refused | Unsure | NoAnswer | str
"""What a call may come to instead: `Refused`, `Unsure` (nothing is submitted) and the two `UNSURE_...` for `submit`,
`NoAnswer` for the others."""


QUEUED: Final = JobStatus(JobState.QUEUED)
LIMITS: Final = Limits(elements=1000)


@dataclass(slots=True)
class FakeJob:
    """A job as the fake knows it."""

    id: JobId
    submission: Submission
    element: int
    status: JobStatus = QUEUED
    began: float | None = None
    starts: int = 0

    @property
    def env(self) -> dict[str, str]:
        """What its script needs in its environment to find its element."""
        return {"FAKE_ELEMENT": str(self.element)}


def _nothing(job: FakeJob) -> None:
    """Do nothing."""


class Fake(BatchSystem):
    """A batch system in memory; `asked` counts the calls of each method.

    `slots`: jobs that run at once, None: any number. `run_s`: seconds after which a job ends with status 0, None: not
    by itself. `on_start` and `on_stop` are told of each job that starts, and that is made to end while it runs.
    """

    name: ClassVar[str] = "fake"
    title: ClassVar[str] = "fake"
    programs: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        slots: int | None = None,
        run_s: float | None = None,
        limits: Limits = LIMITS,
        queues: Collection[str] = (),
        on_start: Callable[[FakeJob], None] = _nothing,
        on_stop: Callable[[FakeJob], None] = _nothing,
    ) -> None:
        super().__init__(environ or {})
        self.slots = slots
        self.run_s = run_s
        self.allowed = limits
        self.queues = queues
        self.on_start = on_start
        self.on_stop = on_stop
        self.now = 0.0
        self.jobs: dict[JobId, FakeJob] = {}
        self.asked: dict[str, int] = {"submit": 0, "poll": 0, "cancel": 0, "find": 0}
        self._trouble: dict[str, deque[Trouble]] = {}
        self._last = 0

    # -- what the test does

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass: what may start, starts; what has run for `run_s`, or for all its walltime, ends."""
        self.now += seconds
        for job in list(self._in(JobState.RUNNING)):
            ran = self.now - (job.began or 0.0)
            limit = job.submission.needs.time_s
            if self.run_s is not None and ran >= self.run_s and (limit is None or self.run_s <= limit):
                self.end(job.id)
            elif limit is not None and ran >= limit:
                self.lose(job.id, "TIMEOUT")
        for job in list(self._in(JobState.QUEUED)):
            if self._may_start(job):
                job.status, job.began = JobStatus(JobState.RUNNING, host="fake1"), self.now
                job.starts += 1
                self.on_start(job)

    def end(self, job: JobId, status: int | None = 0, *, reason: str = "", remedy: str = "") -> None:
        """A job's program ended: with 0..255, or by a signal, minus its number."""
        self.jobs[job].status = JobStatus(JobState.ENDED, status, reason, "fake1", remedy)

    def lose(self, job: JobId, why: str = "NODE_FAIL") -> None:
        """A job was ended by the system."""
        self._stop(self.jobs[job], JobStatus(JobState.LOST, reason=why, host="fake1"))

    def requeue(self, job: JobId) -> None:
        """A job was preempted, or its node was lost, and it waits once more under the same id."""
        self._stop(self.jobs[job], JobStatus(JobState.QUEUED, reason="requeued"))

    def hold(self, job: JobId, why: str = "held by an administrator") -> None:
        """A job waits until `release`."""
        self._stop(self.jobs[job], JobStatus(JobState.HELD, reason=why))

    def release(self, job: JobId) -> None:
        """A held job may start."""
        self.jobs[job].status = JobStatus(JobState.QUEUED)

    def confuse(self, job: JobId, word: str = "PURPLE") -> None:
        """The system says a word of a job that nobody knows; the job goes on, until `end`."""
        self.jobs[job].status = JobStatus(JobState.UNKNOWN, reason=word)

    def forget(self, *jobs: JobId) -> None:
        """The system knows these no longer, whatever became of them."""
        for job in jobs:
            del self.jobs[job]

    def misbehave(self, method: Method, trouble: Trouble, times: int = 1) -> None:
        """The next `times` calls of a method come to this."""
        self._trouble.setdefault(method, deque()).extend([trouble] * times)

    def _in(self, state: JobState) -> Iterator[FakeJob]:
        return (job for job in self.jobs.values() if job.status.state is state)

    def _may_start(self, job: FakeJob) -> bool:
        running = list(self._in(JobState.RUNNING))
        together = [other for other in running if other.submission.name == job.submission.name]
        most = job.submission.at_most
        return (self.slots is None or len(running) < self.slots) and (most is None or len(together) < most)

    def _stop(self, job: FakeJob, status: JobStatus) -> None:
        was, job.status = job.status.state, status
        if was in (JobState.RUNNING, JobState.UNKNOWN):
            self.on_stop(job)

    # -- what a batch system does

    def files(self, submission: Submission) -> dict[str, str]:
        """Return the script, which whoever is told of the job's start may run, with `FakeJob.env`."""
        return {"job.sh": job_script(submission, element='"$FAKE_ELEMENT"')}

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return a command that is never run."""
        return ("fake-submit", f"--elements={submission.count}", "job.sh")

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Take it, or do what `misbehave` says."""
        return (yield from at_once(self._take(submission)))

    def _take(self, submission: Submission) -> Outcome:
        trouble = self._ask("submit")
        if isinstance(trouble, (Refused, Unsure)):
            return trouble
        if trouble == UNSURE_AND_NOT:
            return Unsure("fake-submit did not answer")
        if submission.count > self.allowed.elements:
            return Refused(f"at most {self.allowed.elements} elements, not {submission.count}")
        if self.queues and submission.needs.queue not in ("", *self.queues):
            return Refused(f"there is no queue {submission.needs.queue}")
        alive = sum(not job.status.state.is_over for job in self.jobs.values())
        if self.allowed.jobs is not None and alive + submission.count > self.allowed.jobs:
            return Refused(f"{self.allowed.jobs} jobs are the limit", again=True)
        ids = self._enter(submission)
        return Unsure("fake-submit did not answer") if trouble == UNSURE_AND_SUBMITTED else Submitted(ids)

    def _enter(self, submission: Submission) -> tuple[JobId, ...]:
        self._last += 1
        ids = tuple(JobId(f"{self._last}.{element}") for element in range(1, submission.count + 1))
        for element, id in enumerate(ids, 1):
            self.jobs[id] = FakeJob(id, submission, element)
        return ids

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Say how they are."""
        self._answer("poll")
        return (yield from at_once({id: self.jobs[id].status if id in self.jobs else GONE for id in jobs}))

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """End those that are not over."""
        self._answer("cancel")
        for id in jobs:
            if id in self.jobs and not self.jobs[id].status.state.is_over:
                self.lose(id, "CANCELLED")
        yield from at_once(None)

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Return those of that name."""
        self._answer("find")
        jobs = {job.element: job.id for job in self.jobs.values() if job.submission.name == name}
        return (yield from at_once(jobs))

    def limits(self) -> Steps[Limits]:
        """Say what it allows."""
        return at_once(self.allowed)

    def version(self) -> Steps[str]:
        """Say which version it is."""
        return at_once("fake 1.0")

    def _ask(self, method: Method) -> Trouble | None:
        self.asked[method] += 1
        waiting = self._trouble.get(method)
        return waiting.popleft() if waiting else None

    def _answer(self, method: Method) -> None:
        trouble = self._ask(method)
        if isinstance(trouble, NoAnswer):
            raise trouble
