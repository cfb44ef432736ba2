"""Sets of task ids as text: `0-9,12,40-41`. The one way ids are written in the log and on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def ranges_of(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run of consecutive ids; `ids` need not be sorted or unique."""
    first = last = -1
    for number in sorted(ids):
        if number <= last:
            continue
        if number != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = number
        last = number
    if first >= 0:
        yield first, last


def format_ids(ids: Iterable[int]) -> str:
    """Return the ids as text, sorted, each once; nothing gives the empty string."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges_of(ids))


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """Return [(first, last), ...] as the text has them.

    Raises:
        ValueError: a part is neither a number nor `first-last` with first <= last.
    """
    pairs = []
    for part in text.replace(" ", ",").split(","):
        if not part:
            continue
        head, dash, tail = part.partition("-")
        if not (head.isascii() and head.isdigit()) or (dash and not (tail.isascii() and tail.isdigit())):
            raise ValueError(f"{part!r} is not an id or a range of ids such as 3-7")
        first, last = int(head), int(tail if dash else head)
        if first > last:
            raise ValueError(f"{part!r} runs backwards")
        pairs.append((first, last))
    return pairs


def parse_ids(text: str) -> list[int]:
    """Return every id that the text names, in its order."""
    return [number for first, last in parse_ranges(text) for number in range(first, last + 1)]
