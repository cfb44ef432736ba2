"""Questions to commands that may hang: within a time, and several at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from ..batch.calls import MOST_BYTES, Answer, Call, run_call

_K = TypeVar("_K")
_T = TypeVar("_T")
CALL_S = 10.0
"""How long one command may take."""
ALL_S = 15.0
"""How long all commands of a system may take together."""
_LEAST_S = 0.5


class Inquirer:
    """Runs calls, one after the other, with a limit for all of them; `last` is the last one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._until = time.monotonic() + ALL_S
        self.last: tuple[str, ...] = ()

    def __call__(self, call: Call) -> Answer:
        """Run a call, in the time that is left for it."""
        left_s = max(_LEAST_S, self._until - time.monotonic())
        self.last = call.argv
        call = replace(call, limit_s=min(call.limit_s, CALL_S, left_s), most_bytes=MOST_BYTES)
        return run_call(call, self._environ)

    def ask(self, *argv: str) -> Answer:
        """Run a command."""
        return self(Call(argv=argv))


def side_by_side(jobs: Mapping[_K, Callable[[], _T]], limit_s: float) -> dict[_K, _T]:
    """Do all jobs at once; return what came of those that ended within so many seconds.

    The others are left behind in threads that hold nothing up: a file system that hangs cannot be interrupted.

    Raises:
        Exception: what the first of the jobs that failed has raised.
    """
    done: dict[_K, _T] = {}
    errors: list[Exception] = []

    def do(name: _K, job: Callable[[], _T]) -> None:
        try:
            done[name] = job()
        except Exception as error:  # raised again below, in the thread of who asked
            errors.append(error)

    threads = [threading.Thread(target=do, args=item, daemon=True) for item in jobs.items()]
    for thread in threads:
        thread.start()
    until = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if errors:
        raise errors[0]
    return {name: done[name] for name in jobs if name in done}
