"""What was handed to batch systems: a directory of the workdir for each submission, so that nothing is forgotten.

    jobs/NAME/request.json    what was to be submitted, and to which system; written before it is
    jobs/NAME/job.sh ...      what the system is given (`BatchSystem.files`)
    jobs/NAME/answer.json     what became of it: the job ids, a refusal, or that nobody knows
    jobs/NAME/revoked         jobs that start from now on do nothing (`batch.script`)
    jobs/NAME/results/N       what element N left behind (`farm.executors.element`); N.start: since when it runs, where
    jobs/NAME/seen/ID         elements that are over and left nothing (`farm.executors.left`)
    jobs/NAME/out.N           what the job itself said
    jobs/NAME/ends.json       pilots: how each ended, once all have; then nobody asks the system for them any more
    jobs/obstacle             what keeps tasks from being submitted, in words for who looks; not there if nothing does

NAME is unique, and the batch system keeps it. Who is killed between request and answer has left a name to ask for: see
`settle`. Of two that work on one workdir each makes submissions of its own, so no file has two writers.

A command may end with status 0, tell no id, and have submitted nothing: for an option behind `--` that no list of ours
has, or by a wrapper of the site's. The first time that is tried again: an answer may go astray by itself, and who keeps
pilots for days should not give up for one. The second time in a row, with the same options, it is a refusal for good,
in the command's last words: what an option does twice it does always, and each further try would be one more call, for
ever, of which nobody hears why. The first time stands in the workdir, so it does not matter who was killed in between.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..batch import (
    BatchSystem,
    JobId,
    JobState,
    JobStatus,
    Needs,
    Outcome,
    Refused,
    Steps,
    Submission,
    Submitted,
    Unsure,
)
from ..batch.base import NoAnswer
from ..batch.calls import Answer
from ..batch.script import REVOKED
from ..errors import WorkdirError
from .disk import Disk

Kind = Literal["pilots", "tasks", "keeper"]
"""Farmers, elements that are tasks (`farm.executors.batch`), or the job that keeps pilots coming (`farm.keeping`)."""
VERSION = 1
OBSTACLE = "obstacle"
SETTLED_S = 60.0
"""How long after a request that nobody answered its command may still be on its way: as long as a call may take
(`batch.calls.LIMIT_S`). Then the queue is believed to be without it."""
UNSURE_S = 10.0
"""The same where the command has ended, and only its answer cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One submission as it stands in its directory. `time`: seconds since the epoch; `extra`: the submitter's own.

    `outcome` is None while nobody knows more than that it was to be made.
    """

    kind: Kind
    system: str
    submission: Submission
    time: float
    extra: Mapping[str, Any]
    outcome: Outcome | None = None

    @property
    def jobs(self) -> tuple[JobId, ...]:
        """The ids of its jobs, by element from 1; empty if it is not known to have any."""
        return self.outcome.jobs if isinstance(self.outcome, Submitted) else ()

    @property
    def is_open(self) -> bool:
        """Whether it is not known what became of it."""
        return self.outcome is None or isinstance(self.outcome, Unsure)


def fresh_name() -> str:
    """Return a name that no submission ever had: `tf` and 48 random bits."""
    return "tf" + os.urandom(6).hex()


class Submissions:
    """The submissions of a workdir. `path`: its directory `jobs`, made when it is first needed."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self._disk = disk

    def directory(self, name: str) -> Path:
        """Where a submission stands."""
        return self.path / name

    def request(
        self,
        kind: Kind,
        system: BatchSystem,
        submission: Submission,
        now: float,
        extra: Mapping[str, Any] | None = None,
    ) -> Request:
        """Write down what is to be submitted, and what the system needs for it; `submission.directory` must be ours.

        Raises:
            InputError: the system cannot do what is asked for; nothing was written.
            OSError: it cannot be written; nothing is to be submitted.
        """
        files = system.files(submission)
        request = Request(kind=kind, system=system.name, submission=submission, time=now, extra=dict(extra or {}))
        self._disk.mkdir(str(self.path))
        directory = str(submission.directory)
        self._disk.mkdir(directory)
        if kind == "tasks":
            self._disk.mkdir(f"{directory}/results")
        for name, text in files.items():
            self._disk.put(f"{directory}/{name}", text.encode(errors="surrogateescape"), sync=False)
        os.chmod(f"{directory}/job.sh", 0o755)
        self._disk.put(f"{directory}/request.json", _dumped(request))
        self._disk.sync_directory(str(self.path))
        return request

    def submit(self, system: BatchSystem, request: Request) -> Steps[Request]:
        """Hand it over, and write down what became of it; return the request with its outcome.

        A refusal is not taken at its word: a command that failed may have been heard all the same. What it would have
        submitted is in the queue, or has just left it: accounts of the past that are away are no reason for doubt.
        """
        outcome = yield from _handed_over(system, request.submission)
        if not isinstance(outcome, Refused):
            return self.answered(request, outcome)
        try:
            found = yield from self._revoked(request, system.find_recent)
            return (yield from self._given_up(system, request, outcome, found))
        except NoAnswer as error:
            return self.answered(request, Unsure(f"{outcome.why}; {error}"))

    def answered(self, request: Request, outcome: Outcome) -> Request:
        """Write down what became of it. A full disk does not matter: then the system is asked for the name again."""
        text = json.dumps({"version": VERSION, **_answer(outcome)})
        with suppress(OSError):
            self._disk.put(f"{request.submission.directory}/answer.json", text.encode())
        return replace(request, outcome=outcome)

    def refreshed(self, request: Request) -> Request:
        """Return a request with what is known by now of its outcome.

        Raises:
            OSError: it cannot be read.
        """
        if not request.is_open:
            return request
        directory = request.submission.directory
        outcome = self._outcome(directory) or request.outcome
        if outcome is None and not (directory / "request.json").exists():
            outcome = Refused("it was withdrawn", again=True)
        return replace(request, outcome=outcome)

    def settle(self, system: BatchSystem, request: Request, now: float) -> Steps[Request]:
        """Ask the system what became of an open request; return it with its outcome, or as it is: ask again later.

        Nothing is found: it may still be on its way, if its submitter was killed a moment ago. When that is over it is
        revoked first and looked for once more, so that one which is later still does nothing. What is found then and
        has not begun is cancelled: it would do nothing.

        Raises:
            NoAnswer: the system cannot be asked now.
        """
        name = request.submission.name
        if found := (yield from system.find(name)):
            return self.answered(request, Submitted(_in_order(found, request.submission.count)))
        if now - request.time < (UNSURE_S if isinstance(request.outcome, Unsure) else SETTLED_S):
            return request
        found = yield from self._revoked(request, system.find)
        return (yield from self._given_up(system, request, self._why_not(request), found))

    def _why_not(self, request: Request) -> Refused:
        """Return what it means that nothing came of an open request; for good: see the head of this module."""
        doubt = request.outcome
        if not (isinstance(doubt, Unsure) and doubt.ended_well):
            return Refused("it never came to the queue", again=True)
        if not self._came_to_nothing_before(request):
            return Refused(f"nothing came to the queue, and {doubt.why}", again=True, ended_well=True)
        hint = "leave out the option that has it submit nothing"
        return Refused(f"nothing came to the queue, twice, and {doubt.why} ({hint})", ended_well=True)

    def _came_to_nothing_before(self, request: Request) -> bool:
        """Whether the last submission before it with the same options ended well and submitted nothing, too."""
        earlier = []
        for name in self._names():
            with suppress(WorkdirError):  # others tell of those that cannot be read
                if (found := self.read(name)) is not None and _rank(found) < _rank(request):
                    earlier.append(found)
        for found in sorted(earlier, key=_rank, reverse=True):
            if options_of(found) != options_of(request):
                continue
            if isinstance(found.outcome, Submitted):
                return False
            if isinstance(found.outcome, Refused) and found.outcome.ended_well:
                return True
        return False

    def _revoked(self, request: Request, find: Callable[[str], Steps[dict[int, JobId]]]) -> Steps[dict[int, JobId]]:
        """See to it that nothing of a submission begins from now on; return what of it there is."""
        self.revoke(request)
        return (yield from find(request.submission.name))

    def _given_up(
        self, system: BatchSystem, request: Request, refused: Refused, found: Mapping[int, JobId]
    ) -> Steps[Request]:
        """See to it that nothing of a submission runs; what of it runs already, is taken for what it is."""
        if not found:
            return self.answered(request, refused)
        states = yield from system.poll(found.values())
        waiting = [job for job, status in states.items() if status.state in (JobState.QUEUED, JobState.HELD)]
        yield from system.cancel(waiting)
        return self.answered(request, Submitted(_in_order(found, request.submission.count)))

    def revoke(self, request: Request) -> None:
        """Tell jobs of this submission that start from now on to do nothing.

        Raises:
            OSError: it cannot be said.
        """
        self._disk.put(str(request.submission.directory / REVOKED), b"")

    def is_revoked(self, request: Request) -> bool:
        """Whether its jobs were told to do nothing."""
        return (request.submission.directory / REVOKED).exists()

    def withdraw(self, request: Request) -> None:
        """Remove what was written down of a submission that came to nothing, unless one of its elements left a result.

        A job of it that should come to the queue all the same finds no directory, and does nothing.
        """
        directory = request.submission.directory
        with suppress(OSError):
            if request.kind == "tasks":
                os.rmdir(f"{directory}/results")
            self._disk.remove(f"{directory}/request.json")  # without it there was no submission
            for path, _, files in os.walk(directory, topdown=False):
                for name in files:
                    self._disk.remove(f"{path}/{name}")
                os.rmdir(path)

    def note_ends(self, request: Request, ends: Mapping[int, JobStatus]) -> None:
        """Write down how all jobs of a submission ended, by element. Where that fails they are asked for again."""
        value = {
            str(element): [status.state.value, status.exit_status, status.reason, status.host, status.remedy]
            for element, status in ends.items()
        }
        with suppress(OSError):
            self._disk.put(f"{request.submission.directory}/ends.json", json.dumps(value).encode(), sync=False)

    def ends(self, request: Request) -> dict[int, JobStatus] | None:
        """Return what `note_ends` wrote down; None: nothing yet."""
        try:
            value = json.loads(self._disk.read(f"{request.submission.directory}/ends.json"))
            return {
                int(element): JobStatus(JobState(state), *rest)  # of earlier versions without a remedy
                for element, (state, *rest) in value.items()
            }
        except (OSError, ValueError, TypeError):
            return None

    def hinder(self, why: str) -> None:
        """Say to who looks what keeps tasks from being submitted; empty: nothing does. Of several the last one counts.

        Raises:
            OSError: it cannot be said.
        """
        if why:
            self._disk.put(str(self.path / OBSTACLE), why.encode(errors="surrogateescape"), sync=False)
        else:
            with suppress(FileNotFoundError):
                self._disk.remove(str(self.path / OBSTACLE))

    def obstacle(self) -> str:
        """Return what was said last of what keeps tasks from being submitted; empty if nothing does."""
        try:
            return self._disk.read(str(self.path / OBSTACLE)).decode(errors="replace")
        except OSError:
            return ""

    def all(self, kind: Kind | None = None, *, besides: Collection[str] = ()) -> list[Request]:
        """Return all that were made (of one kind), the oldest first, but for those whose names are known already.

        Directories without a request never were one.

        Raises:
            WorkdirError: a request cannot be read.
        """
        read = (self.read(name) for name in self._names() if name not in besides)
        found = [request for request in read if request is not None and kind in (None, request.kind)]
        return sorted(found, key=_rank)

    def _names(self) -> list[str]:
        try:
            return self._disk.names(str(self.path))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> Request | None:
        """Return one submission; None if its request was not written to the end: it was never handed over.

        Raises:
            WorkdirError: it cannot be read.
        """
        directory = self.directory(name)
        try:
            value = json.loads(self._disk.read(f"{directory}/request.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            hint = f"if its jobs are over, remove {directory}"
            raise WorkdirError(f"{directory}/request.json cannot be read: {error}", hint=hint) from error
        try:
            if value["version"] > VERSION:
                raise WorkdirError(f"{directory} is of a later taskfarmer", hint="use that one")
            return _loaded(value, directory, self._outcome(directory))
        except (KeyError, TypeError) as error:
            hint = f"if its jobs are over, remove {directory}"
            raise WorkdirError(f"{directory}/request.json is no request: {error!r}", hint=hint) from error

    def _outcome(self, directory: Path) -> Outcome | None:
        try:
            value = json.loads(self._disk.read(f"{directory}/answer.json"))
            if "jobs" in value:
                return Submitted(tuple(JobId(job) for job in value["jobs"]))
            well = bool(value.get("ended_well"))
            if "refused" in value:
                return Refused(value["refused"], value["again"], well)
            return Unsure(value["unsure"], well)
        except (FileNotFoundError, ValueError, KeyError):  # not there, or torn: the system knows
            return None


def _handed_over(system: BatchSystem, submission: Submission) -> Steps[Outcome]:
    """Submit; where no id was told although the last command ended well, the outcome says so, in its last words."""
    steps = system.submit(submission)
    answer: Answer | None = None
    while True:
        try:
            call = next(steps) if answer is None else steps.send(answer)
        except StopIteration as end:
            return _doubted(end.value, answer)
        answer = yield call


def _doubted(outcome: Outcome, answer: Answer | None) -> Outcome:
    if answer is None or not answer.ok or not isinstance(outcome, Unsure):
        return outcome
    said = f"it said: {answer.last_words}" if answer.last_words else "it said nothing"
    return Unsure(f"{answer.call.program} ended well without a job id; {said}", ended_well=True)


def _rank(request: Request) -> tuple[float, str]:
    """Return by what submissions are put in order."""
    return request.time, request.submission.name


def options_of(request: Request) -> str:
    """Return what may have a command submit nothing: the words that the user gave it."""
    needs = request.submission.needs
    return json.dumps([request.system, list(needs.native), dict(needs.settings)], sort_keys=True)


def _in_order(found: Mapping[int, JobId], count: int) -> tuple[JobId, ...]:
    """Return the ids by element; an element that the system does not know any more has an empty one."""
    return tuple(found.get(element, JobId("")) for element in range(1, count + 1))


def _answer(outcome: Outcome) -> dict[str, Any]:
    well = {} if isinstance(outcome, Submitted) or not outcome.ended_well else {"ended_well": True}
    match outcome:
        case Submitted():
            return {"jobs": list(outcome.jobs)}
        case Refused():
            return {"refused": outcome.why, "again": outcome.again, **well}
        case Unsure():
            return {"unsure": outcome.why, **well}


def _dumped(request: Request) -> bytes:
    submission = asdict(request.submission)
    submission["directory"] = str(request.submission.directory)
    submission["needs"] = {key: value for key, value in submission["needs"].items() if value != getattr(Needs(), key)}
    value = {
        "version": VERSION,
        "kind": request.kind,
        "system": request.system,
        "time": request.time,
        "submission": submission,
        "extra": dict(request.extra),
    }
    return json.dumps(value).encode()


def _loaded(value: Mapping[str, Any], directory: Path, outcome: Outcome | None) -> Request:
    given = dict(value["submission"])
    given["directory"] = directory  # a workdir may have been moved
    given["needs"] = Needs(**given["needs"])
    return Request(
        kind=value["kind"],
        system=value["system"],
        submission=Submission(**given),
        time=value["time"],
        extra=value["extra"],
        outcome=outcome,
    )
