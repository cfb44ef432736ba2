"""Whether a farm's runner can hand on the directories of tasks: asked by their spelling, before any of them runs.

A container program may have no way to be told of a path with a colon and a comma, say. A list may have ten million
tasks, and a directory for each: what a runner has been asked is remembered only for so many of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

from ..core.model import decode_task
from ..definitions import one_line
from ..errors import InputError
from ..runners import Runner
from ..runners.base import chain
from .segments import Look

REMEMBERED = 4096

Place = Callable[[int], tuple[str | None, int | None]]
"""Tells the file and the line, from 1, that a task came from, as far as they are known."""


def looker(runner: object, home: str, place: Place = lambda _number: (None, None)) -> Look | None:
    """Return what refuses a task whose directory the runner, or one in it, cannot hand on; None if they take any.

    `home`: where tasks run that name none, and from where relative directories are meant.

    Raises:
        InputError: they cannot hand on that one.
    """
    rules = [one.check_cwd for one in chain(runner) if type(one).check_cwd is not Runner.check_cwd]
    if not rules:
        return None

    @lru_cache(REMEMBERED)
    def refusal(cwd: str) -> str:
        path = os.path.abspath(os.path.join(home, cwd))
        for check in rules:
            try:
                check(path)
            except InputError as error:
                return error.message
            except (Exception, SystemExit) as error:  # third parties' code
                return f"{check.__qualname__} failed: {one_line(error)}"
        return ""

    def look(number: int, line: bytes) -> None:
        cwd = decode_task(line).cwd
        if cwd is not None and (why := refusal(cwd)):
            file, at = place(number)
            hint = "rename the directory, or use another runner"
            raise InputError(f"the cwd of task {number}: {why}", file=file, line=at, hint=hint)

    if why := refusal(home):
        raise InputError(f"the directory of the tasks: {why}", hint="rename it, or use another runner")
    return look
