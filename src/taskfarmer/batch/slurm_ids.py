"""Ids of Slurm's jobs: `5`, an element of an array (`77_3`), and what stands for several (`77_[1-3,8%2]`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

from .base import JobId

ID = re.compile(r"(\d+)(?:_(\d+)|_\[([^\]]*)\]?|\+\d+)?")


def unsplit(id: str, asked: Collection[JobId]) -> Iterator[JobId]:
    """Yield those of the jobs that `77_[1-3,5%2]` stands for."""
    array, _, expression = id.rstrip("]").partition("_[")
    elements = numbers(expression)
    start = f"{array}_"
    ours = (job for job in asked if job.startswith(start) and job.removeprefix(start).isdecimal())
    return (job for job in ours if int(job.removeprefix(start)) in elements)


@lru_cache(maxsize=64)
def numbers(expression: str) -> frozenset[int]:
    """Return the elements of `1-3,5,10-20:5%2`; what was cut off (`1,3,...`) is not among them."""
    found: set[int] = set()
    for part in expression.partition("%")[0].split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first, last, step = match.groups()
            found.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return frozenset(found)


def condensed(jobs: Iterable[JobId]) -> list[str]:
    """Return words for `scancel`, elements of an array together: `5`, `77_[1-3,8]`; what is no id is left out."""
    arrays: dict[str, list[int]] = {}
    words = []
    for job in jobs:
        match = ID.fullmatch(job)
        if match and match[2]:
            arrays.setdefault(match[1], []).append(int(match[2]))
        elif match and job == match[1]:
            words.append(job)
    return words + [f"{array}_[{ranges(elements)}]" for array, elements in arrays.items()]


def ranges(elements: Iterable[int]) -> str:
    """Return numbers as `1-3,8`."""
    parts: list[list[int]] = []
    for number in sorted(set(elements)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in parts)
