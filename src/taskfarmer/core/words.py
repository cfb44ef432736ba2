"""Numbers in sentences."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """Return `1 task`, `2 tasks`, `0 tasks`; nouns of which more take an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
