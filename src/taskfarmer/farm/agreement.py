"""What a farmer says in the log, and what it does about what others say there.

It takes tasks, tells what came of them, asks for work, gives work back, leaves: each is an entry, appended with what
the log does not know of its journal yet. What to take, to give back and to stop the plan decides. Three rules hold:

* after every entry of ours, all that came before it is heeded, before anything is started;
* nothing is agreed while the journal is stuck: what it says and what the log says must fit together;
* after an error nobody knows whether our entry was added; nothing is started until a later one of ours tells.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ..core.entries import Body, Leave, News, Report, Take
from ..core.ids import format_ids, parse_ids
from ..core.plan import Plan, Stop
from ..core.policy import (
    HASTY_LOOKS,
    asks,
    idle_pause,
    tails_to_read,
    telling_every_s,
    tells_failures,
    too_many_failures,
)
from ..core.state import FAILED, State
from ..core.words import plural
from ..errors import Damaged, Hidden, Replaced, WorkdirError
from .disk import chance
from .journal import Journal
from .ledger import Ledger
from .log import DAMAGED, PATIENCE_S

LOOKED_S = 0.1
"""How old a look at the log may be before a take."""


class Loop(Protocol):
    """What the log may have a farmer's loop do."""

    def act(self, stops: list[Stop]) -> None:
        """Tell these attempts to end."""

    def stop(self, why: str, *, hard: bool = False, wished: bool = True) -> None:
        """Tell all attempts to end. `hard`: without a grace. `wished`: somebody wants that, not only this farmer."""

    def drain(self, why: str) -> None:
        """Start nothing any more; what runs may end."""

    def hold(self, why: str, seconds: float = 1.0) -> None:
        """Start nothing for so long."""


