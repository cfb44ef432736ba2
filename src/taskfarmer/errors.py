"""Every error that taskfarmer raises on purpose, one short tree.

    TaskfarmerError            exit status 1
    |-- InputError             2  a list, a definition, an option: named with file, line and remedy
    |   `-- NewerFormat        2  written by a later version of taskfarmer
    |-- WorkdirError           2  no permission, no space, not a farm
    |   |-- Replaced           2  not the farm any more that it was
    |   `-- Unfinished         2  an entry of the log whose writer is still at it, or dead
    |       `-- Hidden         2  an entry of the log that a cache hides, or that was removed
    |-- Stopped                3  work is left
    `-- Damaged                4  records that cannot be read, or contradict each other

The command line prints `str(error)`, one line, and exits with `error.exit_status`.
A traceback seen by a user is a bug.
"""

from __future__ import annotations

import os


class TaskfarmerError(Exception):
    """Base of all errors on purpose: one line that says what is wrong, and what to do about it."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return " ".join(text.split("\n"))


class InputError(TaskfarmerError):
    """Something that the user gave cannot be used; nothing ran, nothing was written."""

    exit_status = 2

    def __init__(
        self,
        message: str,
        *,
        file: str | os.PathLike[str] | None = None,
        line: int | None = None,
        hint: str = "",
    ) -> None:
        where = "" if file is None else f"{os.fspath(file)}: " if line is None else f"{os.fspath(file)}:{line}: "
        super().__init__(where + message, hint=hint)
        self.file = file
        self.line = line


class NewerFormat(InputError):
    """A file says that a later version of taskfarmer wrote it."""


class WorkdirError(TaskfarmerError):
    """The workdir cannot be read or written, or is no farm."""

    exit_status = 2


class Replaced(WorkdirError):
    """The workdir was removed or moved away, and another farm has its name."""


class Unfinished(WorkdirError):
    """Entry `number` of the log has its number and no text yet: nobody can add another before it has, or lapses."""

    def __init__(self, message: str, *, number: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.number = number


class Hidden(Unfinished):
    """Entry `number` of the log is not to be seen, and one after it is."""


class Stopped(TaskfarmerError):
    """The farmer left before the work was done."""

    exit_status = 3


class Damaged(TaskfarmerError):
    """Records of the ledger that cannot be read."""

    exit_status = 4
