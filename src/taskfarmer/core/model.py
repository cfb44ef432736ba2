"""A task, and how it is written down: one JSON value a line, a plain string where nothing but the text is known.

The text of a task may hold bytes that are no UTF-8 (they travel as surrogates, PEP 383); JSON is written in ASCII,
so they come back unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

TaskId = NewType("TaskId", int)
FarmerId = NewType("FarmerId", str)
"""16 hexadecimal digits, drawn anew for each life of a farmer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One unit of work, as a task list describes it.

    `text` is what people see (the line of the list); `command` is the shell line where it differs from the text,
    `argv` a program with its arguments, run without a shell. `cpus` >= 1, `memory_bytes` >= 0 (0: unsaid),
    `gpus` >= 0, `timeout_s` > 0, `retries` >= 0 (None: as the farm has it). `duration_s` > 0 is how long an attempt is
    expected to take (None: as others take). `after` names tasks by id.
    """

    text: str
    command: str | None = None
    argv: tuple[str, ...] | None = None
    name: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cpus: int = 1
    memory_bytes: int = 0
    gpus: int = 0
    timeout_s: float | None = None
    retries: int | None = None
    duration_s: float | None = None
    after: tuple[TaskId, ...] = ()

    @property
    def line(self) -> str:
        """The shell line that a runner is given."""
        return self.text if self.command is None else self.command


_DEFAULTS: dict[str, Any] = {
    "command": None, "argv": None, "name": None, "cwd": None, "env": {}, "cpus": 1,
    "memory_bytes": 0, "gpus": 0, "timeout_s": None, "retries": None, "duration_s": None, "after": (),
}  # fmt: skip


def encode_text(text: str) -> bytes:
    """Return the line of a task of which nothing but its text is known, without the newline."""
    return json.dumps(text).encode()


def encode_task(task: Task) -> bytes:
    """Return the line of `task`, without the newline; what has its default is left out."""
    extra = {key: value for key, default in _DEFAULTS.items() if (value := getattr(task, key)) != default}
    if not extra:
        return encode_text(task.text)
    return json.dumps({"text": task.text, **extra}, separators=(",", ":")).encode()


def decode_task(line: bytes) -> Task:
    """Return the task that `encode_task` or `encode_text` wrote.

    Raises:
        ValueError: the line is not such a record.
    """
    value = json.loads(line)
    if isinstance(value, str):
        return Task(text=value)
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise ValueError("not a task")
    fields = {key: value[key] for key in _DEFAULTS if key in value}
    for key in ("argv", "after"):
        if fields.get(key) is not None:
            fields[key] = tuple(fields[key])
    return Task(text=value["text"], **fields)
