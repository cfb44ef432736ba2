"""The state of a farm: a fold over the log, and over the tails of the journals that the log has no news of yet.

Pure: entries and records in, numbers out. One byte a task says how it stands and four say who has it, so a million
tasks cost five megabytes; ranges of ids are assigned as slices.

Two readers that know different lengths of the tails agree on who owns what, since only the log moves ownership, and
news is idempotent: it says how things are, not how they changed. In whatever order they hear of an end and of an entry
of the log, they come to the same: a task that is cancelled while somebody has it is still his to finish, and where the
order does matter (a burial, a retry of what only a tail knows to have ended) the state is `stale`: made anew.
"""

from __future__ import annotations

import base64
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple, assert_never

from .deps import Dependencies
from .entries import Add, Bury, Cancel, Entry, Farm, Join, Leave, News, Report, Retry, Segment, Snapshot, Stop, Take
from .ids import format_ids, parse_ids, parse_ranges
from .records import Ended, Note, Record, Started
from .resources import Claim

READY, WAITING, BLOCKED, TAKEN, FINISHED, FAILED, CANCELLED, UNKNOWN = range(8)
"""How a task stands: free to take; waits for others; one of those failed; taken (running or about to); and the ends."""
_FREE = bytes((READY, WAITING, BLOCKED))
_HELD = (TAKEN, CANCELLED)
"""With an owner: it may run there, and its end is heard."""

NAMES = ("toprocess", "toprocess", "blocked", "toprocess", "finished", "failed", "cancelled", "unknown")
STATES = ("toprocess", "running", "finished", "failed", "cancelled", "blocked", "unknown")
"""The states as people know them."""


class Tries(NamedTuple):
    """What a task has behind it: attempts started, those that failed, those that were lost with their farmer."""

    attempts: int = 0
    failures: int = 0
    losses: int = 0


class Running(NamedTuple):
    """An attempt that runs: `farmer` counts from 1 in the order of joining, `start` in seconds since the epoch."""

    farmer: int
    attempt: int
    start: float
    slot: int


@dataclass(slots=True)
class Farmer:
    """What the log says of one farmer's life.

    `seen`: bytes of its journal that this state includes; `told`: bytes of it that the log has news of; `damaged`:
    lines among those told that could not be read, by others than itself, since its own last news; `unreadable`: all
    lines among those told that anybody could not read. `want`: empty slots for which it has asked for work;
    `passed_over`: tasks that were free to take when it did so, of which none fitted there.
    """

    id: str
    joined: int
    host: dict[str, Any]
    slots: int
    seen: int = 0
    told: int = 0
    ended: str = ""
    cut: int = -1
    finished: int = 0
    failed: int = 0
    last: int = 0
    want: int = 0
    passed_over: int = 0
    damaged: int = 0
    unreadable: int = 0
    since: float = 0.0
    until: float = 0.0
    why: str = ""
    takes: list[tuple[int, int]] = field(default_factory=list)
    cpus: str = ""
    memory_bytes: int = 0
    gpus: list[str] = field(default_factory=list)
    job: str = ""

    @property
    def alive(self) -> bool:
        """Whether the log thinks so."""
        return not self.ended

    @property
    def claim(self) -> Claim:
        """What it promised to its tasks when it joined."""
        return Claim(
            slots=self.slots,
            cpus=tuple(parse_ids(self.cpus)),
            memory_bytes=None if self.memory_bytes < 0 else self.memory_bytes,
            gpus=tuple(self.gpus),
        )


