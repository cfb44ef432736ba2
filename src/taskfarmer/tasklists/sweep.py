"""Sweeps: one command, every combination of some values.

`seed=0..99` is a range with both ends, `x=0..1..0.25` one with a step, `e=1,5,10` a choice (of which each may be a
range), `f=@files.txt` the lines of a file, by the rules of a task list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import product

from taskfarmer.core.model import Task
from taskfarmer.errors import InputError
from taskfarmer.tasklists.lines import read_lines
from taskfarmer.tasklists.records import task_of
from taskfarmer.tasklists.template import Template

MOST_VALUES = 10_000_000
"""Of one range: a slip of the finger should not fill the memory."""

_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:\.\.({_NUMBER}))?", re.ASCII)


def sweep(command: str, params: Sequence[str]) -> Iterator[Task]:
    """Return the tasks of all combinations, the first parameter changing slowest.

    `params` are `name=values`; each must occur in the command, and nothing else may. All is checked before the first
    task is made.

    Raises:
        InputError: the command is no template, a parameter is malformed, doubled, unused or missing.
    """
    template = Template(command)
    values: dict[str, list[str]] = {}
    for param in params:
        name, equals, text = param.partition("=")
        if not equals or not name:
            raise InputError(f"--param {param}: not name=values", hint="write --param seed=0..99 or --param e=1,5,10")
        if name in values:
            raise InputError(f"--param {name} is given twice", hint="join the values with commas")
        values[name] = _values(name, text)
    _check_names(template, values)
    return (task_of(template.fill(dict(zip(values, choice, strict=True)))) for choice in product(*values.values()))


def _check_names(template: Template, values: dict[str, list[str]]) -> None:
    for name in template.names:
        if name not in values:
            raise InputError(
                f"nothing says what {{{name}}} in the command is",
                hint=f"add --param {name}=..., or write {{{{{name}}}}} if the braces are for the shell",
            )
    for name in values:
        if name not in template.names:
            raise InputError(f"--param {name} does not occur in the command", hint=f"put {{{name}}} into it")


def _values(name: str, text: str) -> list[str]:
    if text.startswith("@"):
        found = [line for _, line in read_lines(text[1:])]
        if not found:
            raise InputError(f"--param {name}: the file has no values", file=text[1:])
        return found
    if not text:
        raise InputError(f"--param {name}= has no values", hint="write --param seed=0..99 or --param e=1,5,10")
    if "\0" in text:
        raise InputError(f"--param {name}: a command cannot carry a NUL byte")
    return [value for part in text.split(",") for value in _part(name, part)]


def _part(name: str, part: str) -> list[str]:
    match = _RANGE.fullmatch(part)
    if not match:
        return [part]
    start, stop, step = Decimal(match[1]), Decimal(match[2]), Decimal(match[3] or 1)  # 0.1 + 0.2 is to be 0.3
    if step == 0 or (stop - start) * step < 0:
        hint = f"write {match[1]}..{match[2]}..-1 to count down" if match[3] is None else "mend the step"
        raise InputError(f"--param {name}={part}: the step does not lead from the first to the last", hint=hint)
    count = int((stop - start) / step) + 1
    if count > MOST_VALUES:
        raise InputError(f"--param {name}={part}: {count} values are more than {MOST_VALUES}")
    return [_plain(start + step * number) for number in range(count)]


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
