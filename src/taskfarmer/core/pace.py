"""How fast a farmer ends tasks, by those that it ended lately. Pure: the time is handed in."""

from __future__ import annotations

from collections import deque

from . import policy

RECENT = 100
"""Attempts of which the typical duration is taken."""
ENDS = 64
"""Ends of attempts of which the rate is taken."""


class Pace:
    """The pace of `slots` >= 1 slots. Times on the loop's clock, in seconds; rates in tasks per second of all slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._mean_s = 0.0
        self._ends: deque[float] = deque(maxlen=ENDS)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._typical_s: float | None = 0.0

    @property
    def known(self) -> bool:
        """Whether an attempt has ended by itself here."""
        return self._mean_s > 0

    @property
    def rate(self) -> float:
        """Tasks that all slots together end in a second, by the mean of recent ones; 0 before the first.

        At most what they did end lately: very short tasks wait for the loop, or for a CPU that others use.
        """
        if not self._mean_s:
            return 0.0
        possible = self._slots / self._mean_s
        if len(self._ends) < ENDS or self._ends[-1] <= self._ends[0]:
            return possible
        return min(possible, (len(self._ends) - 1) / (self._ends[-1] - self._ends[0]))

    def rate_now(self, now: float, last_start: float | None) -> float:
        """Return the rate, or less where what runs now takes longer than what went before: by as many of the last ends
        as there are slots, and by the last start of what runs (who has something in its queue starts the next when one
        ends). `last_start` None: nothing runs. 0: nothing has run here yet.
        """
        rate = self.rate or (0.0 if last_start is None else float("inf"))
        if last_start is not None and (since_s := now - last_start) > 0:
            rate = min(rate, 1.0 / since_s)
        ends = min(self._slots, len(self._ends) - 1)
        if ends > 0 and (since_s := now - self._ends[-ends - 1]) > 0:
            rate = min(rate, ends / since_s)
        return rate

    @property
    def typical_s(self) -> float:
        """Seconds that a task takes, by those that finished here lately; 0 before the first."""
        if self._typical_s is None:
            self._typical_s = policy.typical_duration(self._recent)
        return self._typical_s

    def ended(self, now: float, duration_s: float) -> None:
        """An attempt ended by itself, whatever came of it."""
        self._ends.append(now)
        self._mean_s = 0.95 * self._mean_s + 0.05 * duration_s if self._mean_s else duration_s

    def finished(self, duration_s: float) -> None:
        """What it ended was done."""
        self._recent.append(duration_s)
        self._typical_s = None

    def rested(self) -> None:
        """There was nothing to do: that says nothing of how fast it can be done."""
        self._ends.clear()
