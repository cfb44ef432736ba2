"""A farmer's mind: what it holds, what it runs, what to do next. Pure: the time is handed in, nothing is started here.

`driver.py` asks and acts: `wants` to take, `starts` to spawn, `ended` when a process did, `due` when time has passed.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from . import policy
from .misfits import Misfits
from .model import Task
from .pace import Pace
from .policy import Rules
from .records import EVICTED, STOPPED, Ended
from .resources import Resources, Share
from .search import FAR_LOOK, NEAR_LOOK, Others, Search, Wish
from .state import READY, TAKEN, State
from .words import plural

Mode = Literal["work", "drain", "stop"]
LOOK_AHEAD = 200
"""How far behind a task that does not fit now the queue is searched for one that does."""
NEVER = -1, -1, -1
"""No situation (`Plan._situation`)."""
PATIENCE = 50
"""How many tasks may overtake one that does not fit; then it has the next free slots, so that it is not starved."""


@dataclass(slots=True)
class Attempt:
    """An attempt that runs here. Times on the loop's clock, in seconds; `reason`: why it was told to stop."""

    id: int
    number: int
    task: Task
    share: Share
    began: float
    timeout_s: float | None
    reason: str = ""
    kill_at: float = field(default=float("inf"))


@dataclass(frozen=True, slots=True)
class Stop:
    """An action: send TERM (or, `hard`, KILL) to an attempt."""

    id: int
    hard: bool


