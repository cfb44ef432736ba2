"""One task of the demo: the dimuon mass of some events of one file, as a histogram on standard output.

    python3 analyse.py FILE FIRST COUNT

Muons must have pt > 20 GeV and |eta| < 2.4, and opposite charges. Each line of the output is the lower edge of a bin of
1 GeV, and how many events fell into it. What it has to say goes to standard error, which the farm keeps as the log.

Two misfortunes are played, so that there is something to retry: now and then the first attempt finds the calibration
server busy, and one first attempt hangs. The third, a file that is cut short, is real.
"""

from __future__ import annotations

import math
import os
import struct
import sys
import time

HEADER = struct.Struct("<4sI")
EVENT = struct.Struct("<6f2b")
LOW, HIGH = 60, 120


def read_events(path: str, first: int, count: int) -> list[tuple[float, ...]]:
    """Return events `first` to `first + count - 1`; leave with a message when the file does not have them."""
    with open(path, "rb") as file:
        magic, stated = HEADER.unpack(file.read(HEADER.size))
        if magic != b"DIMU":
            sys.exit(f"{path}: not a file of dimuon events")
        file.seek(HEADER.size + first * EVENT.size)
        blob = file.read(count * EVENT.size)
    if len(blob) < count * EVENT.size:
        have = first + len(blob) // EVENT.size
        sys.exit(f"{path}: cut short: the header says {stated} events, and event {have} is missing")
    return list(EVENT.iter_unpack(blob))


def mass_of(event: tuple[float, ...]) -> float | None:
    """Return the mass of the pair in GeV, or None when the event is not selected."""
    pt1, eta1, phi1, pt2, eta2, phi2, charge1, charge2 = event
    if charge1 == charge2 or min(pt1, pt2) < 20 or max(abs(eta1), abs(eta2)) > 2.4:
        return None
    return math.sqrt(2 * pt1 * pt2 * (math.cosh(eta1 - eta2) - math.cos(phi1 - phi2)))


def misfortune() -> None:
    """Fail or hang where the demo wants it: at first attempts only."""
    task, attempt = int(os.environ["TASKFARMER_TASK_ID"]), int(os.environ["TASKFARMER_ATTEMPT"])
    if attempt > 1:
        return
    if task == 100:
        print("waiting for the tape robot", file=sys.stderr, flush=True)
        time.sleep(3600)
    if task % 33 == 5:
        sys.exit("calibration server: busy, try again")


def main() -> None:
    """Analyse the slice that the command line names."""
    path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    misfortune()
    events = read_events(path, first, count)
    bins = [0] * (HIGH - LOW)
    for event in events:
        mass = mass_of(event)
        if mass is not None and LOW <= mass < HIGH:
            bins[int(mass) - LOW] += 1
    for number, entries in enumerate(bins):
        print(LOW + number, entries)
    print(f"{path}: {sum(bins)} of {count} events selected", file=sys.stderr)


if __name__ == "__main__":
    main()
