"""What the benchmarks share: finding taskfarmer, timing commands, waiting for a calm machine, printing tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Programs that are installed have their byte code; without it every start would compile taskfarmer anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


class Missing(Exception):
    """A program that is compared is not there; says what to do."""


def taskfarmer() -> str:
    """Return the path of the `taskfarmer` command: beside this interpreter, else on PATH.

    Raises:
        Missing: there is none.
    """
    beside = Path(sys.executable).with_name("taskfarmer")
    found = str(beside) if beside.exists() else shutil.which("taskfarmer")
    if found is None:
        raise Missing(f"no taskfarmer: {sys.executable} -m pip install {ROOT}")
    return found


def timed(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    allowed: Sequence[int] = (0,),
) -> float:
    """Run `command` with its output thrown away and return the seconds of wall time that it took.

    Raises:
        RuntimeError: it ended with a status that is not in `allowed`; carries its last words.
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        status = subprocess.call(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        seconds = time.perf_counter() - start
        if status not in allowed:
            errors.seek(0)
            said = last_line(errors.read().decode(errors="replace"))
            raise RuntimeError(f"{Path(command[0]).name}: exit status {status}: {said}")
    return seconds


def last_line(text: str) -> str:
    """Return the last line of `text` that is not empty, or an empty string."""
    return text.strip().rpartition("\n")[2].strip()


def rounds(
    count: int,
    measurements: Mapping[str, Callable[[], float]],
    *,
    calm: float | None = None,
    there_and_back: bool = False,
) -> dict[str, list[float]]:
    """Take every measurement once a round (A B C, A B C, ...), so that a slow minute of the machine hits all alike.

    `there_and_back`: every other round in reverse (A B, B A, ...), so that none always comes after the same.
    """
    taken: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(count):
        ways = list(measurements.items())
        for name, measure in reversed(ways) if there_and_back and number % 2 else ways:
            wait_until_calm(calm)
            tell(f"round {number + 1} of {count}: {name}")
            taken[name].append(measure())
    return taken


def wait_until_calm(calm: float | None, patience_s: float = 60) -> None:
    """Wait until at most `calm` processes of others run (None: do not wait), at most `patience_s` seconds."""
    if calm is None:
        return
    deadline = time.monotonic() + patience_s
    while busy_processes() > calm and time.monotonic() < deadline:
        time.sleep(1)


def busy_processes(samples: int = 10) -> float:
    """Return how many processes other than this one ran on average over half a second.

    The load average would still count the measurement that was just taken.
    """
    seen = 0
    for _ in range(samples):
        time.sleep(0.05)
        seen += int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1
    return seen / samples


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over the rounds of `mine` divided by `theirs`."""
    return statistics.median(m / t for m, t in zip(mine, theirs, strict=True))


def files(directory: Path) -> int:
    """Return the number of files (inodes without directories) below `directory`."""
    return sum(len(names) for _, _, names in os.walk(directory))


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """Make a directory under `parent` (None: where temporary files go) and remove it with its content at the end.

    SIGTERM becomes an end like any other, so that `timeout` leaves nothing behind either.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    path = Path(tempfile.mkdtemp(prefix="taskfarmer-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where the runs write (default: TMPDIR or /tmp)")
    parser.add_argument(
        "--calm",
        type=float,
        metavar="N",
        help="before each run wait until at most N other processes run (a minute at most)",
    )
    return parser


def show(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print `rows`, which have the same keys, as a Markdown table or as JSON, with the machine that they are of."""
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    if as_json:
        print(json.dumps({"machine": machine, "rows": list(rows)}, indent=1))
        return
    head = list(rows[0])
    cells = [head, *([str(row[key]) for key in head] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(f"{machine}\n\n" + "\n".join(lines))


def tell(text: str) -> None:
    """Say on standard error what is being done."""
    print(text, file=sys.stderr, flush=True)
