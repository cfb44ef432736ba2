"""The child that evaluates a handler: `python -P -m taskfarmer.tasklists.evaluate DESCRIPTOR`, request on stdin.

The request is a JSON object (definition, path, workdir). The answer goes to the descriptor: encoded tasks, a line
each; then, if something was wrong, `!` and a JSON object (type, message, hint, file, line); then `.`. Without the `.`
the child was killed, and nothing that it wrote is used. Standard output and error are left to the user's class.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any

from taskfarmer.definitions import Definition, build
from taskfarmer.errors import InputError, TaskfarmerError, WorkdirError
from taskfarmer.tasklists.encode import END, records_of, write_records
from taskfarmer.tasklists.lockfile import release_all


def main() -> int:
    """Answer the one request."""
    request = json.load(sys.stdin)
    with os.fdopen(int(sys.argv[1]), "wb") as answer:
        try:
            _answer(request, answer)
        except TaskfarmerError as error:
            answer.write(b"!" + json.dumps(_said(error)).encode() + b"\n")
        answer.write(END + b"\n")
    return 0


def _answer(request: dict[str, Any], answer: Any) -> None:
    definition = Definition.from_json(request["definition"])
    path, workdir = request["path"], request["workdir"]
    made = _make(workdir)
    try:
        write_records(answer, records_of(definition, build(definition, path, workdir)))
    except TaskfarmerError:
        release_all()
        if made:
            _unmake(workdir)
        raise


def _make(workdir: str) -> bool:
    """Make the workdir, which handlers expect to be there; return whether it was missing."""
    try:
        os.mkdir(workdir)
    except FileExistsError:
        return False
    except OSError as error:
        raise WorkdirError(f"{workdir}: the workdir cannot be made: {error.strerror}") from error
    return True


def _unmake(workdir: str) -> None:
    with suppress(OSError):  # the user's class may have put something into it
        os.rmdir(workdir)


def _said(error: TaskfarmerError) -> dict[str, Any]:
    file, line = (error.file, error.line) if isinstance(error, InputError) else (None, None)
    file = None if file is None else os.fspath(file)
    return {"type": type(error).__name__, "message": error.message, "hint": error.hint, "file": file, "line": line}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as failure:  # no space for the answer
        sys.exit(f"taskfarmer: the tasks cannot be written: {failure.strerror}")
