"""Farms with real processes, for tests: farmers, waits that have a limit, and the contract of the design, checked.

A test asks for the fixture `farm`, and so runs twice: with one farmer, and with a second live one on the same
directory, started at the same time by the same command. When it ends nothing of the farm may be alive.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.core.records import Ended
from taskfarmer.errors import TaskfarmerError
from taskfarmer.farm.host import TOKEN
from taskfarmer.farm.journal import read_tail
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.workdir import Workdir

TASKFARMER = (sys.executable, "-m", "taskfarmer")
SCRIPTS = Path(sys.executable).parent
LIMIT_S = 60.0
"""No farmer of these tests works for longer."""
OUTLIVES_S = 2.0
"""The contract: nothing that a farmer started outlives it by more."""
_MARK = "TASKFARMER_TESTED_FARM"
"""A variable that tells what descends from a test's farmers, whatever they do: loops, tasks, grandchildren."""


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 40.0) -> float:
    """Wait until `condition` holds, and return for how many seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, f"{what}: not within {limit_s:g} s"
        time.sleep(0.005)
    return time.monotonic() - began


def processes_with(*variables: str) -> list[int]:
    """Return the living processes whose environment had all those `NAME=value` when they were started."""
    wanted = {os.fsencode(variable) for variable in variables}
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if wanted <= set(Path(f"/proc/{name}/environ").read_bytes().split(b"\0")) and is_alive(int(name)):
                    found.append(int(name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process is there; a zombie is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rfind(b")") + 2 :][:1] not in (b"Z", b"X")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that has gone is forgiven."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class Done:
    """A command that has ended. `status` < 0: by a signal."""

    status: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Return the one JSON object that it printed."""
        value: dict[str, Any] = json.loads(self.out)
        return value


class Farmer:
    """A command at work. Its streams are files, since what outlives it may hold a pipe open."""

    def __init__(self, argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], streams: Path) -> None:
        self.mark = f"{_MARK}={secrets.token_hex(8)}"
        name, _, value = self.mark.partition("=")
        self._out, self._err = streams / f"{value}.out", streams / f"{value}.err"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                argv, cwd=cwd, env={**env, name: value}, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.pid = self.process.pid

    def loop(self) -> int:
        """Return the process id of the first loop, as soon as there is one."""
        wait_for(self.loops, "the loop")
        return self.loops()[0]

    def loops(self) -> list[int]:
        """Return the children of the guardian, in the order of their birth."""
        with suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def signal(self, number: int) -> None:
        """Send a signal to the command, as a shell or a batch system does."""
        self.process.send_signal(number)

    def wait(self, limit_s: float = LIMIT_S) -> Done:
        """Wait until it has ended."""
        self.process.wait(limit_s)
        return Done(self.process.returncode, self.said(), self._err.read_text(errors="surrogateescape"))

    def said(self) -> str:
        """Return what it has printed by now."""
        return self._out.read_text(errors="surrogateescape")

    def started(self) -> list[int]:
        """Return the living processes that it started: tasks and all that descends from them."""
        workdir = b"\0" + TOKEN.encode() + b"="
        found = []
        for pid in processes_with(self.mark):
            with suppress(OSError):
                if workdir in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
        return found

    def close(self) -> list[int]:
        """Kill what is left of it; return what that was."""
        left = processes_with(self.mark)
        deadline = time.monotonic() + 10
        while (living := processes_with(self.mark)) and time.monotonic() < deadline:
            for pid in living:
                kill(pid)
            time.sleep(0.01)
        self.process.wait(10)
        return left


@dataclass(frozen=True)
class Run:
    """An attempt that began, as the task itself wrote down. `time`: seconds since the epoch; `token`: its farmer."""

    task: int
    attempt: int
    pid: int
    time: float
    token: str


