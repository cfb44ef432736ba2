"""All lives of a small farm: every interleaving of a few farmers over a few tasks, with what a bad day brings.

Nothing of the protocol is written down here a second time. What moves is the real thing: `Driver` with its `Plan`,
`Agreement` and `Undertaker`, over the real `Ledger`, `Log`, `Journal` and `State`. Replaced is only what touches the
world: the disk (a log and journals in memory), the clock (which stands still), the processes of tasks (a dictionary).
Some module names are patched for that while an exploration runs (`Stage.patch`).

A *world* is a log, the journals, and the minds of the farmers that live. An *action* is one step of one farmer, of a
command, or of fate: a crash, a burial of one who only slept, a reply that is lost. Actions do not overlap. Nothing is
lost by that: a farmer is one thread, it reads what the file system shows it, which may be old (`shown` in an action),
and its one way to be noticed by others, apart from its own journal, is the number that it links in the log.

From the first world all actions are tried, breadth first, and each world that is new is checked (`Explorer.check`): so
a violation comes with a shortest history. Worlds from which the same can come are visited once: it does not matter how
long the log is, only what it comes to and what somebody has still to read of it. Whoever has the same mind before the
same files does the same, so steps are remembered by that and not by world; minds are kept pickled, and compared by
`frozen`.

An entry has copies of others with it, and a farmer keeps entries for those that it will write. A copy that is what it
should be is kept as a distance only (`Said`), and made again from the log at hand: so worlds that differ in nothing but
old entries are the same. One that is not is kept as it is; `Explorer._check_copies` finds it.

Not here, since other tests have it: torn lines, full disks, power loss, file systems without links, `Doubts`,
time-outs.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import pickle
import signal
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from taskfarmer.core.entries import Body, Cancel, Farm, News, Retry, Stop
from taskfarmer.core.model import Task, TaskId, encode_task
from taskfarmer.core.plan import Attempt, Plan
from taskfarmer.core.policy import PATIENT_LOOKS, Rules, Silence
from taskfarmer.core.records import Started
from taskfarmer.core.state import CANCELLED, FAILED, FINISHED, TAKEN, UNKNOWN, Farmer, State
from taskfarmer.definitions import Definition
from taskfarmer.farm import agreement as agreement_module
from taskfarmer.farm import driver as driver_module
from taskfarmer.farm import framing
from taskfarmer.farm import journal as journal_module
from taskfarmer.farm import ledger as ledger_module
from taskfarmer.farm import log as log_module
from taskfarmer.farm import upkeep as upkeep_module
from taskfarmer.farm.agreement import Agreement
from taskfarmer.farm.clock import Clock
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.driver import Driver
from taskfarmer.farm.executors import Exit, Launch
from taskfarmer.farm.journal import Journal, read_tail
from taskfarmer.farm.ledger import CLI, Ledger
from taskfarmer.farm.log import Log
from taskfarmer.farm.options import FarmConfig, FarmerOptions
from taskfarmer.farm.segments import write_segment
from taskfarmer.farm.workdir import Workdir

NAMES = "abcdefgh"
"""Farmers, in the order of joining."""
MUCH_LATER = 1e9
"""Seconds; every delay is over by then."""
MOST_STEPS = 300
"""From any world to the end of its farm, if everybody does his work."""
COPIES = 3
"""Of how many entries a farmer keeps what they say, to have it with its next."""
MOST_SLEEPS = 100
"""In one step; who waits longer waits for something that never comes."""
KINDS = (
    "crash", "silence", "fail", "cancel", "retry", "lost", "unsure", "refused", "snapshot", "join", "stop", "ask",
    "forget",
)  # fmt: skip
"""What may happen, besides work: see `Scenario`."""


class Broken(AssertionError):
    """Something that must hold does not; the text has the history that leads there."""


class Crash(BaseException):
    """SIGKILL, in the middle of a step."""


class _Gone(Exception):
    """The farmer's process has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A small farm. `after` says which tasks wait for which; `seconds` is how long a task runs by the farmers' clock.

    The others say how often something may happen in one history: a farmer is killed (`crash`), or buried while it only
    slept, and goes on (`silence`); a task fails; people cancel, retry, stop a farmer; the answer to a link is `lost`;
    nor can be read who has the number (`unsure`); a link is `refused`; a snapshot; a farmer comes (`join`); an idle
    one asks others to give back (`ask`); the entries before a snapshot are removed (`forget`). `old`: readers may see
    journals as they were some time ago; `behind`: by how many entries of the log a farmer may be behind at most (it
    looks every second).
    """

    tasks: int = 1
    after: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    farmers: int = 2
    slots: int = 1
    seconds: float = 10.0
    retries: int = 0
    old: bool = True
    behind: int = 8
    crash: int = 0
    silence: int = 0
    fail: int = 0
    cancel: int = 0
    retry: int = 0
    lost: int = 0
    unsure: int = 0
    refused: int = 0
    snapshot: int = 0
    join: int = 0
    stop: int = 0
    ask: int = 0
    forget: int = 0

    def left(self) -> tuple[int, ...]:
        """How often each of KINDS may happen."""
        return tuple(getattr(self, kind) for kind in KINDS)


class Said(NamedTuple):
    """An entry: its JSON, and the copies that it has with it, latest last.

    Of a copy: how far back the entry is (1: the one before this), and its JSON only if that is not what the log says.
    """

    text: str
    copies: tuple[tuple[int, str], ...]


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


class Chain:
    """A log: its last entry and the log before it. One object for one log; logs are compared by identity."""

    __slots__ = ("_data", "_next", "_since", "before", "number", "opened", "read", "said", "says")

    def __init__(self, before: Chain | None, said: Said) -> None:
        self.before = before
        self.said = said
        self.number: int = before.number + 1 if before is not None else 0
        self.says = -1
        """The same number for logs that come to the same."""
        self.read = b""
        """A ledger, pickled, that has read every entry."""
        self.opened = b""
        """One that was opened now: it began with the latest snapshot."""
        self._data = b""
        self._next: dict[Said, Chain] = {}
        self._since: dict[int, tuple[Said, ...]] = {}

    def since(self, number: int) -> tuple[Said, ...]:
        """Return the entries after entry `number`."""
        if number >= self.number:
            return ()
        if number not in self._since:
            assert self.before is not None
            self._since[number] = (*self.before.since(number), self.said)
        return self._since[number]

    def then(self, said: Said) -> Chain:
        """Return the log with one more entry."""
        if said not in self._next:
            self._next[said] = Chain(self, said)
        return self._next[said]

    def is_right(self, number: int, text: str) -> bool:
        """Whether that is what entry `number` says."""
        return 0 < number <= self.number and self.at(number).said.text == text

    def hears(self, number: int, data: bytes) -> Said:
        """Return what a file says that is about to be entry `number`."""
        (text,) = framing.unframe(data)
        assert isinstance(text, str)
        value = json.loads(text)
        copies = []
        for other, copy in value.pop("before", ()):
            said = _text(copy)
            copies.append((number - other, "" if self.is_right(other, said) else said))
        return Said(_text(value), tuple(copies))

    @property
    def value(self) -> dict[str, Any]:
        """What the last entry says, as JSON values; nobody else has these."""
        value: dict[str, Any] = json.loads(self.said.text)
        return value

    @property
    def nonce(self) -> str:
        """Of the last entry."""
        return str(self.value["nonce"])

    @property
    def data(self) -> bytes:
        """The file of the last entry."""
        if not self._data:
            value = self.value
            if self.said.copies:
                value["before"] = [
                    (self.number - back, json.loads(text) if text else self.at(self.number - back).value)
                    for back, text in self.said.copies
                ]
            self._data = framing.frame(_text(value))
        return self._data

    def at(self, number: int) -> Chain:
        """Return the log up to entry `number` <= its own."""
        place = self
        while place.number > number:
            assert place.before is not None
            place = place.before
        return place


class Mind:
    """A farmer's memory between two steps: the pickled driver, and what it could do next. Compared by identity."""

    __slots__ = (
        "asked", "false", "finished", "id", "lets_go", "like", "mode", "number", "others", "pickled", "queue",
        "running", "snapshot_at", "untold", "wants",
    )  # fmt: skip

    def __init__(self, driver: Driver, pickled: bytes, like: int, false: list[int]) -> None:
        plan, state = driver.plan, driver.ledger.state
        me = state.farmer(driver.id)
        self.pickled = pickled
        self.like = like
        """The same number for minds that differ only in how long the log was that they read."""
        self.id = driver.id
        self.number = state.number
        self.mode = plan.mode
        self.others = {farmer.id: farmer.seen for farmer in state.alive() if farmer.id != driver.id}
        self.running = {task: attempt.reason for task, attempt in plan.running.items()}
        self.queue = len(plan.queue)
        self.wants = bool(plan.wants())
        self.lets_go = plan.lets_go()
        self.untold = me.alive and plan.mode == "work" and driver.journal.length > me.told
        self.finished = plan.finished()
        self.asked = bool(me.want)
        self.snapshot_at = driver.ledger.snapshot_at
        self.false = false
        """Entries of which it keeps what they do not say."""


