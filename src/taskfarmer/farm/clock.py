"""The clock that farmers go by, in one place, so that a simulation can give them another.

Everything in the loop and the ledger that asks for the time, or lets time pass, asks its ledger's `clock`.
"""

from __future__ import annotations

import time
from selectors import BaseSelector


class Clock:
    """The machine's own clocks; all times in seconds."""

    def monotonic(self) -> float:
        """Return the time of the loop, from an arbitrary beginning."""
        return time.monotonic()

    def boottime(self) -> float:
        """Return the time from an arbitrary beginning, which also passes while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Return the seconds since the epoch, for records: two machines may differ, and it may jump."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Do nothing for so long."""
        time.sleep(seconds)

    def wait(self, selector: BaseSelector, seconds: float) -> None:
        """Wait until something is readable, at most `seconds`, and call what was registered with it."""
        for key, _ in selector.select(seconds):
            key.data()


CLOCK = Clock()
