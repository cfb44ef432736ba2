"""Measure what the runners of containers add to the bare command of the container program, with images of yours.

    python benchmarks/runners.py --apptainer /images/x.sif --podman localhost/mini:1 --docker mini:1

Each round starts one empty task by each way in turn: the same options, without taskfarmer's shell and leash, and with.
The difference of the medians is what the runner adds. The target is at most 5 ms.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import arguments, rounds, show
from taskfarmer.core.model import Task
from taskfarmer.runners import ApptainerRunner, DockerRunner, Job, PodmanRunner, Runner

TARGET_MS = 5.0
CLASSES: dict[str, Callable[[str], Runner]] = {
    "apptainer": ApptainerRunner,
    "docker": DockerRunner,
    "podman": PodmanRunner,
}


def main() -> int:
    """Run the benchmark; 1 if a target was missed."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    for name in CLASSES:
        parser.add_argument(f"--{name}", metavar="IMAGE")
    options = parser.parse_args()
    rows = [
        measured(name, make(getattr(options, name)), options.rounds, options.calm)
        for name, make in CLASSES.items()
        if getattr(options, name)
    ]
    if not rows:
        parser.error("no image: say --apptainer, --podman or --docker")
    show(rows, as_json=options.json)
    return int(any(row["target"] != "yes" for row in rows))


def measured(name: str, runner: Runner, count: int, calm: float | None) -> dict[str, object]:
    """Return the row of a program."""
    runner.check()
    taken = rounds(
        count, {f"{name}, bare": lambda: took(bare(words(runner))), name: lambda: took(words(runner))}, calm=calm
    )
    plain, with_runner = (1000 * statistics.median(times) for times in taken.values())
    added = with_runner - plain
    return {
        "program": name,
        "bare, ms": round(plain, 1),
        "runner, ms": round(with_runner, 1),
        "added, ms": round(added, 1),
        "target": "yes" if added <= TARGET_MS else f"missed: {TARGET_MS:g} ms",
    }


def words(runner: Runner) -> Sequence[str]:
    """Return what a runner starts for an empty task."""
    argv = runner.prepare(Job(taskid=0, task=Task(text=":"), attempt=1, slot=0, workdir=".")).argv
    assert argv is not None
    return argv


def bare(argv: Sequence[str]) -> Sequence[str]:
    """Return the client's call alone: neither the shell around it nor the one in the container."""
    inside = len(argv) - 1 - argv[::-1].index("/bin/sh")
    return [*argv[4:inside], *argv[-3:]]


def took(argv: Sequence[str]) -> float:
    """Run a command and return the seconds that it took."""
    start = time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
