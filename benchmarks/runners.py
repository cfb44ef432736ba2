"""Measure what the runners of containers cost a task, with images of yours, or with those of the testbed.

    python benchmarks/runners.py --apptainer /images/x.sif --podman localhost/mini:1 --docker mini:1
    scripts/testbed.sh podman docker apptainer                            (as root, on Debian)
    python benchmarks/runners.py                                          (a quarter of an hour)

First, what a runner adds to the bare command of the container program: one empty task is started by each way in turn,
with the same options, without taskfarmer's shells, leash, mount and settings of the client, and with, and the next time
the other way round; so often, since a start takes 10 to 30 ms more or less from one time to the next. The median of the
differences of the two of a pair is to be at most 5 ms; beside it stands between what that median lies in 95 of 100 such
series (by the ranks of the differences). Third in each round comes the command as one would type it, without the
options that the runner sets (`--init`, `--network=none`, ...), and how much longer than it the runner took. With the
testbed's engines there is a row for Shifter, too, of which there is only a stand-in: a script that checks how it is
called, and runs the task. Its runner starts the same call, with a variable more, so there is nothing to be seen but how
far such figures are from nothing by chance; it says nothing of what Shifter takes.

Then, what a task of a farm with one slot takes: plain, in a container of its own, and in one that is kept for the slot
(`reuse = slot`). It is the time from the end of the first task to that of the last, by the number of tasks between, so
that neither the start of the farmer nor that of the kept container is in it. A kept one may take 3 times a plain task.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import arguments, rounds, scratch, show, taskfarmer, timed
from taskfarmer.core.model import Task
from taskfarmer.runners import ApptainerRunner, DockerRunner, Job, PodmanRunner, Runner, ShifterRunner
from tests.testbed.containers import UP
from tests.testbed.images import make_root

STANDIN = Path(__file__).resolve().parents[1] / "tests/standins/shifter"
NO_MORE: Mapping[str, Runner] = {}
TARGET_MS = 5.0
TARGET_TIMES = 3.0
COLD, WARM = 10, 300
"""Tasks of a farm whose containers are each a task's own, and of the others."""
CLASSES: dict[str, Callable[[str], Runner]] = {
    "apptainer": ApptainerRunner,
    "docker": DockerRunner,
    "podman": PodmanRunner,
}


def main() -> int:
    """Run the benchmark; 1 if a target was missed. Without images those of the testbed are brought up."""
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=200, metavar="N", help="starts without and with (default: 200)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="rounds of the farms (default: 10)")
    parser.add_argument("--line", default="/bin/true", metavar="TASK", help="the task (default: /bin/true)")
    for name in CLASSES:
        parser.add_argument(f"--{name}", metavar="IMAGE")
    options = parser.parse_args()
    if images := {name: image for name in CLASSES if (image := getattr(options, name))}:
        return measure(images, options)
    with ExitStack() as stack:
        place = stack.enter_context(scratch(options.scratch))
        root = make_root(place / "root")
        images = {name: stack.enter_context(UP[name](root)).image for name in CLASSES}
        return measure(images, options, {"shifter (stand-in)": shifter(place / "bin")})


def shifter(place: Path) -> Runner:
    """Return a runner for the stand-in, which is put on PATH there, with the variables that it wants to see."""
    place.mkdir()
    (place / "shifter").symlink_to(STANDIN)
    os.environ.update(PATH=f"{place}{os.pathsep}{os.environ['PATH']}", PROC_NUMBER="0", BASH_ENV="")
    return ShifterRunner("mini:1")


def measure(images: dict[str, str], options: argparse.Namespace, more: Mapping[str, Runner] = NO_MORE) -> int:
    """Run what was asked for with these images; 1 if a target was missed. `more`: only for what a runner adds."""
    runners = {**{name: CLASSES[name](image) for name, image in images.items()}, **more}
    added = [bare_row(name, runner, options.line, options.pairs, options.calm) for name, runner in runners.items()]
    show(added, as_json=options.json)
    with scratch(options.scratch) as place:
        farms = farm_rows(images, place, options.line, options.rounds, options.calm)
    show(farms, as_json=options.json)
    return int(any("missed" in str(row["target"]) for row in (*added, *farms)))


def bare_row(name: str, runner: Runner, line: str, pairs: int, calm: float | None) -> dict[str, object]:
    """Return what a runner adds to its program."""
    runner.check()
    taken = rounds(
        pairs,
        {
            f"{name}, bare": lambda: took(bare(prepared(runner, line)[0], line)),
            name: lambda: took(*prepared(runner, line)),
            f"{name}, as typed": lambda: took(typed(name, runner, line)),
        },
        calm=calm,
        there_and_back=True,
    )
    plain, with_runner, by_hand = ([1000 * seconds for seconds in times] for times in taken.values())
    differences = [b - a for a, b in zip(plain, with_runner, strict=True)]
    added = statistics.median(differences)
    longer = [b - a for a, b in zip(by_hand, with_runner, strict=True)]
    return {
        "program": name,
        "bare, ms": round(statistics.median(plain), 1),
        "runner, ms": round(statistics.median(with_runner), 1),
        "added, ms": round(added, 1),
        "95 %": "{:.1f} - {:.1f}".format(*around_median(differences)),
        "target": "yes" if added <= TARGET_MS else f"missed: {TARGET_MS:g} ms",
        "as typed, ms": round(statistics.median(by_hand), 1),
        "to that added, ms": "{:.1f} ({:.1f} - {:.1f})".format(statistics.median(longer), *around_median(longer)),
    }


