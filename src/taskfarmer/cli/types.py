"""Types of options and arguments that click has not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

MOST_SECONDS = 1_000_000_000
"""Of an option: thirty years."""
MOST_SLOTS = 100_000


class Seconds(click.FloatRange):
    """A number of seconds, from `least` to `MOST_SECONDS`."""

    def __init__(self, least: float = 0, *, min_open: bool = False) -> None:
        super().__init__(least, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; what is none, or too many, is bad usage."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number) or number > MOST_SECONDS:
            self.fail(f"{value!r} is not a number of seconds up to {MOST_SECONDS}", param, ctx)
        return number


class Directory(click.Path):
    """The path of a directory that need not exist; an empty text is none."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; it is not looked for."""
        if not str(value):
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)