class State:
    """Everything that a farmer or a command must know about a farm, except the texts of the tasks."""

    def __init__(self) -> None:
        self.number = 0
        self.config: dict[str, Any] = {}
        self.lease_s = self.heartbeat_s = 0.0
        self.segments: list[tuple[int, Segment]] = []
        self.status = bytearray()
        self.owner = array("I")
        self.farmers: list[Farmer] = []
        self.index: dict[str, int] = {}
        self._alive: list[Farmer] = []
        """Kept, since a loop asks several times a turn, and farmers come and go seldom."""
        self.tries: dict[int, Tries] = {}
        self.running: dict[int, Running] = {}
        self.stopping: dict[int, Running] = {}
        """Attempts of tasks that are cancelled, which their farmers have not ended yet."""
        self.letting_go: dict[int, set[int]] = {}
        """By farmer: cancelled tasks that it had taken. They stay its own, and cannot be retried, until it said in the
        log that they do not run with it: otherwise another could start what it has not stopped yet."""
        self.untold: dict[int, set[int]] = {}
        """By farmer: tasks of which its tail says something that the log does not know yet."""
        self.reread: set[int] = set()
        """Farmers whose tails were read before the log said that they had taken what is told there."""
        self.deps = Dependencies()
        self.missing: dict[int, int] = {}
        self.stops: list[tuple[int, str, list[str]]] = []
        self.first_ready = 0
        self.stale = False
        """A tail was read too early, such as beyond the cut of a burial: make the state anew from the log."""

    # -- questions ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.status)

    def counts(self) -> Counter[str]:
        """Return how many tasks are in each of the states that people know; they add up to all."""
        total: Counter[str] = Counter(dict.fromkeys(STATES, 0))
        for code, name in enumerate(NAMES):
            total[name] += self.status.count(code)
        total["running"] = sum(self.status[task] == TAKEN for task in self.running)
        total["toprocess"] -= total["running"]
        return total

    def name_of(self, task: int) -> str:
        """Return the state of one task, as people know it."""
        code = self.status[task]
        return "running" if code == TAKEN and task in self.running else NAMES[code]

    def open_tasks(self) -> int:
        """How many tasks are still to be done, or being done; blocked ones are not."""
        return sum(self.status.count(code) for code in (READY, WAITING, TAKEN))

    def tries_of(self, task: int) -> Tries:
        """Return what the task has behind it."""
        if (known := self.tries.get(task)) is not None:
            return known
        code = self.status[task]
        return Tries(1, int(code == FAILED)) if code in (FINISHED, FAILED) else Tries()

    def ready(self, limit: int) -> Iterator[int]:
        """Yield up to `limit` tasks that are free to take, in the order of their ids."""
        place = self.first_ready = self.next_ready(self.first_ready)
        while place < len(self.status) and limit > 0:
            yield place
            limit -= 1
            place = self.next_ready(place + 1)

    def next_ready(self, place: int) -> int:
        """Return the first task from `place` on that is free to take; if there is none, how many tasks there are."""
        found = self.status.find(READY, place)
        return len(self.status) if found < 0 else found

    def alive(self) -> list[Farmer]:
        """The farmers that have neither left nor been buried, in the order of joining; not to be changed."""
        return self._alive

    def farmer(self, id: str) -> Farmer:
        """Return the farmer of that id.

        Raises:
            KeyError: the log does not know it.
        """
        return self.farmers[self.index[id] - 1]

    def held_by(self, number: int) -> Iterator[int]:
        """Yield the tasks that farmer `number` (from 1) has taken and not ended."""
        for first, last in self.farmers[number - 1].takes:
            task = self.status.find(TAKEN, first, last + 1)
            while task >= 0:
                if self.owner[task] == number:
                    yield task
                task = self.status.find(TAKEN, task + 1, last + 1)

    def holds(self, farmer: Farmer, more_than: int = 0) -> bool:
        """Whether a farmer has taken more tasks than so many and not ended them, as far as this state knows."""
        return next(islice(self.held_by(self.index[farmer.id]), more_than, None), None) is not None

    def is_let_go(self, task: int) -> bool:
        """Whether no farmer can be running a task that has ended or was cancelled: it may be retried."""
        return not (self.status[task] == CANCELLED and self.owner[task])

    def attempts_of(self, number: int) -> list[tuple[int, Running]]:
        """Return (task, attempt) of what runs with farmer `number`, also of what it is to stop."""
        every = chain(self.running.items(), self.stopping.items())
        return [(task, ran) for task, ran in every if ran.farmer == number]

    def tries_if_lost(self, task: int) -> Tries:
        """Return what is behind a task that may have been started once more, unseen: that number is not used again."""
        known = self.tries_of(task)
        ran = self.running.get(task)
        return known._replace(attempts=known.attempts + 1 if ran is None else ran.attempt)

    # -- the log -----------------------------------------------------------------------------------------------------

    def apply(self, number: int, entry: Entry, edges: Iterable[tuple[int, Sequence[int]]] = ()) -> None:
        """Take in entry `number` of the log; `edges` are the dependencies of the tasks that it adds, if any."""
        for news in entry.news:
            self._hear(news, own=news.of == entry.by)
        if entry.by in self.index:
            self.farmer(entry.by).last = number
        self.number = number
        match entry.body:
            case Farm() as body:
                self.config, self.lease_s, self.heartbeat_s = body.config, body.lease_s, body.heartbeat_s
                self._add(body.segment, edges, body.ok, body.bad)
            case Add(segment=segment):
                self._add(segment, edges)
            case Join() as body:
                joined = Farmer(entry.by, number, body.host, body.slots, last=number, since=entry.time)
                joined.cpus, joined.memory_bytes, joined.gpus = body.cpus, body.memory_bytes, body.gpus
                joined.job = body.job
                self.farmers.append(joined)
                self.index[entry.by] = len(self.farmers)
                self._alive = [*self._alive, joined]
            case Take(ids=ids):
                self._take(self.index[entry.by], ids)
            case Report(want=want):
                if entry.by in self.index:
                    farmer = self.farmer(entry.by)
                    farmer.want, farmer.passed_over = want, self.status.count(READY) if want else 0
            case Bury() as body:
                cut = max((news.length for news in entry.news if news.of == body.farmer), default=0)
                self.stale = self.stale or self.farmer(body.farmer).seen > cut
                self._end(body.farmer, "buried", body.why, entry.time, unseen=body.unseen)
            case Leave() as body:
                self._end(entry.by, "left", body.why, entry.time)
            case Retry(ids=ids):
                self._retry(ids)
            case Cancel(ids=ids):
                self._cancel(ids)
            case Stop() as body:
                self.stops.append((number, body.mode, body.farmers))
            case Snapshot():
                pass
            case _:
                assert_never(entry.body)

    def _add(self, segment: Segment, edges: Iterable[tuple[int, Sequence[int]]], ok: str = "", bad: str = "") -> None:
        self.segments.append((len(self.status), segment))
        self.status.extend(bytes(segment.count))
        self.owner.frombytes(bytes(4 * segment.count))
        for ids, code in ((ok, FINISHED), (bad, FAILED)):
            for first, last in parse_ranges(ids):
                self.status[first : last + 1] = bytes([code]) * (last + 1 - first)
        if segment.after:
            new = [(task, before) for task, before in edges if before]
            self.deps.add(new)
            for task, before in new:
                self._wait_again(task, before)
            self._mark_blocked()

    def _take(self, number: int, ids: str) -> None:
        farmer = self.farmers[number - 1]
        if farmer.ended:  # it did not know; nobody would ever free what it took
            return
        farmer.want = 0
        if farmer.seen > farmer.told:
            self.reread.add(number)
        for first, last in parse_ranges(ids):
            count = last + 1 - first
            if not self.status[first : last + 1].translate(None, _FREE):
                self.status[first : last + 1] = bytes([TAKEN]) * count
                self.owner[first : last + 1] = array("I", [number]) * count
            else:  # an old owner keeps what is its own; no writer that read the log makes such an entry
                for task in range(first, last + 1):
                    if self.status[task] in _FREE:
                        self.status[task], self.owner[task] = TAKEN, number
            farmer.takes.append((first, last))
        if len(farmer.takes) > 64:
            farmer.takes = [(a, b) for a, b in farmer.takes if self.status.find(TAKEN, a, b + 1) >= 0]

    def _end(self, id: str, how: str, why: str, time: float, *, unseen: bool = False) -> None:
        """End a farmer's life; what it held is free. What it may have started `unseen` has a number that is not used
        again, so that whoever starts it has logs of its own. It is no loss: nobody knows whether there was an attempt.
        """
        number = self.index[id]
        farmer = self.farmers[number - 1]
        if farmer.ended:
            return
        begun = {task: ran.attempt for task, ran in self.attempts_of(number)}
        held = {*self.held_by(number), *self._cancelled_with(number)} if unseen else set()
        for task in sorted(held.union(begun)):
            old = self.tries_of(task)
            lost = how == "buried" and task in self.running
            attempts = max(begun.get(task, old.attempts + 1), old.attempts)
            self.tries[task] = Tries(attempts, old.failures, old.losses + lost)
            self._forget_attempt(task)
        for task in list(self.held_by(number)):
            self._free(task)
        self._let_go(number, still=set())
        self.untold.pop(number, None)
        self.reread.discard(number)
        farmer.ended, farmer.why, farmer.until, farmer.cut, farmer.takes = how, why, time, farmer.seen, []
        self._alive = [other for other in self._alive if other is not farmer]

    def _forget_attempt(self, task: int) -> Running | None:
        return self.running.pop(task, None) or self.stopping.pop(task, None)

    def _let_go(self, number: int, still: set[int]) -> None:
        """A farmer that knows what was cancelled says what of it is `still` running; the rest is nobody's."""
        if not (cancelled := self.letting_go.pop(number, None)):
            return
        for task in cancelled - still:
            if self.owner[task] == number and self.status[task] == CANCELLED:
                self.owner[task] = 0
        if cancelled & still:
            self.letting_go[number] = cancelled & still

    def _free(self, task: int) -> None:
        self.owner[task] = 0
        self.status[task] = WAITING if self.missing.get(task) else READY
        self.first_ready = min(self.first_ready, task)

    def _retry(self, ids: str) -> None:
        for task in self._named(ids):
            if task in self.untold.get(self.owner[task], ()):
                self.stale = True  # the entry's writer did not know how it ended: nor may we
            elif self.status[task] in (FAILED, CANCELLED, UNKNOWN) and self.is_let_go(task):
                ran = self._forget_attempt(task)
                self.tries[task] = Tries(max(self.tries_of(task).attempts, ran.attempt if ran is not None else 0))
                self._free(task)
        self._mark_blocked()

    def _cancel(self, ids: str) -> None:
        for task in self._named(ids):
            if self.status[task] in (READY, WAITING, BLOCKED, TAKEN, UNKNOWN):
                if self.status[task] != TAKEN:
                    self.owner[task] = 0
                else:
                    self.letting_go.setdefault(self.owner[task], set()).add(task)
                    if (ran := self.running.pop(task, None)) is not None:
                        self.stopping[task] = ran
                self.status[task] = CANCELLED
                self._block_after(task)

    def _named(self, ids: str) -> Iterator[int]:
        for first, last in parse_ranges(ids):
            yield from range(first, min(last + 1, len(self.status)))

    # -- news and tails ------------------------------------------------------------------------------------------------

    def _hear(self, news: News, *, own: bool) -> None:
        number = self.index[news.of]
        farmer = self.farmers[number - 1]
        if farmer.ended:
            return
        self._hear_tries(number, news)
        farmer.finished += self._settle(number, news.ok, FINISHED)
        farmer.failed += self._settle(number, news.bad, FAILED)
        self._settle(number, news.unknown, UNKNOWN)
        for task in self._named(news.back):
            if self.owner[task] == number and self.status[task] == TAKEN:
                self._forget_attempt(task)
                self._free(task)
        farmer.damaged = 0 if own else farmer.damaged + news.damaged
        farmer.unreadable += news.damaged
        farmer.told = max(farmer.told, news.length)
        if own and news.length >= farmer.seen:
            self.untold.pop(number, None)
            self.reread.discard(number)
        if news.length >= farmer.seen or number in self.reread:
            farmer.seen = max(farmer.seen, news.length)
            for task, _ in self.attempts_of(number):
                self._forget_attempt(task)
            for task, attempt, start, slot in news.running:
                self._runs(number, task, Running(number, attempt, start, slot))
        if own:
            if number in self.letting_go and news.length < farmer.seen:
                self.stale = True  # what its tail says beyond may be of a later take
            self._let_go(number, still={task for task, *_ in news.running})

    def _hear_tries(self, number: int, news: News) -> None:
        """Take in how often tasks were tried, unless more is known, and what is no longer untold."""
        untold = self.untold.get(number, set())
        for ids, attempts, failures, losses in news.tries:
            for task in self._named(ids):
                if self.owner[task] == number and attempts >= self.tries_of(task).attempts:
                    self.tries[task] = Tries(attempts, failures, losses)
                    untold.discard(task)
        if untold:
            untold.difference_update(self._named(news.ok), self._named(news.bad))

    def _has(self, number: int, task: int) -> bool:
        """Whether the task is that farmer's to run or stop. A tail may be ahead of the log and name unknown tasks."""
        return task < len(self.status) and self.owner[task] == number and self.status[task] in _HELD

    def _runs(self, number: int, task: int, ran: Running) -> None:
        """Note an attempt, if it is that farmer's to run."""
        if self._has(number, task) and ran.attempt > self.tries_of(task).attempts:
            if self.status[task] == TAKEN:
                self.running[task] = ran
            elif self.status[task] == CANCELLED:
                self.stopping[task] = ran

    def _settle(self, number: int, ids: str, code: int) -> int:
        """Give `ids` of that owner the final `code`; return for how many that is new."""
        new = 0
        for first, last in parse_ranges(ids):
            count = last + 1 - first
            ours = array("I", [number]) * count
            plain = code == FINISHED and not len(self.deps) and self.owner[first : last + 1] == ours
            if plain and self.status.count(TAKEN, first, last + 1) == count:
                self.status[first : last + 1] = bytes([code]) * count
                new += count
                continue
            for task in range(first, last + 1):
                if self.owner[task] == number and self.status[task] in _HELD:
                    self.settle(task, code)
                    new += 1
        return new

    def settle(self, task: int, code: int) -> None:
        """Give one task that somebody holds its end: FINISHED, FAILED or UNKNOWN."""
        cancelled = self.status[task] == CANCELLED
        self.status[task] = code
        self._forget_attempt(task)
        if not len(self.deps):
            return
        if code == FINISHED:
            for other in self.deps.after(task):
                self.missing[other] -= 1
                if not self.missing[other] and self.status[other] in (WAITING, BLOCKED):
                    self._free(other)
            if cancelled:
                self._mark_blocked()
        else:
            self._block_after(task)

    def observe(self, id: str, records: Iterable[Record], length: int) -> None:
        """Take in records from the tail of a farmer's journal, up to byte `length`. Once or twice is the same."""
        number = self.index[id]
        farmer = self.farmers[number - 1]
        if farmer.ended:
            return
        for record in records:
            match record:
                case Started(task, attempt, slot, time):
                    self._runs(number, task, Running(number, attempt, time, slot))
                case Ended():
                    self._observe_end(number, farmer, record)
                case Note():
                    pass
                case _:
                    assert_never(record)
        farmer.seen = max(farmer.seen, length)

    def _observe_end(self, number: int, farmer: Farmer, end: Ended) -> None:
        task = end.id
        if not self._has(number, task) or end.attempt <= (before := self.tries_of(task)).attempts:
            return
        self._forget_attempt(task)
        self.untold.setdefault(number, set()).add(task)
        lost = end.outcome == "back" and end.reason == "lost"
        tries = Tries(end.attempt, before.failures + (end.outcome in ("again", "fail")), before.losses + lost)
        if tries != Tries(1, int(end.outcome == "fail")) or end.outcome not in ("ok", "fail") or task in self.tries:
            self.tries[task] = tries
        if end.outcome == "ok":
            farmer.finished += 1
            self.settle(task, FINISHED)
        elif end.outcome == "fail":
            farmer.failed += 1
            self.settle(task, FAILED)

    # -- who waits ---------------------------------------------------------------------------------------------------

    def _wait_again(self, task: int, before: Sequence[int]) -> None:
        self.missing[task] = sum(self.status[other] != FINISHED for other in set(before))
        if self.status[task] in (READY, WAITING, BLOCKED):
            self.status[task] = WAITING if self.missing[task] else READY

    def _block_after(self, task: int) -> None:
        front = [task]
        while front:
            for other in self.deps.after(front.pop()):
                if self.status[other] == WAITING:
                    self.status[other] = BLOCKED
                    front.append(other)

    def _mark_blocked(self) -> None:
        """Work out anew who is blocked: after a retry, or new tasks that wait for old ones."""
        if not len(self.deps):
            return
        for task in self.deps.waits_for:
            if self.status[task] == BLOCKED:
                self.status[task] = WAITING
        for task in {other for before in self.deps.waits_for.values() for other in before}:
            if self.status[task] in (FAILED, CANCELLED, UNKNOWN):
                self._block_after(task)

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the whole state but the dependencies, which are read from the segments again."""
        groups: dict[Tries, list[int]] = {}
        for task, tries in self.tries.items():
            groups.setdefault(tries, []).append(task)
        return {
            "number": self.number,
            "config": self.config,
            "lease_s": self.lease_s,
            "heartbeat_s": self.heartbeat_s,
            "segments": [asdict(segment) for _, segment in self.segments],
            "status": base64.b64encode(zlib.compress(bytes(self.status), 1)).decode(),
            "farmers": [
                asdict(farmer) | {"takes": [], "held": format_ids(chain(self.held_by(n), self._cancelled_with(n)))}
                for n, farmer in enumerate(self.farmers, 1)
            ],
            "tries": [[format_ids(tasks), *tries] for tries, tasks in groups.items()],
            "running": [[task, *ran] for task, ran in chain(self.running.items(), self.stopping.items())],
            "stops": self.stops,
        }

    def _cancelled_with(self, number: int) -> list[int]:
        held = self.letting_go.get(number, ())
        return [task for task in held if self.owner[task] == number and self.status[task] == CANCELLED]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> State:
        """Return the state that `to_json` gave; `learn_edges` completes it."""
        state = cls()
        state.number, state.config = value["number"], value["config"]
        state.lease_s, state.heartbeat_s = value["lease_s"], value["heartbeat_s"]
        first = 0
        for item in value["segments"]:
            state.segments.append((first, Segment(**item)))
            first += item["count"]
        state.status = bytearray(zlib.decompress(base64.b64decode(value["status"])))
        state.owner.frombytes(bytes(4 * len(state.status)))
        for number, item in enumerate(value["farmers"], 1):
            held = parse_ranges(item["held"])
            farmer = Farmer(**{key: item[key] for key in item if key != "held"})
            farmer.takes, farmer.told = held, farmer.seen
            state.farmers.append(farmer)
            state.index[farmer.id] = number
            if farmer.alive:
                state._alive.append(farmer)
            for a, b in held:
                state.owner[a : b + 1] = array("I", [number]) * (b + 1 - a)
                cancelled = {task for task in range(a, b + 1) if state.status[task] == CANCELLED}
                if cancelled:
                    state.letting_go.setdefault(number, set()).update(cancelled)
        for ids, *tries in value["tries"]:
            state.tries.update(dict.fromkeys(state._named(ids), Tries(*tries)))
        for task, *ran in value["running"]:
            attempts = state.running if state.status[task] == TAKEN else state.stopping
            attempts[task] = Running(*ran)
        state.stops = [(number, mode, farmers) for number, mode, farmers in value["stops"]]
        return state

    def learn_edges(self, edges: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Take in the dependencies of all segments, after `from_json`."""
        self.deps.add((task, before) for task, before in edges if before)
        for task, before in self.deps.waits_for.items():
            self.missing[task] = sum(self.status[other] != FINISHED for other in set(before))

    def become(self, other: State) -> None:
        """Be what `other` is: whoever holds this state keeps it when it is made anew."""
        vars(self).update(vars(other))
