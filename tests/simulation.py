"""Many farmers on one directory in simulated time: the real loop, plan, ledger, heart and undertaker, faked tasks.

Each farmer is a thread, of which exactly one runs at a time; whoever waits hands over to the one that is due next, and
the clock jumps there. So a minute of a thousand farmers takes as long as what they compute. Pauses have
chance in them, so two runs differ a little. Operations on the directory take time and are counted. What is faked:
tasks (they last as long as they are told to), signals, views, and that entries of the log, which never change, are
parsed once for all farmers. What farmers compute takes no simulated time. `figures.py` says what came of it.
"""

from __future__ import annotations

import heapq
import itertools
import os
import signal
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from selectors import BaseSelector
from typing import Any

from taskfarmer.core.entries import Entry, Snapshot, Stop
from taskfarmer.core.model import Task, TaskId, encode_task
from taskfarmer.core.plan import Attempt
from taskfarmer.core.policy import Rules
from taskfarmer.core.records import Ended
from taskfarmer.core.state import State
from taskfarmer.definitions import Definition
from taskfarmer.farm.clock import Clock
from taskfarmer.farm.create import open_or_create
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.driver import Driver
from taskfarmer.farm.executors import Exit, Launch, StartError
from taskfarmer.farm.guardian import Link
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.log import Draft, Log
from taskfarmer.farm.options import FarmConfig, FarmerOptions
from taskfarmer.farm.workdir import Workdir

EPOCH = 1_700_000_000.0
_MOST_DEBT_S = 0.02
"""A farmer that only looks hands over when its looks add up to this: a switch of threads costs more than a look."""
_STACK_BYTES = 512 << 10
_MOST_S = 20_000.0
"""No simulation lasts that long: it would never end."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A task that lasts for so many seconds; the first `fails` attempts fail. The rest as in `core.model.Task`.

    `deaf`: it goes on when it is told to end, until it is killed.
    """

    seconds: float
    cpus: int = 1
    gpus: int = 0
    memory_bytes: int = 0
    after: tuple[int, ...] = ()
    fails: int = 0
    deaf: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A farmer's host, all its own, and what happens there; times in seconds of the simulation.

    `at`: when it joins. `drained_at`, `stopped_at`: when a command says so. `killed_at`: when it is gone. From the
    first until the second of `cannot_start` nothing can be started there.
    """

    at: float = 0.0
    slots: int = 1
    gpus: int = 0
    memory_bytes: int | None = None
    drained_at: float = NEVER
    stopped_at: float = NEVER
    killed_at: float = NEVER
    cannot_start: tuple[float, float] = (NEVER, NEVER)


class Killed(BaseException):
    """A simulated farmer dies here: nothing of it runs any more."""


class _Fiber:
    """A thread that runs only while it has the baton."""

    def __init__(self, body: Callable[[], None]) -> None:
        self.body = body
        self.go = threading.Lock()
        self.go.acquire()
        self.debt_s = 0.0
        self.killed = False
        self.thread: threading.Thread | None = None


class World:
    """Simulated time in seconds, and those who live in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.failure: BaseException | None = None
        self._due: list[tuple[float, int, _Fiber]] = []
        self._order = itertools.count()
        self._current: _Fiber | None = None
        self._over = threading.Lock()
        self._all: list[_Fiber] = []

    @property
    def time(self) -> float:
        """The time for whoever runs: what it did since it had the baton counts."""
        return self.now + (self._current.debt_s if self._current is not None else 0.0)

    def spawn(self, body: Callable[[], None], at: float = 0.0) -> _Fiber:
        """Have `body` run from `at` on."""
        fiber = _Fiber(body)
        self._all.append(fiber)
        heapq.heappush(self._due, (at, next(self._order), fiber))
        return fiber

    def run(self) -> None:
        """Return when everybody has ended.

        Raises:
            BaseException: what the first of them raised that failed.
        """
        self._over.acquire()
        before = threading.stack_size(_STACK_BYTES)
        try:
            self._pass_on()
            self._over.acquire()
        finally:
            threading.stack_size(before)
        if self.failure is not None:
            raise self.failure

    def kill(self, fiber: _Fiber) -> None:
        """Have a farmer die where it waits."""
        fiber.killed = True

    def spend(self, seconds: float, *, settle: bool = False) -> None:
        """Whoever runs was busy for so long; `settle`: what comes next must come in its place among the others."""
        me = self._me()
        me.debt_s += seconds
        if settle or me.debt_s > _MOST_DEBT_S:
            self.sleep_until(self.now + me.debt_s)

    def sleep_until(self, at: float) -> None:
        """Hand over until `at`."""
        me = self._me()
        at, me.debt_s = max(at, self.now + me.debt_s), 0.0
        if self._due and self._due[0][0] <= at:
            heapq.heappush(self._due, (at, next(self._order), me))
            self._pass_on()
            me.go.acquire()
        else:
            self.now = at
        if self.now > _MOST_S:
            raise RuntimeError(f"not over after {self.now:.0f} s")
        if me.killed:
            raise Killed

    def _me(self) -> _Fiber:
        me = self._current
        assert me is not None, "only who lives in the world spends time"
        if me.killed:
            raise Killed
        return me

    def _pass_on(self) -> None:
        if not self._due:
            self._over.release()
            return
        at, _, fiber = heapq.heappop(self._due)
        self.now = max(self.now, at)
        self._current = fiber
        if fiber.thread is None:
            fiber.thread = threading.Thread(target=self._live, args=(fiber,), daemon=True)
            fiber.thread.start()
        else:
            fiber.go.release()

    def _live(self, fiber: _Fiber) -> None:
        try:
            fiber.body()
        except Killed:
            pass
        except BaseException as error:
            self.failure = self.failure or error
            for other in self._all:
                other.killed = True
        self._pass_on()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """How long operations take, in seconds, and how long what others did stays hidden.

    `look_s`: reading a small file, or its size; `list_s`: a directory; `change_s`: a name is made, linked or removed;
    `sync_s`: what was written is on the disk. A write stays in memory, and takes no time.
    """

    look_s: float = 0.000_02
    list_s: float = 0.000_05
    change_s: float = 0.000_03
    sync_s: float = 0.001
    hidden_s: float = 0.0


