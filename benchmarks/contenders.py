"""The programs that peers.py runs side by side: how each is made to run `true`, with one log file a task.

Each contender is a function from a Trial to the seconds that its tasks took. Programs that need long to start (server,
executor, remote shell) are timed from the first task to the last, which favours them; the others, taskfarmer included,
from the shell prompt to the exit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Missing, last_line, taskfarmer, timed

DRIVERS = Path(__file__).resolve().parent / "drivers"


@dataclass(frozen=True)
class Trial:
    """One run: `tasks` times `true` in `slots` slots, in an empty `directory`; `peers` is where they are installed."""

    tasks: int
    slots: int
    directory: Path
    peers: Path

    @property
    def logs(self) -> Path:
        """Where most programs put one file a task."""
        return self.directory / "logs"

    def list_of(self, line: str) -> Path:
        """Write the task list, a line a task, with `{}` replaced by its number."""
        path = self.directory / "list"
        path.write_text("".join(line.replace("{}", str(number)) + "\n" for number in range(self.tasks)))
        return path

    def peer(self, name: str, program: str) -> Path:
        """Return the path of a program of an installed Python peer.

        Raises:
            Missing: it is not installed.
        """
        path = self.peers / name / "bin" / program
        if not path.exists():
            raise Missing(f"{path} is missing: sh benchmarks/install_peers.sh {self.peers}")
        return path


@dataclass(frozen=True)
class Contender:
    """A program: `share` of the tasks is what it gets, since a slow one needs fewer for a rate.

    `target` is how many times as fast as this program taskfarmer is to be; None: no target.
    """

    name: str
    run: Callable[[Trial], float]
    share: float = 1.0
    target: float | None = None
    note: str = ""


def on_path(program: str, package: str) -> str:
    """Return the path of `program`.

    Raises:
        Missing: it is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise Missing(f"{program} is missing: apt-get install {package}")
    return path


def run_taskfarmer(trial: Trial, *options: str) -> float:
    """`taskfarmer run`, with the full journal and a log file a task."""
    where = ["-n", str(trial.slots), "-w", str(trial.directory / "farm")]
    return timed([taskfarmer(), "run", trial.list_of("true"), *where, "--logs", "files", "--quiet", *options])


def run_two_loops(trial: Trial) -> float:
    """`taskfarmer run --loops 2`: two processes that start tasks."""
    return run_taskfarmer(trial, "--loops", "2")


def run_xargs(trial: Trial) -> float:
    """`xargs`, which keeps no record of anything: the floor that the shell's redirection and a process cost."""
    xargs = on_path("xargs", "findutils")
    pipe = f"seq 0 {trial.tasks - 1} | {xargs} -P{trial.slots} -I{{}} sh -c 'true > logs/{{}} 2>&1'"
    trial.logs.mkdir()
    return timed(["sh", "-c", pipe], cwd=trial.directory)


def run_parallel(trial: Trial) -> float:
    """GNU parallel with its journal and its files of results: three a task, named after the line, so lines differ."""
    parallel = on_path("parallel", "parallel")
    command = [parallel, "--will-cite", f"-j{trial.slots}", "--joblog", "joblog", "--results", "logs"]
    # Its own directory, so that --will-cite leaves no trace in the user's.
    env = {**os.environ, "PARALLEL_HOME": str(trial.directory)}
    return timed([*command, "::::", trial.list_of("true {}")], cwd=trial.directory, env=env)


def run_pytaskfarmer(trial: Trial) -> float:
    """The original."""
    program = trial.peer("pytaskfarmer", "pytaskfarmer.py")
    farm = trial.directory / "farm"
    return timed([program, "--proc", str(trial.slots), "--workdir", farm, trial.list_of("true")])


def run_disbatch(trial: Trial) -> float:
    """disBatch on this machine, timed by its own status file (tab-separated; columns 9 and 10 are start and end)."""
    program = trial.peer("disbatch", "disBatch")
    tasks = trial.list_of("true > logs/{} 2>&1")
    trial.logs.mkdir()
    timed([program, "-s", f"localhost:{trial.slots}", "-p", f"{trial.directory}/run", tasks], cwd=trial.directory)
    lines = (trial.directory / "run_status.txt").read_text().splitlines()
    times = [(float(fields[8]), float(fields[9])) for fields in (line.split("\t") for line in lines)]
    return max(end for _, end in times) - min(start for start, _ in times)


def run_driver(trial: Trial, peer: str, driver: str) -> float:
    """Run one of the drivers with the interpreter of its peer; it prints the seconds itself."""
    interpreter = trial.peer(peer, "python")
    trial.logs.mkdir()
    # Parsl starts programs of its own by name.
    env = {**os.environ, "PATH": f"{interpreter.parent}:{os.environ['PATH']}"}
    command = [str(interpreter), str(DRIVERS / driver), str(trial.tasks), str(trial.slots), str(trial.directory)]
    done = subprocess.run(command, cwd=trial.directory, env=env, check=False, capture_output=True, text=True)
    seconds = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("seconds ")]
    if done.returncode or not seconds:
        raise RuntimeError(f"{driver}: exit status {done.returncode}: {last_line(done.stderr)}")
    return float(seconds[0])


def run_hyperqueue(trial: Trial) -> float:
    """HyperQueue: server and worker in one process on this machine."""
    return run_driver(trial, "hyperqueue", "hyperqueue_cluster.py")


def run_parsl(trial: Trial) -> float:
    """Parsl's HighThroughputExecutor."""
    return run_driver(trial, "parsl", "parsl_executor.py")


WITHOUT_START = "start-up not counted"
MINE = Contender("taskfarmer", run_taskfarmer)
TWO_LOOPS = Contender("taskfarmer --loops 2", run_two_loops)
PEERS = (
    Contender("xargs", run_xargs, target=0.85),
    Contender("GNU parallel", run_parallel, share=0.2, target=3.0),
    Contender("HyperQueue", run_hyperqueue, share=0.5, target=2.5, note=WITHOUT_START),
    Contender("PyTaskFarmer", run_pytaskfarmer, target=10.0, note="slower the more tasks there are"),
    Contender("disBatch", run_disbatch, share=0.02, note=WITHOUT_START),
    Contender("Parsl", run_parsl, share=0.2, note=WITHOUT_START),
)
