"""What `taskfarmer submit` does with pilots, and what it says when that cannot be done."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..batch import Refused, Submitted, Unsure
from ..batch.pace import Rate
from ..core.words import plural
from ..errors import InputError, Stopped, TaskfarmerError
from ..farm.demand import missing
from ..farm.keeping import has_halted
from ..farm.pilot_jobs import Plan
from ..farm.pilots import Pilots, Queue
from .streams import printed

if TYPE_CHECKING:
    from ..farm.ledger import Ledger
    from ..farm.submissions import Request

AGAIN_S = 2.0
"""Between two questions what became of a submission."""
PATIENCE_S = 150.0
"""How long that is asked, and how long another command that submits is waited for."""
LOOK_S = 10.0
"""Between two looks at the queue while more submissions are to be made than the limit allows."""
_SHOWN = 8
"""Submissions whose ids are told in one line."""
_DOES = {"keep": "keeps", "stop": "ends"}


class Taken(InputError):
    """Somebody else has the turn to submit."""


def quoted(ledger: Ledger) -> str:
    """Return the workdir as a word of sh."""
    return shlex.quote(str(ledger.workdir.path))


@contextmanager
def turn(pilots: Pilots, what: str, *, patience_s: float) -> Iterator[None]:
    """Have the turn to submit for so long.

    Raises:
        Taken: somebody else has it, and keeps it.
    """
    deadline = time.monotonic() + patience_s
    said = False
    while (holder := pilots.turns.take(what)) is not None:
        does = _DOES.get(holder.what, "submits")
        if holder.what == "keep" and what != "keep":
            raise Taken(
                f"{holder.who} keeps pilots for this farm",
                hint=f"end that first (taskfarmer stop {shlex.quote(str(pilots.workdir.path))} ends the pilots, too)",
            )
        if time.monotonic() > deadline:
            raise Taken(
                f"{holder.who} {does} pilots for this farm",
                hint="wait for it, or end it; one that died is passed over in a while",
            )
        if not said:
            said = True
            printed(f"taskfarmer: waiting for {holder.who}, which {does} pilots for this farm", sys.stderr)
        time.sleep(0.5)
    pilots.turn_taken = True
    try:
        yield
    finally:
        pilots.turn_taken = False
        pilots.turns.leave()


def see_to(pilots: Pilots, ledger: Ledger, plan: Plan, wanted: int, cwd: str, title: str) -> tuple[list[Request], int]:
    """Submit what is missing of so many pilots; return what was submitted, and how many there are now.

    Where that comes to nothing, or is interrupted, it is said what was submitted before that.

    Raises:
        InputError: refused for good.
        Stopped: nobody can say how it stands.
    """
    made: list[Request] = []
    try:
        return _see_to(pilots, ledger, plan, wanted, cwd, title, made)
    except (KeyboardInterrupt, TaskfarmerError, OSError):
        if made:
            new = plural(sum(request.submission.count for request in made), "pilot")
            more = f" and {plural(len(made) - _SHOWN, 'more submission')}" if len(made) > _SHOWN else ""
            printed(
                f"taskfarmer: {new} had been submitted by then: {', '.join(map(ids_of, made[:_SHOWN]))}{more}"
                f" (to end them: taskfarmer stop {quoted(ledger)})", sys.stderr,
            )  # fmt: skip
        raise


def ids_of(request: Request) -> str:
    """Return the ids of the jobs of a submission: the first and the last."""
    return " to ".join(dict.fromkeys((request.jobs[0], request.jobs[-1])))


def _see_to(
    pilots: Pilots, ledger: Ledger, plan: Plan, wanted: int, cwd: str, title: str, made: list[Request]
) -> tuple[list[Request], int]:
    pace = _Pace(Rate())
    deadline = time.monotonic() + PATIENCE_S
    said = ""
    unsure: set[str] = set()
    while True:
        ledger.refresh()
        ledger.read_tails()
        queue = _look(pilots, unsure, made)
        _heed_refusals(queue, title, ledger, made)
        if queue.problems:
            raise Stopped(f"the queue cannot be looked at: {queue.problems[0]}", hint="run the same command again")
        if not queue.open:
            count = missing(wanted, queue, ledger.state, plan, pilots.dead(ledger.state))
            new = 0
            for request in pilots.submit_pilots(plan, count, cwd, rate=pace.rate, clock=time.monotonic):
                if isinstance(request.outcome, Submitted):
                    made.append(request)
                    new += request.submission.count
                elif isinstance(request.outcome, Refused):
                    raise unsubmitted(request, title, ledger, made)
                else:  # nobody knows
                    unsure.add(request.submission.name)
                    queue, new = _look(pilots, unsure, made), 0
                    _heed_refusals(queue, title, ledger, made)
            if not queue.open:
                if new >= count:
                    return made, len(queue.live()) + new
                if pace.rate.wait_s(time.monotonic()):
                    pace.wait_for(count - new, max((request.submission.count for request in made), default=1))
                deadline = time.monotonic() + PATIENCE_S
                continue
        if time.monotonic() > deadline:
            raise Stopped(
                f"it is not known what became of the submission {queue.open[0].submission.name}",
                hint="run the same command again in a while: nothing is submitted twice",
            )
        names = ", ".join(request.submission.name for request in queue.open)
        if names != said:
            said = names
            doubts = "; ".join(r.outcome.why for r in queue.open if isinstance(r.outcome, Unsure))
            why = f" ({doubts})" if doubts else ""
            printed(f"taskfarmer: waiting until it is known what became of the submission {names}{why}", sys.stderr)
        time.sleep(AGAIN_S)


def _look(pilots: Pilots, unsure: set[str], made: list[Request]) -> Queue:
    """Look at the queue. What was submitted of those that nobody was sure of is `made`, and no longer among them."""
    queue = pilots.look()
    for request in pilots.requests() if unsure else ():
        if request.submission.name in unsure and isinstance(request.outcome, Submitted):
            unsure.remove(request.submission.name)
            made.append(request)
    return queue


@dataclass
class _Pace:
    """The limit on submissions, where the site has each be of few pilots; what it is that is waited for is said."""

    rate: Rate
    _said: int = 0

    def wait_for(self, pilots: int, each: int) -> None:
        """Wait until so many more, `each` to a submission, may be submitted, or for `LOOK_S` since one of them may."""
        now = time.monotonic()
        at_once = min(math.ceil(pilots / each), self.rate.per_minute)
        # Several may be made now where one could be with a limit that is lower by the others.
        lower = replace(self.rate, per_minute=self.rate.per_minute - at_once + 1)
        wait_s = min(lower.wait_s(now), self.rate.wait_s(now) + LOOK_S)
        if not self._said or pilots <= self._said // 2:
            self._said = pilots
            printed(
                f"taskfarmer: {plural(pilots, 'more pilot')} to be submitted, the next in {max(1, math.ceil(wait_s))}"
                f" s: {self.rate.per_minute} submissions a minute at most", sys.stderr,
            )  # fmt: skip
        time.sleep(wait_s)


def _heed_refusals(queue: Queue, title: str, ledger: Ledger, made: list[Request]) -> None:
    """Raise where a submission, of which it was not known, came to nothing for good."""
    for request in queue.refused:
        if request.kind == "pilots" and isinstance(request.outcome, Refused) and not request.outcome.again:
            raise unsubmitted(request, title, ledger, made)


def unsubmitted(request: Request, title: str, ledger: Ledger, made: list[Request] | None = None) -> TaskfarmerError:
    """Return the error that says why nothing, or nothing more than what was `made`, was submitted."""
    outcome = request.outcome
    if not isinstance(outcome, Refused):
        why = outcome.why if isinstance(outcome, Unsure) else "no answer"
        return Stopped(f"it is not known whether {title} took the job: {why}", hint="run the same command again")
    if outcome.again or made:
        return Stopped(f"{title} takes no more now: {outcome.why}", hint="run the same command again, or --keep")
    return InputError(
        f"{title} refuses the job: {outcome.why}",
        hint=f"nothing was submitted; correct the options, and run it again: the farm is in {ledger.workdir.path}",
    )


def refuse_finished(ledger: Ledger) -> None:
    """Refuse jobs for a farm where nothing is left, or where farmers start nothing since too many tasks failed.

    Raises:
        InputError: so it is.
    """
    counts = ledger.state.counts()
    if has_halted(ledger):
        raise InputError(
            f"{plural(counts['failed'], 'task')} failed, the limit is reached: farmers start nothing more",
            hint=f"have them done again with `taskfarmer retry {quoted(ledger)}`",
        )
    if not counts["toprocess"] + counts["running"]:
        raise InputError(
            f"nothing is left to do in {ledger.workdir.path}",
            hint="`taskfarmer retry` has failed tasks done again, `taskfarmer add` adds more",
        )