class World(NamedTuple):
    """All there is. `journals` and `minds` are in the order of joining; `silent` were buried while they lived.

    Entries below `first` are removed; such a number may be given once more, to one of the `ghosts`.
    """

    log: Chain
    journals: tuple[bytes, ...]
    minds: tuple[Mind | None, ...]
    silent: frozenset[int]
    left: tuple[int, ...]
    first: int = 0
    ghosts: tuple[tuple[int, bytes], ...] = ()

    def misses(self, mind: Mind) -> bool:
        """Whether what it has to read next is removed: then it has slept for two leases."""
        return mind.number + 1 < self.first

    def mind(self, place: int) -> Mind:
        """Return the mind of one that lives."""
        mind = self.minds[place]
        assert mind is not None
        return mind


class Action(NamedTuple):
    """One step: `who` does `verb`; `shown` are the lengths up to which it can see journals of others."""

    who: str
    verb: str
    what: int = 0
    status: int = 0
    shown: tuple[tuple[str, int], ...] = ()
    cost: str = ""
    dies_after: int = 0
    sleeps: bool = False

    def __str__(self) -> str:
        words = [self.who, self.verb]
        if self.verb in ("look", "end", "cancel", "retry"):
            words.append(str(self.what))
        elif self.verb == "bury":
            words.append(NAMES[self.what])
        if self.status:
            words.append(f"status {self.status}")
        words += [f"({id} shown up to {length})" for id, length in self.shown]
        if self.cost in FAULTS:
            words.append(f"[{self.cost} reply]")
        if self.sleeps:
            words.append("[it slept just before its link]")
        if self.dies_after:
            words.append(f"[killed after write {self.dies_after}]")
        return " ".join(words)


FAULTS = ("lost", "unsure", "refused")
_WRITES = ("take", "publish", "leave", "bury")
"""Steps whose link may go wrong."""


