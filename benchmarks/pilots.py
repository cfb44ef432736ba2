"""A thousand short tasks on Slurm: through pilots, as an array, with one `sbatch` and with one `srun` a task.

    scripts/testbed.sh slurm                                              (as root, on Debian)
    python benchmarks/pilots.py --tasks 100 --rounds 1                    (half a minute)
    python benchmarks/pilots.py                                           (three minutes)

A Slurm of two pretend nodes with two CPUs each is brought up for it (`tests/testbed`), on loopback. All ways have the
same four CPUs and the same task, `sleep 0.02` and a line to a file. Seconds are from the prompt to the last task's
line; `first to last` leaves out what it takes until the first one. Calls are what the controller counts (`sdiag`),
those among Slurm's own daemons included, less what it counts when nothing is done. `local` is one `taskfarmer run` with
four slots on this machine, for comparison. Exit status: 0, or 1 if a target was missed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import arguments, rounds, scratch, show, taskfarmer, tell
from tests.testbed.service import new_state
from tests.testbed.slurm import Settings, Slurm

PILOTS = 4
LIMIT_S = 600.0
LEAST = {"pilots over one sbatch a task": 20.0, "pilots over local": 0.8}


@dataclass(frozen=True)
class Seen:
    """What a way took: `whole_s` from the prompt to the last end, `between_s` from the first end to the last."""

    whole_s: float
    between_s: float
    calls: int


class Bench:
    """Runs the same tasks in fresh directories below `parent`, each in another way."""

    def __init__(self, parent: Path, slurm: Slurm, tasks: int) -> None:
        self.parent = parent
        self.slurm = slurm
        self.tasks = tasks
        self.seen: dict[str, list[Seen]] = {}

    def measure(self, name: str, way: Callable[[Path, str], None]) -> float:
        """Run all tasks in one way; return the tasks a second from the prompt to the last end."""
        directory = Path(tempfile.mkdtemp(dir=self.parent))
        done = directory / "done"
        done.touch()
        task = f"sleep 0.02; date +%s.%N >>{shlex.quote(str(done))}"
        calls, began = self.calls(), time.time()
        way(directory, task)
        while len(done.read_bytes().splitlines()) < self.tasks:
            if time.time() > began + LIMIT_S:
                raise RuntimeError(f"{name}: {len(done.read_bytes().splitlines())} of {self.tasks} tasks ended")
            time.sleep(0.02)
        ends = sorted(map(float, done.read_text().split()))
        self.slurm.await_(lambda: not self.slurm.queue(), "the queue to be empty")
        found = Seen(ends[-1] - began, max(ends[-1] - ends[0], 1e-3), self.calls() - calls)
        self.seen.setdefault(name, []).append(found)
        tell(f"  {found.whole_s:.1f} s, {found.between_s:.1f} s from the first end to the last, {found.calls} calls")
        return self.tasks / found.whole_s

    def calls(self) -> int:
        """Return how many calls the controller has had."""
        text = self.slurm.call("sdiag").partition("Remote Procedure Call statistics by message type")[2]
        text = text.partition("Remote Procedure Call statistics by user")[0]
        return sum(map(int, re.findall(r"count:(\d+)", text)))

    def pilots(self, directory: Path, task: str) -> None:
        """Submit pilots with one command."""
        (directory / "list").write_text(f"{task}\n" * self.tasks)
        words = ("submit", "list", "--batch", "slurm", "--jobs", str(PILOTS), "--logs", "packed")
        self._run(directory, taskfarmer(), *words)

    def local(self, directory: Path, task: str) -> None:
        """Run one farmer here."""
        (directory / "list").write_text(f"{task}\n" * self.tasks)
        self._run(directory, taskfarmer(), "run", "list", "-n", str(PILOTS), "--logs", "packed", "--quiet")

    def array(self, directory: Path, task: str) -> None:
        """Submit one array."""
        self._run(directory, "sbatch", f"--array=1-{self.tasks}", "-o", "/dev/null", "--wrap", task)

    def sbatch(self, directory: Path, task: str) -> None:
        """Submit a job for each task."""
        for _ in range(self.tasks):
            self._run(directory, "sbatch", "-o", "/dev/null", "--wrap", task)

    def srun(self, directory: Path, task: str) -> None:
        """Start a step for each task, within one job that has all CPUs."""
        step = f"srun -N1 -n1 --exact --mem=0 sh -c {shlex.quote(task)}"
        (directory / "step.sh").write_text(f"#!/bin/sh\n{step}\n")
        script = f"seq {self.tasks} | xargs -P {PILOTS} -n 1 sh ./step.sh"
        self._run(directory, "sbatch", "-N2", f"-n{PILOTS}", "-o", "/dev/null", "--wrap", script)

    def _run(self, directory: Path, *words: str) -> None:
        subprocess.run(
            words, cwd=directory, env={**os.environ, **self.slurm.env}, check=True, stdout=subprocess.DEVNULL
        )


def main() -> int:
    """Measure, print, judge."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", type=int, default=1000, metavar="N", help="how many tasks (default: 1000)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often (default: 1)")
    chosen = parser.parse_args()
    slurm = Slurm(new_state("slurm"), Settings(cpus=PILOTS // 2))
    with scratch(chosen.scratch) as parent:
        slurm.up()
        try:
            bench = Bench(parent, slurm, chosen.tasks)
            ways = {
                "pilots": bench.pilots,
                "local": bench.local,
                "array": bench.array,
                "sbatch a task": bench.sbatch,
                "srun a task": bench.srun,
            }
            measured = {name: lambda name=name, way=way: bench.measure(name, way) for name, way in ways.items()}
            rates = rounds(chosen.rounds, measured, calm=chosen.calm)
        finally:
            slurm.down()
    best = {name: max(taken) for name, taken in rates.items()}
    found = {
        "pilots over one sbatch a task": best["pilots"] / best["sbatch a task"],
        "pilots over local": best["pilots"] / best["local"],
    }
    show(
        [
            {
                "way": name,
                "tasks/s": round(best[name], 1),
                "first to last": round(chosen.tasks / min(seen.between_s for seen in bench.seen[name]), 1),
                "calls": min(seen.calls for seen in bench.seen[name]),
                "calls a task": round(min(seen.calls for seen in bench.seen[name]) / chosen.tasks, 3),
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
