"""A thousand short tasks on Slurm: through pilots, as an array, with one `sbatch` and with one `srun` a task.

    scripts/testbed.sh slurm                                              (as root, on Debian)
    python benchmarks/pilots.py --tasks 100 --rounds 1                    (half a minute)
    python benchmarks/pilots.py                                           (three minutes)

A Slurm of two pretend nodes with eight CPUs each is brought up for it (`tests/testbed`), on loopback. All ways have the
same sixteen slots and the same task, `sleep 0.02` behind a line to a file. `first after` is from the prompt to the
first line, tasks a second are from the prompt to the last one; `once it runs` is between a quarter of them and nine
tenths, which leaves out what it takes until all sixteen slots are busy and the last ones idle, and is what targets are
for. Calls are those that the controller counts (`sdiag`), of Slurm's own daemons as
well. `local` is one `taskfarmer run` with sixteen slots on this machine. Exit status: 0, or 1 if a target was missed.
"""

from __future__ import annotations

import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import arguments, ratio, rounds, scratch, show, taskfarmer, tell
from tests.testbed.service import new_state
from tests.testbed.slurm import Settings, Slurm

PILOTS, SLOTS = 4, 4
ALL = PILOTS * SLOTS
LIMIT_S = 600.0
BETWEEN = (0.25, 0.9)
"""Parts of the tasks between whose starts the rate is taken."""
LONGER = 6
"""A list so much longer is measured as well: with a thousand tasks pilots and farmer are at work for two seconds."""
LEAST = {"pilots over one sbatch a task": 20.0, "pilots over local": 0.8}


@dataclass(frozen=True)
class Seen:
    """What a way took: from the prompt `first_s` to the first start, `whole_s` to the last; `rate` of starts a second
    once it runs.
    """

    first_s: float
    whole_s: float
    rate: float
    calls: int


class Bench:
    """Runs the same tasks in fresh directories below `parent`, each in another way."""

    def __init__(self, parent: Path, slurm: Slurm) -> None:
        self.parent = parent
        self.slurm = slurm
        self.seen: dict[str, list[Seen]] = {}

    def measure(self, name: str, way: Callable[[Path, str, int], subprocess.Popen[bytes]], tasks: int) -> float:
        """Run so many tasks in one way; return the tasks a second from the prompt to the last start."""
        directory = Path(tempfile.mkdtemp(dir=self.parent))
        done = directory / "done"
        done.touch()
        task = f"echo >>{shlex.quote(str(done))}; exec sleep 0.02"
        calls, began = self.calls(), time.perf_counter()
        process = way(directory, task, tasks)
        passed: dict[float, tuple[float, int]] = {}
        first_s = 0.0
        while (count := done.stat().st_size) < tasks:
            now = time.perf_counter()
            first_s = first_s or (now - began) * bool(count)
            for part in BETWEEN:
                if count >= part * tasks:
                    passed.setdefault(part, (now, count))
            if now > began + LIMIT_S:
                raise RuntimeError(f"{name}: {count} of {tasks} tasks began")
            time.sleep(0.002)
        whole_s = time.perf_counter() - began
        (since, before), (until, behind) = (passed.get(part, (began + whole_s, tasks)) for part in BETWEEN)
        if process.wait() != 0:
            raise RuntimeError(f"{name}: ended with {process.returncode}")
        self.slurm.await_(lambda: not self.slurm.queue(), "the queue to be empty")
        found = Seen(first_s or whole_s, whole_s, (behind - before) / max(until - since, 1e-3), self.calls() - calls)
        self.seen.setdefault(name, []).append(found)
        begun = f"{found.first_s:.2f} s to the first, {found.whole_s:.1f} s to the last"
        tell(f"  {begun}, {found.rate:.1f} tasks/s once it runs, {found.calls} calls")
        return tasks / found.whole_s

    def calls(self) -> int:
        """Return how many calls the controller has had."""
        text = self.slurm.call("sdiag").partition("Remote Procedure Call statistics by message type")[2]
        text = text.partition("Remote Procedure Call statistics by user")[0]
        return sum(map(int, re.findall(r"count:(\d+)", text)))

    def pilots(self, directory: Path, task: str, tasks: int) -> subprocess.Popen[bytes]:
        """Submit pilots with one command."""
        (directory / "list").write_text(f"{task}\n" * tasks)
        words = ("submit", "list", "--batch", "slurm", "--jobs", str(PILOTS), "--slots", str(SLOTS), "--logs", "packed")
        return self._start(directory, taskfarmer(), *words)

    def local(self, directory: Path, task: str, tasks: int) -> subprocess.Popen[bytes]:
        """Run one farmer here."""
        (directory / "list").write_text(f"{task}\n" * tasks)
        return self._start(directory, taskfarmer(), "run", "list", "-n", str(ALL), "--logs", "packed", "--quiet")

    def array(self, directory: Path, task: str, tasks: int) -> subprocess.Popen[bytes]:
        """Submit one array."""
        return self._start(directory, "sbatch", f"--array=1-{tasks}", "-o", "/dev/null", "--wrap", task)

    def sbatch(self, directory: Path, task: str, tasks: int) -> subprocess.Popen[bytes]:
        """Submit a job for each task."""
        (directory / "job.sh").write_text(f"#!/bin/sh\n{task}\n")
        return self._start(directory, "sh", "-ec", f"for _ in $(seq {tasks}); do sbatch -o /dev/null job.sh; done")

    def srun(self, directory: Path, task: str, tasks: int) -> subprocess.Popen[bytes]:
        """Start a step for each task, within one job that has all CPUs."""
        step = f"srun -N1 -n1 --exact --mem=0 sh -c {shlex.quote(task)}"
        (directory / "step.sh").write_text(f"#!/bin/sh\n{step}\n")
        script = f"seq {tasks} | xargs -P {ALL} -n 1 sh ./step.sh"
        return self._start(directory, "sbatch", "-N2", f"-n{ALL}", "-o", "/dev/null", "--wrap", script)

    def _start(self, directory: Path, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, cwd=directory, env={**os.environ, **self.slurm.env}, stdout=subprocess.DEVNULL)


