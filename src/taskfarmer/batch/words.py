"""What several schedulers are told in the same words: times, sizes, ranges of indices, options by their names.

And what is heard from them: refusals, lines of long answers.
"""

from __future__ import annotations

import math
import os
import pwd
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from ..errors import InputError
from .base import Needs, Outcome, Refused, Submission, Unsure
from .calls import HUNG, Answer


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


def plain(what: str, text: str) -> str:
    """Return a text that is in one line; `what` names it.

    Raises:
        InputError: it has line breaks or other control characters, with which lists of jobs could not be read.
    """
    if re.search(r"[\0-\x1f\x7f]", text):
        raise InputError(f"{what} has control characters: {text!r}", hint="give it in one line")
    return text


def safe_name(text: str, longest: int) -> str:
    """Return a name for people with nothing in it that a scheduler would read as something else."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:longest]


def line_of(lines: bytes, start: bytes) -> str | None:
    """Return what stands behind the first `start`, which begins with the end of the line before, to its line's end.

    Lines that begin with a tab go on with the one before. None: there is no such line, or it has no end.
    """
    if (at := lines.find(start)) < 0:
        return None
    at += len(start)
    end = lines.find(b"\n", at)
    while end >= 0 and lines.startswith(b"\t", end + 1):
        end = lines.find(b"\n", end + 1)
    return lines[at:end].replace(b"\n\t", b"").decode(errors="replace").strip() if end >= 0 else None


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


_NO_PARTS: Mapping[str, Collection[str]] = {}


def beside(
    needs: Needs, options: Collection[str], parts: Mapping[str, Collection[str]] = _NO_PARTS, *, glued: bool = False
) -> Needs:
    """Return needs with only those of `settings` and `native` that `options` name: see `BatchSystem.beside`.

    `options` have their dashes, and a value each. `parts`: options of `name=value` with commas between them, and which
    of these. `glued`: a value may follow a letter at once, as in `-qnormal`.
    """
    names = {option.lstrip("-") for option in options}.union({"queue"}, *parts.values())
    settings = {key: value for key, value in needs.settings.items() if key.lstrip("-") in names}
    return replace(needs, settings=settings, native=tuple(_beside(needs.native, options, parts, glued=glued)))


def _beside(
    native: Sequence[str], options: Collection[str], parts: Mapping[str, Collection[str]], *, glued: bool
) -> Iterator[str]:
    words = iter(native)
    for word in words:
        if word.startswith("--") and "=" in word:
            if _is_one(word.partition("=")[0], options):
                yield word
            continue
        option, value = (word[:2], word[2:]) if glued and not word.startswith("--") else (word, "")
        if not (option in parts or _is_one(option, options)):
            continue
        value = value or next(words, "")
        if option in parts:
            value = ",".join(part for part in value.split(",") if part.partition("=")[0] in parts[option])
        if value:
            yield from (option, value)


def _is_one(word: str, options: Collection[str]) -> bool:
    """Whether a word is one of the options; long ones may be abbreviated."""
    return word in options or (len(word) > 3 and word.startswith("--") and any(o.startswith(word) for o in options))


def people_name(title: str, option: str, needs: Needs, asked: dict[str, Any]) -> str:
    """Take the name for people out of the settings `asked`, which say it as `job_name` or by the system's `option`.

    Raises:
        InputError: it stands among the native words, where it would take the place of the name by which jobs are found.
    """
    if f"-{option}" in needs.native:
        raise InputError(f"{title}: -{option} cannot be given behind --", hint="--job-name is the name for people")
    return str(next(filter(None, [asked.pop("job_name", None), asked.pop(option, None)]), needs.job_name))


def job_name(submission: Submission, title: str) -> str:
    """Return the name of jobs: the unique one, behind that for people if there is one."""
    return f"{safe_name(title, 200)}.{submission.name}" if title else submission.name


def resource_words(ours: Iterable[str], asked: dict[str, Any]) -> list[str]:
    """Return the values of `-l`: what the settings `asked` have, taken out of them, and of ours what they leave unsaid.

    Ours are `name=value` each, theirs may be several with commas between them.
    """
    given = [str(value) for value in listed(asked.pop("l", False))]
    spoken = {part.partition("=")[0] for value in given for part in value.split(",")}
    return [*(word for word in ours if word.partition("=")[0] not in spoken), *given]


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Return options by their names, without or with their dashes, as words."""
    words = []
    for name, value in options.items():
        for one in listed(value):
            words += [f"-{name.lstrip('-')}"] + ([] if one is None else [one])
    return words


def refused_or_unsure(
    answer: Answer, said: str, refused: re.Pattern[str], later: re.Pattern[str], silent: re.Pattern[str] | None = None
) -> Outcome:
    """Return what became of a submission of which no id was told: refused, if the command `said` so by itself.

    `silent`: that the scheduler was silent, so that nobody knows; `later`: that it may be tried again.
    """
    if answer.never_ran:
        return Refused(answer.trouble)
    spoke = answer.status > 0 and answer.status != HUNG
    if spoke and refused.search(said) and not (silent and silent.search(said)):
        return Refused(answer.trouble, again=bool(later.search(said)))
    return Unsure(answer.trouble)