def around_median(values: Sequence[float]) -> tuple[float, float]:
    """Return between which two of the values the median of all such lies, with a confidence of 95 %.

    The number of values below the median is binomial, here by its normal approximation: n/2 more or less 0.98 sqrt(n).
    """
    ordered = sorted(values)
    apart = round(0.98 * len(ordered) ** 0.5)
    middle = len(ordered) // 2
    return ordered[max(0, middle - apart)], ordered[min(len(ordered) - 1, middle + apart)]


def prepared(runner: Runner, line: str) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return what a runner starts for a task, and the variables that it sets."""
    command = runner.prepare(Job(taskid=0, task=Task(text=line), attempt=1, slot=0, workdir="."))
    assert command.argv is not None
    return command.argv, command.env


def bare(argv: Sequence[str], line: str) -> Sequence[str]:
    """Return the client's call alone: neither the shell around it, nor ours in the container, nor their mount."""
    if argv[0] == "shifter":
        return argv
    client = list(argv[4 : argv.index("/bin/sh", 4)])
    ours = next(i for i, word in enumerate(client) if "/share:" in word)
    del client[ours - (client[ours - 1] == "--volume") : ours + 1]
    return [*client, "sh", "-c", line]


def typed(name: str, runner: Runner, line: str) -> Sequence[str]:
    """Return the command that a person would type for the same."""
    image, here = str(vars(runner)["image"]), os.getcwd()
    if isinstance(runner, ShifterRunner):
        return ["shifter", "--image", image, "--", "/bin/bash", "-c", line]
    if name == "apptainer":
        return [name, "--quiet", "exec", image, "sh", "-c", line]
    return [name, "run", "--rm", f"--volume={here}:{here}", f"--workdir={here}", image, "sh", "-c", line]


def took(argv: Sequence[str], env: Mapping[str, str] | None = None) -> float:
    """Run a command, with more variables, and return the seconds that it took."""
    environ = {**os.environ, **(env or {})}
    start = time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environ, check=True)
    return time.perf_counter() - start


def farm_rows(
    images: dict[str, str], place: Path, line: str, count: int, calm: float | None
) -> list[dict[str, object]]:
    """Return what a task takes in farms: plain, and with each program in a container of its own and in a kept one."""
    ways: dict[str, tuple[str, int]] = {"plain": ("default", WARM)}
    sections = []
    for name, image in images.items():
        for reuse, tasks in (("no", COLD), ("slot", WARM)):
            sections.append(
                f"[{name}-{reuse}]\nRunner = taskfarmer.runners.{CLASSES[name].__name__}\n"
                f"image = {image}\nreuse = {reuse}\n"
            )
            ways[f"{name}, {'kept' if reuse == 'slot' else 'its own'}"] = (f"{name}-{reuse}", tasks)
    (place / "runners.ini").write_text("".join(sections))
    taken = rounds(
        count,
        {way: lambda way=way: a_task(place, line, *ways[way]) for way in ways},  # type: ignore[misc]
        calm=calm,
    )
    plain = statistics.median(taken["plain"])
    return [_farm_row(way, times, plain) for way, times in taken.items()]


def _farm_row(way: str, times: Sequence[float], plain: float) -> dict[str, object]:
    median = statistics.median(times)
    target = "yes" if median <= TARGET_TIMES * plain else f"missed: {TARGET_TIMES:g} times"
    return {
        "container": way,
        "a task, ms": round(1000 * median, 2),
        "min - max": f"{1000 * min(times):.2f} - {1000 * max(times):.2f}",
        "times a plain one": round(median / plain, 2),
        "target": target if way.endswith("kept") else "",
    }


def a_task(place: Path, line: str, runner: str, tasks: int) -> float:
    """Run a farm of so many tasks with one slot, and return the seconds that each after the first took."""
    tasklist, workdir = place / "tasks.txt", place / "tasks.txt_workdir"
    tasklist.write_text(f"{line}\n" * tasks)
    timed([taskfarmer(), "run", tasklist, "--runner", runner, "-n", "1"], cwd=place)
    said = subprocess.run(
        [taskfarmer(), "show", workdir, f"0,{tasks - 1}", "--json"], check=True, capture_output=True, text=True
    )
    first, last = (task["attempts"][0]["end"] for task in json.loads(said.stdout)["tasks"])
    shutil.rmtree(workdir)
    return float(last - first) / (tasks - 1)


if __name__ == "__main__":
    sys.exit(main())
