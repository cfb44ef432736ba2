"""Measure what happens to taskfarmer with many tasks: rate, adding, `status`, resuming, memory, number of files.

    python benchmarks/scale.py --tasks 50000 --many 20000 --seconds 5     (a minute)
    python benchmarks/scale.py                                            (ten minutes: a million tasks, of which it
                                                                          runs those that fit into a minute)
    python benchmarks/scale.py --full                                     (runs all of the million)

Every line of the lists is `./noop first NUMBER`, where `noop` is `true`; for the time to the first task it is `touch`,
for a moment. Memory is the peak resident size of the farmer's own processes, without the tasks. Exit status: 0, or 1 if
a target was missed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import arguments, files, ratio, rounds, scratch, show, taskfarmer, tell, timed
from taskfarmer.core.entries import Report
from taskfarmer.farm.ledger import CLI, SNAPSHOT_EVERY, Ledger

FEW = 5_000
SLOTS = 4
STOPPED = 3
"""Exit status of a run that was stopped with work left."""
POLL_S = 0.002
MEMORY_EVERY_S = 0.25
TRIES = 5
"""Runs of `status`, of which the median counts."""


@dataclass
class Bench:
    """A directory with a tiny program `./noop` and farms whose tasks are that program."""

    directory: Path
    rows: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.plain()

    @property
    def first(self) -> Path:
        """The file that the first task leaves when `watched` was called."""
        return self.directory / "first"

    def plain(self) -> None:
        """Make `./noop` do nothing."""
        self._be("true")

    def watched(self) -> None:
        """Make `./noop` leave the file `first`."""
        self.first.unlink(missing_ok=True)
        self._be("touch")

    def _be(self, program: str) -> None:
        # A program and no script: an interpreter that just started would read what has taken the script's place.
        new = self.directory / "new"
        new.symlink_to(shutil.which(program) or f"/bin/{program}")
        new.rename(self.directory / "noop")

    def tasks(self, count: int) -> str:
        """Write a list of `count` tasks and return its name."""
        name = f"list_{count}"
        (self.directory / name).write_text("".join(f"./noop first {number}\n" for number in range(count)))
        return name

    def command(self, *words: str) -> list[str]:
        """Return a taskfarmer command."""
        return [taskfarmer(), *words]

    def run(self, tasks: str, workdir: str, *, logs: str = "packed") -> list[str]:
        """Return the command that runs a list in a workdir, or goes on with it."""
        return self.command("run", tasks, "-n", str(SLOTS), "-w", workdir, "--logs", logs, "--quiet")

    def seconds(self, command: Sequence[str]) -> float:
        """Run a command to its end and return its wall time in seconds."""
        return timed(command, cwd=self.directory)

    def note(self, what: str, value: float, unit: str, target: float | None = None, *, least: bool = False) -> None:
        """Add a line to the table; `target` is the most (with `least`: the least) that `value` may be."""
        text = ""
        if target is not None:
            holds = value >= target if least else value <= target
            text = f"{'>=' if least else '<='} {target:g}: {'yes' if holds else 'NO'}"
        self.rows.append(
            {"what": what, "value": f"{value:.4g}" if value < 100 else f"{value:.0f}", "unit": unit, "target": text}
        )
        tell(f"{what}: {value:.4g} {unit} {text}")


class Run:
    """A farmer at work, watched from outside: when its first task ran, and how much memory it needs.

    `with` stops it at the end.
    """

    def __init__(self, bench: Bench, command: Sequence[str]) -> None:
        self._bench = bench
        self.peak_bytes = 0
        self.oldest_view_s = 0.0
        self.ran_s = 0.0
        bench.watched()
        started = time.perf_counter()
        self._process = subprocess.Popen(command, cwd=bench.directory, stdout=subprocess.DEVNULL)
        try:
            while not bench.first.exists():
                time.sleep(POLL_S)
                if self._process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)}: exit status {self._process.returncode}, and no task ran")
        except BaseException:
            self._process.terminate()
            raise
        self.first_s = time.perf_counter() - started
        bench.plain()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def let_run(self, seconds: float, workdir: Path) -> None:
        """Return after `seconds` or at the end of the run, with the peak memory in `peak_bytes`, the age of the
        oldest view in `oldest_view_s` (a view that is older than the farmer does not count), and the time in `ran_s`.
        """
        began, began_wall = time.monotonic(), time.time()
        while self._process.poll() is None and time.monotonic() < began + seconds:
            self.peak_bytes = max(self.peak_bytes, memory(self._process.pid))
            written = [view_written(workdir / name) for name in ("toprocess", "finished")]
            age = time.time() - max(min(written), began_wall)
            if self._process.poll() is None:
                self.oldest_view_s = max(self.oldest_view_s, age)
            time.sleep(MEMORY_EVERY_S)
        self.ran_s = time.monotonic() - began

    def stop(self) -> None:
        """Stop the farmer, unless it is done.

        Raises:
            RuntimeError: it did not end as it should.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        if self._process.wait(timeout=60) not in (0, STOPPED):
            raise RuntimeError(f"the farmer ended with exit status {self._process.returncode}")


def memory(pid: int) -> int:
    """Return the peak resident bytes of a farmer, loops and guardian together (0: gone); tasks are not counted."""
    total = 0
    for process in (pid, *children(pid)):
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return total


