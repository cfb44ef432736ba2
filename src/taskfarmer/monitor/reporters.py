"""What a farmer tells while it works: nothing, lines, or a live display."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from ..core.plan import Attempt
from ..core.records import EVICTED, Ended
from ..core.state import State
from .progress import Progress, ProgressView
from .standing import run_of

Print = Callable[[str], None]
KEPT_FAILURES = 5


class Silent:
    """Tells nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Say it like anything else."""
        self.say(text)

    def started(self, attempt: Attempt) -> None:
        """Nothing."""

    def ended(self, attempt: Attempt, end: Ended) -> None:
        """Nothing."""

    def progress(self, state: State, rate: float) -> None:
        """Nothing."""


class Troubles(Silent):
    """Tells nothing but what keeps the farmer from its work, or ends it."""

    def __init__(self, out: Print) -> None:
        self._out = out

    def warn(self, text: str) -> None:
        """Print a line."""
        self._out(f"taskfarmer: {text}")


class Warnings(Silent):
    """Tells what is worth a line, and nothing of tasks: for a loop beside one that tells how the farm comes on."""

    def __init__(self, out: Print) -> None:
        self._out = out

    def say(self, text: str) -> None:
        """Print a line."""
        self._out(f"taskfarmer: {text}")


class Lines(Silent):
    """As PyTaskFarmer: a line for each start and end of a task, with a time stamp in front."""

    def __init__(self, out: Print) -> None:
        self._out = out

    def say(self, text: str) -> None:
        """Print a line."""
        self._out(stamped(text))

    def started(self, attempt: Attempt) -> None:
        """Say that an attempt was started."""
        again = f" (attempt {attempt.number})" if attempt.number > 1 else ""
        self._out(stamped(f"task {attempt.id} started{again}: {attempt.task.text}"))

    def ended(self, attempt: Attempt, end: Ended) -> None:
        """Say how it ended."""
        self._out(stamped(f"task {end.id} {described(end)}"))


class Live(Silent):
    """A display on a terminal, or a line now and then where there is none."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._began = time.monotonic()
        self._at_first: int | None = None
        self._failures: deque[str] = deque(maxlen=KEPT_FAILURES)

    def say(self, text: str) -> None:
        """Print a line."""
        self._display.line(f"taskfarmer: {text}")

    def ended(self, attempt: Attempt, end: Ended) -> None:
        """Remember failures."""
        if end.outcome in ("fail", "again"):
            self._failures.append(f"task {end.id} {described(end)}: {attempt.task.text}")

    def progress(self, state: State, rate: float) -> None:
        """Show how things stand. The rate is that of the whole farm since this farmer began."""
        counts = state.counts()
        ended = counts["finished"] + counts["failed"]
        if self._at_first is None:
            self._at_first = ended
        seconds = time.monotonic() - self._began
        pace = (ended - self._at_first) / seconds if seconds > 0.2 else 0.0
        left = counts["toprocess"] + counts["running"]
        self._display.update(
            ProgressView(
                counts=dict(counts),
                rate_per_s=pace,
                left_s=left / pace if pace else None,
                last_failures=list(self._failures),
                farmers=len(set(map(run_of, state.alive()))),
            )
        )


def described(end: Ended) -> str:
    """Return how an attempt ended, in a few words."""
    words = {
        "ok": "finished",
        "fail": "failed",
        "again": "failed, it will be tried again",
        "back": "stopped, to be done later",
        "cancel": "cancelled",
    }
    how = f"signal {-end.status}" if end.status < 0 else f"exit status {end.status}"
    if end.reason == "timeout":
        how = "it took too long"
    if end.reason == EVICTED and end.outcome == "back":
        return "lost, its batch job was told to end; it will be done later"
    return words[end.outcome] + (f" ({how})" if end.outcome in ("fail", "again") else "")


def stamped(text: str) -> str:
    """Return a line with the time in front, ISO 8601 without a zone, local."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
