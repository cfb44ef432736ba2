"""What the loop is plugged into, besides its executor: who is told, and who keeps the views."""

from __future__ import annotations

from typing import Protocol

from ..core.plan import Attempt
from ..core.records import Ended
from ..core.state import State


class Reporter(Protocol):
    """Is told what happens, for people to read. Called from the loop: it must be quick, and never raise."""

    def say(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something that keeps the farmer from its work, or ends it: also for who wants to hear nothing else."""

    def started(self, attempt: Attempt) -> None:
        """An attempt was started."""

    def ended(self, attempt: Attempt, end: Ended) -> None:
        """An attempt ended."""

    def progress(self, state: State, rate: float) -> None:
        """Twice a second or so: how things stand; `rate` in tasks a second of this farmer."""


class Views(Protocol):
    """Keeps the text views (`farm.views.ViewKeeper`)."""

    def due(self, now_s: float) -> bool:
        """Whether it is time."""

    problem: str

    def update(self, besides: str = ..., *, budget_s: float = ...) -> bool:
        """Bring them up to date; `besides`: the farmer whose journal the state always knows. Never raises."""

    def close(self) -> None:
        """The last update was made."""
