"""The loop of a farmer: start what fits, wait for one event, record it, decide; until nothing is left to do.

Deciding is `core.plan`; acting is an executor; `Agreement` deals with the log. What is here is the order of things:

* an attempt is announced in the journal, with one `write()` a turn, before it is started;
* what is written about tasks is written before anybody acts on it;
* whatever is slow (looking at the log, heartbeats, syncs, views) has its own pace in `upkeep.Pace`.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..core import records
from ..core.plan import Attempt, Plan, Stop
from ..core.records import EVICTED, STOPPED, Ended, Started
from ..core.resources import JobSlots, Resources
from ..errors import Damaged, Replaced, WorkdirError
from . import host, leftovers
from .agreement import Agreement
from .allocation import SETTLE_S, Allocation, span
from .disk import Disk, chance
from .doubt import Doubts
from .executors import Executor, Exit, Launch, StartError
from .guardian import Link
from .joining import Joining, await_directories, mend_directories
from .journal import Journal
from .ledger import Ledger
from .options import FarmConfig, FarmerOptions
from .ports import Reporter, Views
from .upkeep import Heart, Job, Pace, Undertaker
from .views import refresh_views

SOON_S = 2.0
"""Grace of a stop up to which nothing is given back before this farmer leaves, which frees all."""
SAID_AGAIN_S = 30.0
"""How often the same trouble is said."""
VIEWS_S = 0.1
"""How long the loop may be away for the views."""


class Driver:
    """One life of one farmer."""

    def __init__(
        self,
        ledger: Ledger,
        config: FarmConfig,
        options: FarmerOptions,
        *,
        id: str,
        link: Link,
        executor: Executor,
        reporter: Reporter,
        views: Views,
        allocation: Allocation | None = None,
    ) -> None:
        self.ledger = ledger
        self.config = config
        self.options = options
        self.id = id
        self.link = link
        self.executor = executor
        self.reporter = reporter
        self.views = views
        self.allocation = allocation or Allocation()
        self.disk: Disk = ledger.disk
        self.problem = ""
        self.clock = ledger.clock
        self._clock = self.clock.monotonic
        self._signals: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe()
        self._undertaker = Undertaker(ledger, id, config.heartbeat_s, config.lease_s, reporter.say)
        self._announced: list[Attempt] = []
        self._doubts = Doubts()
        self._hold_until = 0.0
        self._said: dict[str, float] = {}
        self._guardian_mourned = False
        self._stays = False
        """Whether it starts nothing any more, and may be here for a while."""

    @property
    def has_joined(self) -> bool:
        """Whether it has begun its life in the log."""
        return self.id in self.ledger.state.index

    # -- a life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Join the farm, work until nothing is left that this farmer could do, or until it is stopped, and leave."""
        self._listen()
        try:
            if self._join():
                while not self._has_finished():
                    self._turn()
                self._leave()
        finally:
            self._stop_listening()
            self.executor.close()
            self.allocation.close()

    def _turn(self) -> None:
        """One round of the loop."""
        busy = self._reap()
        with self._patience():
            self.act(self.plan.due(self._clock()))
            if self._pace.next <= self._clock():
                self._pace.run(self._clock)
            if self._signals or min(self._deadline, self.plan.until) <= self._clock() or self.link.gone:
                self._obey()
            if self._hold_until <= self._clock():  # else it would take ever more, and start nothing
                self.agreement.catch_up()
                self.agreement.take()
        try:
            busy = self._start() or busy
        except (WorkdirError, Damaged) as error:  # a task's text that cannot be reached now, or not be read
            self._hold_or_end(error)
        if not busy:
            self._wait()

    def _has_finished(self) -> bool:
        with self._patience():
            if self.plan.finished():
                return True
        return False

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """What cannot be read or written now is said, and tried again: it costs no farmer and no task.

        Not around what takes in an end or starts a task: that must not be done twice.
        """
        try:
            yield
        except Replaced as error:
            self.agreement.give_up(str(error))
        except (WorkdirError, Damaged) as error:
            self._hold_or_end(error)
        except OSError as error:
            self.hold(f"{error.filename or 'the workdir'} cannot be used now: {error.strerror}")

    def _hold_or_end(self, error: WorkdirError | Damaged) -> None:
        """What is damaged stays so, and ends this farmer; but not while something runs, whose end is to be kept."""
        if isinstance(error, Damaged) and not self.plan.running:
            raise error
        self.hold(str(error))

    # -- listening -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """From here on signals are events of the loop."""
        for fd in (self._wake_r, self._wake_w):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, lambda n, _frame: self._signals.append(n))
        signal.signal(signal.SIGCHLD, lambda _n, _frame: None)
        host.signal_at_parents_death(0)  # from here on the pipe says so
        self._selector.register(self._wake_r, selectors.EVENT_READ, self._drain_wakes)
        self._selector.register(self.link.fd, selectors.EVENT_READ, self.link.listen)
        self.executor.attach(self._selector)

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_r, 65536)

    def _stop_listening(self) -> None:
        signal.set_wakeup_fd(-1)

    # -- joining -------------------------------------------------------------------------------------------------------

    def _join(self) -> bool:
        """Begin this life; False when other farmers on the host leave nothing to this one."""
        workdir = self.ledger.workdir
        mend_directories(workdir, self.disk)
        await_directories(workdir, self.clock, self._is_over)
        if self._is_over():
            return False
        self._undertaker.bury_the_gone()
        self.journal = Journal(workdir.journals / self.id, self.id, self.disk)
        self._heart = Heart(workdir.alive / self.id, self.disk, self.clock)
        joining = Joining(
            self.ledger, self.options, self.reporter, self._undertaker,
            id=self.id, place=self._place(), is_over=self._is_over, tell=self._tell,
        )  # fmt: skip
        if not joining.join(self._heart):
            self._withdraw()
            return False
        self._begin()
        self._beat()
        now = self._clock()
        self._deadline = now + self.options.limit_s if self.options.limit_s is not None else float("inf")
        self._pace = self._own_pace(now)
        self._mind_the_end()
        self.agreement.mind_failures()
        return True

    def _is_over(self) -> bool:
        """Whether this life ends before it has begun."""
        self.link.listen()
        return bool(self._signals) or self.link.gone

    def _place(self) -> dict[str, Any]:
        return host.here(self.link.guardian).to_json()

    def _tell(self, text: str) -> None:
        """Say it for all loops of this farmer."""
        if text and not self.options.place:
            self.reporter.say(text)

    def _withdraw(self) -> None:
        """Leave nothing behind of a life that has not begun."""
        self.journal.close()
        with suppress(OSError):
            self._heart.end()
            self.disk.remove(str(self.ledger.workdir.journals / self.id))

    def _begin(self) -> None:
        """Make up a mind about what the log says that this farmer has."""
        state, segments = self.ledger.state, self.ledger.segments
        has = state.farmer(self.id).claim
        if self.config.pin:
            host.keep_to(has.cpus)
        self.number = state.index[self.id]
        self.plan = Plan(
            state,
            self.number,
            self.config.rules,
            JobSlots(has.slots) if self.options.elsewhere else Resources(has.slots, has.memory_bytes, has.gpus),
            segments.task,
            segments.is_special,
        )
        self.plan.keeps_time = not self.executor.keeps_time
        self.agreement = Agreement(self.ledger, self.id, self.plan, self.journal, self)
        self.link.say(f"lease {self.config.lease_s} {self._heart.confirmed}")

    def _own_pace(self, now: float) -> Pace:
        """Return what is done every so often, whatever else happens."""
        return Pace(
            [
                Job(lambda: self.plan.look_every_s(self._clock()) / 2, self.agreement.look_again),
                Job(lambda: self.config.heartbeat_s, self._beat),
                Job(lambda: min(5.0, self.config.heartbeat_s), self._watch),
                Job(lambda: 1.0, self._bury_the_gone),
                Job(lambda: 1.0, self._sync),
                Job(self.agreement.publish_every_s, self.agreement.publish_again),
                Job(lambda: 0.5, self._show),
                Job(lambda: 1.0, self._mind_the_end),
                Job(lambda: 1.0, self._retire),
            ],
            now,
        )

    # -- recording what ended ------------------------------------------------------------------------------------------

    def _reap(self) -> bool:
        """Record the attempts that ended."""
        reaped = self.executor.reap()
        stopping = next((self._reason(number) for number in self._signals if number != signal.SIGUSR2), "")
        ends = self._doubts.judged(reaped, self.plan.running, self._clock(), stopping=stopping)
        if self.executor.trouble and self.plan.mode == "work":
            self.reporter.warn(self.executor.trouble)
            self._drain()
        if not ends:
            return False
        now, wall = self._clock(), self.clock.wall()
        for end in ends:
            self._record_end(end, now, wall)
        self._write()
        self.agreement.mind_failures()
        return True

    def _record_end(self, end: Exit, now: float, wall: float) -> None:
        attempt = self.plan.running[end.id]
        usage = (end.user_s, end.system_s, end.rss_kib)
        if end.start:
            self._record_start(attempt, end.start)
        record = self.plan.ended(end.id, end.status, now, end.end or wall, usage, chance(), end.reason)
        self._record(attempt, record)
        if attempt.reason and self.plan.mode != "stop":
            self._kill_remains(attempt)

    def _record_start(self, attempt: Attempt, wall: float) -> None:
        """Announce it; or say once more when it began, since it waited in a queue: the last word counts."""
        record = Started(attempt.id, attempt.number, attempt.share.slots[0], wall)
        self.journal.append(records.started(record.id, record.attempt, record.slot, record.time))
        self.ledger.state.observe(self.id, (record,), 0)

    def note(self, text: str) -> bool:
        """Write a note into the journal; return whether it stands there, and what was given to this farmer still is its
        own as far as one can tell: others may have taken it for dead meanwhile.
        """
        if not self.agreement.knows_the_log():
            return False
        self.journal.append(f"N {text}")
        return self._write()

    def _record(self, attempt: Attempt, record: Ended) -> None:
        self.journal.append(records.ended(record))
        self.ledger.state.observe(self.id, (record,), 0)
        if record.outcome == "fail":
            self.agreement.note_failure()
        self.reporter.ended(attempt, record)

    def _write(self) -> bool:
        """Write the journal; a disk that does not take it is said once, and holds new starts back."""
        written = self.journal.flush()
        if written and self.problem:
            self._read_own_tail()
        elif written:
            self.ledger.state.observe(self.id, (), self.journal.length)
        if not written and not self.problem:
            self.problem = f"the journal cannot be written ({self.journal.problem}); nothing is started until it can"
            self.reporter.warn(self.problem)
        elif written and self.problem:
            self.problem = ""
            self.reporter.warn("the journal can be written again")
        return written

    def _read_own_tail(self) -> None:
        """Take in what could not be written before: the state may have been made anew while it was in memory."""
        try:
            self.ledger.read_tail(self.id)
        except OSError:
            self.ledger.state.stale = True  # so it is made anew when the journal can be read

    # -- being told ----------------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Do as signals, the time that is left, and the guardian say."""
        now = self._clock()
        if self._signals:
            self._doubts.told(self.plan.running, now, self._reason(self._signals[0]))
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGUSR2:
                self.drain("draining")
            else:
                again = self.plan.mode == "stop" and number == signal.SIGINT and not self._is_told_by_batch(number)
                if again or self.plan.mode != "stop":  # a batch system signals the guardian and the loop
                    name = signal.Signals(number).name
                    reason = self._reason(number)
                    self.stop(f"stopped by {name}", hard=again, wished=number != signal.SIGHUP, reason=reason)
        if self._deadline <= now:
            self._deadline = float("inf")
            self.stop("the time limit is reached")
        if self.plan.until <= now:
            self._stop_at_the_end()
        if self.link.gone and not self._guardian_mourned:
            self._guardian_mourned = True
            self.stop("the guardian is gone", hard=True, wished=False)
            host.kill_descendants(2.0, reap=lambda: None)

    def _stop_at_the_end(self) -> None:
        """Rather than have the batch system kill them, stop the tasks that the end of the allocation catches."""
        self.plan.until = float("inf")
        if self.plan.mode == "stop":
            return
        left_s = self.allocation.left_s(self._clock(), self.clock.wall())
        why = f"the allocation ends in {span(left_s)}: what runs is stopped, to be done again"
        if self.plan.running and not self.plan.pace.typical_s:
            why += "; nothing could finish in it, ask for more time"
        self.stop(why, wished=False, reason=self._reason())

    def _reason(self, number: int = signal.SIGTERM) -> str:
        """Return why attempts end when this farmer is sent a signal, or its time is over: those of a batch job's farmer
        lose their place with it, unless they are jobs themselves.
        """
        return EVICTED if self._is_told_by_batch(number) and not self.options.elsewhere else STOPPED

    def _is_told_by_batch(self, number: int) -> bool:
        """Whether the batch system sends this signal, perhaps to each process of the job (LSF: INT, too), so that it
        comes twice, once from the guardian: in a job anything but Ctrl-C at a terminal.
        """
        return bool(self.options.job) and not (number == signal.SIGINT and host.is_at_terminal(self.link.guardian))

    def stop(self, why: str, *, hard: bool = False, wished: bool = True, reason: str = STOPPED) -> None:
        """Tell all attempts to end. `hard`: without a grace. `wished`: somebody wants that, not only this farmer."""
        if wished:
            self.reporter.say(why)
        else:
            self.reporter.warn(why)
            self.executor.let_go()
        back = self.plan.drain()
        self.act(self.plan.stop_all(self._clock(), hard=hard, reason=reason))
        self._stays = wished and self.config.rules.stop_grace_s > SOON_S
        if self._stays and self.plan.running:
            self.agreement.retire(back)
        if hard:
            self.act(self.plan.due(self._clock()))

    def drain(self, why: str) -> None:
        """Start nothing any more; what runs may end."""
        self.reporter.say(f"{why}: nothing new is started")
        self._drain()

    def _drain(self) -> None:
        self._stays = True
        self.agreement.retire(self.plan.drain())

    def _retire(self) -> None:
        """While what runs here may last for long, others may have what has come back since, to be done again."""
        if self._stays:
            self.agreement.give_back(self.plan.came_back())

    def act(self, stops: list[Stop]) -> None:
        """Tell these attempts to end."""
        for stop in stops:
            self.executor.signal(stop.id, signal.SIGKILL if stop.hard else signal.SIGTERM)
            if stop.hard and (attempt := self.plan.running.get(stop.id)) is not None:
                self._kill_remains(attempt)

    def _kill_remains(self, attempt: Attempt) -> None:
        """What an attempt that was told to end left behind in sessions of its own ends too."""
        for pid in host.of_attempt(self.id, attempt.id, attempt.number):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def hold(self, why: str, seconds: float = 1.0) -> None:
        """Start nothing for so long; say why, if it was not said in the last half minute."""
        now = self._clock()
        if self._said.get(why, float("-inf")) <= now - SAID_AGAIN_S:
            self._said[why] = now
            self.reporter.warn(why)
        self._hold_until = max(self._hold_until, now + seconds)
        self.plan.held = True

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Announce and start what fits."""
        now = self._clock()
        self.plan.end_pauses(now)
        if self._announced and self.plan.mode != "work":
            self._take_back(self._announced)
        self.plan.held = now < self._hold_until
        if self.plan.held or (self.journal.stuck and not self._write()):
            return False
        if not self.agreement.is_settled() or self.agreement.is_out_of_date():
            return False
        while (attempt := self.plan.next_start(now)) is not None:
            self._announced.append(attempt)
            self._record_start(attempt, self.clock.wall())
        if not self._announced or not self._write():
            return False
        while self._announced:
            if self.agreement.is_out_of_date() or not self._launch(self._announced[0]):
                self._take_back(self._announced)
            else:
                del self._announced[0]
        return True

    def _take_back(self, attempts: list[Attempt]) -> None:
        """What was announced is not started: the machine cannot, or we were told to stop."""
        for attempt in attempts:
            self._record(attempt, self.plan.not_started(attempt.id, self._clock(), self.clock.wall(), pause_s=0.0))
        attempts.clear()
        self._write()

    def _launch(self, attempt: Attempt) -> bool:
        """Start one attempt; False when the machine cannot start any now."""
        launch = Launch(attempt.id, attempt.number, attempt.task, attempt.share)
        if not self.executor.holds(launch) and (why := self.plan.refused(attempt)):
            self._end_unstarted(attempt, 126, why)
            return True
        attempt.began = self._clock()
        try:
            self.executor.start(launch)
        except StartError as error:
            if error.retryable:
                self.hold(f"tasks cannot be started now ({error}); it is tried again")
                mend_directories(self.ledger.workdir, self.disk)
                return False
            self._end_unstarted(attempt, error.status, str(error))
            return True
        self.reporter.started(attempt)
        if attempt.reason:  # it was told to end between announcement and start
            self.act([Stop(attempt.id, hard=False)])
        return True

    def _end_unstarted(self, attempt: Attempt, status: int, why: str) -> None:
        self.reporter.say(f"task {attempt.id}: {why}")
        self._record_end(Exit(attempt.id, status), self._clock(), self.clock.wall())
        self._write()
        self.agreement.mind_failures()

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        until = min(self._pace.next, self.plan.next_deadline, self._deadline, self.plan.until, self._doubts.next)
        with self._patience():
            until = min(until, self.agreement.idle_until())
        if self._hold_until > self._clock():
            until = min(until, self._hold_until)
        self.clock.wait(self._selector, max(0.0, until - self._clock()))

    # -- what has its own pace -----------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Renew the heartbeat; tell the guardian when it stands on the disk."""
        try:
            self._heart.beat()
            if self._heart.unconfirmed_s() > self.config.heartbeat_s:
                self._heart.beat()  # that took so long that others wait for the next one already
        except OSError as error:
            self.hold(f"the heartbeat cannot be written: {error.strerror}", 0.0)
        else:
            self.link.say(f"beat {self._heart.confirmed}")

    def _watch(self) -> None:
        """Are the others alive? Is our own heartbeat confirmed?"""
        if self._heart.unconfirmed_s() > self.config.lease_s / 2 and self.plan.mode != "stop":
            self.stop("no heartbeat could be confirmed for half of the lease", wished=False)
        self._undertaker.watch()
        if self._undertaker.is_first():
            self._undertaker.forget_old_entries()
        self.agreement.heed_what_is_new()  # a burial reads what others wrote meanwhile

    def _bury_the_gone(self) -> None:
        """On this machine one sees who is dead, and takes over at once."""
        self._undertaker.bury_the_gone()
        self.agreement.heed_what_is_new()

    def _sync(self) -> None:
        try:
            self.journal.sync()
            self.ledger.log.sync()
        except OSError as error:
            self.hold(f"the ledger cannot be synced: {error.strerror}", 0.0)
        if self.journal.stuck:
            self._write()

    def _show(self) -> None:
        self.reporter.progress(self.ledger.state, self.plan.pace.rate)
        if self._undertaker.is_first() and self.views.due(self._clock()):
            self._update_views(VIEWS_S)

    def _update_views(self, budget_s: float) -> None:
        self.views.update(self.id, budget_s=budget_s)
        if self.views.problem:
            self.hold(f"the views cannot be written: {self.views.problem}", 0.0)

    def _mind_the_end(self) -> None:
        """See how much of the allocation is left, and give back what cannot end in that time."""
        now = self._clock()
        left_s = self.allocation.left_s(now, self.clock.wall())
        self._tell(self.allocation.news())
        if self.plan.mode != "stop":
            self.plan.until = now + left_s - self.config.rules.stop_grace_s - SETTLE_S
            self.agreement.give_back(self.plan.set_aside(now))

    # -- leaving -------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Write what is left to write, free what is held, and say why."""
        deadline = self._clock() + max(10.0, self.config.rules.stop_grace_s)
        while not self._write() and self._clock() < deadline:
            self.clock.sleep(0.2)
        if not self.ledger.state.farmer(self.id).ended and not self.journal.stuck:
            self._sync()
            self._undertaker.bury_the_gone()  # then nobody is left whose views would be waited for
            done = "done" if self.plan.too_late_s is None else "out of time"
            why = done if self.plan.mode == "work" else self.plan.mode
            self.agreement.leave(why)
        if (left := leftovers.too_large(self.plan)) and not self.leaves_to_all_loops():
            self.reporter.say(left)
        self._tell(leftovers.too_long(self.plan, self._clock()))
        with suppress(OSError):
            self._heart.end()
            self.ledger.log.sync()
        self.journal.close()
        if not self.agreement.replaced:
            self._finish_views()
        self.reporter.progress(self.ledger.state, self.plan.pace.rate)

    def _finish_views(self) -> None:
        """The last to leave makes the views exact. Who is alive by the log may be dead; so who may be the last does so.

        Nobody else: for eight farmers with short tasks that was a third of all their work.
        """
        if not self.ledger.state.alive():
            self._update_views(float("inf"))
        elif not self.ledger.state.open_tasks() and self._undertaker.may_be_last():
            refresh_views(self.ledger)
        self.views.close()

    def leaves_to_all_loops(self) -> bool:
        """Whether something is left that this loop may be too small for, and all loops of its farmer together not."""
        return self.has_joined and leftovers.leaves_to_all_loops(self.ledger, self.plan, self.options)
