"""The handler `jsonl`: one JSON object a line, for tasks that need more said than a command.

| key | value |
|---|---|
| `command` | a shell line; or instead: |
| `argv` | a program and its arguments, started without a shell |
| `name` | a name, for people and for `after` |
| `cwd` | the directory to run in |
| `env` | an object of variables to add |
| `cpus`, `gpus` | whole numbers; cpus from 1 |
| `memory` | bytes, or a text such as `500M`, `2GB`, `2GiB` (`units`) |
| `timeout` | seconds, more than 0 |
| `duration` | seconds that it is expected to take, more than 0 |
| `retries` | a whole number |
| `after` | ids (positions among the tasks, from 0) or names of earlier tasks that must have finished |

Which lines are tasks follows the rules of every list: `lines`.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from typing import Any

from taskfarmer.core.model import Task
from taskfarmer.errors import InputError
from taskfarmer.tasklists.graph import Graph
from taskfarmer.tasklists.lines import NUL_MESSAGE, read_lines
from taskfarmer.tasklists.records import task_of
from taskfarmer.tasklists.units import parse_bytes

KEYS = ("command", "argv", "name", "cwd", "env", "cpus", "memory", "gpus", "timeout", "duration", "retries", "after")


class JsonLinesTaskList:
    """Tasks from a file of JSON objects; see the head of this module."""

    def __init__(self, path: str, workdir: str) -> None:
        self.path = path
        self.workdir = workdir

    def records(self) -> Iterator[Task]:
        """Yield the tasks, a line in memory at a time; of the others only what dependencies need (8 bytes each).

        Raises:
            InputError: the file cannot be read, or a line is wrong. A circle of dependencies and an id that is not in
                the file can only be found at the end.
        """
        graph = Graph()
        for number, line in read_lines(self.path):
            try:
                value = _object(line)
                after = graph.add(value.pop("after", None), value.get("name"))
                task = _task(value, after)
            except _LineError as error:
                raise InputError(str(error), file=self.path, line=number, hint=error.hint) from error
            except ValueError as error:
                raise InputError(str(error), file=self.path, line=number) from error
            yield task
        self._check(graph)

    def _check(self, graph: Graph) -> None:
        fault = graph.fault()
        if fault is not None:
            taskid, message = fault
            # Line numbers are not kept: a million good lines should not pay for a bad one.
            line = next(number for i, (number, _) in enumerate(read_lines(self.path)) if i == taskid)
            raise InputError(message, file=self.path, line=line, hint="mend its 'after'")


class _LineError(ValueError):
    """Something about a line, with what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise _LineError(f"not JSON: {error.msg} at column {error.colno}", 'write {"command": "..."}') from error
    except RecursionError as error:
        raise _LineError("nested too deeply", 'write {"command": "..."}') from error
    if not isinstance(value, dict):
        raise _LineError("not a JSON object", 'write {"command": "..."}')
    for key in value:
        if key not in KEYS:
            raise _LineError(f"unknown key {key!r}", _nearest(key))
    return value


def _nearest(key: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, KEYS, 1)
    return f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(KEYS)}"


def _task(value: dict[str, Any], after: tuple[int, ...]) -> Task:
    command, argv = _text(value, "command"), _argv(value)
    if (command is None) == (argv is None):
        raise _LineError("a task has either 'command' or 'argv'", "give exactly one of the two")
    return task_of(
        shlex.join(argv) if argv else (command or "").strip(),
        argv=argv,
        name=_text(value, "name"),
        cwd=_text(value, "cwd"),
        env=_env(value),
        cpus=_whole(value, "cpus", 1, 1),
        memory_bytes=_memory(value),
        gpus=_whole(value, "gpus", 0, 0),
        timeout_s=_seconds(value, "timeout"),
        duration_s=_seconds(value, "duration"),
        retries=None if value.get("retries") is None else _whole(value, "retries", 0, 0),
        after=after,
    )


def _text(value: dict[str, Any], key: str) -> str | None:
    text = value.get(key)
    if text is None:
        return None
    if not isinstance(text, str) or not text.strip():
        raise _wrong(key, text, "a text that is not empty")
    return _passable(text)


def _argv(value: dict[str, Any]) -> tuple[str, ...] | None:
    argv = value.get("argv")
    if argv is None:
        return None
    if not isinstance(argv, list) or not argv or not all(isinstance(item, str) for item in argv) or not argv[0]:
        raise _wrong("argv", argv, 'a list of texts, the program first, such as ["sim", "--seed", "1"]')
    return tuple(map(_passable, argv))


def _env(value: dict[str, Any]) -> dict[str, str]:
    env = value.get("env", {})
    if not isinstance(env, dict) or not all(isinstance(item, str) for item in env.values()):
        raise _wrong("env", env, 'an object of texts, such as {"OMP_NUM_THREADS": "4"}')
    for name in env:
        if not name or "=" in name:
            raise _wrong("env", env, "an object whose keys are names of variables")
    return {_passable(name): _passable(item) for name, item in env.items()}


def _whole(value: dict[str, Any], key: str, default: int, least: int) -> int:
    number = value.get(key, default)
    if type(number) is not int or number < least:  # True is an int, too
        raise _wrong(key, number, f"a whole number from {least}")
    return number


def _memory(value: dict[str, Any]) -> int:
    memory = value.get("memory", 0)
    if isinstance(memory, str):
        return parse_bytes(memory)
    if type(memory) is not int or memory < 0:
        raise _wrong("memory", memory, "a number of bytes, or a text such as 2GB")
    return memory


def _seconds(value: dict[str, Any], key: str) -> float | None:
    seconds = value.get(key)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise _wrong(key, seconds, "a number of seconds, more than 0")
    return float(seconds)


def _passable(text: str) -> str:
    if "\0" in text:
        raise _LineError(NUL_MESSAGE, "remove the byte")
    return text


def _wrong(key: str, value: object, wanted: str) -> _LineError:
    return _LineError(f"{key!r} is {json.dumps(value)[:60]}", f"it must be {wanted}")
