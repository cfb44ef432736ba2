"""Compare taskfarmer with other programs: N tasks `true` in 4 slots, one log file a task, in alternating rounds.

    sh benchmarks/install_peers.sh .bench
    python benchmarks/peers.py --peers .bench
    python benchmarks/peers.py --tasks 1000 --rounds 1 --only xargs,parallel     (a quick look)

A rate is tasks a second. The ratio is taskfarmer's rate divided by the program's, taken within each round; the table
has medians. Slow programs get fewer tasks, as the table says, unless --same-size is given. A program that is not
installed stands in the table as missing. Exit status: 0, or 1 if a target was missed.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, Missing, arguments, files, ratio, rounds, scratch, show, tell
from benchmarks.contenders import MINE, PEERS, TWO_LOOPS, Contender, Trial

# Two processes that start tasks should beat xargs.
TARGET_OF_TWO_LOOPS = 1.0


def size(contender: Contender, tasks: int, *, same: bool) -> int:
    """Return how many tasks a contender gets."""
    return tasks if same else max(1, round(tasks * contender.share))


def rate(contender: Contender, tasks: int, slots: int, peers: Path, parent: Path) -> float:
    """Run a contender once in a directory of its own and return its rate in tasks a second.

    Raises:
        Missing: it is not installed.
        RuntimeError: it failed, or left fewer files than tasks.
    """
    directory = Path(tempfile.mkdtemp(dir=parent))
    try:
        seconds = contender.run(Trial(tasks, slots, directory, peers))
        if (found := files(directory)) < tasks:
            raise RuntimeError(f"{contender.name}: only {found} files for {tasks} tasks: it did not run them all")
        return tasks / seconds
    finally:
        shutil.rmtree(directory)


def absent(contenders: Sequence[Contender], peers: Path, parent: Path, slots: int) -> dict[str, str]:
    """Run each contender with a few tasks, as a warm-up, and return why those that cannot run cannot."""
    reasons = {}
    for contender in contenders:
        tell(f"warm-up: {contender.name}")
        try:
            rate(contender, 8, slots, peers, parent)
        except (Missing, RuntimeError, OSError) as error:
            reasons[contender.name] = str(error)
    return reasons


def verdict(value: float | None, target: float | None) -> str:
    """Say whether taskfarmer reaches the target."""
    if target is None or value is None:
        return ""
    return f">= {target:g}: {'yes' if value >= target else 'NO'}"


def number(value: float | None) -> str:
    """Return a ratio as it stands in the table."""
    return "-" if value is None else f"{value:.2f}"


def row(contender: Contender, tasks: int, rates: dict[str, list[float]], reason: str | None) -> dict[str, object]:
    """Return one line of the table."""
    values = rates.get(contender.name)
    if values is None:
        unknown = dict.fromkeys(("tasks/s", "min - max", "taskfarmer is x times", "target", "two loops"), "-")
        return {"program": contender.name, "tasks": 0, **unknown, "note": f"missing: {reason}"}
    mine, two = (ratio(rates[c.name], values) if c.name in rates else None for c in (MINE, TWO_LOOPS))
    beats = verdict(two, TARGET_OF_TWO_LOOPS) if contender.name == "xargs" else ""
    return {
        "program": contender.name,
        "tasks": tasks,
        "tasks/s": round(statistics.median(values)),
        "min - max": f"{min(values):.0f} - {max(values):.0f}",
        "taskfarmer is x times": number(mine),
        "target": verdict(mine, contender.target),
        "two loops": f"{number(two)} {beats}".strip(),
        "note": contender.note,
    }


def chosen(only: str) -> list[Contender]:
    """Return taskfarmer and the peers that have one of the words of `only` in their names (empty: all)."""
    words = [word.strip().lower() for word in only.split(",") if word.strip()]
    return [MINE, TWO_LOOPS, *(p for p in PEERS if not words or any(word in p.name.lower() for word in words))]


def main() -> int:
    """Run the comparison and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", type=int, default=5000, metavar="N", help="tasks a run (default: 5000)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each program (default: 5)")
    parser.add_argument("--slots", type=int, default=4, metavar="N", help="tasks at a time (default: 4)")
    parser.add_argument("--only", default="", metavar="A,B", help="peers whose names contain one of these words")
    parser.add_argument("--same-size", action="store_true", help="slow programs get as many tasks as the others")
    parser.add_argument("--peers", type=Path, default=ROOT / ".bench", metavar="DIR", help="where peers are installed")
    options = parser.parse_args()
    contenders = chosen(options.only)
    with scratch(options.scratch) as parent:
        peers = options.peers.resolve()
        reasons = absent(contenders, peers, parent, options.slots)
        sizes = {c.name: size(c, options.tasks, same=options.same_size) for c in contenders}
        measurements: dict[str, Callable[[], float]] = {
            c.name: partial(rate, c, sizes[c.name], options.slots, peers, parent)
            for c in contenders
            if c.name not in reasons
        }
        rates = rounds(options.rounds, measurements, calm=options.calm)
    rows = [row(c, sizes[c.name], rates, reasons.get(c.name)) for c in contenders]
    show(rows, as_json=options.json)
    return int(any("NO" in f"{line['target']} {line['two loops']}" for line in rows))


if __name__ == "__main__":
    sys.exit(main())
