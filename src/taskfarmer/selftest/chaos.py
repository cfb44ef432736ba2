"""Farms of real farmers that are killed, stopped and misled at random: one host's part of it.

What befalls a farmer (`STRIKES`):

    loop      SIGKILL of the loop: its guardian ends the tasks
    guardian  SIGKILL of the guardian: the loop ends the tasks and leaves
    both      both in the same instant, as when a host dies
    task      SIGKILL of a task: it has failed, and is tried again
    stop      SIGTERM, as from a batch system
    nap       SIGSTOP of both for less than the lease, then SIGCONT: nothing may come of it
    hang      SIGSTOP of the loop for longer than the lease: its guardian ends it
    pause     SIGSTOP of both for longer than the lease, then SIGCONT, while its tasks run on
    freeze    the same with its tasks: a virtual machine that was suspended

Who has gone is replaced, so that there are always as many farmers as were asked for. Clock skew: a farmer may be
started with a wrong wall clock, off by hours or jumping, by a few lines that replace `time.time` in that process alone.
What else there is of time (monotonic clocks, the file system's time stamps) nobody can set without setting it for the
whole host; the ledger compares wall clocks nowhere, which is what the skew is to show.

Tasks write down each execution themselves: a line at the beginning and one at the end, in a file named for the
farmer's life, on whose one host these lines cannot get lost. A task whose line cannot be written fails.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..farm import host
from .contract import Findings, examine
from .probes import Context
from .witness import Witness

STRIKES = ("loop", "guardian", "both", "task", "stop", "nap", "hang", "pause", "freeze")
SKEWS = ("0", "3600", "-86400", "jump", "0")
"""Seconds by which a farmer's wall clock is wrong; `jump`: an hour ahead and behind in turn, every two seconds."""
_SKEWED = """
import sys, time
skew, right = sys.argv.pop(1), time.time
wrong = (lambda: 3600 if right() % 4 < 2 else -3600) if skew == "jump" else (lambda: int(skew))
time.time = lambda: right() + wrong()
from taskfarmer.cli import main
main()
"""
_TASK = """\
note() { read -r up _ </proc/uptime; echo "$PROC_NUMBER $TASKFARMER_ATTEMPT $$ $1 $up" >>"$NOTES/$TASKFARMER_TOKEN"; }
NOTES=$1
note b || exit 75
[ "$2" = 0 ] || sleep "$2"
note e || exit 75
"""
POLL_S = 0.02
LOOKS = 0.05
"""Of a lease between two looks of a witness: as often as hearts beat."""
MOST_RETRIES = 50
"""Farmers that may say that tasks have failed, since these were lost too often, before that is a fault."""
CALM_S = 300.0
"""How long a farm may take to come to its end when nothing befalls it any more, beyond the work that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where a farm is. `notes` and `streams` may stand on another file system than the workdir."""

    tasklist: Path
    workdir: Path
    notes: Path
    streams: Path

    @classmethod
    def below(cls, directory: Path) -> Ground:
        """Return the names in one directory."""
        return cls(
            tasklist=directory / "tasks.txt",
            workdir=directory / "workdir",
            notes=directory / "executions",
            streams=directory / "streams",
        )

    def prepare(self, durations: Sequence[float]) -> None:
        """Write the list, a task for each duration (seconds), and make the directories, but not the workdir."""
        for directory in (self.tasklist.parent, self.notes, self.streams):
            directory.mkdir(parents=True, exist_ok=True)
        script = self.tasklist.with_name("task.sh")
        script.write_text(_TASK)
        line = f"sh {shlex.quote(str(script))} {shlex.quote(str(self.notes))}"
        lines = "".join(f"{line} {seconds:g}\n" for seconds in durations)
        self.tasklist.write_text(lines, errors="surrogateescape")  # directories may have any name