@dataclass
class Farm:
    """A directory with a list and a workdir, and the farmers of a test."""

    path: Path
    farmers: int = 1
    env: dict[str, str] = field(default_factory=dict)
    all: list[Farmer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.list = self.path / "tasks.txt"
        self.workdir = self.path / "tasks.txt_workdir"
        self.runs_file = self.path / "runs"
        self.runs_file.touch()
        for name in ("home", "streams"):
            (self.path / name).mkdir()
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("TASKFARMER_", "SLURM_"))}
        self.env = {**plain, "HOME": str(self.path / "home"), "PYTHONUNBUFFERED": "1", **self.env}
        self.env.pop("XDG_CONFIG_HOME", None)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def task(self, body: str = "true") -> str:
        """Return the line of a task that writes down that it runs, and then does `body`."""
        note = 'echo "$PROC_NUMBER $TASKFARMER_ATTEMPT $$ $(date +%s.%N) $TASKFARMER_TOKEN"'
        return f"{note} >>{shlex.quote(str(self.runs_file))}; {body}"

    def write(self, *bodies: str) -> None:
        """Make the list: a task for each body, all written down."""
        self.list.write_text("".join(f"{self.task(body)}\n" for body in bodies))

    def write_jsonl(self, *tasks: dict[str, Any]) -> None:
        """Make the list: a task for each object, whose commands are written down."""
        lines = ({**task, "command": self.task(task.get("command", "true"))} for task in tasks)
        self.list.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def runs(self) -> list[Run]:
        """Return the attempts that began, in their order.

        One that is killed may lose its `date` first, and write down no time in its last moment: it is 0 then. A line
        that crosses two pages of the file may be seen when but its first part is there: it is left for the next look.
        """
        runs = []
        for line in self.runs_file.read_text().rpartition("\n")[0].splitlines():
            task, attempt, pid, *at, token = line.split()
            runs.append(Run(int(task), int(attempt), int(pid), float(at[0]) if at else 0.0, token))
        return runs

    def attempts(self) -> Counter[int]:
        """Return how often each task began."""
        return Counter(run.task for run in self.runs())

    def wait_for_runs(self, count: int) -> None:
        """Wait until so many attempts have begun."""
        wait_for(lambda: len(self.runs_file.read_bytes().splitlines()) >= count, f"{count} attempts to begin")

    def wait_for_farmers(self, count: int = 0) -> None:
        """Wait until so many farmers (0: as many as the test has) have joined: then they hear signals."""
        wait_for(lambda: joined(self.workdir) >= (count or self.farmers), "all farmers to join")

    # -- farmers -------------------------------------------------------------------------------------------------------

    def start(self, *options: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Farmer:
        """Start one farmer on the list."""
        return self.start_command(*TASKFARMER, "run", self.list, *options, env=env, cwd=cwd)

    def start_command(self, *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Farmer:
        """Start any command; what it leaves behind is found."""
        farmer = Farmer(argv, cwd=cwd or self.path, env={**self.env, **(env or {})}, streams=self.path / "streams")
        self.all.append(farmer)
        return farmer

    def start_all(self, *options: str | Path, env: Mapping[str, str] | None = None) -> list[Farmer]:
        """Start as many farmers as the test is run with."""
        return [self.start(*options, env=env) for _ in range(self.farmers)]

    def run(self, *options: str | Path, env: Mapping[str, str] | None = None, limit_s: float = LIMIT_S) -> Done:
        """Run all farmers until they have ended; they must agree on how. Return the first's end."""
        return agreed([farmer.wait(limit_s) for farmer in self.start_all(*options, env=env)])

    def run_command(self, *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
        """Run that very command as many times at once as the test has farmers; they must agree on how it ends."""
        return agreed([f.wait() for f in [self.start_command(*argv, env=env, cwd=cwd) for _ in range(self.farmers)]])

    def once(self, *words: str | Path, cwd: Path | None = None) -> Done:
        """Run another command of taskfarmer, once."""
        return self.start_command(*TASKFARMER, *words, cwd=cwd).wait()

    def close(self) -> None:
        """See to it that nothing is left; that something was is the test's failure."""
        left = [pid for farmer in self.all for pid in farmer.close()]
        assert not left, f"processes were left behind: {left}"

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Return the states that occur, by a fresh reader."""
        return counts_of(self.workdir)

    def view(self, name: str) -> list[int]:
        """Return the ids that a view names."""
        return [int(line.split()[0]) for line in (self.workdir / name).read_text().splitlines()]

    def log(self, task: int, attempt: int = 1) -> str:
        """Return what an attempt printed."""
        return Path(Workdir(self.workdir).log_file(task, attempt)).read_text()


def agreed(ends: Sequence[Done]) -> Done:
    """Return the first end; all have the same status, and none is a traceback."""
    for end in ends:
        assert "Traceback" not in end.err + end.out, end.err + end.out
    assert len({end.status for end in ends}) == 1, ends
    return ends[0]


def joined(workdir: Path) -> int:
    """Return how many farmers have ever joined the farm."""
    try:
        return len(Ledger.open(workdir).state.farmers)
    except TaskfarmerError:  # the farm is still being made
        return 0


def counts_of(workdir: Path) -> dict[str, int]:
    """Return the states of tasks that occur, by a fresh reader of log and journals."""
    ledger = Ledger.open(workdir)
    ledger.read_tails()
    return {name: count for name, count in ledger.state.counts().items() if count}


def counted_finishes(ledger: Ledger) -> dict[int, list[Ended]]:
    """Return the finishes that count, by task: those in a journal before the cut of its farmer's burial, if any."""
    found: dict[int, list[Ended]] = {}
    for farmer in ledger.state.farmers:
        end = farmer.cut if farmer.ended == "buried" else None
        for record in read_tail(ledger.workdir.journals / farmer.id, 0, end).records:
            if isinstance(record, Ended) and record.outcome == "ok":
                found.setdefault(record.id, []).append(record)
    return found


def check_contract(farm: Farm, total: int, *, settled: bool = True, inherited: Sequence[int] = ()) -> None:
    """Check the contract's lines that a ledger and the tasks' own notes can show.

    `settled`: no farmer is at work, and one has come after each kill; so nothing may still be `running`.
    `inherited`: tasks that were finished before the farm was made.
    """
    ledger = Ledger.open(farm.workdir)
    ledger.read_tails()
    state = ledger.state
    counts = state.counts()
    assert sum(counts.values()) == total, f"a task disappeared: {counts}"
    finished = {task for task in range(total) if state.name_of(task) == "finished"} - set(inherited)
    finishes = counted_finishes(ledger)
    once = {task: ends for task, ends in finishes.items() if len(ends) == 1}
    assert set(once) == finished == set(finishes), "not exactly one finish that counts for each finished task"
    _check_runs(farm, {task: ends[0] for task, ends in once.items()})
    if settled:
        assert counts["running"] == 0, counts
        assert not state.alive(), [f"{farmer.id} of {farmer.host}" for farmer in state.alive()]
        assert not started_on(farm.workdir), "processes outlive the farm"


def _check_runs(farm: Farm, finishes: Mapping[int, Ended]) -> None:
    begun = Counter((run.task, run.attempt) for run in farm.runs())
    assert all(count == 1 for count in begun.values()), f"an attempt began twice: {begun.most_common(3)}"
    for run in farm.runs():
        if (finish := finishes.get(run.task)) is not None:
            assert run.attempt <= finish.attempt, f"task {run.task} ran again after its finish counted: {run}, {finish}"
            assert run.time <= finish.time, f"task {run.task} began after its finish: {run}, {finish}"


def started_on(workdir: Path) -> list[int]:
    """Return the living processes that farmers of a workdir started."""
    return processes_with(f"TASKFARMER_WORKDIR={workdir}")


@pytest.fixture(params=[1, 2], ids=["alone", "with_another"])
def farmers(request: pytest.FixtureRequest) -> int:
    """How many farmers work at once."""
    number: int = request.param
    return number


@pytest.fixture
def farm(tmp_path: Path, farmers: int) -> Iterator[Farm]:
    """A farm whose farmers have a directory, a home and an environment of their own."""
    made = Farm(tmp_path, farmers)
    yield made
    made.close()


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Farm]:
    """The same for what happens before any farmer works, or has its own number of farmers."""
    made = Farm(tmp_path)
    yield made
    made.close()
