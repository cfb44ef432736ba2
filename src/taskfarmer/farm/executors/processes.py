"""Attempts as processes of this machine, started at vfork speed (`posix_spawn`), each in its own process group.

Never `fork` or a `preexec_fn` from the loop: the loop may be large, and what runs between fork and exec cannot be
trusted. `posix_spawn` has no working directory; attempts that need one are started through `env --chdir`, which is
an exec more and nothing else.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from selectors import BaseSelector
from typing import NoReturn

from ...errors import TaskfarmerError
from ...runners import Command, Job, Runner
from ...runners.programs import find_program
from ...runners.shell import LONGEST, words_without_shell
from ..disk import Disk
from ..output import FileAction, Output
from .base import Exit, Launch, StartError
from .children import MACHINE, ended_children, pinned, refuse, variables, why_no_output

_RESET = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTOU]
"""Ignored by Python or by the loop, and what is ignored stays so over exec."""


class Processes:
    """Runs what a declarative runner prepares."""

    keeps_time = False
    trouble = ""

    def __init__(
        self, runner: Runner, output: Output, disk: Disk, *, environ: Mapping[str, str], workdir: str, pin: bool
    ) -> None:
        self._runner = runner
        self._output = output
        self._disk = disk
        self._workdir = workdir
        self._pin = pin
        self._env = {os.fsencode(key): os.fsencode(value) for key, value in environ.items()}
        self._env[b"TASKFARMER_WORKDIR"] = os.fsencode(workdir)
        self._path = environ.get("PATH", os.defpath)
        self._programs: dict[str, str | None] = {}
        self._ids: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._remove: dict[int, tuple[str, ...]] = {}

    def attach(self, selector: BaseSelector) -> None:
        """Register the output's descriptors; ends come by SIGCHLD."""
        self._output.attach(selector)

    def start(self, launch: Launch) -> None:
        """Start an attempt (see `Executor.start`)."""
        command = self._prepare(launch)
        try:
            pid = self._start(launch, command)
        except StartError:
            _remove(command.remove)
            raise
        self._ids[pid] = launch.id
        self._pids[launch.id] = pid
        if command.remove:
            self._remove[launch.id] = command.remove
        if self._pin:
            with suppress(OSError):
                os.sched_setaffinity(pid, pinned(launch))

    def _prepare(self, launch: Launch) -> Command:
        job = Job(
            taskid=launch.id,
            task=launch.task,
            attempt=launch.attempt,
            slot=launch.share.slots[0],
            workdir=self._workdir,
        )
        try:
            command = self._runner.prepare(job)
        except TaskfarmerError as error:
            self._fail(launch, str(error), retryable=False)
        except Exception as error:  # third parties' code: whatever it raises is the attempt's failure, not the loop's
            text = f"{type(self._runner).__name__}.prepare: {type(error).__name__}: {error}"
            self._fail(launch, text, retryable=isinstance(error, OSError) and error.errno in MACHINE)
        if not isinstance(command, Command):
            self._fail(launch, f"{type(self._runner).__name__}.prepare returned no Command", retryable=False)
        return command

    def _start(self, launch: Launch, command: Command) -> int:
        try:
            actions = self._output.begin(launch)
        except OSError as error:
            self._fail(launch, f"no place for its output: {error.strerror}", retryable=True)
        try:
            return self._spawn(launch, command, self._env | variables(launch, command.env), actions)
        except OSError as error:
            if (blocked := why_no_output(actions)) is not None:
                self._fail(launch, f"no place for its output: {blocked.strerror}", retryable=True)
            status = 127 if error.errno == errno.ENOENT else 126
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            self._fail(launch, f"cannot be started: {what}", retryable=error.errno in MACHINE, status=status)
        except (TypeError, ValueError) as error:  # a NUL; what a third party's runner takes for text
            self._fail(launch, f"cannot be started: {error}", retryable=False)
        finally:
            self._output.begun(launch)

    def _spawn(self, launch: Launch, command: Command, env: dict[bytes, bytes], actions: list[FileAction]) -> int:
        cwd = command.cwd or launch.task.cwd
        if command.line is None:
            return self._exec(cwd, list(command.argv or ()), env, actions)
        line = command.line
        if (words := words_without_shell(line, command.shell, env)) is not None:
            try:
                return self._exec(cwd, words, env, actions)
            except OSError as error:  # no first line, no right to execute: the shell knows what to do, or to say
                if error.errno not in (errno.ENOEXEC, errno.ENOENT, errno.EACCES):
                    raise
        shell = "/bin/sh" if command.shell == "sh" else self._program(command.shell, env) or "/bin/bash"
        if len(line) < LONGEST // 4 or len(os.fsencode(line)) < LONGEST:
            return self._exec(cwd, [shell, "-c", line], env, actions)
        if "\0" in line:
            raise ValueError("embedded null byte")
        with _script(line) as script:
            return self._exec(cwd, [shell, "/dev/fd/3"], env, [*actions, (os.POSIX_SPAWN_DUP2, script, 3)])

    def _program(self, name: str, env: Mapping[bytes, bytes]) -> str | None:
        if "/" in name:
            return name
        path = os.fsdecode(env.get(b"PATH", b"")) or os.defpath
        if path != self._path:
            return find_program(name, path)
        if name not in self._programs:
            self._programs[name] = find_program(name, path)
        return self._programs[name]

    def _exec(self, cwd: str | None, argv: list[str], env: Mapping[bytes, bytes], actions: list[FileAction]) -> int:
        """Start a program in a directory (None: where the loop is).

        Raises:
            OSError, ValueError: it cannot be.
        """
        program = self._program(argv[0], env) if cwd is None else "/usr/bin/env"
        if program is None:
            raise FileNotFoundError(errno.ENOENT, "program not found", argv[0])
        if cwd is not None:
            # `env` takes a name with an equals sign for a variable; a shell in between does not.
            shield = ["/bin/sh", "-c", 'exec "$0" "$@"'] if "=" in argv[0] else []
            argv = ["env", f"--chdir={cwd}", *shield, *argv]
        self._disk.about_to("spawn", program)
        return os.posix_spawn(program, argv, env, file_actions=actions, setpgroup=0, setsigmask=[], setsigdef=_RESET)

    def _fail(self, launch: Launch, why: str, *, retryable: bool, status: int = 126) -> NoReturn:
        refuse(self._output, launch, why, retryable=retryable, status=status)

    def reap(self) -> Iterable[Exit]:
        """Return the ends of attempts; other children (orphans that the loop inherited) are only buried."""
        ends = []
        if self._pids:
            for pid, status, usage in ended_children():
                if (id := self._ids.pop(pid, None)) is None:
                    continue
                del self._pids[id]
                self._output.end(id)
                _remove(self._remove.pop(id, ()))
                ends.append(Exit(id, status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss))
                if not self._pids:
                    break
        self._output.flush()
        return ends

    def signal(self, id: int, number: int) -> None:
        """Send a signal to the attempt's process group."""
        if (pid := self._pids.get(id)) is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)

    def holds(self, launch: Launch) -> bool:
        """Nothing of an attempt is there before it is started."""
        return False

    def let_go(self) -> None:
        """Processes of this machine end with their farmer."""

    def close(self) -> None:
        """Close the output."""
        self._output.close()


def _remove(directories: tuple[str, ...]) -> None:
    if directories:
        import shutil

        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _script(line: str) -> Iterator[int]:
    """A line too long for an argument, as a script in memory: no file to find a place for, none to remove."""
    fd = os.memfd_create("task")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(os.fsencode(line) + b"\n")
        yield fd
    finally:
        os.close(fd)
