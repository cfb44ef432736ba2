"""Many farmers on one directory in simulated time: the real loop, plan, ledger, heart and undertaker, faked tasks.

Each farmer is a thread, of which exactly one runs at a time; whoever waits hands over to the one that is due next, and
the clock jumps there. So a minute of a thousand farmers takes as long as what they compute. Pauses have
chance in them, so two runs differ a little. Operations on the directory take time and are counted. What is faked:
tasks (they last as long as they are told to), signals, views, and that entries of the log, which never change, are
parsed once for all farmers. What farmers compute takes no simulated time.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from selectors import BaseSelector
from typing import Any

from taskfarmer.core.entries import Bury, Entry, Join, Leave, Snapshot, Take
from taskfarmer.core.ids import parse_ids
from taskfarmer.core.model import encode_text
from taskfarmer.core.plan import Attempt
from taskfarmer.core.policy import Rules
from taskfarmer.core.records import Ended
from taskfarmer.core.state import State
from taskfarmer.definitions import Definition
from taskfarmer.farm.clock import Clock
from taskfarmer.farm.create import open_or_create
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.driver import Driver
from taskfarmer.farm.executors import Exit, Launch
from taskfarmer.farm.guardian import Link
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.log import Draft, Log
from taskfarmer.farm.options import FarmConfig, FarmerOptions
from taskfarmer.farm.workdir import Workdir

EPOCH = 1_700_000_000.0
_MOST_DEBT_S = 0.02
"""A farmer that only looks hands over when its looks add up to this: a switch of threads costs more than a look."""
_STACK_BYTES = 512 << 10


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

    `kinds` has `KIND PLACE`, such as `read log`; `taken` (time, task, farmer), `begun` and `ended` the same.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    seconds: Counter[int] = field(default_factory=Counter)
    farmers: Counter[int] = field(default_factory=Counter)
    entries: list[tuple[float, Entry]] = field(default_factory=list)
    begun: list[tuple[float, int, int]] = field(default_factory=list)
    ended: list[tuple[float, int, int]] = field(default_factory=list)
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
        self._farmer = farmer
        self._paths: dict[int, str] = {}

    def count(self, kind: str, place: str, seconds: float, *, settle: bool = False) -> None:
        """Count one operation and let its time pass."""
        shared = self._shared
        shared.world.spend(seconds, settle=settle)
        shared.trace.kinds[f"{kind} {place}"] += 1
        if kind != "write":
            shared.trace.farmers[self._farmer] += 1
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
        if (path := self._paths[fd]).endswith(_JOURNAL_OF % self._farmer):
            grown = self._shared.grown.setdefault(path, [(0.0, 0)])
            grown.append((self._shared.world.time, grown[-1][1] + written))
        return written

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        costs = self._shared.file_system
        self.count("read", _place(path), costs.look_s)
        if (grown := self._shared.grown.get(path)) is not None and not path.endswith(_JOURNAL_OF % self._farmer):
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
    """An executor whose attempts last as long as `seconds_of` says of their task, and succeed."""

    keeps_time = False
    trouble = ""

    def __init__(self, shared: Shared, farmer: int, seconds_of: Callable[[int], float]) -> None:
        self._world = shared.world
        self._trace = shared.trace
        self._farmer = farmer
        self._seconds_of = seconds_of
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
        heapq.heappush(self._ends, (now + self._seconds_of(launch.id), launch.id))
        self._trace.begun.append((now, launch.id, self._farmer))

    def reap(self) -> Iterable[Exit]:
        """Return those whose time is over."""
        found = []
        while self._ends and self._ends[0][0] <= self._world.time:
            _, id = heapq.heappop(self._ends)
            self._trace.ended.append((self._world.time, id, self._farmer))
            found.append(Exit(id, self._killed.pop(id, 0)))
        return found

    def signal(self, id: int, number: int) -> None:
        """End an attempt now."""
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
    """The loop, on a machine of its own, without signals and views."""

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
    """A farm of `tasks` tasks in an empty directory; `seconds_of` says how long a task lasts."""

    def __init__(
        self,
        path: Path,
        tasks: int,
        seconds_of: Callable[[int], float],
        *,
        file_system: FileSystem = LOCAL,
        lease_s: float = 300.0,
        heartbeat_s: float = 15.0,
    ) -> None:
        self.tasks = tasks
        self.world = World()
        self.shared = Shared(self.world, file_system)
        self.trace = self.shared.trace
        self.workdir = Workdir(path / "farm")
        self.drivers: dict[int, SimulatedDriver] = {}
        self._fibers: dict[int, _Fiber] = {}
        self._seconds_of = seconds_of
        self._config = FarmConfig(
            tasklist="", handler=_definition("tasklist"), runner=_definition("runner"), cwd=str(path), logs="none",
            rules=Rules(), lease_s=lease_s, heartbeat_s=heartbeat_s,
        )  # fmt: skip
        lines = [encode_text(f"task {number}") for number in range(tasks)]
        open_or_create(self.workdir.path, self._config, "", lambda _handler: lines, Disk())
        made = Log(self.workdir.log, self.workdir.new, Disk()).read(1)
        self.trace.entries.append((-1.0, made))

    def farmer(self, number: int, *, at: float = 0.0, slots: int = 1) -> None:
        """Have a farmer (its number, from 0) join at a time."""
        self._fibers[number] = self.world.spawn(lambda: self._live(number, slots), at)

    def kill(self, number: int, *, at: float) -> None:
        """Kill a farmer at a time."""
        self.world.spawn(lambda: self.world.kill(self._fibers[number]), at)

    def run(self) -> None:
        """Return when all farmers have left."""
        self.world.run()

    def _live(self, number: int, slots: int) -> None:
        tasks = FakeTasks(self.shared, number, self._seconds_of)
        clock = SimulatedClock(self.world, tasks.next_end)
        disk = SimulatedDisk(self.shared, number)
        ledger = Ledger(self.workdir, disk, clock)
        ledger.log = SharedLog(self.workdir, self.shared, disk, clock)
        ledger.refresh()
        with _pipe() as link:
            driver = SimulatedDriver(
                ledger, self._config, FarmerOptions(slots=slots), id=f"{number:016x}", link=link, executor=tasks,
                reporter=_Reporter(self.shared, number), views=_NoViews(),
            )  # fmt: skip
            self.drivers[number] = driver
            try:
                driver.run()
            finally:
                driver.let_go()


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


# -- what came of it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one simulation showed. Times in seconds of the simulation.

    `work_s`: from the first start of a task to the last end; `whole_s`: until the last farmer has left.
    `entries_peak`, `operations_peak`: the most in any second.
    `idle_longest_s`: the longest time that a farmer had an empty slot and nothing to start while another held unstarted
    tasks. `idle_slots_s`: empty slots times seconds, from each farmer's last end to the last end of all.
    `spread_s`: between the first and the last farmer that ended its last task.
    """

    farmers: int
    tasks: int
    work_s: float
    whole_s: float
    entries: int
    entries_peak: int
    operations: int
    operations_peak: int
    by_kind: dict[str, int]
    lost_races: int
    idle_longest_s: float
    idle_slots_s: float
    spread_s: float