class Agreement:
    """One living farmer's dealings with the log. It has joined; its last entry is `leave`."""

    def __init__(self, ledger: Ledger, id: str, plan: Plan, journal: Journal, loop: Loop) -> None:
        self._ledger = ledger
        self._id = ledger.mine = id
        self._plan = plan
        self._journal = journal
        self._loop = loop
        self._clock = ledger.clock
        self._heeded = ledger.state.number
        self._obeyed = ledger.state.number
        self._failures = ledger.state.status.count(FAILED)
        self._failures_are_new = self._failures > 0
        self._untold_failures = 0
        self._unsure = False
        self.replaced = False
        """Whether the workdir is gone, or another farm's by now."""
        self._was_on = self._device()
        self._told = 0.0
        self._looks = 0
        self._next_look = 0.0
        self._tail_read = 0

    # -- what it says --------------------------------------------------------------------------------------------------

    def take(self) -> None:
        """Take what the plan wants; mostly nothing."""
        if self._journal.stuck or not self._plan.wants_about():
            return

        def make(_state: State) -> tuple[Body, tuple[News, ...]] | None:
            ids = self._plan.wants()
            return (Take(ids=format_ids(ids)), self._own_news()) if ids else None

        body = self._append(make)
        if isinstance(body, Take):
            self._plan.took(parse_ids(body.ids), chance())
            self._looks = 0

    def give_back(self, back: list[int]) -> None:
        """Say that others may have these, which the plan has forgotten."""
        if not back:
            return

        def make(state: State) -> tuple[Body, tuple[News, ...]]:
            news = self._ledger.news_of(self._id, read=not self._knows_itself())
            length = max(news.length, state.farmer(self._id).told)
            return Report(), (replace(news, length=length, back=format_ids(back)),)

        if self._append(make) is None:
            self._plan.took(reversed(back))

    def retire(self, back: list[int]) -> None:
        """Say that others may have what waited here, and that this one wants nothing: what runs may last for long."""
        if back:
            self.give_back(back)
        elif self._ledger.state.farmer(self._id).want:
            self._say(Report())

    def publish(self) -> None:
        """Tell the log what only the journal says, so that dependents elsewhere can start and readers read little."""
        if self._plan.mode != "stop" and self._journal.length > self._ledger.state.farmer(self._id).told:
            self._say(Report())

    def publish_again(self) -> None:
        """Publish, unless some other entry of this farmer has told the same a moment ago."""
        if self._clock.monotonic() - self._told > self.publish_every_s() / 2:
            self.publish()

    def publish_every_s(self) -> float:
        """Return how often to publish."""
        state = self._ledger.state
        every_s = telling_every_s(len(state.alive()), awaited=bool(len(state.deps)))
        return every_s * (0.75 + chance() / 2)  # farmers that joined in one moment tell it one after the other

    def leave(self, why: str) -> None:
        """Say that this life ends: what the farmer still holds is free again."""
        self._say(Leave(why=why))

    def _say(self, body: Body) -> bool:
        """Append that, and what the journal has to tell; False if it could not be."""
        return self._append(lambda _state: (body, self._own_news())) is not None

    def _append(self, make: Callable[[State], tuple[Body, tuple[News, ...]] | None]) -> Body | None:
        """Append to the log; a disk that does not take it is said once and tried again later."""
        if self._journal.stuck or self.replaced:
            return None
        entry = None
        try:
            entry = self._ledger.append(make, self._id)
            self._told = self._clock.monotonic()
            if entry is not None:
                self._untold_failures = 0
            if entry is not None and self._ledger.snapshot_is_due():
                self._ledger.snapshot(self._id)
        except Replaced as error:
            self.give_up(str(error))
        except WorkdirError as error:
            self._unsure = True
            self._loop.hold(str(error))
        except Damaged as error:
            self._unsure = True
            self._hold_while_some_run(error)
        self.heed()  # before anything is started: our entries say that we know all that came before them
        return entry.body if entry is not None else None

    def _own_news(self) -> tuple[News, ...]:
        return self._ledger.news(self._id, read=not self._knows_itself())

    def _knows_itself(self) -> bool:
        """Whether the state has all that our journal says: nearly always, and then it need not be read."""
        return self._ledger.state.farmer(self._id).seen >= self._journal.length

    # -- what holds starts back ----------------------------------------------------------------------------------------

    def is_settled(self) -> bool:
        """Whether it is known of each entry of ours if it was added."""
        return not self._unsure or self._settle()

    def _settle(self) -> bool:
        """After an error nobody knows whether our entry was added, or still will be. A later one of ours tells."""
        if not self._say(Report()):
            return False
        self._unsure = False
        self._plan.adopt()
        return True

    def is_out_of_date(self) -> bool:
        """Whether we may start nothing: others may have taken us for dead after we looked, since we slept, were
        stopped, or hung in a call to the file server.
        """
        return not self.knows_the_log() or self._plan.mode != "work"

    def knows_the_log(self) -> bool:
        """Whether the log was looked at lately, so that nobody has taken us for dead; look if that is long ago."""
        lease_s = self._ledger.state.lease_s
        if self._looked_ago_s() > lease_s / 2:
            self._look_at_log()
        alive = not self._ledger.state.farmer(self._id).ended
        return alive and self._looked_ago_s() <= lease_s / 2

    # -- looking -------------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Who is about to take looks at the log first: to lose the number to another costs more."""
        alone = len(self._ledger.state.alive()) <= 1
        if not alone and self._plan.wants_about() and self._looked_ago_s() > LOOKED_S:
            self._look_at_log()

    def look_again(self) -> None:
        """Look, unless that was done for another reason a while ago. To be asked at each half of `look_every_s`."""
        if self._looked_ago_s() > 0.6 * self._plan.look_every_s(self._clock.monotonic()):
            self._look()

    def idle_until(self) -> float:
        """While slots are empty here, look at what others do: at once, then at growing distances.

        Return when to come again, on the loop's clock.
        """
        if not self._plan.hungry:
            self._looks = 0
            return float("inf")
        now = self._clock.monotonic()
        if self._plan.looks_on:
            self._plan.wants()
            return now
        if self._looks == 0 or now >= self._next_look:
            self._looks += 1
            self._next_look = now + idle_pause(self._looks, len(self._ledger.state.alive()))
            self._look()
            if self._plan.finished() or self._plan.wants():
                return now
        return min(self._next_look, self._plan.takes_again)

    def _look(self) -> None:
        """See what others have agreed, and, if we could use it, what they have done since."""
        self._look_at_log()
        if self._plan.hungry or not self._plan.queue:
            self._look_at_others()

    def _looked_ago_s(self) -> float:
        return self._clock.boottime() - self._ledger.looked

    def _look_at_log(self) -> None:
        now = self._clock.monotonic()
        try:
            self._ledger.refresh()
        except Replaced as error:
            self.give_up(str(error))
            return
        except OSError as error:
            if not self._ledger.workdir.log.is_dir() and self._device() == self._was_on:
                self.give_up("the workdir is gone")
            self._loop.hold(f"the log cannot be read: {error.strerror}", 0.0)
            return
        except Damaged as error:
            self._hold_while_some_run(error)
            return
        self.heed_what_is_new()
        if (awaited := self._ledger.awaited) is not None:
            if isinstance(awaited, Hidden) and not self._plan.running and self._looked_ago_s() > PATIENCE_S:
                raise Damaged(awaited.message, hint=DAMAGED)
            self._loop.hold(str(awaited))
            return
        self.give_back(self._plan.gives_back(now, chance()))
        if self._plan.lets_go():
            self._say(Report())

    def _hold_while_some_run(self, error: Damaged) -> None:
        """Nothing can be agreed any more; but what runs is not to be lost, and how it ends stands in the journal."""
        if not self._plan.running:
            raise error
        self._loop.hold(str(error))

    def _device(self) -> int | None:
        """Return on which file system the workdir is to be found; None: its parent cannot be seen.

        Another one than before: that of the workdir is not mounted now.
        """
        try:
            return os.stat(self._ledger.workdir.path.parent).st_dev
        except OSError:
            return None

    def give_up(self, why: str) -> None:
        """There is nothing any more to agree on: what stands where the farm was is not ours to touch."""
        if not self.replaced:
            self.replaced = True
            self._loop.stop(why, hard=True, wished=False)

    def _look_at_others(self) -> None:
        state = self._ledger.state
        others = [farmer.id for farmer in state.alive() if farmer.id != self._id]
        if not others:
            return
        waits = state.farmer(self._id).want and not self._plan.idle and not len(state.deps)
        much = not waits and self._read_tails(others)  # who has asked, and has something to do, waits to be given more
        slots = self._plan.asks_for()
        if slots and asks(self._looks, len(others) + 1, chance(), much=much):
            self._say(Report(want=slots))

    def _read_tails(self, others: list[str]) -> bool:
        """Read what others did that the log does not tell; return whether they are known to hold much.

        Who waits for all to end waits for one after the other: while one is known to hold something, the rest is not
        needed. But who waits for what a task needs, or is about to ask for work, must know of all.
        """
        state = self._ledger.state
        busy = [id for id in others if state.holds(state.farmer(id))]  # of the others the log has told all
        hasty = self._looks == HASTY_LOOKS
        for _ in range(min(len(busy), tails_to_read(len(others)))):
            if hasty and not self._plan.others_hold_much():
                return False
            id = busy[self._tail_read % len(busy)]
            self._read_tail(id)
            if not hasty and not len(state.deps) and state.holds(state.farmer(id)):
                return False
            self._tail_read += 1
        return hasty and self._plan.others_hold_much()

    def _read_tail(self, id: str) -> None:
        try:
            self._ledger.read_tail(id)
        except OSError as error:
            self._loop.hold(f"the journal of {id} cannot be read: {error.strerror}", 0.0)

    # -- heeding -------------------------------------------------------------------------------------------------------

    def heed_what_is_new(self) -> None:
        """Heed, if the state has entries that were not heeded yet."""
        if self._ledger.state.number > self._heeded:
            self.heed()

    def heed(self) -> None:
        """Act on what the log says by now."""
        state = self._ledger.state
        self._heeded = state.number
        if state.farmer(self._id).ended == "buried":
            if self._plan.mode != "stop":
                self._loop.stop("another farmer took this one for dead; it leaves", hard=True, wished=False)
            return
        self._loop.act(self._plan.no_longer_ours(self._clock.monotonic()))
        if (failed := state.status.count(FAILED)) > self._failures:
            self._mind_failures()
        self._failures = min(self._failures, failed)  # some may be tried again
        self._tell_failures()  # also when nothing failed: somebody may have joined
        self._obey()

    def _obey(self) -> None:
        """Stop or drain, if somebody has asked for it since this was last looked for."""
        for number, mode, farmers in self._ledger.state.stops:
            if number > self._obeyed and (not farmers or self._id in farmers):
                self._obeyed = number
                if mode == "drain":
                    self._loop.drain("asked to drain")
                else:
                    self._loop.stop("asked to stop")

    def note_failure(self) -> None:
        """A task has failed here; `mind_failures` is to see whether these are too many."""
        self._failures_are_new = True

    def mind_failures(self) -> None:
        """See whether too many tasks have failed in the farm, if some did since that was last asked."""
        if self._failures_are_new:
            self._untold_failures += max(0, self._ledger.state.status.count(FAILED) - self._failures)
            self._mind_failures()
            self._tell_failures()

    def _tell_failures(self) -> None:
        """Tell the others of failures in time, so that the limit is that of the farm, not of each farmer."""
        state = self._ledger.state
        if (
            self._untold_failures
            and not self._unsure
            and tells_failures(
                self._plan.rules,
                failed=self._failures,
                untold=self._untold_failures,
                tasks=len(state),
                farmers=len(state.alive()),
            )
        ):
            self.publish()

    def _mind_failures(self) -> None:
        state = self._ledger.state
        self._failures_are_new, self._failures = False, state.status.count(FAILED)
        if not self._fails_too_often():
            return
        self.publish()  # others count them, too
        if self._fails_too_often():  # else what was read with that has stopped it already
            why = f"{plural(self._failures, 'task')} failed, the limit is reached"
            if self._plan.rules.halt == "now":
                self._loop.stop(why)
            else:
                self._loop.drain(why)

    def _fails_too_often(self) -> bool:
        plan = self._plan
        return plan.mode == "work" and too_many_failures(plan.rules, self._failures, len(self._ledger.state))
