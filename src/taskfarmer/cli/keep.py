"""`taskfarmer submit --keep`: pilots are kept in the queue from a terminal, by rounds of cron, or from a job.

What is said goes to a terminal that may be gone, or to a file on a disk that is full: that ends nothing (`streams`).
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from ..batch import Refused, Submitted
from ..batch.pace import Backoff
from ..batch.script import REVOKED
from ..core.words import plural
from ..errors import InputError, Replaced, WorkdirError
from ..farm.allocation import Allocation, source_of
from ..farm.disk import chance
from ..farm.farmer import WORK_LEFT, result_of
from ..farm.keeping import MOST_S, Keep, Keeper, Round, keeper_submission
from ..farm.pilots import Pilots
from .asking import print_json
from .streams import printed
from .submitting import Taken, quoted, turn

if TYPE_CHECKING:
    from ..batch import BatchSystem
    from ..farm.ledger import Ledger
    from ..farm.submissions import Request

LOOK_S = 2.0
"""How often it is looked whether somebody else has taken over."""
SUCCESSOR_S = 180.0
"""A keeper in a job submits the next one when its job has so little left, or a third of its time if that is less."""
INTERRUPTED = 130


class Signals:
    """What signals have said: `ended` by SIGTERM, `warned` by SIGUSR1 that the job's end is near."""

    def __init__(self) -> None:
        self.ended = self.warned = False

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal."""
        self.ended |= number == signal.SIGTERM
        self.warned |= number == signal.SIGUSR1

    def wait(self, seconds: float) -> None:
        """Wait, at most until one more was heard."""
        until, before = time.monotonic() + seconds, (self.ended, self.warned)
        while (self.ended, self.warned) == before and (rest := until - time.monotonic()) > 0:
            time.sleep(min(rest, 0.2))


@contextmanager
def signals() -> Iterator[Signals]:
    """Listen to signals; a command that is on its way is waited for."""
    heard = Signals()
    before = {number: signal.signal(number, heard.hear) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Keeping:
    """Rounds, and what is said of them. `once`: one round is enough; `as_json`: nothing is said before the end."""

    pilots: Pilots
    ledger: Ledger
    keep: Keep
    cwd: str
    once: bool = False
    as_json: bool = False
    _shown: str = ""
    _last: Round | None = None

    def here(self) -> int:
        """Keep pilots from this process; return the exit status."""
        with signals() as heard, turn(self.pilots, "keep", patience_s=5.0):
            try:
                status = self.rounds(heard, lambda: False)
            except KeyboardInterrupt:
                self._say_what_stays()
                return INTERRUPTED
            if heard.ended and status == WORK_LEFT:
                self._say_what_stays()
            return status

    def _say_what_stays(self) -> None:
        last = self._last
        there = "what was submitted" if last is None else plural(last.pilots, "pilot")
        printed(
            f"taskfarmer: pilots are kept no longer; {there} stay in the queue"
            f" (to end them: taskfarmer stop {quoted(self.ledger)})", sys.stderr,
        )  # fmt: skip

    def rounds(self, heard: Signals, succeeded: Callable[[], bool]) -> int:
        """Do rounds until the farm is done, somebody takes over, or `succeeded` says that a successor is there."""
        keeper = Keeper(self.pilots, self.ledger, self.keep, self.cwd, once=self.once)
        while True:
            wait_s = MOST_S
            try:
                found = keeper.round()
            except (OSError, WorkdirError) as error:
                if self._last is None:
                    raise
                _say_again(error)
            else:
                self._show(found)
                if found.done or self.once:
                    return self._end(found)
                wait_s = found.wait_s
            until = time.monotonic() + wait_s
            while True:
                if heard.ended or succeeded():
                    return WORK_LEFT
                if not self._holds():
                    printed("taskfarmer: pilots are kept no longer: somebody ended that, or took over", sys.stderr)
                    return WORK_LEFT
                if (rest := until - time.monotonic()) <= 0:
                    break
                heard.wait(min(rest, LOOK_S))

    def _holds(self) -> bool:
        """Whether it is still our turn, as far as that can be read now: before each submission it must be."""
        with suppress(OSError, WorkdirError):
            return self.pilots.turns.holds()
        return True

    def _end(self, found: Round) -> int:
        if self.as_json:
            print_json(
                "submit", workdir=str(self.ledger.workdir.path), system=self.keep.plan.batch, dry_run=False,
                pilots=found.pilots, submitted=found.submitted, left=found.left,
            )  # fmt: skip
        return result_of(self.ledger).exit_status if found.done else 0

    def _show(self, found: Round) -> None:
        """Say what changed."""
        self._last = found
        for note in found.notes:
            printed(f"taskfarmer: {note}", sys.stderr)
        text = "the farm is done"
        if not found.done:
            there = plural(found.pilots, "pilot")
            unseen = f", {found.unknown} of which nothing is known now" if found.unknown else ""
            new = f", {found.submitted} of them new" if found.submitted else ""
            those = f"{found.running} running, {found.waiting} waiting{unseen}{new}"
            text = f"{found.left} tasks left; {there}: {those}"
        if text != self._shown and not self.as_json:
            printed(f"{time.strftime('%H:%M:%S')} {text}")
        self._shown = text


# -- a keeper that is a job --------------------------------------------------------------------------------------------


def submit_keeper(pilots: Pilots, keep: Keep, cwd: str, system: BatchSystem) -> tuple[Request, int]:
    """Submit the first job that keeps pilots; return it, and how many pilots there are.

    Pilots of which it is not known yet whether they came to the queue do not matter: the keeper sees to that.

    Raises:
        InputError: there is one; or the last came to nothing for good.
    """
    with turn(pilots, "submit", patience_s=5.0):
        queue = pilots.look()
        for request in queue.refused:
            if isinstance(request.outcome, Refused) and not request.outcome.again:
                raise InputError(f"{system.title} refuses the job: {request.outcome.why}")
        if there := [p.job for p in queue.pilots if p.kind == "keeper" and not (p.is_over or p.elsewhere)]:
            which = there[0] or "of an id not known yet"
            raise InputError(
                f"job {which} of {system.title} keeps pilots for this farm", hint="end it first, with `taskfarmer stop`"
            )
        submission, own = keeper_submission(pilots.workdir, keep, cwd, system)
        if without := [word for word in keep.plan.needs.native if word not in own.needs.native]:
            printed(f"taskfarmer: the job that keeps the pilots goes without {shlex.join(without)}", sys.stderr)
        return pilots.submit(own, submission, "keeper", keep=keep.to_json()), len(queue.live())


@dataclass
class Succession:
    """Submits the next keeper before this one's job ends, or when it is warned of that.

    `first_s`: how much time the job had when that was known first.
    """

    pilots: Pilots
    keep: Keep
    cwd: str
    heard: Signals
    allocation: Allocation
    first_s: float | None = None
    _trying: Backoff = field(default_factory=Backoff)
    _open: str = ""
    """Of which it is not known whether it came to the queue."""

    def is_there(self) -> bool:
        """Whether there is a next one, so that this one may leave.

        What cannot be written or read now is tried again later: nobody else would keep pilots.
        """
        try:
            return self._is_there()
        except (OSError, WorkdirError) as error:
            _say_again(error)
            self._trying.failed(time.monotonic(), chance())
            return False

    def _is_there(self) -> bool:
        now = time.monotonic()
        left_s = self.allocation.left_s(now, time.time())
        if self.first_s is None and left_s != float("inf"):
            self.first_s = left_s
        soon = left_s <= min(SUCCESSOR_S, (self.first_s or 0.0) / 3)
        if not (soon or self.heard.warned) or now < self._trying.until:
            return False
        if self._open and (asked := self.pilots.submissions.read(self._open)) and asked.is_open:
            return False  # each round asks what became of it
        if self._open and asked and isinstance(asked.outcome, Submitted):
            return True
        if self._open and asked:
            _say_refused(asked)
        submission, own = keeper_submission(
            self.pilots.workdir, self.keep, self.cwd, self.pilots.system(self.keep.plan.batch)
        )
        self._open = submission.name  # also if what comes behind its submission fails
        request = self.pilots.submit(own, submission, "keeper", keep=self.keep.to_json())
        if isinstance(request.outcome, Submitted):
            return True
        self._open = request.submission.name if request.is_open else ""
        _say_refused(request)
        self._trying.failed(now, chance())
        return False


def _say_again(error: Exception) -> None:
    what = f"{error.filename or 'the workdir'}: {error.strerror}" if isinstance(error, OSError) else str(error)
    printed(f"taskfarmer: {what}; trying again", sys.stderr)


def _say_refused(request: Request) -> None:
    if isinstance(request.outcome, Refused):
        printed(f"taskfarmer: the next keeper is refused: {request.outcome.why}", sys.stderr)


def be_keeper(pilots: Pilots, ledger: Ledger, record: str, cwd: str, environ: Mapping[str, str]) -> int:
    """Be the keeper in a job: what to keep stands in the record of its submission. Return the exit status.

    Raises:
        InputError: there is no such record.
    """
    request = pilots.submissions.read(record)
    if request is None:
        raise InputError(f"--record {record}: there is no such submission")
    keep = Keep.from_json(dict(request.extra["keep"]))
    revoked = request.submission.directory / REVOKED
    with signals() as heard:
        next_one = Succession(pilots, keep, cwd, heard, Allocation(source_of(environ), environ))
        trying = Backoff()
        while not (os.path.exists(revoked) or heard.ended):
            try:
                with turn(pilots, "keep", patience_s=60.0):
                    return Keeping(pilots, ledger, keep, cwd).rounds(
                        heard, lambda: os.path.exists(revoked) or next_one.is_there()
                    )
            except Taken as error:  # the one before has not left yet
                printed(f"taskfarmer: {error}", sys.stderr)
                heard.wait(LOOK_S)
            except Replaced:
                raise
            except (OSError, WorkdirError) as error:  # before the first round was done; nobody else keeps pilots
                _say_again(error)
                heard.wait(trying.failed(time.monotonic(), chance()))
    return WORK_LEFT
