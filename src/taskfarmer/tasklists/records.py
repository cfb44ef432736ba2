"""Making a task of a command, the same way for every handler."""

from __future__ import annotations

from typing import Any

from taskfarmer.core.model import Task


def task_of(text: str, command: str | None = None, **fields: Any) -> Task:
    """Return the task whose line is `command` (None: the text itself).

    The text that people see is one line, whatever the command looks like: it stands in files with a line a task.
    """
    command = text if command is None else command
    text = " ".join(text.split("\n"))
    return Task(text=text, command=None if command == text else command, **fields)