LOCAL = FileSystem()
NFS = FileSystem(look_s=0.001, list_s=0.002, change_s=0.001, sync_s=0.003, hidden_s=0.5)


@dataclass(slots=True)
class Trace:
    """What happened on the directory: operations by kind, by farmer and by second; when entries were published.

    `kinds` has `KIND PLACE`, such as `read log`; `begun` (time, task, farmer), `ended` the same and the exit status, or
    minus a signal. `saves` (time, farmer, whether it leaves slots empty from now on for a task that has waited long
    enough, as PATIENCE has it).
    """

    kinds: Counter[str] = field(default_factory=Counter)
    seconds: Counter[int] = field(default_factory=Counter)
    farmers: Counter[int] = field(default_factory=Counter)
    entries: list[tuple[float, Entry]] = field(default_factory=list)
    begun: list[tuple[float, int, int]] = field(default_factory=list)
    ended: list[tuple[float, int, int, int]] = field(default_factory=list)
    saves: list[tuple[float, int, bool]] = field(default_factory=list)
    said: list[tuple[float, int, str]] = field(default_factory=list)


@dataclass(slots=True)
class Shared:
    """What all farmers of a simulation share: the world, the file system, the trace."""

    world: World
    file_system: FileSystem
    trace: Trace = field(default_factory=Trace)
    grown: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    """By journal: when it had which length."""
    forgotten: int = 0
    """Entries below that number were removed from the log."""
    failed: Counter[int] = field(default_factory=Counter)
    """By task: its attempts that failed."""


class SimulatedClock(Clock):
    """A farmer's clock. `next_event` is when one of its tasks ends."""

    def __init__(self, world: World, next_event: Callable[[], float] = lambda: float("inf")) -> None:
        self._world = world
        self._next_event = next_event

    def monotonic(self) -> float:
        return self._world.time

    def boottime(self) -> float:
        return self._world.time

    def wall(self) -> float:
        return EPOCH + self._world.time

    def sleep(self, seconds: float) -> None:
        self._world.sleep_until(self._world.time + seconds)

    def wait(self, selector: BaseSelector, seconds: float) -> None:
        self._world.sleep_until(max(self._world.time, min(self._world.time + seconds, self._next_event())))