def figures(simulation: Simulation, slots: int = 1) -> Figures:
    """Return what came of a simulation that has run. All farmers had that many slots."""
    trace = simulation.trace
    mine = [(at, entry) for at, entry in trace.entries if at >= 0]
    lasts: dict[int, float] = {}
    for at, _, farmer in trace.ended:
        lasts[farmer] = max(at, lasts.get(farmer, 0.0))
    first, last = min(at for at, *_ in trace.begun), max(lasts.values())
    metadata = Counter({kind: n for kind, n in trace.kinds.items() if not kind.startswith("write")})
    return Figures(
        farmers=len(simulation.drivers),
        tasks=len(trace.ended),
        work_s=last - first,
        whole_s=simulation.world.now,
        entries=len(mine),
        entries_peak=max(Counter(int(at) for at, _ in mine).values()),
        operations=sum(metadata.values()),
        operations_peak=max(trace.seconds.values()),
        by_kind=dict(metadata.most_common()),
        lost_races=trace.kinds["link log"] - len(mine),
        idle_longest_s=longest_idle(simulation, slots),
        idle_slots_s=sum(last - at for at in lasts.values()) * slots,
        spread_s=last - min(lasts.values()),
    )


def longest_idle(simulation: Simulation, slots: int) -> float:
    """Return the longest time that any farmer had an empty slot and nothing to start while another held unstarted
    tasks: taken, and neither begun nor given back.
    """
    longest, held, since_held = 0.0, 0, float("inf")
    unstarted: Counter[str] = Counter()
    owner: dict[int, str] = {}
    busy: Counter[str] = Counter()
    idle_since: dict[str, float] = {}

    def look(at: float, farmer: str) -> None:
        nonlocal longest
        idle = farmer in alive and busy[farmer] < slots and not unstarted[farmer]
        if idle:
            idle_since.setdefault(farmer, at)
        elif (since := idle_since.pop(farmer, None)) is not None and held:
            longest = max(longest, at - max(since, since_held))

    def hold(at: float, farmer: str, change: int) -> None:
        nonlocal held, since_held, longest
        if not held and change > 0:
            since_held = at
        if held and held + change == 0 and idle_since:
            longest = max(longest, at - max(since_held, min(idle_since.values())))
        look(at, farmer)
        unstarted[farmer] += change
        held += change

    alive: set[str] = set()
    for at, kind, farmer, tasks in _events(simulation):
        if kind == "join":
            alive.add(farmer)
        elif kind == "end":
            busy[farmer] -= 1
        elif kind == "begin":
            if owner.pop(tasks[0], None) == farmer:
                hold(at, farmer, -1)
            busy[farmer] += 1
        elif kind == "take":
            owner.update(dict.fromkeys(tasks, farmer))
            hold(at, farmer, len(tasks))
        elif kind == "back":
            if gone := [task for task in tasks if owner.get(task) == farmer]:
                for task in gone:
                    del owner[task]
                hold(at, farmer, -len(gone))
        else:
            alive.discard(farmer)
            gone = [task for task, of in owner.items() if of == farmer]
            for task in gone:
                del owner[task]
            hold(at, farmer, -len(gone))
        look(at, farmer)
    return longest


def _events(simulation: Simulation) -> Iterator[tuple[float, str, str, list[int]]]:
    """Yield (time, kind, farmer, tasks) in the order of time: join, take, back, begin, end, gone."""
    found: list[tuple[float, int, str, str, list[int]]] = []
    for at, entry in simulation.trace.entries:
        found += [(at, 0, "back", news.of, parse_ids(news.back)) for news in entry.news if news.back]
        match entry.body:
            case Join():
                found.append((at, 0, "join", entry.by, []))
            case Take(ids=ids):
                found.append((at, 0, "take", entry.by, parse_ids(ids)))
            case Leave():
                found.append((at, 0, "gone", entry.by, []))
            case Bury(farmer=farmer):
                found.append((at, 0, "gone", farmer, []))
            case _:
                pass
    found += [(at, 2, "begin", f"{farmer:016x}", [task]) for at, task, farmer in simulation.trace.begun]
    found += [(at, 1, "end", f"{farmer:016x}", [task]) for at, task, farmer in simulation.trace.ended]
    for at, _, kind, farmer, tasks in sorted(found, key=lambda event: event[:2]):
        yield at, kind, farmer, tasks
