"""Task lists: from a file to tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfarmer.lazy import lazily
from taskfarmer.tasklists.encode import encoded_tasks, line_of
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
    "line_of",
    "list_digest",
    "parse_bytes",
    "read_lines",
]

__getattr__ = lazily(
    __name__,
    {
        "JsonLinesTaskList": "jsonl",
        "ListTaskList": "base",
        "TableTaskList": "table",
        "TaskList": "base",
        "parse_bytes": "units",
    },
)