class SimulatedDisk(Disk):
    """The directory as one farmer (its number, from 0) has it: operations are counted and take time."""

    def __init__(self, shared: Shared, farmer: int) -> None:
        super().__init__(self._changes)
        self._shared = shared
        self.farmer = farmer
        self._paths: dict[int, str] = {}

    def count(self, kind: str, place: str, seconds: float, *, settle: bool = False) -> None:
        """Count one operation and let its time pass."""
        shared = self._shared
        shared.world.spend(seconds, settle=settle)
        shared.trace.kinds[f"{kind} {place}"] += 1
        if kind != "write":
            shared.trace.farmers[self.farmer] += 1
            shared.trace.seconds[int(shared.world.time)] += 1

    def _changes(self, operation: str, what: str) -> None:
        costs = self._shared.file_system
        if operation == "write":
            self.count(operation, "", 0.0)
        elif operation == "sync":
            self.count(operation, "", costs.sync_s)
        else:
            self.count(operation, _place(what), costs.change_s, settle=operation == "link")

    def create(self, path: str, flags: int = 0) -> int:
        fd = super().create(path, flags)
        self._paths[fd] = path
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        written = super().write(fd, data)
        if (path := self._paths[fd]).endswith(_JOURNAL_OF % self.farmer):
            grown = self._shared.grown.setdefault(path, [(0.0, 0)])
            grown.append((self._shared.world.time, grown[-1][1] + written))
        return written

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        costs = self._shared.file_system
        self.count("read", _place(path), costs.look_s)
        if (grown := self._shared.grown.get(path)) is not None and not path.endswith(_JOURNAL_OF % self.farmer):
            seen = bisect_right(grown, self._shared.world.time - costs.hidden_s, key=lambda at: at[0])
            length = grown[max(0, seen - 1)][1]
            end = length if end is None else min(end, length)
        return super().read(path, start, end)

    def names(self, path: str) -> list[str]:
        self.count("list", path.rpartition("/")[2], self._shared.file_system.list_s)
        return super().names(path)

    def size(self, path: str) -> int:
        self.count("stat", _place(path), self._shared.file_system.look_s)
        return super().size(path)


_JOURNAL_OF = "/journal/%016x"


def _place(path: str) -> str:
    return path.rsplit("/", 2)[-2]


TOLD = 8
"""Entries that one has with it: of some 300 bytes, in 3,000."""


class SharedLog(Log):
    """The log, each entry parsed once for all; names that others made stay hidden for a while."""

    def __init__(self, workdir: Workdir, shared: Shared, disk: SimulatedDisk, clock: Clock) -> None:
        super().__init__(workdir.log, workdir.new, disk, clock)
        self._shared = shared
        self._simulated = disk
        self.farmer = disk.farmer
        self._mine = 0
        self._reaches = 0
        """The first entry of which the one that was read last tells."""
        self._fresh_at = 0.0

    def last(self) -> int:
        costs = self._shared.file_system
        self._simulated.count("list", "log", costs.list_s)
        entries = self._shared.trace.entries
        until = max(self._shared.world.time - costs.hidden_s, self._fresh_at)
        return max(bisect_right(entries, until, key=lambda entry: entry[0]), self._mine)

    def read(self, number: int) -> Entry:
        entries = self._shared.trace.entries
        if not self._shared.forgotten <= number <= len(entries):
            raise FileNotFoundError(self.path(number))
        self._mine = max(self._mine, number)
        self._simulated.count("read", "log", self._shared.file_system.look_s)
        return entries[number - 1][1]

    def back_from(self, last: int) -> Iterator[tuple[int, Entry]]:
        told = 0
        for number in range(last, 0, -1):
            known = self._shared.forgotten <= number <= len(self._shared.trace.entries)
            entry = self._shared.trace.entries[number - 1][1] if told and known else None
            if entry is None or isinstance(entry.body, Snapshot):
                entry, told = self.read(number), TOLD + 1
                self._reaches = number - TOLD
            told -= 1
            yield number, entry

    def told_nonce(self, number: int) -> str | None:
        entries = self._shared.trace.entries
        tells = self._reaches <= number <= len(entries) and not isinstance(entries[number - 1][1].body, Snapshot)
        return entries[number - 1][1].nonce if tells else None

    def forget_before(self, number: int) -> None:
        self._shared.forgotten = max(self._shared.forgotten, number)
        super().forget_before(number)

    def give(self, number: int, draft: Draft) -> bool:
        won = super().give(number, draft)
        self._mine = max(self._mine, number)
        return won

    def _by_link(self, number: int, draft: Draft) -> bool:
        won = super()._by_link(number, draft)
        self._fresh_at = self._shared.world.now  # the answer says that the directory has changed
        if won:
            entries = self._shared.trace.entries
            assert len(entries) == number - 1
            entries.append((self._shared.world.time, draft.entry))
        return won