class Plan:
    """What farmer `number` of `state` does."""

    def __init__(
        self,
        state: State,
        number: int,
        rules: Rules,
        resources: Resources,
        describe: Callable[[int], Task],
        is_special: Callable[[int], bool],
    ) -> None:
        self.state = state
        self.number = number
        self.rules = rules
        self.resources = resources
        self.mode: Mode = "work"
        self.queue: deque[int] = deque()
        self.running: dict[int, Attempt] = {}
        self.delayed: list[tuple[float, int]] = []
        self.pace = Pace(resources.slots)
        self._others = Others(state, number)
        self._search = Search(state, resources, describe, is_special)
        self._describe = describe
        self._is_special = is_special
        self.until = float("inf")
        """When what still runs is stopped, since the farmer's own time is over; on the loop's clock, in seconds."""
        self._left_s = float("inf")
        self.keeps_time = True
        """Whether attempts are ended here at their time-out; else who runs them does that, and says so."""
        self._patient: int | None = None
        """The task that does not fit and is overtaken by others, by how many it was, and since when."""
        self._overtaken = 0
        self._overtaken_since = 0.0
        self.held = False
        """Whether nothing can be started here for a moment, as the driver found out."""
        self._stuck = False
        """Whether slots are empty, and nothing that waits here fits what is free."""
        self._moves = 0
        """How often an attempt began or ended here."""
        self._in_vain = NEVER
        """The situation in which nothing that is free to take fitted."""
        self._chance = 0.0
        self._takes = 0
        self._now = 0.0
        """When this turn began, on the loop's clock."""
        self._leaves_until = 0.0
        """Until when the rest of what it took its part of is left to those who wait for some, and have yet to look."""
        self._next_timeout = float("inf")

    # -- taking --------------------------------------------------------------------------------------------------------

    def wants(self) -> list[int]:
        """Return the tasks to take now, in order; mostly none."""
        count = self.wants_about()
        found = self._fitting(count) if count else []
        if count and not found and not self._search.goes_on:
            self._in_vain = self._situation()
        return found

    @property
    def looks_on(self) -> bool:
        """Whether `wants` found nothing since so much can never run here, and is to be asked again at once."""
        return self._search.goes_on and self.wants_about() > 0

    def _situation(self) -> tuple[int, int, int]:
        """Return what must change before other tasks fit: what the log says, what is free to take, what runs here."""
        return self.state.number, self.state.status.count(READY), self._moves

    def wants_about(self) -> int:
        """Return how many tasks to take now, if so many fit; mostly 0."""
        if self.mode != "work" or (not self.resources.free and len(self.queue) > self.resources.slots):
            return 0
        free = self.resources.free
        queued = 0 if self._stuck else len(self.queue)
        if queued >= max(free, 1) and self.pace.rate * policy.FAR_S / 4 < queued:
            return 0
        ready = self.state.status.count(READY)
        if not ready or self._in_vain == self._situation() or self.saves_slots_for() is not None:
            return 0
        alive = self.state.alive()
        wanted = sum(farmer.want for farmer in self._others.may_take())
        if wanted and (queued or not free or self._leaves_some(ready, free)):
            return 0  # who has empty slots comes first: or we took at once what we gave back for it
        return policy.take_size(
            slots=self.resources.slots,
            free=free,
            queued=queued,
            rate=self.pace.rate,
            ready=ready,
            all_slots=self._all_slots(),
            farmers=len(alive),
            takes=self._takes,
            wanted=wanted,
            chance=self._chance,
        )

    def _leaves_some(self, ready: int, free: int) -> bool:
        """Whether those who wait for some of what is `ready` have yet to look, and this one has had its part of it.

        Else who runs short tasks, and sees at the end of each what came back, would take one after the other meanwhile.
        Where tasks become free as others end there is something new at any time: of a few it takes what it can start.
        """
        return self._now < self._leaves_until and (not len(self.state.deps) or ready > free)

    @property
    def takes_again(self) -> float:
        """When it no longer leaves the rest of what it took its part of to others, on the loop's clock; infinity: it
        does not.
        """
        return self._leaves_until if self._now < self._leaves_until else math.inf

    def _all_slots(self) -> int:
        return sum(farmer.slots for farmer in self.state.alive()) or self.resources.slots

    def _fitting(self, count: int) -> list[int]:
        together = self._stuck or bool(self._others.may_take())
        theirs = self._empty_elsewhere()
        wish = Wish(count, together, self._left_s, lambda task: _any_can(theirs, task))
        return self._search.find(wish, self._needs_s)

    def _empty_elsewhere(self) -> list[Resources]:
        """Return what those who wait for work may have free. Of memory and GPUs it is not known: all they have."""
        claims = {(farmer.want, farmer.claim) for farmer in self._others.waiting()}
        return [type(self.resources)(slots, claim.memory_bytes, claim.gpus) for slots, claim in claims]

    def took(self, ids: Iterable[int], chance: float = 0.0) -> None:
        """The log gave us these. Who has been told to stop meanwhile lets them be: leaving frees them.

        What was cancelled in the next moment is not ours any more. `chance` in [0, 1) decides when to take the next.
        """
        self._chance = chance
        self._takes += bool(self.pace.known)
        if self._others.may_take():
            self._leaves_until = self._now + policy.LEAVING_S
        if self.mode == "work":
            if not self.queue and not self.running:
                self.pace.rested()
            ours = list(filter(self._is_ours, ids))
            if self._stuck:
                self.queue.extendleft(reversed(ours))  # behind what does not fit they would not be looked for
            else:
                self.queue.extend(ours)

    def adopt(self) -> None:
        """Queue what is ours without our knowledge: an entry of ours was added, and the answer was lost."""
        known = {*self.queue, *self.running, *(task for _, task in self.delayed)}
        self.took(sorted({*self.state.held_by(self.number)} - known))

    def _rate_now(self, now: float) -> float:
        return self.pace.rate_now(now, max((attempt.began for attempt in self.running.values()), default=None))

    def gives_back(self, now: float, chance: float = 0.0) -> list[int]:
        """Return queued tasks that others want more, and forget them; `chance` in [0, 1) as in `policy.give_back`.

        Those that are to be tried again are among them, once their pause is over. And the one that others overtake: the
        rate at which these go says nothing of when it begins.
        """
        self.end_pauses(now)
        alive = self.state.alive()
        waiting = self._others.waiting()
        wanted = sum(farmer.want for farmer in waiting)
        if not wanted or not self.queue:
            return []
        if self.held:
            return self._for_others(self.queue, len(self.queue))
        holders = [farmer for farmer in alive if self.state.holds(farmer, more_than=farmer.slots)]
        rate = self._rate_now(now)
        a_second = max(1.0, rate / self.resources.slots)  # as many tasks keep a slot busy for so long, or longer
        count = policy.give_back(
            queued=len(self.queue),
            rate=rate,
            wanted=self._others.unserved(a_second),
            farmers=len(alive),
            holders=len(holders),
            chance=chance,
            all_slots=wanted + sum(farmer.slots for farmer in holders),
        )
        patient = self._patient
        if not count and patient is not None and patient in self.queue:
            return self._for_others([patient], int(now - self._overtaken_since >= policy.GIVING_S))
        return self._for_others(self.queue, count)

    def _for_others(self, waiting: Sequence[int], count: int) -> list[int]:
        """Take up to `count` of what is `waiting` out of the queue, the last first, that somebody who asked can run.

        First those that ask for nothing but a slot, which surely fit there; of the others it is not known what is free.
        """
        plain = (task for task in reversed(waiting) if not self._is_special(task))
        back = list(islice(plain, count))
        if len(back) < count:
            theirs = self._empty_elsewhere()
            special = (task for task in reversed(waiting) if self._is_special(task))
            fitting = (task for task in special if _any_can(theirs, self._describe(task)))
            more = list(islice(fitting, count - len(back)))
            self._search.given.update(more)
            back += more
        if back:
            given = set(back)
            self.queue = deque(task for task in self.queue if task not in given)
        return back

    @property
    def hungry(self) -> bool:
        """Whether slots are empty here and nothing is there that could start in them now."""
        can_start = self.mode == "work" and not self.held and bool(self.resources.free)
        return can_start and (not self.queue or self._stuck) and self.saves_slots_for() is None

    def asks_for(self) -> int:
        """Return for how many empty slots the others are to be asked for work now; 0: the log says it, or it is in
        vain.

        It is said again when twice as many are empty, when all are, when others have something for which the number
        matters, and when what they gave back does not fit: not for each slot that empties at the end.
        """
        if not self.hungry or (self.too_late_s is not None and not self.idle):
            return 0
        me, free = self.state.farmers[self.number - 1], self.resources.free
        in_vain = me.want and self.state.status.count(READY) > me.passed_over and not self.wants()
        if self.looks_on:
            return 0  # something may fit here
        if in_vain:
            return free  # what was given back since does not fit here, and hides that something is wanted
        if free <= me.want:
            return 0
        return free if free >= 2 * me.want or not self.running or self._others_have_between(me.want, free) else 0

    def _others_have_between(self, slots: int, free: int) -> bool:
        """Whether somebody has a task that waits for more than `slots` CPUs, and at most `free`, as far as was looked.

        Who gives something back gives what needs at most as many as it was asked for.
        """
        waiting = (task for other in self._others.holding() for task in other if task not in self.state.running)
        special = filter(self._is_special, islice(waiting, FAR_LOOK))
        wide = (self._describe(task) for task in islice(special, NEAR_LOOK))
        return any(slots < task.cpus <= free and not self.resources.never(task) for task in wide)

    def others_hold_much(self) -> bool:
        """Whether somebody else has taken so much that it would give back some, as far as this farmer can tell."""
        soon = 1 + self.pace.rate / self.resources.slots * policy.GIVING_S
        return any(self.state.holds(other, more_than=int(other.slots * soon)) for other in self._others.alive())

    def look_every_s(self, now: float) -> float:
        """Return how often to look at the log: less often while there is enough for everybody."""
        alive, ready = self.state.alive(), self.state.status.count(READY)
        if not self.pace.rate or len(self.state.deps):  # it cannot be told how long anything lasts
            has_something = bool(self.queue) and (not ready or any(farmer.want for farmer in alive))
            return policy.look_every_s(farmers=len(alive), ahead_s=math.inf, left_s=0.0) if has_something else 1.0
        ahead_s = len(self.queue) / self._rate_now(now)
        left_s = ready / (self.pace.rate / self.resources.slots * self._all_slots())
        if any(farmer.want for farmer in alive) or ahead_s >= len(self.queue) > 0:
            left_s = 0.0  # what runs here takes a second or longer: it tells nothing of how soon others are done
        farmers = len(alive)
        return policy.look_every_s(farmers=farmers, ahead_s=ahead_s, left_s=left_s)

    # -- the end of the time there is ----------------------------------------------------------------------------------

    @property
    def misfits(self) -> Misfits:
        """Tasks that can never run here, as far as was looked."""
        return self._search.misfits

    def why_never(self, task: int) -> str:
        """Return why a task can never run here, or the empty string."""
        return self._search.why_never(task)

    @property
    def too_late_s(self) -> float | None:
        """What the shortest task that is free to take needs, if none can end before `until`; None: one can, or it is
        not known.
        """
        return self._search.too_late_s

    def set_aside(self, now: float) -> list[int]:
        """Return what waits here and cannot end before `until` any more, and forget it: others may have more time.

        To be asked every second or so: in between, what is free to take is not looked through again.
        """
        before_s, self._left_s = self._left_s, self.until - now
        self._search.too_late_s = None
        if self._left_s < float("inf") or before_s < float("inf"):
            self._in_vain = NEVER
        if self._left_s == float("inf"):
            return []
        late = {task for task in self.queue if self._needs_s(task) > self._left_s}
        late |= {task for due, task in self.delayed if max(due, now) + self._needs_s(task) > self.until}
        if late:
            self.queue = deque(task for task in self.queue if task not in late)
            self.delayed = [item for item in self.delayed if item[1] not in late]
            heapq.heapify(self.delayed)
        return sorted(late)

    def _needs_s(self, task: int) -> float:
        """How long a task is expected to take; 0 where nothing is known, or asked."""
        if self._left_s == float("inf"):
            return 0.0
        declared_s = self._describe(task).duration_s if self._is_special(task) else None
        return self.pace.typical_s if declared_s is None else declared_s

    # -- starting ------------------------------------------------------------------------------------------------------

    def next_start(self, now: float) -> Attempt | None:
        """Return the next attempt to start, its share already taken; None when nothing fits or nothing is there."""
        if self.mode != "work" or not self.resources.free:
            return None
        self._stuck = False
        self.end_pauses(now)
        if not self.queue:
            return None
        if self._overtaken >= PATIENCE:
            if (task := self.saves_slots_for()) is not None:
                return self._start_if_fits(task, now)
            self._patient, self._overtaken = None, 0
        task = self.queue[0]
        if self._is_special(task):
            return self._next_special(now)
        if now + self._needs_s(task) > self.until:
            return None
        described = self._describe(task)
        share = self.resources.take_one()
        if share is None:
            return None
        self.queue.popleft()
        return self._begin(task, described, share, now)

    def end_pauses(self, now: float) -> None:
        """Queue first what is to be tried again, and has waited for it."""
        while self.delayed and self.delayed[0][0] <= now:
            self.queue.appendleft(heapq.heappop(self.delayed)[1])

    def saves_slots_for(self) -> int | None:
        """Return the task for which slots are left empty now, since enough others have overtaken it; mostly None."""
        return self._patient if self._overtaken >= PATIENCE and self._patient in self.queue else None

    def _next_special(self, now: float) -> Attempt | None:
        for task in islice(self.queue, LOOK_AHEAD):
            if (attempt := self._start_if_fits(task, now)) is not None:
                return attempt
            if self._patient != task and self._patient not in self.queue:
                self._patient, self._overtaken, self._overtaken_since = task, 0, now
        self._stuck = True
        return None

    def _start_if_fits(self, task: int, now: float) -> Attempt | None:
        if now + self._needs_s(task) > self.until:
            return None
        described = self._describe(task)
        if (share := self.resources.take(described)) is None:
            return None
        self.queue.remove(task)
        return self._begin(task, described, share, now)

    def _begin(self, id: int, task: Task, share: Share, now: float) -> Attempt:
        timeout = task.timeout_s if task.timeout_s is not None else self.rules.task_timeout_s
        if not self.keeps_time:
            timeout = None
        attempt = Attempt(id, self.state.tries_of(id).attempts + 1, task, share, now, timeout)
        self.running[id] = attempt
        self._moves += 1
        self._search.given.discard(id)
        if self._patient == id:
            self._patient, self._overtaken = None, 0
        elif self._patient is not None:
            self._overtaken += 1
        if timeout is not None:
            self._next_timeout = min(self._next_timeout, now + timeout)
        return attempt

    def refused(self, attempt: Attempt) -> str:
        """Return why an attempt must not start: its task took too many farmers with it. Mostly the empty string.

        Such an attempt fails for the reason `lost`, whatever retries are left, unless it was told to stop before.
        """
        losses = self.state.tries_of(attempt.id).losses
        if losses <= self.rules.max_losses:
            return ""
        attempt.reason = attempt.reason or "lost"
        lost = f"its farmer or its job was lost while it ran, {plural(losses, 'time')}"
        return f"{lost}; it is not started, `taskfarmer retry` lets it run again"

    # -- ending --------------------------------------------------------------------------------------------------------

    def ended(
        self,
        id: int,
        status: int,
        now: float,
        time: float,
        usage: tuple[float, float, int],
        chance: float,
        reason: str = "",
    ) -> Ended:
        """Take in that an attempt ended, and return the record of it: its outcome is decided here.

        `status` < 0 is a signal; `time` is the wall clock's for the record; `usage` user and system seconds and KiB;
        `chance` in [0, 1) spreads retries. `reason`: why, as far as who ran it knows (`timeout`, `lost`, `nostart`;
        `ended`: by itself, so that it was told to stop too late to hear of it).
        """
        if reason == "ended":
            reason = ""
            if self.running[id].reason in (STOPPED, EVICTED):
                self.running[id].reason = ""
        if reason in ("lost", "nostart") and not self.running[id].reason:
            return self.not_started(id, now, time, reason, usage)
        attempt = self.running.pop(id)
        attempt.reason = attempt.reason or reason
        self._give(attempt.share)
        duration = max(now - attempt.began, 1e-6)
        if not attempt.reason:
            self.pace.ended(now, duration)
        outcome = self._outcome(attempt, status)
        if outcome == "ok":
            self.pace.finished(duration)
        elif outcome == "again":
            failures = self.state.tries_of(id).failures + 1
            self._delay(id, now + policy.retry_delay(self.rules, failures, chance))
        return Ended(id, attempt.number, outcome, status, time, *usage, attempt.reason or "-")

    def not_started(
        self,
        id: int,
        now: float,
        time: float,
        reason: str = "nostart",
        usage: tuple[float, float, int] = (0.0, 0.0, 0),
        pause_s: float = 1.0,
    ) -> Ended:
        """The machine could not start an announced attempt, or lost it: its task comes again in a second, at no cost.

        Return the record. `pause_s` 0: whoever asks sees to the pause; others may have it meanwhile.
        """
        attempt = self.running.pop(id)
        self._give(attempt.share)
        self._delay(id, now + pause_s)
        return Ended(id, attempt.number, "back", 0, time, *usage, reason)

    def _give(self, share: Share) -> None:
        """Take back what an attempt had: others may fit now."""
        self.resources.give(share)
        self._moves += 1
        self._stuck = False

    def _delay(self, id: int, until: float) -> None:
        """Have a task come again; not if we are leaving, or if it is no longer ours."""
        if self.mode == "work" and self._is_ours(id):
            heapq.heappush(self.delayed, (until, id))

    def _is_ours(self, id: int) -> bool:
        return self.state.owner[id] == self.number and self.state.status[id] == TAKEN

    def _outcome(self, attempt: Attempt, status: int) -> str:
        if attempt.reason in (STOPPED, EVICTED):
            return "back"  # also with status 0: who is told to end may say 0 without having done the work
        if attempt.reason == "cancelled":
            return "cancel"
        if attempt.reason == "lost":
            return "fail"
        if status == 0 and not attempt.reason:
            return "ok"
        retries = attempt.task.retries if attempt.task.retries is not None else self.rules.retries
        return "again" if self.state.tries_of(attempt.id).failures < retries else "fail"

    # -- stopping ------------------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Stop]:
        """Return the attempts that must be told to end now: their time is over, or their grace is."""
        self._now = now
        if now < self._next_timeout:
            return []
        stops = []
        for attempt in self.running.values():
            if attempt.kill_at <= now:
                attempt.kill_at = now + 1.0  # until it is gone: a process may be born while its group is killed
                stops.append(Stop(attempt.id, hard=True))
            elif not attempt.reason and attempt.timeout_s is not None and attempt.began + attempt.timeout_s <= now:
                stops.append(self.stop(attempt, "timeout", now))
        self._next_timeout = min(map(_deadline, self.running.values()), default=float("inf"))
        return stops

    @property
    def next_deadline(self) -> float:
        """When `due` or a delayed task next has something to say."""
        delayed = self.delayed[0][0] if self.delayed and self.resources.free and self.mode == "work" else float("inf")
        return min(self._next_timeout, delayed)

    def stop(self, attempt: Attempt, reason: str, now: float) -> Stop:
        """Tell one attempt to end, for `reason`: TERM now, KILL after the grace."""
        attempt.reason = reason
        attempt.kill_at = now + self.rules.stop_grace_s
        self._next_timeout = min(self._next_timeout, attempt.kill_at)
        return Stop(attempt.id, hard=False)

    def stop_all(self, now: float, *, hard: bool = False, reason: str = STOPPED) -> list[Stop]:
        """Stop everything: nothing starts any more, what runs is told to end for that reason (`hard`: at once)."""
        self.mode = "stop"
        self.queue.clear()
        self.delayed.clear()
        stops = [self.stop(a, reason, now) for a in self.running.values() if not a.reason]
        if hard:
            for attempt in self.running.values():
                attempt.kill_at = now
            self._next_timeout = now
        return stops

    def drain(self) -> list[int]:
        """Start nothing any more; what runs may end. Return what waited here, which others may have now."""
        if self.mode == "work":
            self.mode = "drain"
        back = [*self.queue, *(task for _, task in self.delayed)]
        self.queue.clear()
        self.delayed.clear()
        return back

    def came_back(self) -> list[int]:
        """Return what the log says that this farmer has, and does not run: what came back to it while it leaves."""
        return [task for task in self.state.held_by(self.number) if task not in self.running]

    def no_longer_ours(self, now: float) -> list[Stop]:
        """After news: forget queued tasks that were taken from us, and stop what runs of them (cancelled)."""
        ours = self._is_ours
        if not all(map(ours, self.queue)):
            self.queue = deque(filter(ours, self.queue))
        if not all(ours(task) for _, task in self.delayed):
            self.delayed = [item for item in self.delayed if ours(item[1])]
            heapq.heapify(self.delayed)
        return [
            self.stop(attempt, "cancelled", now)
            for attempt in self.running.values()
            if not attempt.reason and not ours(attempt.id)
        ]

    def lets_go(self) -> bool:
        """Whether something that was cancelled does not run here (any more), which others wait to hear."""
        return any(task not in self.running for task in self.state.letting_go.get(self.number, ()))

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing runs here and nothing waits to."""
        return not (self.running or self.queue or self.delayed)

    def finished(self) -> bool:
        """Whether this farmer can leave: it was stopped and nothing runs, or nothing is left that it could ever do."""
        if not self.idle:
            return False
        if self.mode != "work":
            return True
        return self.too_late_s is not None or self.state.open_tasks() == 0 or self._only_misfits()

    def _only_misfits(self) -> bool:
        """Whether all that is open can never run with any farmer of now, or waits for such; and nobody holds any."""
        if not self.misfits.known or self.state.status.count(TAKEN) or any(True for _ in self.misfits.others()):
            return False
        claims = {farmer.claim for farmer in self.state.alive()}
        every = [Resources(claim.slots, claim.memory_bytes, claim.gpus) for claim in claims]
        return not any(_any_can(every, task) for task in self.misfits.kinds_left())


def _any_can(every: list[Resources], task: Task) -> bool:
    return any(not has.never(task) for has in every)


def _deadline(attempt: Attempt) -> float:
    timeout = attempt.timeout_s if attempt.timeout_s is not None and not attempt.reason else float("inf")
    return min(attempt.kill_at, attempt.began + timeout)
