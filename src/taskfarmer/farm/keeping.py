"""Keeping pilots in the queue until a farm is done: one round now and then, and nothing in between.

A round settles what is open, asks each batch system once, and submits what is missing; it knows nothing of tasks but
how many are left. What it needs to remember is in the workdir, so that rounds of one process or of many are the same.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..batch import BatchSystem, JobState, JobStatus, Needs, Refused, Submission, Submitted
from ..batch.pace import Backoff, Polling, Rate
from ..batch.script import REVOKED, UNSEEN
from ..core.policy import too_many_failures
from ..core.records import Ended, Started
from ..core.state import READY, TAKEN, WAITING
from ..core.words import plural
from ..errors import InputError, Stopped
from .demand import elastic, missing, slots_for
from .disk import chance
from .farmer import config_of
from .journal import read_tail
from .ledger import Ledger
from .pilot_jobs import LONG_S, Plan, end_told
from .pilots import Pilot, Pilots, Queue, joined, trouble_of
from .submissions import fresh_name, options_of
from .workdir import Workdir

LEAST_S, MOST_S = 2.0, 60.0
"""Between two rounds."""
MEMORY = 256 << 20
"""Of the job that keeps pilots, in bytes."""
WARN_S = 180.0
"""Before its end it has a signal, where the system can, and submits the next one."""
BARREN = 3
"""Pilots in vain for each that is wanted, after which nobody tries any longer."""
_OURS = "taskfarmer: "
_LAST_BYTES = 1 << 13
"""How much of a pilot's output is read for the line with which its farmer ended."""
_SAMPLE = 1000
"""Tasks with needs of their own that are looked at, of all that are left, to tell how much room they need."""
_OPEN = (READY, WAITING, TAKEN)
_FARMERS, _BYTES = 16, 64 << 10
"""Journals whose ends tell how long tasks take, and how much of each is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What to keep: `number` >= 1 pilots, or with `elastic` at most so many, so that all is done `within_s`."""

    plan: Plan
    number: int
    elastic: bool = False
    within_s: float | None = None
    by: float | None = None
    """When that time is over, in seconds since the epoch; None: it counts from each round anew."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "plan": self.plan.to_json(),
            "number": self.number,
            "elastic": self.elastic,
            "within_s": self.within_s,
            "by": self.by,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Keep:
        """Return what `to_json` gave."""
        return cls(**{**value, "plan": Plan.from_json(value["plan"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round found and did. `left`: tasks that have not ended; `wait_s`: until the next one.

    `unknown`: pilots of which the system does not say now how they are.
    """

    left: int
    running: int
    waiting: int
    unknown: int
    submitted: int
    wait_s: float
    notes: tuple[str, ...] = ()

    @property
    def pilots(self) -> int:
        """How many there are, as far as is known."""
        return self.running + self.waiting + self.unknown

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.left


def has_halted(ledger: Ledger) -> bool:
    """Whether so many tasks have failed that farmers start nothing more, by the farm's rules."""
    state = ledger.state
    return too_many_failures(config_of(ledger).rules, state.counts()["failed"], len(state))


def keeper_submission(workdir: Workdir, keep: Keep, cwd: str, system: BatchSystem) -> tuple[Submission, Plan]:
    """Return the submission of a small job that keeps pilots, and what it is made by.

    It may take as long as a pilot; before its end it submits the next one. Of the pilots' native words it has those
    that ask for nothing (`BatchSystem.beside`).
    """
    needs, words = keep.plan.needs, system.beside(keep.plan.needs)
    own = replace(
        keep.plan,
        slots=1,
        requeue=False,
        needs=Needs(
            memory_bytes=MEMORY, time_s=needs.time_s, queue=needs.queue, account=needs.account,
            warn_s=WARN_S if needs.time_s is None or needs.time_s >= LONG_S else None,
            env_script=needs.env_script, requeue=True, settings=words.settings, native=words.native,
        ),
    )  # fmt: skip
    name = fresh_name()
    directory = workdir.jobs / name
    command = (sys.executable, "-P", "-m", "taskfarmer", "submit", str(workdir.path), "--record", name)
    submission = Submission(
        name=name,
        directory=directory,
        body="\n".join([*end_told(keep.plan, keep.plan.batch), f"exec {shlex.join(command)}"]),
        cwd=cwd,
        output=f"{directory}/out.{{element}}",
        needs=own.needs,
    )
    return submission, own