class FakeTasks:
    """An executor whose attempts do what `tasks` say, on a host of theirs."""

    keeps_time = False
    trouble = ""

    def __init__(self, shared: Shared, farmer: int, tasks: Sequence[Work], host: Host) -> None:
        self._world = shared.world
        self._trace = shared.trace
        self._failed = shared.failed
        self._farmer = farmer
        self._tasks = tasks
        self._host = host
        self._ends: list[tuple[float, int]] = []
        self._killed: dict[int, int] = {}

    def next_end(self) -> float:
        """Return when the next attempt ends, infinite for none."""
        return self._ends[0][0] if self._ends else float("inf")

    def attach(self, selector: BaseSelector) -> None:
        """Nothing but time wakes it."""

    def start(self, launch: Launch) -> None:
        """Start an attempt."""
        now = self._world.time
        since, until = self._host.cannot_start
        if since <= now < until:
            raise StartError("no more processes", retryable=True)
        heapq.heappush(self._ends, (now + self._tasks[launch.id].seconds, launch.id))
        self._trace.begun.append((now, launch.id, self._farmer))

    def reap(self) -> Iterable[Exit]:
        """Return those whose time is over."""
        found = []
        while self._ends and self._ends[0][0] <= self._world.time:
            _, id = heapq.heappop(self._ends)
            status = self._killed.pop(id, 0) or int(self._failed[id] < self._tasks[id].fails)
            self._failed[id] += status > 0
            self._trace.ended.append((self._world.time, id, self._farmer, status))
            found.append(Exit(id, status))
        return found

    def signal(self, id: int, number: int) -> None:
        """End an attempt now, unless it does not listen."""
        if self._tasks[id].deaf and number != signal.SIGKILL:
            return
        self._ends = [(end if task != id else self._world.time, task) for end, task in self._ends]
        heapq.heapify(self._ends)
        self._killed[id] = -number

    def holds(self, launch: Launch) -> bool:
        """Nothing outlives a farmer."""
        return False

    def let_go(self) -> None:
        """The same."""

    def close(self) -> None:
        """There is nothing to close."""


class _Reporter:
    """Keeps what is said."""

    def __init__(self, shared: Shared, farmer: int) -> None:
        self._shared = shared
        self._farmer = farmer

    def say(self, text: str) -> None:
        self._shared.trace.said.append((self._shared.world.time, self._farmer, text))

    warn = say

    def started(self, attempt: Attempt) -> None:
        pass

    def ended(self, attempt: Attempt, end: Ended) -> None:
        pass

    def progress(self, state: State, rate: float) -> None:
        pass


class _NoViews:
    """Views are for people."""

    problem = ""

    def due(self, now_s: float) -> bool:
        return False

    def update(self, besides: str = "", *, budget_s: float = 0.0) -> bool:
        return True

    def close(self) -> None:
        pass


class SimulatedDriver(Driver):
    """The loop, on a machine of its own, without signals and views; it writes into `saves` of the trace."""

    saves: Callable[[bool], None]
    _saved = False

    def _start(self) -> bool:
        started = super()._start()
        saves = self.plan.saves_slots_for() is not None
        if saves != self._saved:
            self._saved = saves
            self.saves(saves)
        return started

    def _listen(self) -> None:
        pass

    def _stop_listening(self) -> None:
        pass

    def _place(self) -> dict[str, Any]:
        number = int(self.id, 16)
        place = {"host": f"node{number}", "boot": f"boot {number}", "pid_namespace": 1, "pid": 2, "start": 1}
        return {**place, "guardian": 1, "guardian_start": 1}

    def _finish_views(self) -> None:
        pass

    def let_go(self) -> None:
        """Close what a process has open when it ends."""
        self._selector.close()
        for fd in (self._wake_r, self._wake_w):
            os.close(fd)


