"""The output of attempts, wherever it is: `logs/log_N`, or a pack."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from ..farm.ledger import Ledger
from ..farm.output.packs import read_attempt
from .attempts import AttemptRecord

_CHUNK = 1 << 20
_TAIL = 1 << 13
_OURS = "taskfarmer: "
_MAYBE_NOT_STARTED = (125, 126, 127, 255)
"""What containers and shells end with that could not start a task; so may a task that was started."""
_POLL_S = 0.3


def last_attempt(ledger: Ledger, task: int) -> int:
    """Return the number of the attempt that runs, or was the last; 0 if there was none."""
    state = ledger.state
    ran = state.running.get(task) or state.stopping.get(task)
    return ran.attempt if ran is not None else state.tries_of(task).attempts


def log_files(ledger: Ledger, task: int) -> list[Path]:
    """Return the files with output of the task, attempt by attempt; packed output has none."""
    names = (ledger.workdir.log_file(task, attempt) for attempt in range(1, last_attempt(ledger, task) + 1))
    return [path for name in names if (path := Path(name)).exists()]


def output(ledger: Ledger, task: int, attempt: int, skip: int = 0) -> Iterator[bytes]:
    """Yield what an attempt has printed so far, but for the first `skip` bytes. Nothing there: nothing is yielded."""
    try:
        with open(ledger.workdir.log_file(task, attempt), "rb") as file:
            file.seek(skip)
            while data := file.read(_CHUNK):
                yield data
    except FileNotFoundError:
        farmers = [farmer.id for farmer in ledger.state.farmers]
        yield from read_attempt(ledger.workdir, farmers, task, attempt, skip)


def why_not_started(ledger: Ledger, attempt: AttemptRecord) -> str:
    """Return what taskfarmer itself says, at the end of a failed attempt's output, of why it was not started; or ""."""
    if attempt.reason != "nostart" and attempt.status not in _MAYBE_NOT_STARTED:
        return ""
    try:
        skip = max(0, os.stat(ledger.workdir.log_file(attempt.task, attempt.attempt)).st_size - _TAIL)
    except OSError:  # packed, or nobody kept it
        skip = 0
    tail = b""
    for data in output(ledger, attempt.task, attempt.attempt, skip):
        tail = (tail + data)[-_TAIL:]
    before, _, last = tail.decode(errors="replace").rstrip().rpartition("\n")
    if not last.startswith(_OURS):
        return ""
    # Only here: most farms have no containers.
    from ..runners.warm import message

    return last.removeprefix(_OURS).replace("(see above)", message(before))


def follow(ledger: Ledger, task: int, attempt: int | None) -> Iterator[bytes]:
    """Yield the output of an attempt (None: of the one that runs, or comes next) as it comes, until it has ended."""
    done = 0
    while True:
        ended = _ended(ledger, task, attempt)
        number = attempt or last_attempt(ledger, task)
        for data in output(ledger, task, number, done) if number else ():
            done += len(data)
            yield data
        if ended:
            return
        time.sleep(_POLL_S)
        ledger.refresh()
        ledger.read_tails()


def _ended(ledger: Ledger, task: int, attempt: int | None) -> bool:
    last = last_attempt(ledger, task)
    name = ledger.state.name_of(task)
    if attempt is not None and attempt < last:
        return True
    return name not in ("toprocess", "running")


def check_kept(ledger: Ledger, task: int, attempt: int) -> None:
    """Refuse to look for output that nobody kept.

    Raises:
        InputError: nothing is there, and why.
    """
    last = last_attempt(ledger, task)
    if not last:
        name = ledger.state.name_of(task)
        raise InputError(f"task {task} has no output: it was never started ({name})", hint="-f waits for it")
    if not 1 <= attempt <= last:
        raise InputError(f"task {task} has no attempt {attempt}", hint=f"its attempts are 1 to {last}")
    if Path(ledger.workdir.log_file(task, attempt)).exists() or ledger.state.config.get("logs") != "none":
        return
    if next(output(ledger, task, attempt), None) is None:
        raise InputError("this farm keeps no output", hint="it was made with --logs none")
