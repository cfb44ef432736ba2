"""Where the output of tasks goes: a file an attempt, nowhere, or packed (`farm.output.packs`)."""

from __future__ import annotations

import os
from contextlib import suppress
from selectors import BaseSelector
from typing import Any, Protocol

from ..executors.base import Launch
from ..workdir import Workdir

FileAction = tuple[Any, ...]
"""A `file_actions` item of `os.posix_spawn`."""

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
STDIN: FileAction = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)


class Output(Protocol):
    """Takes the standard output and error of attempts, in one stream each. The executor calls all of it."""

    @property
    def problem(self) -> str:
        """Why output cannot be written now, or the empty string; after `close`: why some is lost."""

    def attach(self, selector: BaseSelector) -> None:
        """Register what must be read, as `Executor.attach` does."""

    def begin(self, launch: Launch) -> list[FileAction]:
        """Return the file actions that give a new process its streams 1 and 2.

        Raises:
            OSError: no stream can be had; `begun` need not be called.
        """

    def begun(self, launch: Launch) -> None:
        """The process was started, or could not be: let go of its end of the stream."""

    def end(self, id: int) -> None:
        """The process ended: take what it left. What its own children still write may come later."""

    def note(self, launch: Launch, text: str) -> None:
        """Add a line of our own to an attempt's output; never raises."""

    def flush(self) -> None:
        """Write what is still in memory. Called at each turn of the loop, before it records the ends that it saw."""

    def close(self) -> None:
        """Write all, and let go."""


def line(text: str) -> bytes:
    """Return a line of our own; bytes that are no UTF-8 come out as they came in."""
    try:
        return f"taskfarmer: {text}\n".encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return f"taskfarmer: {text}\n".encode(errors="backslashreplace")


class _Plain:
    """What outputs that need nothing from the loop have in common."""

    problem = ""

    def attach(self, selector: BaseSelector) -> None:
        """Nothing is read."""

    def begun(self, launch: Launch) -> None:
        """The child opened its stream itself."""

    def end(self, id: int) -> None:
        """Nothing is left."""

    def flush(self) -> None:
        """Nothing is in memory."""

    def close(self) -> None:
        """Nothing is held."""


class Files(_Plain):
    """`logs/log_N`, opened by the child itself. Appended to, so that no attempt ever destroys what another wrote."""

    def __init__(self, workdir: Workdir) -> None:
        self._workdir = workdir

    def begin(self, launch: Launch) -> list[FileAction]:
        """Return the actions that open the log."""
        path = self._workdir.log_file(launch.id, launch.attempt)
        return [STDIN, (os.POSIX_SPAWN_OPEN, 1, path, _APPEND, 0o666), (os.POSIX_SPAWN_DUP2, 1, 2)]

    def note(self, launch: Launch, text: str) -> None:
        """Append a line to the log."""
        with suppress(OSError), open(self._workdir.log_file(launch.id, launch.attempt), "ab") as file:
            file.write(line(text))


class Nothing(_Plain):
    """Output is thrown away."""

    def begin(self, launch: Launch) -> list[FileAction]:
        """Return the actions that open the null device."""
        return [STDIN, (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, 1, 2)]

    def note(self, launch: Launch, text: str) -> None:
        """There is nowhere to say it."""
