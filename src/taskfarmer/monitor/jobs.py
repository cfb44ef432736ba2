"""The batch jobs of tasks (`--one-job-per-task`): which were submitted, and which of those that run wait in a queue.

All of it is read from the workdir, so that nobody who looks has to ask a scheduler: a job leaves word when it starts,
and when its task has ended.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..batch import Refused
from ..core.state import READY
from ..errors import TaskfarmerError
from ..farm.executors.left import Journals, Left
from ..farm.ledger import Ledger
from ..farm.submissions import Request, Submissions
from .text import moment


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskJob:
    """One job of a task, submitted for its attempt `attempt`. `job` is empty while nobody knows the id.

    `queued`: it has not left word that it started. `start` and `end` in seconds since the epoch, by the clock of
    `host`; None while it has not come to that.
    """

    task: int
    attempt: int
    system: str
    job: str
    submission: str
    element: int
    submitted: float
    queued: bool
    start: float | None = None
    end: float | None = None
    host: str = ""

    def in_words(self) -> str:
        """Return what is known of it."""
        what = f"{self.system} job {self.job}" if self.job else f"no job of {self.system} is known"
        parts = [f"{what}, for attempt {self.attempt}: element {self.element} of {self.submission}"]
        parts.append(f"submitted {moment(self.submitted)}")
        if self.start is not None:
            parts.append(f"started {moment(self.start)} on {self.host}")
        if self.end is not None:
            parts.append(f"ended {moment(self.end)}")
        return ", ".join(parts)


def jobs_of(ledger: Ledger, task: int) -> list[TaskJob]:
    """Return each job of a task, in the order in which they were submitted."""
    return [
        _job(ledger, request, element, _results(ledger, request))
        for request in _requests(ledger)
        for element, (id, _) in enumerate(request.extra["tasks"], 1)
        if id == task
    ]


def is_queued(ledger: Ledger, task: int, jobs: list[TaskJob]) -> bool:
    """Whether a task counts as running while its job, the last of `jobs`, waits in a queue."""
    return task in ledger.state.running and bool(jobs) and jobs[-1].queued


def jobs_at_work(ledger: Ledger) -> dict[int, TaskJob]:
    """Return by task the last job of each that runs, those in a queue included."""
    return {task: _job(ledger, request, element, there) for task, (request, element, there) in _at_work(ledger).items()}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Of the tasks that count as running: those whose jobs are in a queue, and those that have none yet. `why`: what
    keeps their farmer from submitting these, in words; empty if it has not said. `left`: tasks that no farmer has, and
    that have jobs all the same, waiting or running: an earlier farmer left them to the next.
    """

    queued: frozenset[int]
    unsubmitted: frozenset[int]
    why: str
    left: frozenset[int] = frozenset()

    def word(self, task: int) -> str:
        """Return a word for how a task waits; empty if it does not."""
        return "queued" if task in self.queued else "waits" if task in self.unsubmitted else ""


def waiting(ledger: Ledger) -> Waiting | None:
    """Return which tasks that count as running do not run yet; None where no task ever was a job.

    A farmer that submits tasks runs none itself, so that those of its tasks wait that are in no submission.
    """
    if not any(True for _ in _requests(ledger)):
        return None
    at_work, running = _at_work(ledger), ledger.state.running
    submitting = {running[task].farmer for task in at_work}
    queued = frozenset(task for task, (_, element, there) in at_work.items() if _is_queued(element, there))
    others = frozenset(task for task, ran in running.items() if ran.farmer in submitting and task not in at_work)
    why = Submissions(ledger.workdir.jobs, ledger.disk).obstacle() if others else ""
    return Waiting(queued, others, why, frozenset(_left(ledger)))


def _left(ledger: Ledger) -> Iterator[int]:
    """Yield the tasks that nobody has, and that have a job which has not left a result."""
    status = ledger.state.status
    if not any(status[task] == READY for request in _requests(ledger) for task, _ in request.extra["tasks"]):
        return
    left = Left(Submissions(ledger.workdir.jobs, ledger.disk), ledger.disk, Journals(ledger), trusts_list=True)
    with suppress(OSError, TaskfarmerError):  # who is given them says what is wrong
        for task, (request, element) in left.jobs().items():
            if status[task] == READY and str(element) not in _results(ledger, request):
                yield task


def _requests(ledger: Ledger) -> Iterator[Request]:
    if not ledger.workdir.jobs.is_dir():
        return
    for request in Submissions(ledger.workdir.jobs, ledger.disk).all("tasks"):
        if not isinstance(request.outcome, Refused):
            yield request


def _at_work(ledger: Ledger) -> dict[int, tuple[Request, int, set[str]]]:
    """Return by task the last submission, the element, and what the elements of that have left."""
    running = ledger.state.running
    last: dict[int, tuple[tuple[int, float], Request, int]] = {}
    for request in _requests(ledger) if running else ():
        for element, (task, attempt) in enumerate(request.extra["tasks"], 1):
            rank = attempt, request.time
            if task in running and (task not in last or rank >= last[task][0]):
                last[task] = rank, request, element
    names = {request.submission.name: request for _, request, _ in last.values()}
    there = {name: _results(ledger, request) for name, request in names.items()}
    return {task: (request, element, there[request.submission.name]) for task, (_, request, element) in last.items()}


def _results(ledger: Ledger, request: Request) -> set[str]:
    with suppress(OSError):
        return set(ledger.disk.names(f"{request.submission.directory}/results"))
    return set()


def _is_queued(element: int, there: Collection[str]) -> bool:
    return str(element) not in there and f"{element}.start" not in there


def _job(ledger: Ledger, request: Request, element: int, there: Collection[str]) -> TaskJob:
    task, attempt = request.extra["tasks"][element - 1]
    said: dict[str, Any] = {}
    for name in (str(element), f"{element}.start"):
        if name in there and not said:
            with suppress(OSError, ValueError):
                said = json.loads(ledger.disk.read(f"{request.submission.directory}/results/{name}"))
    return TaskJob(
        task=task,
        attempt=attempt,
        system=request.system,
        job=request.jobs[element - 1] if request.jobs else "",
        submission=request.submission.name,
        element=element,
        submitted=request.time,
        queued=_is_queued(element, there),
        start=said.get("start"),
        end=said.get("end"),
        host=str(said.get("host", "")),
    )