class Simulation:
    """A farm of these tasks in an empty directory."""

    def __init__(
        self,
        path: Path,
        tasks: Sequence[Work],
        *,
        file_system: FileSystem = LOCAL,
        rules: Rules | None = None,
        lease_s: float = 300.0,
        heartbeat_s: float = 15.0,
    ) -> None:
        self.tasks = tasks
        self.hosts: dict[int, Host] = {}
        self.rules = rules or Rules()
        self.world = World()
        self.shared = Shared(self.world, file_system)
        self.trace = self.shared.trace
        self.workdir = Workdir(path / "farm")
        self._config = FarmConfig(
            tasklist="", handler=_definition("tasklist"), runner=_definition("runner"), cwd=str(path), logs="none",
            rules=self.rules, lease_s=lease_s, heartbeat_s=heartbeat_s,
        )  # fmt: skip
        lines = [_line(number, task) for number, task in enumerate(tasks)]
        open_or_create(self.workdir.path, self._config, "", lambda _handler: lines, Disk())
        made = Log(self.workdir.log, self.workdir.new, Disk()).read(1)
        self.trace.entries.append((-1.0, made))

    def farmers(self, hosts: Iterable[Host]) -> None:
        """Have a farmer on each of these hosts, which are numbered from 0."""
        for number, host in enumerate(hosts):
            self.hosts[number] = host
            self._farmer(number, host)

    def run(self) -> None:
        """Return when all farmers have left.

        Raises:
            BaseException: what the first of them raised that failed, or that they never end.
        """
        self.world.run()

    def _farmer(self, number: int, host: Host) -> None:
        fiber = self.world.spawn(lambda: self._live(number, host), host.at)
        if host.killed_at < NEVER:
            self.world.spawn(lambda: self.world.kill(fiber), host.killed_at)
        if host.drained_at < NEVER:
            self.world.spawn(lambda: self._tell(number, "drain"), host.drained_at)
        if host.stopped_at < NEVER:
            self.world.spawn(lambda: self._tell(number, "now"), host.stopped_at)

    def _tell(self, number: int, mode: str) -> None:
        """Do what the command does that has one farmer leave."""
        id = f"{number:016x}"
        self._ledger(-1, SimulatedClock(self.world)).append(
            lambda state: (Stop(mode=mode, farmers=[id]), ()) if _is_alive(state, id) else None
        )

    def _ledger(self, farmer: int, clock: Clock) -> Ledger:
        disk = SimulatedDisk(self.shared, farmer)
        ledger = Ledger(self.workdir, disk, clock)
        ledger.log = SharedLog(self.workdir, self.shared, disk, clock)
        ledger.refresh()
        return ledger

    def _live(self, number: int, host: Host) -> None:
        tasks = FakeTasks(self.shared, number, self.tasks, host)
        clock = SimulatedClock(self.world, tasks.next_end)
        ledger = self._ledger(number, clock)
        gpus = tuple(str(gpu) for gpu in range(host.gpus))
        options = FarmerOptions(slots=host.slots, memory_bytes=host.memory_bytes, gpus=gpus)
        with _pipe() as link:
            driver = SimulatedDriver(
                ledger, self._config, options, id=f"{number:016x}", link=link, executor=tasks,
                reporter=_Reporter(self.shared, number), views=_NoViews(),
            )  # fmt: skip
            driver.saves = lambda saves: self.trace.saves.append((self.world.time, number, saves))
            try:
                driver.run()
            finally:
                driver.let_go()


def _line(number: int, task: Work) -> bytes:
    """Return the line of a task, as the table of tasks has it."""
    after = tuple(map(TaskId, task.after))
    text = f"task {number}"
    return encode_task(Task(text=text, cpus=task.cpus, gpus=task.gpus, memory_bytes=task.memory_bytes, after=after))


def _is_alive(state: State, id: str) -> bool:
    return any(farmer.id == id for farmer in state.alive())


@contextmanager
def _pipe() -> Iterator[Link]:
    """A guardian that never says anything, nor listens."""
    read_fd, write_fd = os.pipe()
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        yield Link(read_fd, sink, os.getpid())
    finally:
        for fd in (read_fd, write_fd, sink):
            os.close(fd)


def _definition(kind: Any) -> Definition:
    return Definition(kind, "simulated", "none", {}, "built in", 0)
