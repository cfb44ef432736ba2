"""What came of a simulation (`simulation.py`): what it cost, who sat idle, and what must never happen.

A farmer is idle while it has empty slots beside a task that it could start in them at once, and has none of its own
that it could. That task is another's, who has taken it and not begun it, or nobody's; how long it is idle is counted
for these two apart, since what is given back is to be had by whoever takes it first. Whether it fits is a question of
slots, GPUs and memory that are free there at that moment. Nobody can start what waits for others, or for
the pause after a failure, nor what somebody has who was killed, before he is buried. Not idle is who has been told to
leave, who can start nothing for a while, and who leaves slots empty for a task that PATIENCE others have overtaken:
that would starve if each slot that empties went to the next small one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from taskfarmer.core.entries import Bury, Join, Leave, Snapshot, Stop, Take
from taskfarmer.core.ids import parse_ids
from taskfarmer.core.policy import retry_delay
from tests.simulation import NEVER, Host, Simulation, Work

TRIED_AGAIN_S = 1.0
"""How long a farmer that could not start anything waits before it tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one simulation showed. Times in seconds of the simulation.

    `work_s`: from the first start of a task to the last end; `whole_s`: until the last farmer has left.
    `entries_peak`, `operations_peak`: the most in any second; `entries_in_vain`: the most while nothing happened.
    `idle_longest_s`: the longest time that a farmer was idle, beside what others had or beside what nobody had.
    `idle_slots_s`: empty slots times seconds, from each farmer's last end to the last end of all. `spread_s`: between
    the first and the last farmer that ended its last task. `wrong`: what must not happen.
    """

    farmers: int
    tasks: int
    work_s: float
    whole_s: float
    entries: int
    entries_peak: int
    entries_in_vain: int
    operations: int
    operations_peak: int
    by_kind: dict[str, int]
    lost_races: int
    idle_longest_s: float
    idle_slots_s: float
    spread_s: float
    wrong: list[str]


def figures(simulation: Simulation) -> Figures:
    """Return what came of a simulation that has run."""
    trace = simulation.trace
    mine = [(at, entry) for at, entry in trace.entries if at >= 0]
    lasts: dict[int, float] = {}
    for at, _, farmer, _ in trace.ended:
        lasts[farmer] = max(at, lasts.get(farmer, 0.0))
    first, last = min(at for at, *_ in trace.begun), max(lasts.values())
    metadata = Counter({kind: n for kind, n in trace.kinds.items() if not kind.startswith("write")})
    seen = _Watch(simulation)
    seen.watch()
    return Figures(
        farmers=len(simulation.hosts),
        tasks=len(trace.ended),
        work_s=last - first,
        whole_s=mine[-1][0],
        entries=len(mine),
        entries_peak=max(Counter(int(at) for at, _ in mine).values()),
        entries_in_vain=seen.most_in_vain,
        operations=sum(metadata.values()),
        operations_peak=max(trace.seconds.values()),
        by_kind=dict(metadata.most_common()),
        lost_races=trace.kinds["link log"] - len(mine),
        idle_longest_s=seen.longest_s,
        idle_slots_s=sum((last - at) * simulation.hosts[farmer].slots for farmer, at in lasts.items()),
        spread_s=last - min(lasts.values()),
        wrong=seen.wrong,
    )


Needs = tuple[int, int, int]
"""Slots, GPUs and bytes of memory."""


def _needs(task: Work) -> Needs:
    return task.cpus, task.gpus, task.memory_bytes


@dataclass(slots=True)
class _Farmer:
    """What is known of one farmer at a moment. `waiting`: how many tasks it has that could begin, by what they need."""

    slots: int
    gpus: int
    memory_bytes: int | None
    joined: bool = False
    killed: bool = False
    leaves: bool = False
    cannot_start: bool = False
    saves: bool = False
    waiting: Counter[Needs] = field(default_factory=Counter)
    idle_since: dict[bool, float] = field(default_factory=dict)
    """Beside what others have (True) and beside what nobody has (False)."""

    @property
    def could_start(self) -> bool:
        return self.joined and not (self.killed or self.leaves or self.cannot_start or self.saves)

    def fits(self, needs: Needs) -> bool:
        slots, gpus, memory_bytes = needs
        enough = self.memory_bytes is None or memory_bytes <= self.memory_bytes
        return slots <= self.slots and gpus <= self.gpus and enough

    def use(self, needs: Needs, sign: int) -> bool:
        """Take (1) or give (-1) resources; return whether there were enough."""
        enough = sign < 0 or self.fits(needs)
        slots, gpus, memory_bytes = needs
        self.slots -= sign * slots
        self.gpus -= sign * gpus
        if self.memory_bytes is not None:
            self.memory_bytes -= sign * memory_bytes
        return enough


@dataclass(frozen=True, slots=True)
class _Event:
    """`kind` is the name of a method of `_Watch`, with a line before it.

    `value` is an exit status, the number of a failure, or a flag.
    """

    at: float
    order: int
    kind: str
    farmer: int
    tasks: Iterable[int] = ()
    value: int = 0


class _Watch:
    """Goes through what happened, in the order of time. Tasks are counted by what they need: there are few kinds."""

    def __init__(self, simulation: Simulation) -> None:
        self.longest_s = 0.0
        self.most_in_vain = 0
        self.wrong: list[str] = []
        self._simulation = simulation
        self._tasks = tasks = simulation.tasks
        self._farmers = {
            number: _Farmer(host.slots, host.gpus, host.memory_bytes) for number, host in simulation.hosts.items()
        }
        self._owner: dict[int, int] = {}
        self._running: dict[int, int] = {}
        self._pauses: dict[int, int] = {}
        """Tasks that are not tried again yet: after which of their failures."""
        self._failures: Counter[int] = Counter()
        self._done: dict[int, int] = {}
        """By whom what has ended well was run."""
        self._awaited = [len(set(task.after)) for task in tasks]
        self._dependents: dict[int, list[int]] = defaultdict(list)
        self._to_be_had: dict[bool, Counter[Needs]] = {True: Counter(), False: Counter()}
        """How many tasks could begin, of those that farmers have that live (True) and of those that nobody has."""
        self._in_vain = 0
        for id, task in enumerate(tasks):
            for other in set(task.after):
                self._dependents[other].append(id)
            self._count(id, 1)

    def watch(self) -> None:
        """Go through it all."""
        kinds = self._kinds_to_be_had()
        for event in sorted(_events(self._simulation), key=lambda event: (event.at, event.order)):
            getattr(self, f"_{event.kind}")(event)
            before, kinds = kinds, self._kinds_to_be_had()
            for farmer in self._farmers.values() if kinds != before else [self._farmers[event.farmer]]:
                self._look(farmer, kinds, event.at)

    def _kinds_to_be_had(self) -> list[tuple[bool, set[Needs]]]:
        return [(had, {needs for needs, n in counts.items() if n}) for had, counts in self._to_be_had.items()]

    def _look(self, farmer: _Farmer, kinds: list[tuple[bool, set[Needs]]], at: float) -> None:
        idle = farmer.could_start and not any(map(farmer.fits, +farmer.waiting))
        for had, needs in kinds:
            if idle and any(map(farmer.fits, needs)):
                farmer.idle_since.setdefault(had, at)
            elif (since := farmer.idle_since.pop(had, None)) is not None:
                self.longest_s = max(self.longest_s, at - since)

    def _count(self, id: int, change: int) -> None:
        """Count (1) or do not count (-1) a task among those that could begin, if it could."""
        if id in self._running or id in self._pauses or id in self._done or self._awaited[id]:
            return
        needs = _needs(self._tasks[id])
        owner = self._farmers.get(self._owner.get(id, -1))
        if owner is not None:
            owner.waiting[needs] += change
        if owner is None or not owner.killed:
            self._to_be_had[owner is not None][needs] += change

    def _move(self, id: int, owner: int | None) -> None:
        """A task that does not run has another owner now, or none."""
        self._count(id, -1)
        self._pauses.pop(id, None)
        if owner is None:
            del self._owner[id]
        else:
            self._owner[id] = owner
        self._count(id, 1)

    # -- what happens --------------------------------------------------------------------------------------------------

    def _entry(self, event: _Event) -> None:
        self._in_vain += 1
        self.most_in_vain = max(self.most_in_vain, self._in_vain)

    def _join(self, event: _Event) -> None:
        self._in_vain = 0
        self._farmers[event.farmer].joined = True

    def _take(self, event: _Event) -> None:
        for id in event.tasks:
            if id not in self._owner and id not in self._done:
                self._move(id, event.farmer)

    def _back(self, event: _Event) -> None:
        for id in event.tasks:
            if self._owner.get(id) == event.farmer and id not in self._running:
                self._move(id, None)

    def _begin(self, event: _Event) -> None:
        self._in_vain = 0
        for id in event.tasks:
            if self._awaited[id]:
                self.wrong.append(f"{event.at}: task {id} begins before one that it waits for has ended")
            if id in self._done and not self._farmers[self._done[id]].killed:  # else perhaps nobody was told
                self.wrong.append(f"{event.at}: task {id} begins again")
            self._count(id, -1)
            self._pauses.pop(id, None)
            self._running[id] = event.farmer
            if not self._farmers[event.farmer].use(_needs(self._tasks[id]), 1):
                self.wrong.append(f"{event.at}: farmer {event.farmer} starts task {id}, and has not enough for it")

    def _end(self, event: _Event) -> None:
        self._in_vain = 0
        for id in event.tasks:
            self._farmers[event.farmer].use(_needs(self._tasks[id]), -1)
            if self._running.get(id) != event.farmer:
                continue  # it was buried
            del self._running[id]
            if event.value == 0:
                self._owner.pop(id, None)
                if id not in self._done:
                    self._is_done(id, event.farmer)
            else:
                if event.value > 0:
                    self._failures[id] += 1
                    self._pauses[id] = self._failures[id]
                self._count(id, 1)

    def _is_done(self, id: int, farmer: int) -> None:
        self._done[id] = farmer
        for other in self._dependents[id]:
            self._awaited[other] -= 1
            self._count(other, 1)

    def _tried_again(self, event: _Event) -> None:
        self._in_vain = 0
        for id in event.tasks:
            if self._pauses.get(id) == event.value:
                del self._pauses[id]
                self._count(id, 1)

    def _leaves(self, event: _Event) -> None:
        self._farmers[event.farmer].leaves = True

    def _cannot_start(self, event: _Event) -> None:
        self._farmers[event.farmer].cannot_start = bool(event.value)

    def _saves(self, event: _Event) -> None:
        self._farmers[event.farmer].saves = bool(event.value)

    def _killed(self, event: _Event) -> None:
        farmer = self._farmers[event.farmer]
        farmer.killed = True
        self._to_be_had[True].subtract(farmer.waiting)

    def _gone(self, event: _Event) -> None:
        """It has left, or was buried."""
        self._in_vain = 0
        self._farmers[event.farmer].joined = False
        for id in [id for id, farmer in self._running.items() if farmer == event.farmer]:
            del self._running[id]
            self._count(id, 1)
        for id in [id for id, farmer in self._owner.items() if farmer == event.farmer]:
            self._move(id, None)


def _events(simulation: Simulation) -> Iterator[_Event]:
    """Yield what happened, in no order. At one time comes first what the log says, then ends, then starts."""
    trace, failures = simulation.trace, Counter[int]()
    for at, entry in trace.entries:
        if at < 0:
            continue
        for news in entry.news:
            if news.back:
                yield _Event(at, 0, "back", int(news.of, 16), parse_ids(news.back))
        match entry.body:
            case Join():
                yield _Event(at, 0, "join", int(entry.by, 16))
            case Take(ids=ids):
                yield _Event(at, 0, "take", int(entry.by, 16), parse_ids(ids))
            case Leave():
                yield _Event(at, 0, "gone", int(entry.by, 16))
            case Bury(farmer=dead):
                yield _Event(at, 0, "gone", int(dead, 16))
            case Stop(farmers=told):
                yield from (_Event(at, 0, "leaves", int(each, 16)) for each in told)
        if not isinstance(entry.body, Snapshot | Stop):
            yield _Event(at, 0, "entry", int(entry.by, 16))
    for at, id, farmer, status in trace.ended:
        yield _Event(at, 1, "end", farmer, [id], status)
        if status > 0:
            failures[id] += 1
            pause_s = retry_delay(simulation.rules, failures[id], 1.0)
            yield _Event(at + pause_s, 4, "tried_again", farmer, [id], failures[id])
    yield from (_Event(at, 2, "begin", farmer, [id]) for at, id, farmer in trace.begun)
    yield from (_Event(at, 3, "saves", farmer, value=saves) for at, farmer, saves in trace.saves)
    for farmer, host in simulation.hosts.items():
        yield from _of_host(farmer, host)


def _of_host(farmer: int, host: Host) -> Iterator[_Event]:
    since, until = host.cannot_start
    if since < until:
        yield _Event(since, 0, "cannot_start", farmer, value=True)
        yield _Event(until + TRIED_AGAIN_S, 3, "cannot_start", farmer, value=False)
    if host.killed_at < NEVER:
        yield _Event(host.killed_at, 3, "killed", farmer)