@dataclass
class Keeper:
    """Keeps pilots for a farm; it has the turn. `cwd`: where the farm's tasks run.

    `once`: it does one round, so that it goes by what others before it have submitted.
    """

    pilots: Pilots
    ledger: Ledger
    keep: Keep
    cwd: str
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    once: bool = False
    _submitting: Backoff = field(default_factory=Backoff)
    _asking: Backoff = field(default_factory=Backoff)
    _losing: Backoff = field(default_factory=Backoff)
    _polling: Polling = field(default_factory=lambda: Polling(least_s=LEAST_S, most_s=MOST_S))
    _rate: Rate = field(default_factory=Rate)
    _last: tuple[int, ...] = ()
    _in_vain: int = 0
    _lost: int = 0
    _cancelled: set[str] = field(default_factory=set)
    _began: bool = False
    _names: set[str] = field(default_factory=set)
    _told_troubles: set[str] = field(default_factory=set)

    def round(self) -> Round:
        """Do one round.

        Raises:
            InputError: the very first submission was refused for good; or those with these options came to nothing.
            Stopped: pilots come to nothing again and again; too many tasks have failed.
        """
        began = self.clock()
        self.ledger.refresh()
        self.ledger.read_tails()
        state = self.ledger.state
        counts = state.counts()
        left = counts["toprocess"] + counts["running"]
        queue = self.pilots.look()
        notes = list(queue.problems)
        halted = has_halted(self.ledger)
        if halted or not left:
            notes += self.pilots.cancel(pilot for pilot in queue.live() if pilot.status.state is not JobState.RUNNING)
        if halted and left:
            raise Stopped(
                f"{plural(counts['failed'], 'task')} failed, the limit is reached: no more pilots are submitted",
                hint=f"have them done again with `taskfarmer retry {shlex.quote(str(self.pilots.workdir.path))}`",
            )
        if not left:
            return self._told(queue, left, 0, notes, began)
        notes += self._refused(queue)
        if queue.problems:
            self._asking.failed(began, chance())
            return self._told(queue, left, 0, notes, began)
        self._asking.went_well()
        self._look_for_barren(queue, left)
        notes += self._troubles(queue)
        wanted = wanted_now(self.keep, self.ledger, self.wall())
        if self.keep.elastic:
            notes += self._shrink(queue, wanted)
        count = missing(wanted, queue, state, self.keep.plan, self.pilots.dead(state))
        waits = max(self._submitting.until, self._losing.until) > began
        if count and not queue.open and not waits:
            count, said = self._submit(count)
            notes += said
        else:
            count = 0
        self._began = True
        return self._told(queue, left, count, notes, began)

    def _refused(self, queue: Queue) -> list[str]:
        """Return what to say of submissions that have turned out to have come to nothing.

        Raises:
            InputError: for good, and none with their options ever came to the queue: the options are at fault, else
                it may be over tomorrow.
        """
        notes = []
        for request in queue.refused:
            outcome = request.outcome
            if request.kind == "pilots" and isinstance(outcome, Refused):
                if not (outcome.again or self._has_worked(options_of(request))):
                    raise self._refusal(outcome)
                if not self.once:  # between rounds of cron there is time enough
                    self._submitting.failed(self.clock(), chance())
                notes.append(f"refused: {outcome.why}")
        return notes

    def _refusal(self, outcome: Refused) -> InputError:
        hint = "correct the options, and run it again"
        return InputError(f"{self.keep.plan.batch} refuses the pilots: {outcome.why}", hint=hint)

    def _has_worked(self, options: str) -> bool:
        made = (request for request in self.pilots.requests() if isinstance(request.outcome, Submitted))
        return any(options_of(request) == options for request in made)

    def _troubles(self, queue: Queue) -> list[str]:
        """Return what to say of pilots that were held since the last round: they count, but do nothing; and of those
        that no node could have. One of each kind.
        """
        ours = [p for p in queue.pilots if p.kind == "pilots" and (p.submission in self._names or not p.is_over)]
        wrong = {pilot.link: pilot for pilot in ours if trouble_of(pilot.status) and not pilot.elsewhere}
        new = {trouble_of(p.status): p for link, p in reversed(wrong.items()) if link not in self._told_troubles}
        self._told_troubles = set(wrong)
        return [f"pilot {pilot.job} is {trouble}" for trouble, pilot in new.items()]

    def _shrink(self, queue: Queue, wanted: int) -> list[str]:
        """Cancel pilots that wait, and are too many by now; the last ones first."""
        live = queue.live()
        waiting = [pilot for pilot in live if pilot.status.state in (JobState.QUEUED, JobState.HELD)]
        surplus = len(live) - wanted
        if surplus <= 0:
            return []
        self._cancelled |= {pilot.link for pilot in waiting[-surplus:]}
        return self.pilots.cancel(waiting[-surplus:])

    def _submit(self, count: int) -> tuple[int, list[str]]:
        done, notes = 0, []
        plan, rate = self.keep.plan, self._rate
        for request in self.pilots.submit_pilots(plan, count, self.cwd, rate=rate, clock=self.clock):
            self._names.add(request.submission.name)
            outcome = request.outcome
            if isinstance(outcome, Submitted):
                done += request.submission.count
                self._submitting.went_well()
                continue
            if isinstance(outcome, Refused):
                if not (outcome.again or self._began or done):
                    raise self._refusal(outcome)
                self._submitting.failed(self.clock(), chance())
                notes.append(f"refused: {outcome.why}")
            elif outcome is not None:
                notes.append(f"not known whether it was submitted: {outcome.why}")
        return done, notes

    def _look_for_lost(self, queue: Queue, left: int) -> None:
        """Wait the longer the more pilots are ended before they are farmers, by a prolog that fails, say. That may be
        over tomorrow, so it is no reason to give up.
        """
        farmers, ours = joined(self.ledger.state), self._cancelled
        over = (p for p in queue.pilots if p.submission in self._names and p.status.state is JobState.LOST)
        lost = sum(pilot.link not in farmers and pilot.link not in ours for pilot in over)
        if lost > max(self._lost, self.keep.number):
            self._losing.failed(self.clock(), chance())
        elif self._last and left < self._last[0]:
            self._losing.went_well()
        self._lost = lost

    def _look_for_barren(self, queue: Queue, left: int) -> None:
        """Wait the longer the more pilots came to nothing, and give up in the end."""
        vain = in_vain(queue, self.ledger)
        if self.once:
            vain = since_any_use(vain, queue, self.ledger)
        else:
            vain = [found for found in vain if found[0].submission in self._names]
        if len(vain) > self._in_vain and not self.once:  # between rounds of cron there is time enough
            self._submitting.failed(self.clock(), chance())
        self._in_vain = len(vain)
        self._look_for_lost(queue, left)
        if len(vain) >= BARREN * self.keep.number:
            pilot, why = vain[-1]
            workdir = self.pilots.workdir
            again = f"; when that is mended, try with `taskfarmer submit {shlex.quote(str(workdir.path))} --jobs 1`"
            raise Stopped(
                f"{len(vain)} pilots came to nothing, the last: {why}",
                hint=f"what it said is in {workdir.jobs}/{pilot.submission}/out.{pilot.element}" + again * self.once,
            )

    def _told(self, queue: Queue, left: int, submitted: int, notes: list[str], began: float) -> Round:
        live = queue.live()
        states = Counter(pilot.status.state for pilot in live)
        running = states[JobState.RUNNING]
        unknown = states[JobState.UNKNOWN] if queue.problems else 0  # else it has not been seen yet: it waits
        now = (left, len(live) + submitted, running)
        wait_s = self._polling.next_s(changed=now != self._last, took_s=self.clock() - began)
        self._last = now
        later = max(self._asking.until, self._losing.until, self._submitting.until if not submitted else float("-inf"))
        return Round(
            left=left,
            running=running,
            waiting=len(live) - running - unknown + submitted,
            unknown=unknown,
            submitted=submitted,
            wait_s=min(MOST_S, max(wait_s, later - self.clock())),
            notes=tuple(notes),
        )