def view_written(path: Path) -> float:
    """Return when a view was last brought up to date, in seconds since the epoch; 0: it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def finished_tasks(bench: Bench, workdir: str) -> int:
    """Return how many tasks of a farm have finished."""
    printed = subprocess.run(
        bench.command("status", workdir, "--json"), cwd=bench.directory, capture_output=True, check=True
    )
    return int(json.loads(printed.stdout)["tasks"]["finished"])


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def entries_since_snapshot(workdir: Path) -> tuple[int, bool]:
    """Return how many entries of the log a reader has to read, and whether there is a snapshot."""
    count = 0
    for name in sorted((name for name in os.listdir(workdir / "ledger" / "log") if name.isdigit()), reverse=True):
        count += 1
        if b'"snapshot"' in (workdir / "ledger" / "log" / name).read_bytes():
            return count, True
    return count, False


def measure_rate(bench: Bench, many: int, count: int, calm: float | None) -> None:
    """Compare the rate with many tasks and with few, in alternating rounds, with logs in files."""

    def rate(tasks: int) -> float:
        workdir = bench.directory / "rate"
        result = tasks / bench.seconds(bench.run(bench.tasks(tasks), workdir.name, logs="files"))
        shutil.rmtree(workdir)
        return result

    taken = rounds(count, {"few": lambda: rate(FEW), "many": lambda: rate(many)}, calm=calm)
    bench.note(f"rate with {FEW:,} tasks", statistics.median(taken["few"]), "tasks/s")
    bench.note(f"rate with {many:,} tasks", statistics.median(taken["many"]), "tasks/s")
    bench.note(f"{many:,} against {FEW:,}", ratio(taken["many"], taken["few"]), "times", 0.9, least=True)


def measure_status(bench: Bench, workdir: str) -> None:
    """Time `status`, and say how much of the log it had to read."""
    entries, snapshot = entries_since_snapshot(bench.directory / workdir)
    command = bench.command("status", workdir)
    seconds = statistics.median(bench.seconds(command) for _ in range(TRIES))
    what = f"status, {entries} entries after a snapshot" if snapshot else f"status, {entries} entries, no snapshot"
    bench.note(what, seconds, "s", 0.3 if snapshot else 3.0)


def measure_farm(bench: Bench, tasks: int, seconds: float, *, full: bool) -> None:
    """Make a farm of `tasks`, work on it, stop it, resume it; measure on the way."""
    name = bench.tasks(tasks)
    command = bench.run(name, "farm")
    with Run(bench, command) as run:
        bench.note(f"{tasks:,} tasks: from the prompt to the first task", run.first_s, "s", 5.0)
        run.let_run(seconds, bench.directory / "farm")
    measure_status(bench, "farm")
    with Run(bench, command) as resumed:
        bench.note("resumed with its list: to the first task", resumed.first_s, "s", 3.0)
    make_snapshot(bench, "farm")
    measure_status(bench, "farm")
    before = finished_tasks(bench, "farm")
    with Run(bench, bench.command("resume", "farm", "--quiet")) as resumed:
        bench.note("resumed by its workdir: to the first task", resumed.first_s, "s", 3.0)
        resumed.let_run(float("inf") if full else seconds, bench.directory / "farm")
    after = finished_tasks(bench, "farm")
    bench.note(f"rate from {before:,} to {after:,} tasks finished", (after - before) / resumed.ran_s, "tasks/s")
    bench.note("oldest view (toprocess, finished) while it ran", resumed.oldest_view_s, "s")
    measure_status(bench, "farm")
    bench.note("peak memory of the farmer", max(run.peak_bytes, resumed.peak_bytes) / 1e6, "MB", 150.0)
    bench.note("files in the workdir, logs packed", files(bench.directory / "farm"), "files", 10_000)


def make_snapshot(bench: Bench, workdir: str) -> None:
    """Make the log so long that a snapshot is due, and write it, as a farmer would."""
    ledger = Ledger.open(bench.directory / workdir)
    for _ in range(SNAPSHOT_EVERY):
        ledger.append(lambda _state: (Report(), ()))
    ledger.snapshot(CLI)


def measure_add(bench: Bench, tasks: int) -> None:
    """Time `add` of a long list to a farm that is there."""
    bench.seconds(bench.run(bench.tasks(1), "grown"))
    bench.note(f"`add` of {tasks:,} tasks", bench.seconds(bench.command("add", "grown", bench.tasks(tasks))), "s", 5.0)
    measure_status(bench, "grown")


def main() -> int:
    """Measure everything and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000, metavar="N", help="tasks of the large farm (1,000,000)")
    parser.add_argument(
        "--many", type=int, default=200_000, metavar="N", help="tasks for the rate (200,000; 0: skip it)"
    )
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="runs for the rate (default: 1)")
    parser.add_argument(
        "--seconds", type=float, default=30, metavar="S", help="how long the large farm runs, twice (30)"
    )
    parser.add_argument("--full", action="store_true", help="run all tasks of the large farm")
    options = parser.parse_args()
    with scratch(options.scratch) as parent:
        bench = Bench(parent / "scale")
        measure_add(bench, options.tasks)
        measure_farm(bench, options.tasks, options.seconds, full=options.full)
        if options.many:
            measure_rate(bench, options.many, options.rounds, options.calm)
    show(bench.rows, as_json=options.json)
    return int(any("NO" in str(line["target"]) for line in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
