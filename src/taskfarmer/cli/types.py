"""Types of options and arguments that click has not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

MOST_SECONDS = 1_000_000_000
"""Of an option: thirty years."""
MOST_SLOTS = 100_000


class Count(click.IntRange):
    """A whole number, from `least` to `most`; None: of any size."""

    def __init__(self, least: int = 0, most: int | None = None) -> None:
        super().__init__(least, most)
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; anything else is bad usage."""
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or number < self.least or (self.most is not None and number > self.most):
            allowed = f"of {self.least} or more" if self.most is None else f"from {self.least} to {self.most}"
            self.fail(f"{value!r} is no whole number {allowed}", param, ctx)
        return number


class Seconds(click.FloatRange):
    """A number of seconds, from `least` (with `min_open`: above it) to `MOST_SECONDS`."""

    def __init__(self, least: float = 0, *, min_open: bool = False) -> None:
        super().__init__(least, min_open=min_open)
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; what is none, too few or too many is bad usage."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self.least <= number <= MOST_SECONDS or (self.min_open and number == self.least):
            least = f"above {self.least:g}, up" if self.min_open else f"from {self.least:g}"
            self.fail(f"{value!r} is no number of seconds {least} to {MOST_SECONDS}", param, ctx)
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
