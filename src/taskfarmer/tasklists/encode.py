"""From a definition and a file to encoded tasks, ready for the ledger.

What ships for lists of any length (`default`, `jsonl`, `table`) is read in this process, in constant memory. Every
other class is evaluated in a child, so that what it imports and keeps does not stay in the farmer for days.

Everything that can be wrong is raised before the first task is yielded: records go through an unnamed file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import IO, Any

from taskfarmer import errors
from taskfarmer.config import Config
from taskfarmer.core.model import Task, encode_task
from taskfarmer.definitions import Definition, build
from taskfarmer.errors import InputError, TaskfarmerError, WorkdirError
from taskfarmer.tasklists.lines import encoded_lines, open_list, read_lines

PLAIN = ("taskfarmer.task.ListTaskList", "taskfarmer.tasklists.ListTaskList")
JSON_LINES = "taskfarmer.tasklists.JsonLinesTaskList"
STREAMED = (JSON_LINES, "taskfarmer.tasklists.TableTaskList")
END = b"."
"""The last record of a child that has said all there is to say; before it stands `!` and an error, if there was one."""

_SPOOL_BYTES = 8 << 20


def encoded_tasks(definition: Definition, path: str, workdir: str, config: Config) -> Iterator[bytes]:
    """Return the encoded tasks of the list at `path`, one line each without its newline, in order.

    A class of a third party is made with `(path, workdir, **arguments)`; for it, the workdir is made if it is not
    there, and taken away again if it fails.

    Raises:
        InputError: the list cannot be read, or the handler cannot be made, or refuses what it finds. Raised by this
            call, never by the iterator.
    """
    open_list(path).close()
    if definition.target in PLAIN and not definition.arguments:
        return encoded_lines(path)
    # Only here: plain lists are by far the most, and start in a tenth of a second.
    from tempfile import SpooledTemporaryFile

    with ExitStack() as stack:
        spool = stack.enter_context(SpooledTemporaryFile(max_size=_SPOOL_BYTES))
        if definition.target in PLAIN + STREAMED:
            _evaluate_here(spool, definition, path, workdir, config)
        else:
            _evaluate_in_child(spool, definition, path, workdir, config)
        stack.pop_all()
    spool.seek(0)
    return _lines(spool)


def line_of(definition: Definition, path: str, number: int) -> int | None:
    """Return the line, from 1, of the `number`-th task of the list, from 0; None where only its handler knows."""
    if definition.target != JSON_LINES:
        return None
    return next((line for at, (line, _) in enumerate(read_lines(path)) if at == number), None)


def records_of(definition: Definition, handler: Any) -> Iterator[Task]:
    """Return the tasks of a handler: its `records()`, or, in the old style, its `tasks` and `handler[i]`.

    Raises:
        InputError: the handler fails, or gives something that is no task.
    """
    # Here and not at the top: only the child and the streamed handlers come by.
    from taskfarmer.tasklists.handlers import new_style, old_style

    return new_style(definition, handler) if hasattr(handler, "records") else old_style(definition, handler)


def write_records(stream: IO[bytes], tasks: Iterable[Task]) -> None:
    """Write each task as a line."""
    stream.writelines(encode_task(task) + b"\n" for task in tasks)


def _lines(spool: IO[bytes]) -> Iterator[bytes]:
    with spool:
        for line in spool:
            if line.startswith(END):
                return
            yield line[:-1]


def _evaluate_here(spool: IO[bytes], definition: Definition, path: str, workdir: str, config: Config) -> None:
    tasks = records_of(definition, build(definition, path, workdir, cwd=config.cwd))
    try:
        write_records(spool, tasks)
    except OSError as error:
        hint = "set TMPDIR to a directory with space"
        raise WorkdirError(f"the tasks cannot be written to a temporary file: {error.strerror}", hint=hint) from error


def _evaluate_in_child(spool: Any, definition: Definition, path: str, workdir: str, config: Config) -> None:
    import subprocess
    import sys

    spool.rollover()  # the child needs a real file
    request = {"definition": definition.to_json(), "path": path, "workdir": workdir}
    descriptor = spool.fileno()
    done = subprocess.run(
        # -P: what lies in the current directory must not take the place of Python's own modules.
        [sys.executable, "-P", "-m", "taskfarmer.tasklists.evaluate", str(descriptor)],
        input=json.dumps(request).encode(),
        stdout=2,  # what a user's class prints is for people, and must not get between the lines of `--json`
        pass_fds=(descriptor,),
        cwd=config.cwd,
        env=dict(config.environ),
        check=False,
    )
    _raise_what_it_said(spool, definition, done.returncode)


def _raise_what_it_said(spool: IO[bytes], definition: Definition, status: int) -> None:
    """Look at the end of the answer: an error, or the mark that it is whole."""
    size = spool.seek(0, os.SEEK_END)
    spool.seek(max(0, size - 64 * 1024))
    *_, before, last, after = [b"", b"", *spool.read().split(b"\n")]
    if last != END or after:
        ended = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        raise InputError(f"{definition.target} ({definition.place}) ended without an answer: {ended}")
    if before.startswith(b"!"):
        raise _error_of(json.loads(before[1:]))


def _error_of(said: dict[str, Any]) -> TaskfarmerError:
    kind = getattr(errors, said["type"], InputError)
    error = kind(said["message"], hint=said["hint"])
    assert isinstance(error, TaskfarmerError)
    if isinstance(error, InputError):
        error.file, error.line = said["file"], said["line"]
    return error
