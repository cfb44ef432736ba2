"""What several schedulers are told in the same words: times, sizes, ranges of indices, options by their names."""

from __future__ import annotations

import math
import os
import pwd
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..errors import InputError
from .base import Needs, Submission


def user_name() -> str:
    """Return who submits: schedulers go by the account, whatever USER says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def batched(words: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Yield words in order, at most so many at a time."""
    for start in range(0, len(words), most):
        yield words[start : start + most]


def spans(numbers: Iterable[int]) -> list[str]:
    """Return numbers as ranges, in order: 1, 2, 3, 5 as `1-3`, `5`."""
    found = []
    for _, run in groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        found.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0]))
    return found


def minutes(seconds: float) -> str:
    """Return a time as `H:MM`, rounded up to the minute."""
    count = max(1, math.ceil(seconds / 60))
    return f"{count // 60}:{count % 60:02d}"


def clock(seconds: float) -> str:
    """Return a time as `H:MM:SS`, rounded up to the second."""
    count = max(1, math.ceil(seconds))
    return f"{count // 3600}:{count % 3600 // 60:02d}:{count % 60:02d}"


def megabytes(count: int) -> int:
    """Return bytes in units of 1024 * 1024, rounded up."""
    return max(1, -(-count // 2**20))


def safe_name(text: str, longest: int) -> str:
    """Return a name for people with nothing in it that a scheduler would read as something else."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:longest]


def with_element(text: str, element: str) -> str:
    """Return a word of sh for a text in which `{element}` stands for a word of sh such as `"$LSB_JOBINDEX"`."""
    return element.join(shlex.quote(part) if part else "" for part in text.split("{element}"))


def own_output(submission: Submission, element: str) -> list[str]:
    """Return lines with which a job brings both its streams where they belong by itself.

    So they can be read while it runs, nothing of the scheduler's is put before them, and no letter of a file's name has
    a meaning to the scheduler. Where the file cannot be written they stay where they were.
    """
    path = with_element(submission.output, element)
    return [f"if true >> {path}; then exec >> {path} 2>&1; fi"]


def listed(value: Any) -> list[str | None]:
    """Return the values of a setting, for each of which its option is given once: a list has several.

    None: the option stands alone (True or None in the settings). Nothing at all: it is left out (False).
    """
    if isinstance(value, bool) or value is None:
        return [] if value is False else [None]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(item) for item in value]
    return [str(value)]


def refuse(title: str, needs: Needs, reserved: Mapping[str, str]) -> None:
    """Refuse options that would take jobs out of sight; `reserved` has the hint by the option's name, without dash.

    Raises:
        InputError: there is one among the settings or the native words.
    """
    for name, hint in reserved.items():
        if f"-{name}" in needs.native or name in {key.lstrip("-") for key in needs.settings}:
            raise InputError(f"{title}: -{name} cannot be given", hint=hint)


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Return options by their names, without or with their dashes, as words."""
    words = []
    for name, value in options.items():
        for one in listed(value):
            words += [f"-{name.lstrip('-')}"] + ([] if one is None else [one])
    return words