class Stage(Disk, Clock):
    """The disk, the clock and the processes, for whoever acts now."""

    def __init__(self, workdir: Workdir) -> None:
        super().__init__()
        self.workdir = workdir
        self.log = Chain(None, Said("", ()))
        self.first = 0
        self.ghosts: dict[int, bytes] = {}
        self.journals: dict[str, bytes] = {}
        self.last = 0
        self.shown: Mapping[str, int] = {}
        self.actor = ""
        self.salt = 0
        self.now = 0.0
        self.up = 0.0
        """The clock that runs while the machine sleeps."""
        self.fault = ""
        self.operations = 0
        self.dies_after = 0
        self._paths: list[str] = []
        self._files: dict[str, bytes] = {}
        self._blind = False
        self._sleeps = 0
        self._known = 0
        self._seen: Mapping[str, int] = {}
        self.looked = False
        """Whether the actor had to do with the log."""
        self.looked_back = False
        """Whether it read once more what it had read before."""

    def set(
        self, log: Chain, journals: Iterable[bytes], *, actor: str = "", last: int | None = None,
        shown: Mapping[str, int] | None = None, fault: str = "", salt: int = 0, dies_after: int = 0,
        known: int = 0, seen: Mapping[str, int] | None = None, first: int = 0,
        ghosts: Iterable[tuple[int, bytes]] = (),
    ) -> None:  # fmt: skip
        """Show a world to `actor`: the log as listings have it up to `last`, journals of others up to `shown`."""
        self.log, self.first, self.ghosts = log, first, dict(ghosts)
        self.journals = dict(zip(NAMES, journals, strict=False))
        self.last = log.number if last is None else last
        self.shown = shown or {}
        self.actor, self.salt, self.now, self.up = actor, salt, 0.0, 0.0
        self.fault, self.operations, self.dies_after = fault, 0, dies_after
        self._sleeps = 0
        self._blind = self.looked = self.looked_back = False
        self._known, self._seen = known, seen or {}
        self._files.clear()

    # -- the disk ------------------------------------------------------------------------------------------------------

    def create(self, path: str, flags: int = 0) -> int:
        """Create a file in memory; the descriptor is good for ever."""
        directory, name = os.path.split(path)
        if directory == str(self.workdir.journals):
            if name in self.journals:
                raise FileExistsError(errno.EEXIST, "", path)
            self.journals[name] = b""
        else:
            self._files[path] = b""
        if path not in self._paths:
            self._paths.append(path)
        return self._paths.index(path)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Append; to a journal it is an operation that others can see."""
        directory, name = os.path.split(self._paths[fd])
        if directory == str(self.workdir.journals):
            self.journals[name] += bytes(data)
            self._done()
        else:
            self._files[self._paths[fd]] += bytes(data)
        return len(data)

    def link(self, old: str, new: str) -> None:
        """Add to the log, if the number is free; and say so, if the fault is none."""
        self.looked = True
        number = int(os.path.basename(new))
        if number < self.first and number not in self.ghosts:
            self.up = MUCH_LATER  # when it wanted this number was two leases ago
            self.ghosts[number] = self._files[old]
            self._done()
            return
        if number <= self.log.number:
            raise FileExistsError(errno.EEXIST, "", new)
        assert number == self.log.number + 1, "a number was left out"
        fault, self.fault = self.fault, ""
        if fault == "refused":
            raise OSError(errno.EIO, "no link", new)
        self.log = self.log.then(self.log.hears(number, self._files[old]))
        self.last = number
        self._done()
        self._blind = fault == "unsure"
        if fault:
            raise OSError(errno.EIO, "no answer", new)

    def _done(self) -> None:
        self.operations += 1
        if self.operations == self.dies_after:
            raise Crash

    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        """Heartbeats are not needed: `Explorer` decides who is silent."""

    def sync(self, fd: int) -> None:
        """Nothing to do: no power is lost here."""

    def sync_directory(self, path: str) -> None:
        """The same."""

    def mkdir(self, path: str) -> None:
        """They are there."""

    def remove(self, path: str) -> bool:
        """Remove an entry of the log, after those before it; to anything else that is removed nobody comes back."""
        directory, name = os.path.split(path)
        if directory == str(self.workdir.log):
            self.first = max(self.first, int(name) + 1)
            self.ghosts.pop(int(name), None)
        return True

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Read a journal or an entry of the log, as far as it is shown."""
        directory, name = os.path.split(path)
        if directory == str(self.workdir.journals):
            found = self.journals[name][: self.shown.get(name)][start:end]
            self.looked_back = self.looked_back or bool(found and start < self._seen.get(name, 0))
            return found
        if directory == str(self.workdir.alive):
            return b""
        if self._blind:
            raise OSError(errno.EIO, "no answer", path)
        self.looked = True
        self.looked_back = self.looked_back or int(name) <= self._known
        if int(name) in self.ghosts:
            return self.ghosts[int(name)]
        if not self.first <= int(name) <= self.log.number:
            raise FileNotFoundError(errno.ENOENT, "", path)
        return self.log.at(int(name)).data

    def size(self, path: str) -> int:
        """Nobody measures a journal, except to see that it grows."""
        return 0

    def names(self, path: str) -> list[str]:
        """Return the numbers of the log, as far as they are shown."""
        self.looked = True
        return [f"{number:08d}" for number in (*self.ghosts, *range(max(1, self.first), self.last + 1))]

    # -- the clock, and chance -----------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Time passes only between the start and the end of a task."""
        return self.now

    def boottime(self) -> float:
        """Who sleeps is buried when `Explorer` says so."""
        return self.up

    def wall(self) -> float:
        """Records of the same things are the same."""
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Let the others be faster: they are not, here."""
        self._sleeps += 1
        if self._sleeps > MOST_SLEEPS:
            raise Broken("somebody waits for ever")

    def fresh_id(self) -> str:
        """Return what nobody else draws."""
        return f"{self.actor}-{self.salt}-{self.operations}"

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Have the modules of the farm forget the real world."""
        forgetful = SimpleNamespace(
            close=lambda _fd: None, pipe=lambda: (-1, -1), urandom=bytes, strerror=os.strerror, O_APPEND=0
        )
        for module in (log_module, journal_module, upkeep_module, driver_module):
            patch.setattr(module, "os", forgetful)
        patch.setattr(log_module, "BEFORE_BYTES", MUCH_LATER)  # the limit is their number: lengths are not compared
        patch.setattr(log_module, "_RECENT", COPIES)
        for module in (log_module, ledger_module):
            patch.setattr(module, "fresh_id", self.fresh_id)
        for module in (ledger_module, driver_module, agreement_module):
            patch.setattr(module, "chance", float)
        patch.setattr(driver_module, "selectors", SimpleNamespace(DefaultSelector=lambda: None))


class Runs:
    """An executor whose processes are a dictionary: task and attempt. They end when `end` says so."""

    keeps_time = False
    trouble = ""

    def __init__(self) -> None:
        self.running: dict[int, int] = {}
        self._ends: list[Exit] = []

    def attach(self, selector: object) -> None:
        """Nothing wakes anybody here."""

    def start(self, launch: Launch) -> None:
        """Start an attempt."""
        assert launch.id not in self.running, "a task was started beside itself"
        self.running[launch.id] = launch.attempt

    def end(self, task: int, status: int) -> None:
        """Have an attempt end."""
        del self.running[task]
        self._ends.append(Exit(task, status))

    def reap(self) -> list[Exit]:
        """Return what ended."""
        ends, self._ends = self._ends, []
        return ends

    def signal(self, id: int, number: int) -> None:
        """It will end some time, as everything does."""

    def holds(self, launch: Launch) -> bool:
        """Nothing outlives a farmer."""
        return False

    def let_go(self) -> None:
        """The same."""

    def close(self) -> None:
        """The guardian ends all."""
        self.running.clear()


class Loop(Driver):
    """A farmer's loop that knows no other processes, and keeps no views."""

    def _place(self) -> dict[str, Any]:
        return {}

    def _kill_remains(self, attempt: Attempt) -> None:
        pass

    def _finish_views(self) -> None:
        pass


class _Silence(Silence):
    """One farmer was silent for ever, all others spoke just now."""

    def __init__(self, silent: str) -> None:
        super().__init__(1.0)
        self._whom = silent

    def look(self, farmer: str, heartbeat: str, now_s: float) -> float:
        """Return the seconds."""
        return MUCH_LATER if farmer == self._whom else 0.0


class Quiet:
    """A reporter, the views and a guardian, of whom nobody hears."""

    problem = ""
    gone = alone = False
    fd = guardian = -1

    def say(self, text: str) -> None:
        """Not a word."""

    warn = say

    def listen(self) -> None:
        """Nobody says anything."""

    def started(self, attempt: Attempt) -> None:
        """Nothing."""

    def ended(self, attempt: Attempt, end: object) -> None:
        """Nothing."""

    def progress(self, state: State, rate: float) -> None:
        """Nothing."""

    def due(self, now_s: float) -> bool:
        """Never."""
        return False

    def update(self, besides: str = "", *, budget_s: float = 0.0) -> bool:
        """There are no views."""
        return True


