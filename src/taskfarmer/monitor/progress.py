"""How a farm comes on, while one waits: a live display on a terminal, a line now and then elsewhere.

A display that cannot be written to (a terminal that was closed) falls silent: the farm goes on.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .text import duration, per_second, printable, shortened

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_FIRST_S = 0.3
"""A farm that is done sooner shows nothing, and does not pay for loading rich."""
_LINE_S = 10.0
_LATER_S = 60.0
_LATER_AFTER_S = 120.0
_SHOWN = ("finished", "failed", "running", "blocked", "cancelled", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressView:
    """What is shown: `counts` by state, tasks a second, seconds left (None: cannot be told), farmers that are alive."""

    counts: dict[str, int]
    rate_per_s: float = 0.0
    left_s: float | None = None
    last_failures: list[str] = field(default_factory=list)
    farmers: int = 1

    @property
    def total(self) -> int:
        """All tasks."""
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        """Tasks that nobody will do any more."""
        return self.total - self.counts.get("toprocess", 0) - self.counts.get("running", 0)

    def words(self, *, of_all: bool = False) -> str:
        """Return all of it but the failures, on one line; `of_all`: with how many tasks there are."""
        parts = [f"{self.counts.get(name, 0)} {name}" for name in _SHOWN[:3]]
        parts += [f"{self.counts[name]} {name}" for name in _SHOWN[3:] if self.counts.get(name)]
        if of_all:
            parts[-1] += f" of {self.total}"
        if self.rate_per_s:
            parts.append(per_second(self.rate_per_s))
        if self.left_s is not None and self.ended < self.total:
            parts.append(f"{duration(self.left_s)} left" if self.left_s >= 10 else "less than 10 s left")
        if self.farmers > 1:
            parts.append(f"{self.farmers} farmers")
        return ", ".join(parts)


class Progress:
    """The display. `update` is called at most twice a second."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._on_terminal = False
        self._began = 0.0
        self._next_line = float("inf")
        self._silent = False
        self._last = ""

    def start(self) -> None:
        """Begin; nothing is shown before the first update."""
        with suppress(OSError, ValueError):
            self._on_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._began = time.monotonic()
        self._next_line = self._began + _LINE_S

    def update(self, view: ProgressView) -> None:
        """Show how things stand."""
        if self._silent:
            return
        try:
            if self._on_terminal:
                self._draw(view)
            else:
                self._print_now_and_then(view)
        except (OSError, ValueError):
            self._silent = True

    def line(self, text: str) -> None:
        """Print a line, above the live display if there is one."""
        if self._silent:
            return
        try:
            if self._live is not None:
                self._live.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
            else:
                _print(text)
        except (OSError, ValueError):
            self._silent = True

    def stop(self) -> None:
        """Take the live display away."""
        if self._live is not None:
            with suppress(OSError, ValueError):
                self._live.stop()
            self._live = None

    def _draw(self, view: ProgressView) -> None:
        if self._live is None:
            if time.monotonic() - self._began < _FIRST_S:
                return
            # Only here: loading it takes as long as running many short tasks.
            from rich.live import Live

            # No thread of its own: the loop starts processes, and draws when it has time.
            self._live = Live(auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self._live.update(_drawing(view), refresh=True)

    def _print_now_and_then(self, view: ProgressView) -> None:
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + (_LINE_S if now - self._began < _LATER_AFTER_S else _LATER_S)
        if (words := view.words(of_all=True)) != self._last:
            self._last = words
            _print(f"taskfarmer: {words}")


def _print(text: str) -> None:
    """Print, and let the reader have it at once; what the encoding of the output has not is shown escaped."""
    encoding = sys.stdout.encoding or "ascii"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201 - the display


def _drawing(view: ProgressView) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = view.total
    top = Table.grid(padding=(0, 1))
    share = f"{view.ended / total:4.0%}" if total else ""
    top.add_row(ProgressBar(total=max(total, 1), completed=view.ended, width=40), Text(f"{share} of {total}"))
    failures = [
        Text(shortened(text, 400), style="red", no_wrap=True, overflow="ellipsis") for text in view.last_failures
    ]
    return Group(top, Text(view.words()), *failures)