def wanted_now(keep: Keep, ledger: Ledger, now: float) -> int:
    """Return how many pilots there should be; `now` in seconds since the epoch."""
    if not keep.elastic:
        return keep.number
    within_s = keep.within_s if keep.by is None else max(0.0, keep.by - now)
    slots = slots_left(ledger, keep.plan)
    return elastic(keep.number, slots, keep.plan, typical_s=typical_s(ledger), within_s=within_s)


def in_vain(queue: Queue, ledger: Ledger) -> list[tuple[Pilot, str]]:
    """Return the pilots that came to nothing, with why and what to do about it.

    They ended before they were farmers, so that their node or their command is at fault; or found no task that could
    end in their time.
    """
    farmers = joined(ledger.state)
    found = []
    for pilot in queue.pilots:
        if not pilot.is_over or pilot.kind != "pilots":
            continue
        lives = farmers.get(pilot.link, [])
        if not lives and pilot.status.exit_status is not None and not is_revoked(ledger, pilot):
            found.append((pilot, why_in_vain(pilot.status, _last_word(ledger, pilot))))
        elif lives and all(f.why == "out of time" and not f.finished and not f.failed for f in lives):
            found.append((pilot, "no task that is left can end in a pilot's time; ask for more with --time"))
    return found


def since_any_use(vain: list[tuple[Pilot, str]], queue: Queue, ledger: Ledger) -> list[tuple[Pilot, str]]:
    """Return those of the pilots in vain that were submitted behind the last one that became a farmer of use."""
    links = {pilot.link for pilot, _ in vain}
    farmers = joined(ledger.state)
    of_use = [place for place, p in enumerate(queue.pilots) if p.link in farmers and p.link not in links]
    later = {pilot.link for pilot in queue.pilots[of_use[-1] + 1 if of_use else 0 :]}
    return [found for found in vain if found[0].link in later]


