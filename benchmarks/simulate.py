"""Simulate 1 to 1,000 farmers on one directory: the real protocol, faked time and tasks (`tests/simulation.py`).

    python benchmarks/simulate.py                              (a minute)
    python benchmarks/simulate.py --farmers 1000 --each 3 --seconds 10 --on local     (a quarter of an hour)

What is counted are operations on the shared directory: files created, linked, renamed, removed and read (opening,
reading and closing are one), directories listed, lengths asked, syncs; writes to open files are none. Two file systems:
`local`, where all is seen at once, and `nfs`, where an operation takes one to three milliseconds and what others did
stays hidden for half a second. What farmers compute takes no simulated time. Each has one slot. Times are simulated
seconds. Exit status: 0, or 1 if a target was missed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import arguments, scratch, show, tell
from tests.figures import Figures, figures
from tests.simulation import LOCAL, NFS, FileSystem, Host, Simulation, Work

FILE_SYSTEMS = {"local": LOCAL, "nfs": NFS}
IDLE_S = 2.0
"""How long a farmer may sit idle beside unstarted work of another, beyond what the file system hides."""
STEPS = (1, 10, 100)


def seconds_of(mean_s: float, task: int) -> float:
    """Return how long a task takes: half of the mean to one and a half times as long."""
    return mean_s * (0.5 + task * 7919 % 1000 / 1000)


def simulate(farmers: int, each: int, mean_s: float, file_system: FileSystem, parent: Path) -> Figures:
    """Run one farm to its end.

    Raises:
        RuntimeError: a task did not run exactly once.
    """
    tasks = [Work(seconds=seconds_of(mean_s, task)) for task in range(farmers * each)]
    simulation = Simulation(Path(tempfile.mkdtemp(dir=parent)), tasks, file_system=file_system)
    simulation.farmers([Host()] * farmers)
    simulation.run()
    ran = sorted(task for _, task, *_ in simulation.trace.ended)
    if ran != list(range(len(tasks))):
        raise RuntimeError("a task did not run exactly once")
    return figures(simulation)


def row(name: str, mean_s: float, seen: Figures, file_system: FileSystem, real_s: float) -> dict[str, object]:
    """Return one line of the table."""
    limit_s = IDLE_S + file_system.hidden_s
    holds = seen.idle_longest_s <= limit_s and seen.spread_s <= max(limit_s, 1.5 * mean_s)
    reads = seen.by_kind.get("read log", 0)
    return {
        "farmers": seen.farmers,
        "on": name,
        "tasks": f"{seen.tasks} of {mean_s:g} s",
        "all took": f"{seen.whole_s:.1f} s",
        "entries": seen.entries,
        "/s": f"{seen.entries / seen.whole_s:.1f}",
        "peak": seen.entries_peak,
        "entries read/s": round(reads / seen.whole_s),
        "other operations/s": round((seen.operations - reads) / seen.whole_s),
        "of a farmer": f"{(seen.operations - reads) / seen.whole_s / seen.farmers:.1f}",
        "peak of all": seen.operations_peak,
        "idle beside work": f"{seen.idle_longest_s:.2f} s",
        "emptied within": f"{seen.spread_s:.1f} s",
        "target": "yes" if holds else "NO",
        "it took": f"{real_s:.0f} s",
    }


def main() -> int:
    """Simulate everything and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--farmers", type=int, nargs="+", default=list(STEPS), metavar="N", help="how many (1 10 100)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.1, 10.0], metavar="S", help="of tasks (0.1 10)")
    parser.add_argument(
        "--on", nargs="+", choices=FILE_SYSTEMS, default=list(FILE_SYSTEMS), help="file systems (local nfs)"
    )
    parser.add_argument("--each", type=int, metavar="N", help="tasks a farmer (200 short ones, 4 long ones)")
    options = parser.parse_args()
    rows = []
    with scratch(options.scratch or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)) as parent:
        for farmers in options.farmers:
            for name in options.on:
                for mean_s in options.seconds:
                    each = options.each or (200 if mean_s < 1 else 4)
                    tell(f"{farmers} farmers on {name}, {each} tasks of {mean_s:g} s each")
                    began = time.monotonic()
                    seen = simulate(farmers, each, mean_s, FILE_SYSTEMS[name], parent)
                    rows.append(row(name, mean_s, seen, FILE_SYSTEMS[name], time.monotonic() - began))
                    tell(f"{seen.by_kind}, {seen.lost_races} races lost")
    show(rows, as_json=options.json)
    return int(any(line["target"] == "NO" for line in rows))


if __name__ == "__main__":
    sys.exit(main())
