"""Pilots: batch jobs that are farmers of one farm, empty it and leave.

A pilot runs `taskfarmer resume WORKDIR`, so that all it needs to know is where the farm is (`farm.pilot_jobs`). Its
farmer says in the log which pilot it is (`farm.sharing.job_of`). What was submitted stands in the workdir
(`farm.submissions`); whose turn it is to submit, too (`farm.turns`). How many are needed is decided in `farm.demand`;
who keeps them coming is `farm.keeping`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..batch import (
    GONE,
    BatchSystem,
    Call,
    JobId,
    JobState,
    JobStatus,
    NoAnswer,
    Outcome,
    Refused,
    Steps,
    Submission,
    Submitted,
    Unsure,
    carry_out,
    choose,
)
from ..batch.calls import Answer, run_call
from ..batch.pace import Rate
from ..batch.words import user_name
from ..core.state import Farmer, State
from ..errors import InputError
from . import host
from .disk import Disk
from .ledger import Ledger
from .pilot_jobs import Plan, submission_of
from .sharing import pilot_of
from .submissions import Kind, Request, Submissions
from .turns import Turns

SEEN_S = 60.0
"""After a request a job that its system does not know may still be on its way to whoever answers questions there, as in
LSF; after that it is gone."""
_NOT_SEEN = JobStatus(JobState.UNKNOWN, reason="not seen in the queue yet")
NOT_OUR_TURN = "somebody else has taken over"

_T = TypeVar("_T")
Run = Callable[[Call, Mapping[str, str]], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """One pilot, as its batch system says it is. `job` is empty while nobody knows whether it was submitted.

    `at`: which scheduler of the system it was given to (`BatchSystem.instance`), and `user` by whom, as far as that is
    known. `elsewhere`: nobody here can say how it is; `is_ours`: nobody else submitted it.
    """

    submission: str
    element: int
    system: str
    job: JobId
    status: JobStatus
    slots: int
    kind: Kind = "pilots"
    at: str = ""
    user: str = ""
    elsewhere: bool = False
    is_ours: bool = True

    @property
    def link(self) -> str:
        """How its farmers name it in the log."""
        return f"{self.submission}.{self.element}"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status.state.is_over


@dataclass(frozen=True, slots=True)
class Queue:
    """What is known of all pilots. `problems`: why some of that is not fresh, a line for each system."""

    pilots: list[Pilot]
    problems: list[str]
    open: list[Request]
    """Submissions of ours of which nobody knows yet whether they came to the queue here."""
    refused: list[Request] = field(default_factory=list)
    """Those of which this process did not know that either, and that have come to nothing since."""

    def live(self) -> list[Pilot]:
        """Return the pilots that are not over. Those elsewhere are not among them: they may have been for weeks, and
        nobody here would ever know.
        """
        return [p for p in self.pilots if p.kind == "pilots" and not (p.is_over or p.elsewhere)]


# -- what there is -----------------------------------------------------------------------------------------------------


def joined(state: State) -> dict[str, list[Farmer]]:
    """Return the farmers by the pilot that they are, in the order of joining."""
    found: dict[str, list[Farmer]] = {}
    for farmer in state.farmers:
        if link := pilot_of(farmer.job):
            found.setdefault(link, []).append(farmer)
    return found


class Pilots:
    """The pilots of a farm: asks for them, submits, cancels. Waits for each command; `run` runs it instead.

    `systems` gives a batch system by its name.
    """

    def __init__(
        self,
        ledger: Ledger,
        environ: Mapping[str, str],
        *,
        systems: Callable[[str], BatchSystem] | None = None,
        run: Run | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.workdir = ledger.workdir
        self.disk: Disk = ledger.disk
        self.submissions = Submissions(self.workdir.jobs, self.disk)
        self.turns = Turns(self.workdir.jobs / "turns", self.disk)
        self.turn_taken = False
        self._environ = {name: value for name, value in environ.items() if name != "TASKFARMER_FAULT"}
        self._systems = systems or (lambda name: choose(name, self._environ))
        self._known: dict[str, BatchSystem] = {}
        self._instances: dict[str, str] = {}
        self._in_doubt: set[str] = set()
        self._run = run or run_call
        self._wall = wall

    def system(self, name: str) -> BatchSystem:
        """Return a batch system.

        Raises:
            InputError: it is not here.
        """
        if name not in self._known:
            self._known[name] = self._systems(name)
        return self._known[name]

    def instance(self, batch: str) -> str:
        """Return which scheduler of a system is the one that is asked here; empty: it does not say.

        Raises:
            InputError: the system is not here.
            NoAnswer: it cannot be asked now.
        """
        if batch not in self._instances:
            system = self.system(batch)
            self._instances[batch] = self.ask(system, system.instance())
        return self._instances[batch]

    def _elsewhere(self, request: Request) -> str:
        """Return why nobody here can say how the jobs of a submission are; empty: they can be asked for.

        Raises:
            NoAnswer: the system cannot be asked now.
        """
        batch, at = _batch_of(request), str(request.extra.get("at", ""))
        try:
            ours = self.instance(batch) if at else ""
            return f"not known here: submitted to {batch} {at}, and here is {ours}" if ours and ours != at else ""
        except InputError as error:
            return f"not known here: {error}"

    def ask(self, system: BatchSystem, steps: Steps[_T]) -> _T:
        """Run the steps of a system; a turn of ours shows that it lives before each command."""

        def beating(call: Call) -> Answer:
            if self.turn_taken:
                self.turns.beat()
            return self._run(call, system.environ)

        return carry_out(steps, system.environ, beating)

    # -- looking

    def requests(self) -> list[Request]:
        """Return what was ever asked for: pilots, and jobs that keep them; the oldest first."""
        return [request for request in self.submissions.all() if request.kind in ("pilots", "keeper")]

    def look(self, *, ask: bool = True, settle: bool = True) -> Queue:
        """Return how all pilots are: one command for each system that has some, and what is open is settled first.

        Without `ask`: what the workdir alone can tell. Without `settle` nothing is written.
        """
        everything = {r.submission.name: r for r in self.requests()}
        self._in_doubt.update(name for name, r in everything.items() if r.is_open and _is_ours(r))
        requests = {name: r for name, r in everything.items() if not isinstance(r.outcome, Refused)}
        states: dict[str, dict[int, JobStatus]] = {}
        asked: dict[str, list[str]] = {}
        for name, request in requests.items():
            ends = self.submissions.ends(request)
            if ends is None:
                asked.setdefault(_batch_of(request), []).append(name)
            else:
                states[name] = ends
        problems = []
        away: dict[str, str] = {}
        for batch, names in asked.items() if ask else ():
            try:
                away |= {name: why for name in names if (why := self._elsewhere(requests[name]))}
                if here := [name for name in names if name not in away]:
                    self._look_at(self.system(batch), here, requests, states, settle=settle)
            except (NoAnswer, InputError, OSError) as error:
                problems.append(f"{batch}: {error}")
        there = [request for request in requests.values() if not isinstance(request.outcome, Refused)]
        pilots = []
        for request in there:
            name = request.submission.name
            pilots += _pilots(request, states.get(name, {}), away.get(name, ""))
        opened = [r for r in there if r.is_open and r.submission.name not in away and _is_ours(r)]
        return Queue(pilots, problems, opened, self._refused_since(everything | requests))

    def _refused_since(self, requests: Mapping[str, Request]) -> list[Request]:
        """Return those in doubt that came to nothing, whoever found that out, once."""
        doubts = [requests[name] for name in sorted(self._in_doubt & requests.keys())]
        self._in_doubt = {request.submission.name for request in doubts if request.is_open}
        return [request for request in doubts if isinstance(request.outcome, Refused)]

    def _look_at(
        self,
        system: BatchSystem,
        names: list[str],
        requests: dict[str, Request],
        states: dict[str, dict[int, JobStatus]],
        *,
        settle: bool,
    ) -> None:
        for name in names:
            if requests[name].is_open and settle and _is_ours(requests[name]):  # or it would be given up, unseen
                requests[name] = self.ask(system, self.submissions.settle(system, requests[name], self._wall()))
        jobs = [job for name in names for job in requests[name].jobs if job]
        said: dict[JobId, JobStatus] = self.ask(system, system.poll(jobs)) if jobs else {}
        for name in names:
            absent = GONE if self._is_late(requests[name]) or self._was_ended(requests[name]) else _NOT_SEEN
            if not _is_ours(requests[name]):  # of whose jobs a system may not tell us
                why = f"not known here: submitted by {requests[name].extra['user']}"
                absent = JobStatus(JobState.UNKNOWN, reason=why)
            told = {
                element: absent if (status := said.get(job, GONE)).state is JobState.GONE else status
                for element, job in enumerate(requests[name].jobs, 1)
            }
            states[name] = told
            over = told and all(status.state.is_over for status in told.values())
            if over and settle and self._may_note(requests[name], told):
                self.submissions.note_ends(requests[name], told)

    def _may_note(self, request: Request, told: Mapping[int, JobStatus]) -> bool:
        """Whether these ends hold for everybody. Who only looks may be on another cluster, or somebody else whom the
        system tells nothing: to them jobs seem to be gone that live.
        """
        found = all(status.state is not JobState.GONE for status in told.values())
        return _is_ours(request) and ((self.turn_taken and self._is_late(request)) or found)

    def _is_late(self, request: Request) -> bool:
        """Whether what its system does not know of it by now is gone."""
        return self._wall() - request.time > SEEN_S

    def _was_ended(self, request: Request) -> bool:
        """Whether who submits others need not wait for what is not seen of it: pilots were ended, and some systems
        forget at once what was cancelled before it began. What comes yet does nothing; it is for `stop` to cancel.
        """
        return self.turn_taken and self.submissions.is_revoked(request)

    def dead(self, state: State) -> set[str]:
        """Return the farmers that are dead although the log does not say so: gone from this host, or silent for long.

        Were nobody at work, nobody would bury them.
        """
        return {farmer.id for farmer in state.alive() if self._is_dead(farmer, 2 * state.lease_s)}

    def _is_dead(self, farmer: Farmer, most_s: float) -> bool:
        place = host.Place.from_json(farmer.host)
        if place is not None and host.loop_is_gone(place):
            return True
        try:
            return time.time() - os.stat(self.workdir.alive / farmer.id).st_mtime > most_s
        except OSError:
            return False

    # -- submitting

    def elements(self, system: BatchSystem) -> int:
        """Return how many pilots one submission may have."""
        return max(1, self.ask(system, system.limits()).elements)

    def submit(self, plan: Plan, submission: Submission, kind: Kind = "pilots", **extra: Any) -> Request:
        """Submit; return the request with what became of it. It is our turn.

        Raises:
            InputError: the system cannot do what is asked for; nothing was written.
            OSError: it cannot be written down; nothing was submitted.
        """
        system = self.system(plan.batch)
        about = {
            "batch": plan.batch, "slots": plan.slots, "nodes": plan.needs.nodes, "user": user_name(),
            "at": self._at(plan.batch), **extra,
        }  # fmt: skip
        request = self.submissions.request(kind, system, submission, self._wall(), about)
        if self.turn_taken and not self.turns.holds():  # see farm.turns
            return self.submissions.answered(request, Refused(NOT_OUR_TURN))
        made = self.ask(system, self.submissions.submit(system, request))
        if made.is_open:
            self._in_doubt.add(submission.name)
        if made.jobs and self.turn_taken and not self.turns.holds() and self.submissions.is_revoked(made):
            with suppress(NoAnswer):  # somebody ended all pilots meanwhile: they would do nothing, but wait for it
                self.ask(system, system.cancel([job for job in made.jobs if job]))
        return made

    def _at(self, batch: str) -> str:
        with suppress(NoAnswer):
            return self.instance(batch)
        return ""

    def submit_pilots(
        self,
        plan: Plan,
        count: int,
        cwd: str,
        *,
        rate: Rate | None = None,
        clock: Callable[[], float] = time.monotonic,
        **extra: Any,
    ) -> Iterator[Request]:
        """Submit so many pilots, in as few submissions as the site allows; yield each with what became of it.

        What is refused, or may have been, ends it; and so does `rate`, when no more may be made now.
        """
        rate = rate or Rate()
        if rate.wait_s(clock()):
            return
        system = self.system(plan.batch)
        most = self.elements(system) if count > 1 else 1
        while count > 0 and not rate.wait_s(clock()):
            rate.note(clock())
            submission = submission_of(self.workdir, plan, system, min(count, most), cwd)
            request = self.submit(plan, submission, **extra)
            yield request
            if not isinstance(request.outcome, Submitted):
                return
            count -= submission.count

    # -- ending

    def cancel(self, pilots: Iterable[Pilot]) -> list[str]:
        """Cancel pilots, with few commands; return what went wrong, a line for each system.

        Not those elsewhere: their ids may be those of other jobs here. Nor those of other people, who may do so.
        """
        jobs: dict[str, list[JobId]] = {}
        for pilot in pilots:
            if pilot.job and pilot.is_ours and not pilot.elsewhere:
                jobs.setdefault(pilot.system, []).append(pilot.job)
        problems = []
        for name, ids in jobs.items():
            try:
                self.ask(self.system(name), self.system(name).cancel(ids))
            except (NoAnswer, InputError) as error:
                problems.append(f"{name}: {error}")
        return problems

    def revoke(self, queue: Queue) -> None:
        """Have pilots that start from now on do nothing."""
        living = {pilot.submission for pilot in queue.pilots if not pilot.is_over}
        for request in self.requests():
            if request.submission.name in living or request.is_open:
                self.submissions.revoke(request)


def _batch_of(request: Request) -> str:
    return str(request.extra.get("batch", request.system))


def _is_ours(request: Request) -> bool:
    return bool(request.extra.get("user", user_name()) == user_name())


def trouble_of(status: JobStatus) -> str:
    """Return what is wrong with a pilot that is held, or that no node could have, and what to do; else nothing."""
    why = status.reason or "no reason given"
    if status.state is JobState.HELD:
        return f"held: {why}; {status.remedy or 'release it'}"
    return f"lost before it began: {why}; {status.remedy}" if status.state is JobState.LOST and status.remedy else ""


def _doubt(outcome: Outcome | None) -> str:
    words = "not known whether it was submitted"
    return f"{words}: {outcome.why}" if isinstance(outcome, Unsure) else words


def _pilots(request: Request, states: Mapping[int, JobStatus], elsewhere: str = "") -> list[Pilot]:
    """Return the pilots of a submission; those whose submission is not settled, or that could not be asked for, may
    live. `elsewhere`: why they cannot be asked for here."""
    why = elsewhere or (_doubt(request.outcome) if request.is_open else "")
    unknown = JobStatus(JobState.UNKNOWN, reason=why)
    ours = _is_ours(request)
    return [
        Pilot(
            submission=request.submission.name,
            element=element,
            system=_batch_of(request),
            job=request.jobs[element - 1] if request.jobs else JobId(""),
            status=states.get(element, unknown),
            slots=int(request.extra.get("slots", 1)) * int(request.extra.get("nodes", 1)),
            kind=request.kind,
            at=str(request.extra.get("at", "")),
            user=str(request.extra.get("user", "")),
            elsewhere=bool(elsewhere) or (not ours and states.get(element, unknown).state is JobState.UNKNOWN),
            is_ours=ours,
        )
        for element in range(1, request.submission.count + 1)
    ]
