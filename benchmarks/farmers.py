"""Run 1, 2, 4 and 8 farmers on one directory of this machine: total rate, idle time at the end, metadata operations.

    python benchmarks/farmers.py --rounds 1 --most 2       (half a minute)
    python benchmarks/farmers.py                           (a quarter of an hour)

Each farmer is a `taskfarmer run -n SLOTS` of its own, all started at once on one list, of tasks that take 0 ms
(`true`), 10 ms and 100 ms (`sleep`). Rates are from the prompt to the exit of the last farmer. Idle at the end is the
time from a farmer's last end of a task to the last end of all, by the journals: the longest of any farmer, and the
mean. CPU time is that of farmers and tasks together, which other work on the machine changes less than it changes
rates. Metadata operations are those that name a file in the farm's directory, as the interpreters of all farmers see
them (audit events, and calls of `stat`): opening, listing, linking, renaming, removing and looking at anything, whoever
does it. They are counted with N tasks and with 3 N, and are medians of the rounds: what the farm costs at its
beginning and end, and what each further hundred tasks cost. The target is for these. Exit status: 0, or 1 if a target
was missed.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import arguments, ratio, rounds, scratch, show, taskfarmer
from taskfarmer.core.records import Ended
from taskfarmer.farm.journal import read_tail
from taskfarmer.farm.ledger import Ledger

FARMERS = (1, 2, 4, 8)
LINES = {0: "true", 10: "sleep 0.01", 100: "sleep 0.1"}
TASKS = {0: 60_000, 10: 1_500, 100: 300}
"""By milliseconds that a task takes. The start of eight interpreters takes as much CPU time as 1,000 empty tasks."""
COUNTER = Path(__file__).with_name("counter")
"""A directory with a `sitecustomize.py` that counts the operations of an interpreter."""


class Bench:
    """Runs farms in fresh directories below `parent`; keeps how idle the farmers were at the end."""

    def __init__(self, parent: Path, slots: int) -> None:
        self.parent = parent
        self.slots = slots
        self.idle: dict[tuple[int, int], list[tuple[float, float]]] = {}
        self.cpu_s: dict[tuple[int, int], list[float]] = {}

    def make(self, milliseconds: int, tasks: int) -> Path:
        """Return a fresh directory with a list."""
        directory = Path(tempfile.mkdtemp(dir=self.parent))
        (directory / "list").write_text(f"{LINES[milliseconds]}\n" * tasks)
        return directory

    def command(self) -> list[str]:
        """Return the command of one farmer."""
        return [taskfarmer(), "run", "list", "-w", "farm", "-n", str(self.slots), "--logs", "packed", "--quiet"]

    def rate(self, milliseconds: int, farmers: int) -> float:
        """Run a farm with so many farmers and return its tasks a second."""
        directory = self.make(milliseconds, TASKS[milliseconds])
        began, cpu_s = time.perf_counter(), cpu_of_children()
        started = [
            subprocess.Popen(self.command(), cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(farmers)
        ]
        statuses = [process.wait() for process in started]
        seconds = time.perf_counter() - began
        if any(statuses):
            raise RuntimeError(f"{farmers} farmers ended with {statuses}")
        self.cpu_s.setdefault((milliseconds, farmers), []).append(cpu_of_children() - cpu_s)
        self.idle.setdefault((milliseconds, farmers), []).append(idle_at_the_end(directory / "farm"))
        shutil.rmtree(directory)
        return TASKS[milliseconds] / seconds

    def metadata(self, farmers: int, tasks: int) -> Counter[str]:
        """Run farmers on tasks of 0 ms; return how many operations of each kind name something in which directory."""
        directory = self.make(0, tasks)
        said = directory / "operations"
        path = os.pathsep.join(filter(None, (str(COUNTER), os.environ.get("PYTHONPATH"))))
        counting = {**os.environ, "PYTHONPATH": path, "COUNT_OPERATIONS": f"{said}:{directory / 'farm'}"}
        started = [
            subprocess.Popen(self.command(), cwd=directory, env=counting, stdout=subprocess.DEVNULL)
            for _ in range(farmers)
        ]
        for process in started:
            process.wait()
        words = [line.split(" ", 1) for line in said.read_text().splitlines()]
        shutil.rmtree(directory)
        return Counter(f"{kind} {Path(path).parent.name}" for kind, path in words)


def cpu_of_children() -> float:
    """Return the seconds of CPU time of all processes below this one that have ended: farmers and tasks."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def idle_at_the_end(workdir: Path) -> tuple[float, float]:
    """Return the longest and the mean time in seconds from a farmer's last end to the last of all.

    A farmer that came too late to get a task counts from the moment when it joined.
    """
    state = Ledger.open(workdir).state
    lasts = []
    for farmer in state.farmers:
        ends = [r.time for r in read_tail(workdir / "ledger" / "journal" / farmer.id).records if isinstance(r, Ended)]
        lasts.append(max(ends, default=farmer.since))
    idle = [max(0.0, max(lasts) - last) for last in lasts]
    return max(idle), statistics.mean(idle)


