"""Asking a handler for its tasks, and believing nothing that it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taskfarmer.core.model import Task
from taskfarmer.definitions import Definition, one_line
from taskfarmer.errors import InputError, TaskfarmerError
from taskfarmer.tasklists.lines import NUL_MESSAGE
from taskfarmer.tasklists.records import task_of


def new_style(definition: Definition, handler: Any) -> Iterator[Task]:
    """Yield what `handler.records()` yields.

    Raises:
        InputError: it fails, or yields something that is no Task.
    """
    count = 0
    try:
        for task in handler.records():
            if not isinstance(task, Task):
                raise _refusal(definition, f"record {count} is {type(task).__name__}, not a Task")
            _check_nul(definition, count, task.line)
            yield task
            count += 1
    except TaskfarmerError:
        raise
    except Exception as error:
        raise _refusal(definition, f"failed at task {count}: {one_line(error)}") from error


def old_style(definition: Definition, handler: Any) -> Iterator[Task]:
    """Yield a task for each entry of `handler.tasks`: its text, and `handler[i]` as what runs.

    Raises:
        InputError: an entry is no text, or `handler[i]` fails or gives no text.
    """
    texts = handler.tasks
    for taskid in range(_length(definition, handler)):
        try:
            text, command = texts[taskid], handler[taskid]
        except TaskfarmerError:
            raise
        except Exception as error:
            raise _refusal(definition, f"failed at task {taskid}: {one_line(error)}") from error
        for what, value in ((f"tasks[{taskid}]", text), (f"handler[{taskid}]", command)):
            if not isinstance(value, str):
                raise _refusal(definition, f"{what} is {type(value).__name__}, not a text")
        _check_nul(definition, taskid, command)
        yield task_of(text, command)


def _length(definition: Definition, handler: Any) -> int:
    try:
        return len(handler)
    except Exception as error:
        raise _refusal(definition, f"has no length: {one_line(error)}") from error


def _check_nul(definition: Definition, taskid: int, command: str) -> None:
    if "\0" in command:
        raise _refusal(definition, f"task {taskid}: {NUL_MESSAGE}")


def _refusal(definition: Definition, message: str) -> InputError:
    file, line = (definition.source, definition.line) if definition.line else (None, None)
    return InputError(f"task list handler {definition.target}: {message}", file=file, line=line)
