"""The blocking way to run a command: for `Runner.run`, and for third parties' classes that call it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import TextIO

from taskfarmer.runners.base import Command

ARGUMENT_BYTES = 128 * 1024 - 1
"""The longest single argument that Linux passes to a program (MAX_ARG_STRLEN, less its closing NUL)."""


def run_blocking(command: Command, taskid: int, logfh: TextIO, started: Callable[[int], None]) -> int:
    """Run `command` in a process group of its own and return its status, as `Runner.run` does.

    `started` is called with the process id, which is also the id of the group.
    """
    environ = {**os.environ, "PROC_NUMBER": str(taskid), **command.env}
    with ExitStack() as stack:
        for directory in command.remove:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        logfh.flush()
        try:
            process = subprocess.Popen(
                _argv(command, stack),
                stdin=subprocess.DEVNULL,
                stdout=logfh,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=command.cwd,
                process_group=0,
            )
        except OSError as error:
            logfh.write(f"taskfarmer: cannot start the task: {error.strerror}: {error.filename}\n")
            logfh.flush()
            return 127 if isinstance(error, FileNotFoundError) else 126
        started(process.pid)
        return process.wait()


def _argv(command: Command, stack: ExitStack) -> list[str]:
    """Return what to execute; a line that no argument can hold goes through a script, which `stack` removes."""
    if command.argv is not None:
        return list(command.argv)
    line = os.fsencode(command.line or "")
    if len(line) <= ARGUMENT_BYTES:
        return [command.shell, "-c", os.fsdecode(line)]
    descriptor, name = tempfile.mkstemp(prefix="taskfarmer-", suffix=".sh")
    stack.callback(os.unlink, name)
    with os.fdopen(descriptor, "wb") as script:
        script.write(line + b"\n")
    return [command.shell, name]
