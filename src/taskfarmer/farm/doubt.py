"""Tasks that die as if the whole batch job had been told to stop: judged a moment later, when one knows.

Slurm (`scancel`, preemption, the time limit) and LSF signal every process of a job. A task may so die of the very
SIGTERM that its farmer hears a millisecond later, or of the SIGKILL that ends its farmer, too. That is no failure of
the task: it is done again, and costs no retry. The reason is that of the farmer's own stop.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping

from ..core.plan import Attempt
from ..core.records import STOPPED
from .executors import Exit

DOUBT_S = 1.0
"""How far apart a signal to the farmer and the end of a task may be that come from the same hand."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGKILL)
STATUSES = frozenset([-n for n in _SIGNALS] + [128 + n for n in _SIGNALS])
"""Of processes that died of such a signal, or of shells whose last command did."""


class Doubts:
    """Holds back ends that may be the work of a signal to all. Times on the loop's clock, in seconds."""

    def __init__(self) -> None:
        self.next = float("inf")
        """When something that is held back is to be judged."""
        self._held: list[tuple[float, Exit]] = []
        self._told = float("-inf")
        self._reason = STOPPED

    def told(self, running: Mapping[int, Attempt], now: float, reason: str) -> None:
        """The farmer was sent a signal: what died of one just before was told to stop by the same hand."""
        self._told, self._reason = now, reason
        for _, end in self._held:
            self._mark(running[end.id], reason)
        self._held = [(now, end) for _, end in self._held]
        self.next = now if self._held else float("inf")

    def judged(self, ends: Iterable[Exit], running: Mapping[int, Attempt], now: float, *, stopping: str) -> list[Exit]:
        """Return what can be recorded now, of `ends` and of what was held back.

        `stopping`: if the farmer was told to stop and has not yet passed it on, for which reason; what failed right now
        was told as well.
        """
        clear = [end for due, end in self._held if due <= now]
        held = [(due, end) for due, end in self._held if due > now]
        for end in ends:
            attempt = running[end.id]
            hit = end.status in STATUSES
            if end.status and (stopping or (hit and now - self._told < DOUBT_S)):
                self._mark(attempt, stopping or self._reason)
            if hit and not attempt.reason:
                held.append((now + DOUBT_S, end))
            else:
                clear.append(end)
        self._held = held
        self.next = min((due for due, _ in held), default=float("inf"))
        return clear

    @staticmethod
    def _mark(attempt: Attempt, reason: str) -> None:
        attempt.reason = attempt.reason or reason
