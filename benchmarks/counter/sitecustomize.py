"""Counts what this interpreter asks of a directory: each operation that names something in it is a line in a file.

Python imports this at its start where the directory of this file is in PYTHONPATH (`benchmarks/farmers.py`). Operations
on what is open are not counted: they name nothing.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

EVENTS = {
    "open": "open", "os.listdir": "list", "os.scandir": "list", "os.mkdir": "mkdir", "os.rmdir": "remove",
    "os.remove": "remove", "os.rename": "rename", "os.link": "link", "os.truncate": "truncate", "os.chmod": "chmod",
}  # fmt: skip
"""Audit events, and what they are counted as; `stat` and `access` raise none."""
SECOND = ("os.rename", "os.link")
"""What matters is the second name."""


def count(into: str, below: str) -> None:
    """Begin to count what names something in the directory `below`, or itself."""
    fd = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    write, home = os.write, os.getcwd()

    def note(kind: str, what: Any) -> None:
        if not isinstance(what, str | bytes | os.PathLike):
            return  # a descriptor
        path = os.path.normpath(os.path.join(home, os.fsdecode(what)))
        if path == below or path.startswith(below + "/"):
            write(fd, os.fsencode(f"{kind} {path}\n"))

    def hear(event: str, given: tuple[Any, ...]) -> None:
        if event in EVENTS:
            note(EVENTS[event], given[1 if event in SECOND else 0])

    def counted(kind: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **named: Any) -> Any:
            note(kind, path)
            return really(path, *rest, **named)

        return call

    sys.addaudithook(hear)
    for kind in ("stat", "lstat", "access", "statvfs"):
        setattr(os, kind, counted(kind, getattr(os, kind)))


if wanted := os.environ.get("COUNT_OPERATIONS"):
    count(*wanted.split(":"))
