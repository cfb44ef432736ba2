"""Texts for people's eyes: whatever a task's line holds, it cannot break a terminal, a table or an encoding."""

from __future__ import annotations

import re
import time

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text on one line: control characters and bytes that are no UTF-8 are shown as `\n`, `\x1b`."""
    return _UNSEEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()


def shortened(text: str, width: int) -> str:
    """Return the text printable, and at most `width` >= 4 characters long."""
    text = printable(text if len(text) <= 4 * width else text[: 4 * width])
    return text if len(text) <= width else text[: width - 3] + "..."


def duration(seconds: float) -> str:
    """Return a time span: `35 ms`, `1.35 s`, `12 s`, `3:07`, `2:05:00`, `3 d 4:00:00`."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if not days and not hours:
        return f"{minutes}:{rest:02d}"
    return (f"{days} d " if days else "") + f"{hours}:{minutes:02d}:{rest:02d}"


def span(seconds: float) -> str:
    """Return a time span in whole seconds, none below 0: `0 s`, `12 s`, `3:07`."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 10 else duration(whole)


def moment(seconds: float) -> str:
    """Return a time, given in seconds since the epoch, as local date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def period(start: float, end: float) -> str:
    """Return two times, given in seconds since the epoch; the second without the date if that is the same."""
    (day, _), (other, late) = moment(start).split(), moment(end).split()
    return f"{moment(start)} to {late if day == other else moment(end)}"


def per_second(rate: float) -> str:
    """Return a rate, in the unit that suits it."""
    if rate >= 1:
        return f"{rate:.0f}/s" if rate >= 100 else f"{rate:.1f}/s"
    return f"{rate * 60:.1f}/min" if rate * 60 >= 1 else f"{rate * 3600:.1f}/h"


def memory(kib: int) -> str:
    """Return an amount of memory, given in KiB."""
    if kib < 1024:
        return f"{kib} KiB"
    return f"{kib / 1024:.0f} MiB" if kib < 10 * 1024 * 1024 else f"{kib / 1024 / 1024:.1f} GiB"


def table(rows: list[list[str]], *, right: frozenset[int] | set[int] = frozenset()) -> str:
    """Return rows as aligned columns, two blanks apart; those in `right` are aligned to the right."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def without_empty(rows: list[list[str]]) -> list[list[str]]:
    """Return rows, of which the first is the heading, without the columns that have nothing below it."""
    kept = [n for n, column in enumerate(zip(*rows, strict=True)) if any(column[1:])]
    return [[row[n] for n in kept] for row in rows]