# -- comparing minds ---------------------------------------------------------------------------------------------------

LEFT_OUT: dict[type, frozenset[str]] = {
    Loop: frozenset(
        "config options link reporter views disk clock id problem allocation _clock _signals _selector _wake_r _wake_w"
        " _undertaker _heart _hold_until _said _deadline _pace".split()
    ),
    Agreement: frozenset("_ledger _id _plan _journal _loop _clock _heeded _looks _next_look _tail_read".split()),
    Ledger: frozenset(("workdir", "disk", "clock", "log", "segments", "snapshot_at")),
    State: frozenset("number config segments deps first_ready index lease_s heartbeat_s _alive".split()),
    Farmer: frozenset("id joined host last since until why takes finished failed unreadable".split()),
    Plan: frozenset("state rules _describe _is_special _next_timeout _recent _ends _typical_s".split()),
    Attempt: frozenset(("task", "began", "kill_at")),
    Journal: frozenset(("_disk", "_fd", "unsynced", "problem")),
}
"""What does not change what a farmer does next, or is the same for all; everything else is compared."""


def frozen(value: Any) -> Any:
    """Return something to compare and to hash by: the same for two that will do the same."""
    kind = type(value)
    if (how := _HOW.get(kind)) is None:
        how = _HOW[kind] = _how(value)
    return how(value)


def _how(value: Any) -> Callable[[Any], Any]:
    """Return how to freeze values of that class."""
    kind = type(value)
    if isinstance(value, tuple):
        return _frozen_list
    if callable(value):
        return lambda _value: None
    names = [item.name for item in fields(value)] if is_dataclass(value) else sorted(vars(value))
    compared = [name for name in names if name not in LEFT_OUT.get(kind, ())]
    if len(compared) == 1:
        return lambda value: frozen(getattr(value, compared[0]))
    values = attrgetter(*compared) if compared else lambda _value: ()
    return lambda value: _frozen_list(values(value))