def is_revoked(ledger: Ledger, pilot: Pilot) -> bool:
    """Whether a pilot was told to do nothing."""
    return (ledger.workdir.jobs / pilot.submission / REVOKED).exists()


def _last_word(ledger: Ledger, pilot: Pilot) -> str:
    """Return what the farmer of a pilot said if it could not work on its node (a program is missing there); or ""."""
    if pilot.status.exit_status != InputError.exit_status:
        return ""
    try:
        with open(ledger.workdir.jobs / pilot.submission / f"out.{pilot.element}", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix(_OURS) for line in reversed(lines) if line.startswith(_OURS)), "")


def why_in_vain(status: JobStatus, said: str = "") -> str:
    """Return what an exit status of a pilot, and what it `said`, tell of why, and what to do about it."""
    where = status.host or "its node"
    if status.exit_status == UNSEEN:
        return f"{where} does not see the workdir or the tasks' directory; put them where all nodes see them"
    if status.exit_status in (126, 127):
        return f"{where} does not have this Python; install taskfarmer where all nodes see it"
    if said:
        return f"{where}: {said}"
    return f"it ended with status {status.exit_status}" + (f" on {status.host}" if status.host else "")


def slots_left(ledger: Ledger, plan: Plan) -> float:
    """Return how many slots of such pilots the tasks that are left would fill at once; of tasks with needs of their
    own some are looked at if there are many.
    """
    counts, status = ledger.state.counts(), ledger.state.status
    left, more = counts["toprocess"] + counts["running"], 0.0
    for first, segment in ledger.state.segments:
        if segment.special:
            open_ = [task for task in range(first, first + segment.count) if status[task] in _OPEN]
            some = open_[:: max(1, len(open_) // _SAMPLE)]
            needed = sum(slots_for(ledger.segments.task(task), plan) for task in some)
            more += (needed / len(some) - 1) * len(open_) if some else 0.0
    return left + more


def typical_s(ledger: Ledger) -> float | None:
    """Return how many seconds a task takes on the average, by what the latest farmers finished; None: not known."""
    took = []
    for farmer in ledger.state.farmers[-_FARMERS:]:
        begun: dict[int, float] = {}
        for record in read_tail(ledger.workdir.journals / farmer.id, max(0, farmer.seen - _BYTES), farmer.seen).records:
            if isinstance(record, Started):
                begun[record.id] = record.time
            elif isinstance(record, Ended) and record.outcome in ("ok", "fail") and record.id in begun:
                took.append(record.time - begun.pop(record.id))
    return sum(took) / len(took) if took else None