def rate_row(bench: Bench, milliseconds: int, farmers: int, taken: dict[str, list[float]]) -> dict[str, object]:
    """Return one line of the table."""
    rates = taken[name_of(milliseconds, farmers)]
    idle = bench.idle[milliseconds, farmers]
    against = ratio(rates, taken[name_of(milliseconds, 1)])
    target = ""
    if farmers > 1:
        target = f">= 1: {'yes' if against >= 1 else 'NO'}"
    return {
        "farmers": farmers,
        "tasks of": f"{milliseconds} ms",
        "tasks/s": round(statistics.median(rates)),
        "min - max": f"{min(rates):.0f} - {max(rates):.0f}",
        "against one": f"{against:.2f}",
        "target": target,
        "CPU ms a task": f"{1000 * statistics.median(bench.cpu_s[milliseconds, farmers]) / TASKS[milliseconds]:.2f}",
        "idle at the end, longest": f"{max(longest for longest, _ in idle):.2f} s",
        "mean": f"{statistics.mean(mean for _, mean in idle):.2f} s",
    }


def metadata_row(bench: Bench, farmers: int, tasks: int, rounds: int) -> dict[str, object]:
    """Return one line of the second table, of the median of some rounds: at the end farmers race, more or less."""

    def counted(tasks: int) -> Counter[str]:
        return sorted((bench.metadata(farmers, tasks) for _ in range(rounds)), key=Counter.total)[rounds // 2]

    few, many = counted(tasks), counted(3 * tasks)
    further = 100 * (many.total() - few.total()) / (2 * tasks)
    return {
        "farmers": farmers,
        "tasks": f"{tasks}, {3 * tasks}",
        "entries": f"{few['link log']}, {many['link log']}",
        "operations": f"{few.total()}, {many.total()}",
        "in 100 tasks": f"{100 * few.total() / tasks:.2f}, {100 * many.total() / (3 * tasks):.2f}",
        "in 100 further": f"{further:.2f}",
        "target": f"<= 1: {'yes' if further <= 1 else 'NO'}",
        "most": ", ".join(f"{name} {count}" for name, count in many.most_common(5)),
    }


def counted_tasks(tasks: int, farmers: int) -> int:
    """Return of how many tasks operations are counted: of more with many farmers, of whom what it costs to come and go
    differs by as much as many tasks cost.
    """
    return tasks if farmers <= 4 else 3 * tasks


def name_of(milliseconds: int, farmers: int) -> str:
    """Return the name of a measurement."""
    return f"{farmers} farmers, {milliseconds} ms"


def main() -> int:
    """Measure everything and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each (default: 5)")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="slots of each farmer (default: 2)")
    parser.add_argument(
        "--milliseconds", type=int, nargs="+", choices=LINES, default=list(LINES), help="what tasks take (0 10 100)"
    )
    parser.add_argument(
        "--tasks", type=int, metavar="N", help=f"how many tasks of 0 ms ({TASKS[0]:,}; of others fewer)"
    )
    parser.add_argument("--most", type=int, default=8, metavar="N", help="most farmers (default: 8)")
    parser.add_argument(
        "--counted",
        type=int,
        default=20_000,
        metavar="N",
        help="tasks to count operations of (20,000; of eight farmers thrice as many; 0: skip it)",
    )
    options = parser.parse_args()
    counts = [farmers for farmers in FARMERS if farmers <= options.most]
    TASKS[0] = options.tasks or TASKS[0]
    with scratch(options.scratch) as parent:
        bench = Bench(parent, options.slots)
        pairs = [(milliseconds, farmers) for milliseconds in options.milliseconds for farmers in counts]
        measurements = {name_of(*pair): partial(bench.rate, *pair) for pair in pairs}
        taken = rounds(options.rounds, measurements, calm=options.calm)
        counted = [
            metadata_row(bench, n, counted_tasks(options.counted, n), options.rounds) for n in counts if options.counted
        ]
    rows = [rate_row(bench, *pair, taken) for pair in pairs]
    show(rows, as_json=options.json)
    if counted:
        show(counted, as_json=options.json)
    return int(any("NO" in str(row["target"]) for row in [*rows, *counted]))


if __name__ == "__main__":
    sys.exit(main())