def durations(tasks: int, seed: int, lease_s: float) -> list[float]:
    """Return how long tasks are: most do nothing, some take up to two seconds, a few longer than the lease."""
    chance = random.Random(seed)
    spans = ((0.0, 0.0), (0.01, 0.1), (0.1, 0.5), (1.0, 2.0), (lease_s, 1.3 * lease_s))
    return [round(chance.uniform(*chance.choices(spans, (780, 150, 50, 15, 5))[0]), 3) for _ in range(tasks)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one host does. Times in seconds; strikes come for `seconds` at most, so often that a farmer lives for longer
    than the lease on average: who does not cannot notice that another is silent.

    `prefix`: a command before each farmer's, such as one that makes namespaces for it, of which it is the only child.
    """

    farmers: int
    slots: int = 2
    lease_s: float = 5.0
    seed: int = 0
    strikes: tuple[str, ...] = ()
    seconds: float = 60.0
    skews: tuple[str, ...] = ("0",)
    prefix: tuple[str, ...] = ()
    limit_s: float = CALM_S
    options: tuple[str, ...] = ()

    @property
    def every_s(self) -> float:
        """The time between two strikes, on average."""
        return 1.5 * self.lease_s / self.farmers


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that befalls the directory itself, from `at_s` on for `for_s` seconds."""

    name: str
    at_s: float
    for_s: float
    begin: Callable[[], object]
    end: Callable[[], object]


@dataclass(slots=True)
class Outcome:
    """What one host did and saw. `silenced`: farmers that were stopped for longer than the lease, or whose host died,
    as [PID namespace, pid of the loop]; `still_s`: for how long heartbeats stood still at most, by farmer, as it saw.
    """

    strikes: Counter[str] = field(default_factory=Counter)
    silenced: list[tuple[int, int]] = field(default_factory=list)
    still_s: dict[str, float] = field(default_factory=dict)
    lives: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        counted = {"strikes": dict(self.strikes), "ends": dict(self.ends)}
        return counted | {name: getattr(self, name) for name in ("silenced", "still_s", "lives", "seconds", "problems")}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Outcome:
        """Return what `to_json` gave."""
        silenced = [(int(namespace), int(pid)) for namespace, pid in value["silenced"]]
        counted = {name: Counter(value[name]) for name in ("strikes", "ends")}
        return cls(**(value | counted | {"silenced": silenced}))


def judged(ground: Ground, tasks: int, outcomes: Iterable[Outcome]) -> Findings:
    """Hold a farm to the contract, with what all of its hosts saw."""
    silenced: list[tuple[int, int]] = []
    still_s: dict[str, float] = {}
    problems: list[str] = []
    for outcome in outcomes:
        silenced += outcome.silenced
        problems += outcome.problems
        for farmer, seconds in outcome.still_s.items():
            still_s[farmer] = max(seconds, still_s.get(farmer, 0.0))
    found = examine(ground.workdir, ground.notes, tasks, silenced=silenced, still_s=still_s)
    found.problems += problems
    return found


class Life:
    """One farmer that was started here."""

    def __init__(self, ground: Ground, plan: Plan, number: int, skew: str) -> None:
        self._wrapped = bool(plan.prefix)
        self.errors = ground.streams / f"{os.uname().nodename}.{os.getpid()}.{number}"
        command = [sys.executable, "-m", "taskfarmer"] if skew == "0" else [sys.executable, "-c", _SKEWED, skew]
        options = ["-n", str(plan.slots), "--lease", str(plan.lease_s), "--logs", "none", "--quiet"]
        again = ["--retries", "1000", "--retry-delay", "0.05", "--stop-grace", "0.5"]
        named = ["run", str(ground.tasklist), "--workdir", str(ground.workdir)]
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [*plan.prefix, *command, *named, *options, *again, *plan.options],
                cwd=ground.tasklist.parent,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                process_group=0,
            )
        self.stopped: list[int] = []
        self.killed = False

    @property
    def guardian(self) -> int:
        """The guardian's process id; 0 when there is none."""
        return self.process.pid if not self._wrapped else next(iter(children(self.process.pid)), 0)

    def loops(self) -> list[int]:
        """The process ids of its loops."""
        return children(self.guardian)

    def tasks(self) -> list[int]:
        """The process ids of tasks that run."""
        return [task for loop in self.loops() for task in children(loop)]

    def send(self, number: int, pids: Sequence[int]) -> None:
        """Send a signal to some of its processes; those that have gone are forgiven."""
        for pid in pids:
            if pid > 0:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def host_dies(self) -> None:
        """End guardian and loop in the same instant; with namespaces of its own, all that is in them."""
        self.killed = True
        guardian, loops = self.guardian, self.loops()
        if self._wrapped:
            self.send(signal.SIGKILL, [guardian])
        else:
            self.send(signal.SIGSTOP, [guardian])
            self.send(signal.SIGKILL, [*loops, guardian])

    def close(self) -> None:
        """End it for good."""
        self.send(signal.SIGCONT, self.stopped)
        self.send(signal.SIGKILL, host.descendants(self.process.pid))
        self.process.kill()
        self.process.wait()


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def identity(pid: int) -> tuple[int, int] | None:
    """Return (PID namespace, process id in it) of a process, as its farmer's entry in the log says it."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        words = next(line.split() for line in status.splitlines() if line.startswith("NSpid:"))
        return os.stat(f"/proc/{pid}/ns/pid").st_ino, int(words[-1])
    return None


class Troop:
    """The farmers of one host on one farm, and what befalls them."""

    def __init__(
        self, ground: Ground, plan: Plan, troubles: Sequence[Trouble] = (), check: Callable[[], None] = lambda: None
    ) -> None:
        self._ground = ground
        self._plan = plan
        self._chance = random.Random(plan.seed)
        self._check = check
        self._lives: list[Life] = []
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._troubled = 0
        self._troubles: list[Trouble] = []
        self._starting = 0
        self._done = False
        self._calm_at = 0.0
        self._witness = Witness(ground.workdir)
        self.outcome = Outcome()
        now = time.monotonic()
        self._began = now
        self._due.append((now, self._look))
        for trouble in troubles:
            self._due.append((now + trouble.at_s, lambda it=trouble: self._begin(it)))  # type: ignore[misc]

    def run(self) -> Outcome:
        """Work until one farmer has said that all is finished, and none is left; all are gone afterwards."""
        plan = self._plan
        try:
            while len(self._lives) < plan.farmers:
                self._start()
            self._calm_at = self._began + (plan.seconds if plan.strikes else 0.0)
            if plan.strikes:
                self._due.append((self._began + plan.every_s, self._strike))
            while self._lives or self._starting:
                self._turn()
        finally:
            for trouble in self._troubles:
                trouble.end()
            for life in self._lives:
                life.close()
        self._witness.look()
        self.outcome.still_s = self._witness.still_s
        self.outcome.seconds = time.monotonic() - self._began
        return self.outcome

    def _turn(self) -> None:
        self._check()
        now = time.monotonic()
        for item in [item for item in self._due if item[0] <= now]:
            self._due.remove(item)
            item[1]()
        for life in list(self._lives):
            if life.process.poll() is not None:
                self._ended(life)
        if now > self._calm_at + self._plan.limit_s:
            self.outcome.problems.append(f"the farm did not come to its end within {self._plan.limit_s:.0f} s of calm")
            for life in self._lives:
                life.close()
            self._lives.clear()
            self._starting, self._done = 0, True
        time.sleep(POLL_S)

    def _start_again(self) -> None:
        self._starting -= 1
        if not self._done:
            self._start()

    def _start(self) -> None:
        skew = self._chance.choice(self._plan.skews)
        self._lives.append(Life(self._ground, self._plan, self.outcome.lives, skew))
        self.outcome.lives += 1

    def _ended(self, life: Life) -> None:
        """Note how it ended; replace it, unless it says that nothing is left to do."""
        self._lives.remove(life)
        status = life.process.returncode
        self.outcome.ends[str(status)] += 1
        said = life.errors.read_text(errors="replace")
        if "Traceback" in said:
            self.outcome.problems.append(f"a farmer showed a traceback: {said[-2000:]}")
        if status == 0:
            self._done = True
            self._calm_at = min(self._calm_at, time.monotonic())
        elif status == 1 and not life.killed and not said.strip() and self.outcome.ends["1"] <= MOST_RETRIES:
            self._retry()
        elif (status in (1, 4) and not life.killed) or (status == 2 and not self._troubled):
            self.outcome.problems.append(f"a farmer ended with status {status}: {said[-500:].strip()}")
            self._done = self._done or self.outcome.ends[str(status)] > 20
        if not self._done:
            self._starting += 1
            self._later(1.0 if status == 2 else 0.0, self._start_again)

    def _retry(self) -> None:
        """Have tasks done again that the farm gave up: a long one may have the luck to be lost too often."""
        command = [sys.executable, "-m", "taskfarmer", "retry", str(self._ground.workdir), "--failed"]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def _look(self) -> None:
        self._later(self._plan.lease_s * LOOKS, self._look)
        self._witness.look()

    # -- what befalls them -------------------------------------------------------------------------------------------

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, do))

    def _begin(self, trouble: Trouble) -> None:
        if self._done:
            return
        self._troubled += 1
        self.outcome.strikes[trouble.name] += 1
        self._troubles.append(trouble)
        trouble.begin()
        self._later(trouble.for_s, lambda: self._end(trouble))

    def _end(self, trouble: Trouble) -> None:
        self._troubles.remove(trouble)
        trouble.end()
        self._later(2 * self._plan.lease_s, self._forget_trouble)

    def _forget_trouble(self) -> None:
        self._troubled -= 1

    def _strike(self) -> None:
        """Have something befall one of them, and come again."""
        if time.monotonic() > self._calm_at or self._done:
            return
        self._later(self._chance.uniform(0.2, 1.8) * self._plan.every_s, self._strike)
        kind = self._chance.choice(self._plan.strikes)
        awake = [life for life in self._lives if not life.stopped and life.loops()]
        if not awake:
            return
        life = self._chance.choice(awake)
        loops, tasks = life.loops(), life.tasks()
        match kind:
            case "loop":
                if self._plan.prefix:  # its namespace ends with it, and others cannot look into that
                    self._note_silence(loops)
                life.send(signal.SIGKILL, loops[:1])
            case "guardian":
                life.killed = True
                life.send(signal.SIGKILL, [life.guardian])
                if self._plan.prefix:  # the first process of its namespace: all in it die with it
                    self._note_silence(loops)
            case "both":
                self._note_silence(loops)
                life.host_dies()
            case "task" if tasks:
                life.send(signal.SIGKILL, [self._chance.choice(tasks)])
            case "stop":
                life.send(signal.SIGTERM, [life.guardian])
            case "nap":
                self._halt(life, [life.guardian, *loops], self._chance.uniform(0.05, 0.4))
            case "hang":
                self._note_silence(loops)
                self._halt(life, loops, self._chance.uniform(1.2, 2.0))
            case "pause":
                self._note_silence(loops)
                self._halt(life, [life.guardian, *loops], self._chance.uniform(1.5, 3.0))
            case "freeze":
                self._note_silence(loops)
                self._halt(life, [life.guardian, *loops, *tasks], self._chance.uniform(1.5, 3.0))
            case _:
                return
        self.outcome.strikes[kind] += 1

    def _note_silence(self, loops: Sequence[int]) -> None:
        self.outcome.silenced += [found for loop in loops if (found := identity(loop)) is not None]

    def _halt(self, life: Life, pids: list[int], leases: float) -> None:
        """Stop processes for that many leases; they go on one after another, in any order."""
        life.stopped = pids
        life.send(signal.SIGSTOP, pids)
        self._later(leases * self._plan.lease_s, lambda: self._wake(life, pids))

    def _wake(self, life: Life, pids: list[int]) -> None:
        order = list(pids)
        self._chance.shuffle(order)
        for pid in order:
            life.send(signal.SIGCONT, [pid])
            time.sleep(self._chance.choice((0.0, 0.0, 0.02, 0.1)))
        life.stopped = []


def farm(at: Context, directory: str, **plan: Any) -> dict[str, Any]:
    """Be one host's part of a farm, for a worker of a self-test: an order of the conductor, and its answer."""
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in plan.items()}
    troop = Troop(Ground.below(at.meeting.path / directory), Plan(**values), check=at.leave_if_deserted)
    return troop.run().to_json()
