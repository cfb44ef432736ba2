"""Task lists: from a file to tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskfarmer.tasklists.encode import encoded_tasks
from taskfarmer.tasklists.lines import list_digest, read_lines

if TYPE_CHECKING:
    from taskfarmer.tasklists.base import ListTaskList, TaskList
    from taskfarmer.tasklists.jsonl import JsonLinesTaskList
    from taskfarmer.tasklists.table import TableTaskList
    from taskfarmer.tasklists.units import parse_bytes

__all__ = [
    "JsonLinesTaskList",
    "ListTaskList",
    "TableTaskList",
    "TaskList",
    "encoded_tasks",
    "list_digest",
    "parse_bytes",
    "read_lines",
]

# Loaded when they are asked for, since a plain list needs none of them.
_LAZY = {
    "JsonLinesTaskList": "jsonl",
    "ListTaskList": "base",
    "TableTaskList": "table",
    "TaskList": "base",
    "parse_bytes": "units",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
