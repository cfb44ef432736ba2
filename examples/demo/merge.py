"""The last step of the demo: add up the histograms and draw the sum.

    python3 merge.py HISTOGRAM...

A histogram is what analyse.py prints.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

WIDTH = 60


def total(paths: list[str]) -> Counter[int]:
    """Return how many events fell into each bin (by lower edge, GeV) in all files together."""
    bins: Counter[int] = Counter()
    for path in paths:
        for line in Path(path).read_text().splitlines():
            edge, entries = line.split()
            bins[int(edge)] += int(entries)
    return bins


def peak(bins: Counter[int]) -> float:
    """Return the mean mass in GeV between 86 and 97, after taking away what the sides (80-84 and 99-103) hold a bin."""
    beside = sum(bins[edge] for edge in (*range(80, 84), *range(99, 103))) / 8
    window = {edge + 0.5: bins[edge] - beside for edge in range(86, 97)}
    return sum(mass * entries for mass, entries in window.items()) / sum(window.values())


def main() -> None:
    """Draw the histogram in bins of 2 GeV, and say where the peak is."""
    bins = total(sys.argv[1:])
    rows = {edge: bins[edge] + bins[edge + 1] for edge in range(min(bins), max(bins), 2)}
    highest = max(rows.values())
    print(f"{'GeV':>7}  dimuon mass, {sum(bins.values()):,} events from {len(sys.argv) - 1} histograms")
    for edge, entries in rows.items():
        print(f"{edge:>3}-{edge + 2:<3}  {'#' * round(WIDTH * entries / highest)} {entries}")
    print(f"\npeak at {peak(bins):.1f} GeV (the Z boson: 91.2)")


if __name__ == "__main__":
    main()