def _frozen_list(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple([value if type(value) in _PLAIN else frozen(value) for value in values])


def _frozen_dict(value: dict[Any, Any]) -> Any:
    return frozenset([(key, frozen(item)) for key, item in value.items()]) if value else ()


_PLAIN = {int, str, bytes, bool, type(None)}
_HOW: dict[type, Callable[[Any], Any]] = {
    **dict.fromkeys(_PLAIN, lambda value: value),
    **dict.fromkeys((list, tuple, deque), _frozen_list),
    **dict.fromkeys((set, frozenset), lambda value: frozenset(map(frozen, value))),
    **dict.fromkeys((bytearray, array), bytes),
    float: lambda value: round(value, 3),
    dict: _frozen_dict,
}


def agreed(state: State) -> dict[str, Any]:
    """Return what all must agree on who have read everything."""
    return {
        "states": [state.name_of(task) for task in range(len(state))],
        "status": bytes(state.status),
        "owners": [(task, state.owner[task]) for task in range(len(state)) if state.status[task] in (TAKEN, CANCELLED)],
        "tries": [state.tries_of(task) for task in range(len(state))],
        "running": state.running,
        "stopping": state.stopping,
        "let go": [state.is_let_go(task) for task in range(len(state))],
        "missing": {task: count for task, count in state.missing.items() if count},
        "ready": list(state.ready(len(state))),
        "farmers": [(f.id, f.ended, f.cut, f.seen, f.finished, f.failed, f.want) for f in state.farmers],
        "stops": state.stops,
    }


class _Outcome(NamedTuple):
    """What came of an action: the actor's mind, entries of the log, what its journal has more, how many writes.

    `first` is 0 if no entries were removed; `ghosts` are those that are new.
    """

    mind: Mind | None
    entries: tuple[Said, ...]
    written: bytes
    writes: int
    first: int
    ghosts: frozenset[tuple[int, bytes]]


class Known(NamedTuple):
    """What log and journals say to who reads them now."""

    agreed: dict[str, Any]
    finished: frozenset[int]
    alive: frozenset[str]
    open: int


# -- exploring ---------------------------------------------------------------------------------------------------------


class Report(NamedTuple):
    """What an exploration saw: worlds, the steps between them, the longest of the shortest ways there."""

    worlds: int
    steps: int
    depth: int
    complete: bool


class Explorer:
    """Explores one scenario, in memory (`path` is a directory for the descriptions of the tasks)."""

    def __init__(self, scenario: Scenario, path: Path) -> None:
        self.scenario = scenario
        workdir = Workdir(path)
        for directory in workdir.directories():
            directory.mkdir(exist_ok=True)
        lines = [
            encode_task(Task(text=f"task {n}", after=tuple(map(TaskId, scenario.after.get(n, ())))))
            for n in range(scenario.tasks)
        ]
        self._segment = write_segment(workdir.tasks, lines, Disk(), relative=False)
        self.stage = Stage(workdir)
        nothing = Definition("runner", "", "", {}, "", 0)
        rules = Rules(retries=scenario.retries, retry_delay_s=0.0)
        self._config = FarmConfig(tasklist="", handler=nothing, runner=nothing, cwd="", rules=rules)
        self._options = FarmerOptions(slots=scenario.slots)
        self._quiet: Any = Quiet()
        self._segments = Ledger(workdir, self.stage, self.stage).segments
        self._shared: list[object] = []
        self._places: dict[int, int] = {}
        self._share(
            self.stage, workdir, workdir.path, workdir.log, workdir.new, self._config, rules, self._options,
            self._quiet, self._segments, Log, *LEFT_OUT,
        )  # fmt: skip
        self._minds: dict[Any, Mind] = {}
        self._numbers: dict[Any, int] = {}
        self._living: dict[Chain, dict[str, int]] = {}
        self._steps: dict[Any, _Outcome] = {}
        self._known: dict[tuple[Chain, tuple[bytes, ...]], Known] = {}
        self._agrees: set[Any] = set()
        self._ends_well: set[Any] = set()
        self._came_from: dict[Any, tuple[Any, Action] | None] = {}

    @contextmanager
    def _patched(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            self.stage.patch(patch)
            yield

    def explore(self, most: int = 1_000_000) -> Report:
        """Visit every world, up to `most`.

        Raises:
            Broken: one of them is not as it must be.
        """
        with self._patched():
            first = self.first = self._first()
            self._came_from[self._same(first)] = None
            front, steps, depth = [first], 0, 0
            while front:
                found: list[World] = []
                for world in front:
                    for action in self._actions(world):
                        steps += 1
                        found += self._visit(world, action)
                    if len(self._came_from) > most:
                        return Report(len(self._came_from), steps, depth, complete=False)
                front = found
                depth += bool(front)
            return Report(len(self._came_from), steps, depth, complete=True)

    def _visit(self, world: World, action: Action) -> list[World]:
        """Take a step; return the worlds that are new."""
        new = []
        try:
            for after in self._after(world, action):
                same = self._same(after)
                if same not in self._came_from and self._is_near(after):
                    self._came_from[same] = (self._same(world), action)
                    self._check_step(world, after, action)
                    self._check(after)
                    new.append(after)
        except Exception as error:
            raise Broken(f"{self._history(world)}\n{action}\n-> {type(error).__name__}: {error}") from error
        return new

    def _is_near(self, world: World) -> bool:
        """Whether nobody is farther behind than may be: two that only give and take would go on for ever."""
        return all(mind is None or world.log.number - mind.number <= self.scenario.behind for mind in world.minds)

    def _history(self, world: World) -> str:
        actions: list[str] = []
        same: Any = self._same(world)
        while (came := self._came_from.get(same)) is not None:
            same, action = came
            actions.append(str(action))
        return "\n".join(reversed(actions))

    def _share(self, *things: object) -> None:
        """All minds have the same of these."""
        for thing in things:
            self._places[id(thing)] = len(self._shared)
            self._shared.append(thing)

    # -- minds ---------------------------------------------------------------------------------------------------------

    def _dump(self, value: object) -> bytes:
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.places = self._places
        pickler.dump(value)
        return buffer.getvalue()

    def _load(self, data: bytes) -> Any:
        unpickler = _Unpickler(io.BytesIO(data))
        unpickler.shared = self._shared
        return unpickler.load()

    def _mind(self, driver: Driver) -> Mind:
        for attempt in driver.plan.running.values():
            attempt.began = 0.0
        driver._hold_until = 0.0
        ledger = driver.ledger
        late = self.stage.boottime() - ledger.looked > ledger.state.lease_s / 2
        ledger.looked = -MUCH_LATER if late else 0.0
        unheeded = driver.agreement._heeded < ledger.state.number
        kept, false = self._put_away(ledger)
        is_new = ledger.snapshot_at == ledger.state.number
        like = self._number((driver.id, unheeded, is_new, kept, frozen(driver)))
        key = (like, ledger.state.number, ledger.snapshot_at)
        if key not in self._minds:
            self._minds[key] = Mind(driver, self._dump(driver), like, false)
        return self._minds[key]

    def _put_away(self, ledger: Ledger) -> tuple[Any, list[int]]:
        """Leave of the entries that somebody keeps only their numbers, if they are what the log at hand says.

        Return how far back these are, and which are not. What an entry says of others is asked for in the same step;
        so is one that was found in one's way, or else it was taken in from a copy, and is only found again in its file.
        """
        log, number = ledger.log, ledger.state.number
        log._told = {}
        if log._held is not None:
            assert log._held[0] <= number, "an entry that was found is not taken in"
            log._held = None
        if number <= self.stage.log.number and ledger._nonce == self.stage.log.at(number).nonce:
            ledger._nonce = ""
        kept, false = [], []
        for other, value in log._recent.items():
            text = _text(value)
            if self.stage.log.is_right(other, text):
                log._recent[other], text = {}, ""
            else:
                false.append(other)
            kept.append((number - other, text))
        return tuple(sorted(kept)), false

    def _awake(self, mind: Mind, log: Chain) -> Driver:
        """Return a farmer that is to do something with that log."""
        driver: Driver = self._load(mind.pickled)
        ledger = driver.ledger
        ledger._nonce = ledger._nonce or log.at(mind.number).nonce
        for other, value in ledger.log._recent.items():
            ledger.log._recent[other] = value or log.at(other).value
        return driver

    def _number(self, what: object) -> int:
        """Return one number for what is equal."""
        return self._numbers.setdefault(what, len(self._numbers))

    def _same(self, world: World) -> tuple[Any, ...]:
        """Return what is equal for worlds from which the same can come: how long the log is does not matter."""
        log = world.log
        read = min((mind.number for mind in world.minds if mind is not None), default=log.number)
        minds = tuple(
            (mind.like, log.number - mind.number, mind.snapshot_at > world.first) if mind is not None else None
            for mind in world.minds
        )
        files = (log.since(read), _hidden(world, read), world.journals)
        return self._says(log.at(read)), files, minds, world.silent, world.left

    def _says(self, log: Chain) -> int:
        if log.says < 0:
            states = [self._load(data).state for data in dict.fromkeys((self._read(log), self._opened(log)))]
            log.says = self._number(tuple(map(frozen, states)))
        return log.says

    def _ledger(self) -> Ledger:
        ledger = Ledger(self.stage.workdir, self.stage, self.stage)
        ledger.segments = self._segments
        return ledger

    # -- the first world -----------------------------------------------------------------------------------------------

    def _first(self) -> World:
        """Make the farm; its farmers have joined, and have seen each other."""
        self.stage.set(self.stage.log, (), actor=CLI)
        farm = Farm(config={"logs": "none"}, lease_s=300.0, heartbeat_s=15.0, segment=self._segment)
        self._ledger().append(lambda _state: (farm, ()))
        world = World(self.stage.log, (), (), frozenset(), self.scenario.left())
        for place in range(self.scenario.farmers):
            world = self._step(world, Action(NAMES[place], "join"))
        for place in range(self.scenario.farmers):
            world = self._step(world, Action(NAMES[place], "publish"))
        for place in range(self.scenario.farmers):
            world = self._step(world, Action(NAMES[place], "look", world.log.number - world.mind(place).number))
        return world

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _after(self, world: World, action: Action) -> Iterator[World]:
        """Yield where an action leads: mostly to one world; to more when its farmer may die in the middle of it."""
        yield self._step(world, action)
        if action.who == CLI or not self._may(world, "crash") or action.verb in ("crash", "join"):
            return
        for dies_after in range(1, self._outcome(world, action).writes):
            yield self._step(world, action._replace(dies_after=dies_after))

    def _step(self, world: World, action: Action) -> World:
        done = self._outcome(world, action)
        log, journals, minds, left = world.log, list(world.journals), list(world.minds), list(world.left)
        for data in done.entries:
            log = log.then(data)
        if action.who != CLI:
            place = NAMES.index(action.who)
            if place == len(minds):
                minds.append(None)
                journals.append(b"")
            minds[place] = done.mind
            journals[place] += done.written
        silent = world.silent | {action.what} if action.cost == "silence" and done.entries else world.silent
        ghosts = () if done.first else tuple(sorted(done.ghosts.union(world.ghosts)))
        for cost in (action.cost, "crash" if action.dies_after else ""):
            if cost:
                left[KINDS.index(cost)] -= 1
        return World(log, tuple(journals), tuple(minds), silent, tuple(left), done.first or world.first, ghosts)

    def _outcome(self, world: World, action: Action) -> _Outcome:
        """Do it, or remember what came of it: whoever has the same mind, and reads the same, does the same."""
        place = NAMES.find(action.who)
        mind = world.minds[place] if 0 <= place < len(world.minds) else None
        salt = sum(world.left[KINDS.index(fault)] for fault in FAULTS)
        keys: list[Any] = [(action, world.log, world.journals, world.first, world.ghosts, salt)]
        if mind is not None:
            new = world.log.since(mind.number)
            shown = tuple(
                world.journals[NAMES.index(name)][mind.others.get(name, 0) : end] for name, end in action.shown
            )
            hidden = _hidden(world, mind.number)
            keys = [(mind, action, shown, hidden), (mind, action, shown, hidden, new, salt), (mind, *keys[0])]
        for key in keys:
            if key in self._steps:
                return self._steps[key]
        outcome = self._do(world, action, mind, place, salt)
        far = 2 if self.stage.looked_back else int(self.stage.looked)
        self._steps[keys[min(far, len(keys) - 1)]] = outcome
        return outcome

    def _do(self, world: World, action: Action, mind: Mind | None, place: int, salt: int) -> _Outcome:
        opened = self._opened(world.log) if action.who == CLI else b""
        before = world.journals[place] if mind is not None else b""
        self.stage.set(
            world.log, world.journals, actor=action.who, salt=salt,
            shown=dict(_as_known(mind, world.journals) if mind is not None else ()) | dict(action.shown),
            last=mind.number + action.what if mind is not None and action.verb == "look" else None,
            fault=action.cost if action.cost in FAULTS else "", dies_after=action.dies_after,
            known=mind.number if mind is not None else 0,
            seen=mind.others | {action.who: len(before)} if mind is not None else {},
            first=world.first, ghosts=world.ghosts,
        )  # fmt: skip
        after = self._act(mind, action, opened)
        stage = self.stage
        written = stage.journals[action.who][len(before) :] if action.who != CLI else b""
        first = stage.first if stage.first != world.first else 0
        ghosts = frozenset(stage.ghosts.items()).difference(world.ghosts)
        return _Outcome(after, stage.log.since(world.log.number), written, stage.operations, first, ghosts)

    def _act(self, mind: Mind | None, action: Action, opened: bytes) -> Mind | None:
        if action.verb == "join":
            return self._mind(self._joined(action.who))
        if mind is None:
            self._command(self._load(opened), action)
            return None
        driver = self._awake(mind, self.stage.log)
        if mind.number + 1 < self.stage.first and not action.sleeps:
            driver.ledger.looked = -MUCH_LATER
        try:
            DEEDS[action.verb](self, driver, action)
        except (Crash, _Gone):
            return None
        return self._mind(driver)

    def _joined(self, id: str) -> Driver:
        ledger = self._ledger()
        ledger.refresh()
        driver = Loop(
            ledger, self._config, self._options, id=id, link=self._quiet, executor=Runs(), reporter=self._quiet,
            views=self._quiet,
        )  # fmt: skip
        driver._join()
        del driver._pace  # each of its jobs is an action
        self._share(driver._heart)
        return driver

    def _command(self, ledger: Ledger, action: Action) -> None:
        ledger.read_tails()
        task = action.what

        def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
            news = ledger.all_news()
            if action.verb == "stop":
                return Stop(mode="now", farmers=[NAMES[task]]), ()
            if action.verb == "cancel":
                return (
                    (Cancel(ids=str(task)), news) if state.status[task] not in (FINISHED, FAILED, CANCELLED) else None
                )
            return (Retry(ids=str(task)), news) if state.status[task] in (FAILED, CANCELLED, UNKNOWN) else None

        ledger.append(make)

    # -- deeds of a farmer ---------------------------------------------------------------------------------------------

    def _start(self, driver: Driver, _action: Action) -> None:
        self.stage.now = MUCH_LATER
        before = set(self._runs(driver))
        driver._start()
        state = driver.ledger.state
        for task in set(self._runs(driver)) - before:
            own = state.owner[task] == driver.number and state.status[task] == TAKEN
            assert own, f"{driver.id} started task {task}, and knew that it had no right to"

    def _end(self, driver: Driver, action: Action) -> None:
        self.stage.now = self.scenario.seconds
        executor = driver.executor
        assert isinstance(executor, Runs)
        executor.end(action.what, action.status)
        driver._reap()

    def _runs(self, driver: Driver) -> dict[int, int]:
        assert isinstance(driver.executor, Runs)
        return driver.executor.running

    def _leave(self, driver: Driver, _action: Action) -> None:
        driver._leave()
        raise _Gone

    def _ask(self, driver: Driver, action: Action) -> None:
        driver.agreement._looks = PATIENT_LOOKS + 1 if action.cost == "ask" else 0
        driver.agreement._look_at_others()

    def _leave_at_once(self, _driver: Driver, _action: Action) -> None:
        raise _Gone

    def _bury(self, driver: Driver, action: Action) -> None:
        driver._undertaker._silence = _Silence(NAMES[action.what])
        driver._undertaker._next_look = float("-inf")  # it is as long ago as need be
        driver._watch()

    def _stop(self, driver: Driver, _action: Action) -> None:
        driver._signals.append(signal.SIGTERM)
        driver._obey()

    def _snapshot(self, driver: Driver, _action: Action) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger_module, "SNAPSHOT_EVERY", 1)
            driver.ledger.snapshot(driver.id)
        driver.agreement.heed()

    def _forget(self, driver: Driver, _action: Action) -> None:
        driver._undertaker.forget_old_entries()  # it sees the snapshot
        self.stage.up = MUCH_LATER
        driver._undertaker.forget_old_entries()
        self.stage.up = 0.0

    def _look(self, driver: Driver, _action: Action) -> None:
        driver.agreement._look_at_log()
        if driver.ledger.state.number < self.stage.log.number:
            return
        ours = driver.plan._is_ours
        deaf = [task for task, attempt in driver.plan.running.items() if not attempt.reason and not ours(task)]
        assert not deaf, f"{driver.id} has read all of the log, and does not stop {deaf}, which are not its own"
        dead = driver.ledger.state.farmer(driver.id).ended and driver.plan.mode != "stop"
        assert not dead, f"{driver.id} has read that it was buried, and goes on"

    # -- what can happen -----------------------------------------------------------------------------------------------

    def _actions(self, world: World) -> Iterator[Action]:
        """Yield all that may come next. Farmers that have not done anything yet are alike: the first begins."""
        for place, mind in enumerate(world.minds):
            if mind is not None:
                yield from self._work(world, place, mind)
                yield from self._fate(world, place)
                if place < self.scenario.farmers and mind is self.first.minds[place]:
                    break
        yield from self._commands(world)
        if self._may(world, "join"):
            yield Action(NAMES[len(world.minds)], "join", cost="join")

    def _may(self, world: World, kind: str) -> bool:
        return bool(world.left[KINDS.index(kind)])

    def _work(self, world: World, place: int, mind: Mind) -> Iterator[Action]:
        """What the loop of a farmer does."""
        name = NAMES[place]
        do = Action(name, "look")
        behind = world.log.number - mind.number
        for count in range(max(1, world.first - mind.number), behind + 1):
            yield do._replace(what=count)
        if (mind.lets_go or mind.queue) and not behind:
            yield do
        for verb in [
            verb for verb, able in (("take", mind.wants), ("publish", mind.untold), ("leave", mind.finished)) if able
        ]:
            yield from self._linking(world, mind, do._replace(verb=verb))
        if mind.mode == "work":
            yield do._replace(verb="start")
        for task, reason in mind.running.items():
            end = do._replace(verb="end", what=task, status=-15 if reason else 0)
            yield end
            if not reason and self._may(world, "fail"):
                yield end._replace(status=1, cost="fail")
        if not mind.queue and len(mind.others):
            for shown in self._views(world, mind.others):
                yield do._replace(verb="others", shown=shown)
                if self._may(world, "ask") and not mind.asked:
                    yield do._replace(verb="others", shown=shown, cost="ask")
        for other in mind.others:
            target = NAMES.index(other)
            if world.minds[target] is None and other in self._alive(world.log):
                for shown in self._views(world, {other: mind.others[other]}):
                    yield from self._linking(world, mind, do._replace(verb="bury", what=target, shown=shown))

    def _linking(self, world: World, mind: Mind, action: Action) -> Iterator[Action]:
        """The action, and what may go wrong with its link."""
        yield action
        if world.misses(mind):
            yield action._replace(sleeps=True)
        for fault in FAULTS:
            if self._may(world, fault):
                yield action._replace(cost=fault)

    def _fate(self, world: World, place: int) -> Iterator[Action]:
        """What befalls a farmer, and what somebody may ask of it."""
        name = NAMES[place]
        for verb in ("crash", "snapshot", "stop"):
            if self._may(world, verb):
                yield Action(name, verb, cost=verb)
        if self._may(world, "forget") and self._may_forget(world, place):
            yield Action(name, "forget", cost="forget")
        if not self._may(world, "silence"):
            return
        for other, mind in enumerate(world.minds):
            if mind is not None and name in mind.others and other != place:
                for shown in self._views(world, {name: mind.others[name]}):
                    yield Action(NAMES[other], "bury", place, shown=shown, cost="silence")

    def _may_forget(self, world: World, place: int) -> bool:
        """Whether a farmer may have seen a snapshot for two leases: all others have, or have been silent since."""
        at = world.mind(place).snapshot_at
        awake = [mind for other, mind in enumerate(world.minds) if mind is not None and other not in world.silent]
        return place not in world.silent and at > world.first and all(mind.number >= at for mind in awake)

    def _commands(self, world: World) -> Iterator[Action]:
        """What people do. A command reads everything anew."""
        for verb in ("cancel", "retry"):
            if self._may(world, verb):
                for shown in self._views(world, self._alive(world.log)):
                    for task in range(self.scenario.tasks):
                        yield Action(CLI, verb, task, shown=shown, cost=verb)

    def _views(self, world: World, known: Mapping[str, int]) -> Iterator[tuple[tuple[str, int], ...]]:
        """Yield how far one who knows journals so far may see them: for each a line's end from there on."""
        choices = []
        for name, seen in known.items():
            journal = world.journals[NAMES.index(name)]
            ends = _line_ends(journal, seen) if self.scenario.old else (len(journal),)
            if ends[-1] > seen:
                choices.append([(name, end) for end in ends])
        yield from itertools.product(*choices)

    def _all(self, world: World) -> tuple[tuple[str, int], ...]:
        return tuple((name, len(journal)) for name, journal in zip(NAMES, world.journals, strict=False))

    # -- what must hold ------------------------------------------------------------------------------------------------

    def _alive(self, log: Chain) -> dict[str, int]:
        """The farmers that live as far as the log knows, and how much of their journals it knows."""
        if log not in self._living:
            self._living[log] = {farmer.id: farmer.told for farmer in self._load(self._read(log)).state.alive()}
        return self._living[log]

    def _read(self, log: Chain) -> bytes:
        """A ledger that has read every entry since the first."""
        if not log.read:
            before = log.before
            ledger = self._load(self._read(before)) if before is not None and before.number else self._ledger()
            self.stage.set(log, ())
            done = _finished(ledger.state)
            ledger.refresh()
            assert done <= _finished(ledger.state), "a finish that counted does not any more"
            log.read = self._dump(ledger)
        return log.read

    def _opened(self, log: Chain) -> bytes:
        """A ledger that was opened now: it has read what follows the latest snapshot."""
        if not log.opened:
            self.stage.set(log, ())
            ledger = self._ledger()
            ledger.refresh()
            log.opened = self._dump(ledger) if ledger.snapshot_at else self._read(log)
        return log.opened

    def _knows(self, world: World) -> Known:
        """Read everything, in several ways that must agree."""
        key = (world.log, world.journals)
        if key not in self._known:
            ledgers = [self._load(self._read(world.log)), self._load(self._opened(world.log))]
            self.stage.set(world.log, world.journals)
            for ledger in ledgers:
                ledger.read_tails()
            said = agreed(ledgers[0].state)
            _must_be_same(said, agreed(ledgers[1].state), "whoever began with the snapshot")
            state = ledgers[0].state
            self._check_state(state)
            alive = frozenset(farmer.id for farmer in state.alive())
            self._known[key] = Known(said, _finished(state), alive, state.open_tasks())
        return self._known[key]

    def _check_state(self, state: State) -> None:
        assert sum(state.counts().values()) == self.scenario.tasks == len(state), "the counts do not add up"
        assert sum(farmer.finished for farmer in state.farmers) == len(_finished(state)), "a finish is counted twice"
        started: set[tuple[int, int]] = set()
        for farmer in state.farmers:
            for record in read_tail(self.stage.workdir.journals / farmer.id, 0, farmer.seen, disk=self.stage).records:
                if isinstance(record, Started):
                    attempt = (record.id, record.attempt)
                    assert attempt not in started, f"task {record.id} has two attempts {record.attempt}"
                    started.add(attempt)
        for task in range(len(state)):
            if state.status[task] == TAKEN:
                assert state.farmers[state.owner[task] - 1].alive, f"task {task} has a dead owner"

    def _check(self, world: World) -> None:
        """What must hold in every world."""
        known = self._knows(world)
        running: set[int] = set()
        for place, mind in enumerate(world.minds):
            if mind is None:
                continue
            self._check_reader(mind, world, known)
            if place not in world.silent:
                twice = running & mind.running.keys()
                assert not twice, f"{twice} run twice at once, and nobody was silent"
                running |= mind.running.keys()
        self._check_end(world)

    def _check_reader(self, mind: Mind, world: World, known: Known) -> None:
        """Whoever reads on to the end knows what the others know, whatever it read before."""
        key = (mind, world.log, world.journals, world.first, world.ghosts)
        if key not in self._agrees:
            ledger = self._awake(mind, world.log).ledger
            self.stage.set(world.log, world.journals, first=world.first, ghosts=world.ghosts)
            if world.misses(mind):
                ledger.looked = -MUCH_LATER
            ledger.refresh()
            ledger.read_tails()
            _must_be_same(known.agreed, agreed(ledger.state), f"{mind.id}, having read on,")
            self._agrees.add(key)

    def _check_step(self, before: World, after: World, action: Action) -> None:
        """What a step must not do. A burial may cut off what its writer could not see, or what came later."""
        self._check_copies(before, after)
        old, new = self._knows(before), self._knows(after)
        if action.verb != "bury" or not self._hides(before, action):
            lost = old.finished - new.finished
            assert not lost, f"{set(lost)} had finished, by log and journals, and have not any more"
        mind = after.minds[NAMES.index(action.who)] if action.verb == "start" else None
        if mind is not None and action.who in old.alive:
            again = old.finished & mind.running.keys()
            assert not again, f"{set(again)} had finished and are run again"
        mind = after.minds[NAMES.index(action.who)] if action.verb == "look" else None
        if mind is not None and mind.number == after.log.number and mind.id not in new.alive:
            assert mind.mode == "stop", f"{mind.id} was buried, has read all of the log, and goes on"

    def _check_copies(self, before: World, after: World) -> None:
        """What is told of an entry elsewhere is what it says."""
        for number, said in enumerate(after.log.since(before.log.number), before.log.number + 1):
            false = [number - back for back, text in said.copies if text]
            assert not false, f"entry {number} tells what {false} do not say"
        for mind in after.minds:
            assert mind is None or not mind.false, f"{mind.id} would tell what {mind.false} do not say"

    def _hides(self, world: World, action: Action) -> bool:
        """Whether not all of the journal of the one to be buried can be seen."""
        shown = dict(action.shown).get(NAMES[action.what])
        return shown is not None and shown < len(world.journals[action.what])

    def _check_end(self, world: World) -> None:
        """From here the farm can be finished, by farmers that do nothing but their work."""
        way: list[Action] = []
        while (same := self._same(world)) not in self._ends_well:
            self._ends_well.add(same)
            step = self._onward(world)
            if step is None:
                assert not self._knows(world).open, "the farm is not done, and nobody does anything about it"
                return
            way.append(step[0])
            assert len(way) < MOST_STEPS, f"the farm comes to no end: {', '.join(map(str, way[-10:]))}, ..."
            world = step[1]

    def _onward(self, world: World) -> tuple[Action, World] | None:
        """Take the first step that leads on; None when nobody has anything to do."""
        for action in self._duties(world):
            after = self._step(world, action)
            if after != world and self._same(after) != self._same(world):
                return action, after
        return None

    def _duties(self, world: World) -> Iterator[Action]:
        """What must be done so that the farm comes to its end."""
        living = [place for place, mind in enumerate(world.minds) if mind is not None]
        for place in living:
            mind = world.mind(place)
            behind = world.log.number - mind.number
            do = Action(NAMES[place], "look", behind)
            if behind:
                yield do
            yield from (do._replace(verb="end", what=t, status=-15 if why else 0) for t, why in mind.running.items())
            for verb in ("start", "take", "publish", "look"):
                yield do._replace(verb=verb, what=0)
            yield Action(NAMES[place], "others", shown=self._all(world))
            if mind.finished:
                yield do._replace(verb="leave", what=0)
        known = self._knows(world)
        for place, name in enumerate(NAMES[: len(world.minds)]):
            if world.minds[place] is None and name in known.alive and living:
                yield Action(NAMES[living[0]], "bury", place, shown=self._all(world))
        if not living and known.open:
            yield Action(NAMES[len(world.minds)], "join")


DEEDS: dict[str, Callable[[Explorer, Driver, Action], None]] = {
    "look": Explorer._look,
    "others": Explorer._ask,
    "take": lambda _explorer, driver, _action: driver.agreement.take(),
    "start": Explorer._start,
    "end": Explorer._end,
    "publish": lambda _explorer, driver, _action: driver.agreement.publish(),
    "leave": Explorer._leave,
    "bury": Explorer._bury,
    "snapshot": Explorer._snapshot,
    "forget": Explorer._forget,
    "stop": Explorer._stop,
    "crash": Explorer._leave_at_once,
}
"""What a farmer does, by its name."""


class _Pickler(pickle.Pickler):
    """Leaves out what all minds share."""

    places: dict[int, int]

    def persistent_id(self, value: object) -> int | None:
        """Return the place of a shared object."""
        return self.places.get(id(value))


class _Unpickler(pickle.Unpickler):
    """Puts it back."""

    shared: list[object]

    def persistent_load(self, place: Any) -> object:
        """Return a shared object."""
        return self.shared[place]


def _finished(state: State) -> frozenset[int]:
    return frozenset(task for task in range(len(state)) if state.status[task] == FINISHED)


def _must_be_same(one: dict[str, Any], other: dict[str, Any], who: str) -> None:
    different = {key: (one[key], other[key]) for key in one if one[key] != other[key]}
    assert not different, f"{who} knows something else than who reads all now: {different}"


def _line_ends(journal: bytes, start: int) -> list[int]:
    """Return `start` and the ends of the lines after it."""
    ends = [start]
    while (end := journal.find(b"\n", ends[-1]) + 1) > 0:
        ends.append(end)
    return ends


def _hidden(world: World, number: int) -> tuple[Any, ...]:
    """What who has read the log up to entry `number` may miss, and find in its place."""
    if world.first <= number + 1:
        return ()
    return world.first - number, *((ghost - number, data) for ghost, data in world.ghosts if ghost > number)


def _as_known(mind: Mind, journals: tuple[bytes, ...]) -> tuple[tuple[str, int], ...]:
    """Nothing of other journals is to be seen that this farmer has not seen already."""
    return tuple((name, seen) for name, seen in mind.others.items() if seen < len(journals[NAMES.index(name)]))
