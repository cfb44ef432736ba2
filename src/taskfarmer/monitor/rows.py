"""Lists of tasks: what the state tells at once, or what an index tells; as values, and as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..core.state import NAMES
from ..farm.ledger import Ledger
from ..farm.views.texts import ViewTexts
from .outputs import last_attempt
from .text import duration, memory, printable

Row = dict[str, Any]

_WIDTHS = {
    "id": 8,
    "state": -10,
    "attempts": 8,
    "exit": 5,
    "seconds": 9,
    "cpu_s": 9,
    "rss_kib": 10,
    "host": -12,
    "text": 0,
}
"""Columns for people, and their widths; below 0: aligned to the left."""


def plain_rows(ledger: Ledger, states: Sequence[str] = ()) -> Iterator[Row]:
    """Yield id, state, attempts and text of the tasks in one of `states` (none: all), as soon as they are found."""
    state = ledger.state
    texts = ViewTexts(ledger.segments)
    wanted = {*states, "toprocess"} if "running" in states else set(states)
    codes = {code for code, name in enumerate(NAMES) if name in wanted}
    for task, code in enumerate(state.status):
        if states and (code not in codes or state.name_of(task) not in states):
            continue
        text, _ = texts.text_and_name(task)
        yield {"id": task, "state": state.name_of(task), "attempts": last_attempt(ledger, task), "text": text}


def row_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a heading and a line a row; nothing when there is none."""
    heading = ""
    for row in rows:
        if not heading:
            heading = _line({key: key for key in row})
            yield heading
        yield _line({key: _cell(key, value) for key, value in row.items()})


def _line(cells: dict[str, str]) -> str:
    shown = []
    for key, width in _WIDTHS.items():
        if key in cells:
            shown.append(cells[key].rjust(width) if width > 0 else cells[key].ljust(-width))
    return "  ".join(shown).rstrip()


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    match key:
        case "seconds" | "cpu_s":
            return duration(value)
        case "rss_kib":
            return memory(value)
        case _:
            return printable(str(value))
