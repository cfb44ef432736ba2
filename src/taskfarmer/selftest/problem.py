"""What `taskfarmer doctor` finds fault with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault, in one line. `about`: a few words that say what has it; `remedy`: what to do.

    An `error` keeps taskfarmer, or what it would use, from working; a `warning` may hurt.
    """

    severity: Severity
    about: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.about}: {self.text}; {self.remedy}"


def error(about: str, text: str, remedy: str) -> Problem:
    """Return what keeps something from working."""
    return Problem("error", about, text, remedy)


def warning(about: str, text: str, remedy: str) -> Problem:
    """Return what may hurt."""
    return Problem("warning", about, text, remedy)
