"""Time the short things: ten tasks from the shell prompt to the exit, and `--help`.

    python benchmarks/latency.py --peers .bench

Ten tasks: taskfarmer against PyTaskFarmer and xargs. Help: against `python -c 'import click'`, with the interpreter
that runs this script, which is taken to be taskfarmer's. All are run in turn; the table has medians in milliseconds,
and how many times as long taskfarmer takes. Exit status: 0, or 1 if a target was missed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, Missing, arguments, ratio, rounds, scratch, show, taskfarmer, timed
from benchmarks.contenders import Trial, run_pytaskfarmer, run_taskfarmer, run_xargs

TASKS = 10


@dataclass(frozen=True)
class Thing:
    """Something that is timed; `against` names the taskfarmer command that is compared with it.

    `target`: how many times as long taskfarmer may take at most; None: no target.
    """

    name: str
    seconds: Callable[[Path], float]
    against: str | None = None
    target: float | None = None


def things(peers: Path) -> list[Thing]:
    """Return what is timed; each gets a directory to write into."""

    def ten(run: Callable[[Trial], float], parent: Path) -> float:
        return run(Trial(TASKS, 4, Path(tempfile.mkdtemp(dir=parent)), peers))

    def plain(command: Sequence[str], _parent: Path) -> float:
        return timed(command)

    return [
        Thing("taskfarmer run, 10 tasks", partial(ten, run_taskfarmer)),
        # "no more than PyTaskFarmer's by much"
        Thing("pytaskfarmer.py, 10 tasks", partial(ten, run_pytaskfarmer), "taskfarmer run, 10 tasks", 1.25),
        Thing("xargs, 10 tasks", partial(ten, run_xargs), "taskfarmer run, 10 tasks"),
        Thing("taskfarmer --help", partial(plain, [taskfarmer(), "--help"])),
        Thing(
            "python -c 'import click'", partial(plain, [sys.executable, "-c", "import click"]), "taskfarmer --help", 1.4
        ),
        Thing("python -c pass", partial(plain, [sys.executable, "-c", "pass"]), "taskfarmer --help"),
    ]


def can(thing: Thing, parent: Path) -> bool:
    """Run `thing` once, as a warm-up, and say whether it is installed."""
    try:
        thing.seconds(parent)
    except Missing as error:
        print(error, file=sys.stderr)
        return False
    return True


def row(thing: Thing, taken: dict[str, list[float]]) -> dict[str, object]:
    """Return one line of the table."""
    if thing.name not in taken:
        return {"command": thing.name, "ms": "missing", "min - max": "", "taskfarmer takes x times": "", "target": ""}
    values = taken[thing.name]
    times = ratio(taken[thing.against], values) if thing.against else None
    target = ""
    if times is not None and thing.target is not None:
        target = f"<= {thing.target:g}: {'yes' if times <= thing.target else 'NO'}"
    return {
        "command": thing.name,
        "ms": round(statistics.median(values) * 1000),
        "min - max": f"{min(values) * 1000:.0f} - {max(values) * 1000:.0f}",
        "taskfarmer takes x times": "" if times is None else f"{times:.2f}",
        "target": target,
    }


def main() -> int:
    """Time everything and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="runs of each command (default: 20)")
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench", metavar="DIR", help="where peers are installed")
    options = parser.parse_args()
    everything = things(options.peers.resolve())
    with scratch(options.scratch) as parent:
        measurements = {t.name: partial(t.seconds, parent) for t in everything if can(t, parent)}
        taken = rounds(options.rounds, measurements, calm=options.calm)
    rows = [row(thing, taken) for thing in everything]
    show(rows, as_json=options.json)
    return int(any("NO" in str(line["target"]) for line in rows))


if __name__ == "__main__":
    sys.exit(main())