def main() -> int:
    """Measure, print, judge."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", type=int, default=1000, metavar="N", help="how many tasks (default: 1000)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often (default: 1)")
    chosen = parser.parse_args()
    slurm = Slurm(new_state("slurm"), Settings(cpus=ALL // 2))
    with scratch(chosen.scratch) as parent:
        slurm.up()
        try:
            bench = Bench(parent, slurm)
            ways = {
                "pilots": (bench.pilots, chosen.tasks),
                "local": (bench.local, chosen.tasks),
                "array": (bench.array, chosen.tasks),
                "sbatch a task": (bench.sbatch, chosen.tasks),
                "srun a task": (bench.srun, chosen.tasks),
                "pilots, a longer list": (bench.pilots, LONGER * chosen.tasks),
                "local, a longer list": (bench.local, LONGER * chosen.tasks),
            }
            measured = {
                name: lambda name=name, way=way, tasks=tasks: bench.measure(name, way, tasks)
                for name, (way, tasks) in ways.items()
            }
            rates = rounds(chosen.rounds, measured, calm=chosen.calm)
        finally:
            slurm.down()
    running = {name: [seen.rate for seen in bench.seen[name]] for name in ways}
    found = {
        "pilots over one sbatch a task": ratio(running["pilots"], running["sbatch a task"]),
        "pilots over local": ratio(running["pilots"], running["local"]),
    }
    calls = {name: statistics.median(seen.calls for seen in bench.seen[name]) for name in ways}
    show(
        [
            {
                "way": name,
                "tasks": ways[name][1],
                "first after, s": round(statistics.median(seen.first_s for seen in bench.seen[name]), 2),
                "tasks/s": round(statistics.median(rates[name]), 1),
                "once it runs": round(statistics.median(running[name]), 1),
                "calls": int(calls[name]),
                "calls a task": round(calls[name] / ways[name][1], 4),
            }
            for name in ways
        ],
        as_json=chosen.json,
    )
    missed = [name for name, least in LEAST.items() if found[name] < least]
    for name, value in found.items():
        print(f"{name}: {value:.2f}, target {LEAST[name]:g}" + (" (missed)" * (name in missed)), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
