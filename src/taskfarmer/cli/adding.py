"""From what the user gave to `add` to an entry of the log."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from ..config import Config
from ..core.entries import Add, Body, News, Segment
from ..core.model import Task, TaskId, decode_task, encode_task
from ..core.state import State
from ..definitions import Definition, find
from ..errors import InputError
from ..farm.ledger import Ledger
from ..farm.segments import Look, write_segment
from ..tasklists import encoded_tasks, line_of, list_digest

Lines = Callable[[], Iterable[bytes]]
"""Reads the new tasks: encoded (`core.model`), in order."""


def add_tasks(
    ledger: Ledger, *, file: str | None, command: list[str] | None, handler: str | None, after: list[int]
) -> range:
    """Add the tasks of a file (`-`: standard input), or one command; return their ids.

    Raises:
        InputError: they cannot be had; nothing was added.
        WorkdirError: the farm cannot be written to.
    """
    if command is not None:
        line = _command_line(command)
        return _add(ledger, lambda: [line], after)
    config = Config.read()
    definition = find("tasklist", handler, config) if handler else Definition.from_json(ledger.state.config["handler"])
    if file == "-":
        with tempfile.NamedTemporaryFile(prefix="taskfarmer-") as copy:
            # A handler may read its list more than once, or in a child.
            while data := sys.stdin.buffer.read(1 << 20):
                copy.write(data)
            copy.flush()
            try:
                return _add_list(ledger, copy.name, "", definition, after, config)
            except InputError as error:
                raise InputError(error.message.replace(copy.name, "standard input"), hint=error.hint) from error
    path = str(Path(file or "").absolute())
    return _add_list(ledger, path, path, definition, after, config)


def _command_line(command: list[str]) -> bytes:
    text = command[0] if len(command) == 1 else shlex.join(command)
    if not text.strip():
        raise InputError("the command is empty")
    return encode_task(Task(text=text))


def _add_list(
    ledger: Ledger, path: str, source: str, definition: Definition, after: list[int], config: Config
) -> range:
    def lines() -> Iterable[bytes]:
        return encoded_tasks(definition, path, str(ledger.workdir.path), config)

    look = _looker(ledger, definition, path)
    ids = _add(ledger, lines, after, source=source, digest=list_digest(path), look=look)
    if not ids:
        raise InputError("there are no tasks in it", file=path)
    return ids


def _looker(ledger: Ledger, definition: Definition, path: str) -> Look:
    """Return what refuses a task in whose directory the farm's runner cannot run any, once a task names one."""

    @cache
    def made() -> Look | None:
        from ..farm import farmer
        from ..farm.directories import looker

        config = farmer.config_of(ledger)
        runner = farmer.build_runner(config, here=False)
        return looker(runner, config.cwd, lambda task: (path, line_of(definition, path, task)))

    def look(number: int, line: bytes) -> None:
        if (asked := made()) is not None:
            asked(number, line)

    return look


def _add(
    ledger: Ledger, lines: Lines, after: list[int], *, source: str = "", digest: str = "", look: Look | None = None
) -> range:
    while True:
        first = len(ledger.state)
        encoded = _waiting(lines(), after, first) if after else lines()
        segment = write_segment(
            ledger.workdir.tasks, encoded, ledger.disk, source=source, digest=digest, relative=not after, look=look
        )
        ids = _publish(ledger, segment, first if after else None)
        if ids is not None:
            return ids


def _waiting(lines: Iterable[bytes], after: list[int], first: int) -> Iterator[bytes]:
    """Have each task wait for the tasks `after` too; ids within the list count from `first` on."""
    for line in lines:
        task = decode_task(line)
        own = [TaskId(other + first) for other in task.after]
        yield encode_task(replace(task, after=tuple(dict.fromkeys([*own, *map(TaskId, after)]))))


def _publish(ledger: Ledger, segment: Segment, first: int | None) -> range | None:
    """Add the segment, whose tasks are to have ids from `first` on (None: whichever); None when others were faster."""
    start = 0

    def make(state: State) -> tuple[Body, tuple[News, ...]] | None:
        nonlocal start
        start = len(state)
        return (Add(segment=segment), ()) if segment.count and first in (None, start) else None

    done = False
    try:
        done = ledger.append(make) is not None
    finally:
        if not done:
            path = ledger.workdir.tasks / segment.file
            ledger.disk.remove(str(path))
            ledger.disk.remove(str(path.with_suffix(".idx")))
    return range(start, start + segment.count) if done or not segment.count else None
