"""What a runner is: it turns a task into something that the operating system can start.

Two styles, told apart by `is_declarative`:

* new: override `prepare(job) -> Command`. The farm starts the command itself, many at once from one loop; so
  `prepare` must be quick, must not block, and must not change what it is handed.
* old, as in PyTaskFarmer: override `run(taskid, command, logfh)`, which blocks until the task has ended, and
  `terminate()`, which is called from a signal handler while `run` blocks. The farm gives each a process.

`Runner.run` is the blocking form of `prepare`, so an old class may derive from a new one and call `super().run`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TextIO

from taskfarmer.core.model import Task
from taskfarmer.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt of a task, as a declarative runner is given it.

    `attempt` >= 1 grows with every execution of the task; `slot` >= 0 is the place it runs in on this farmer.
    `directory` is the fresh directory in which an outer runner has it run, None if there is none.
    """

    taskid: int
    task: Task
    attempt: int
    slot: int
    workdir: str
    directory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start: a shell line or an argument list, exactly one of the two.

    `env` is added to the environment of the attempt (the farmer's, the task's `env`, and the variables the farm
    sets); `cwd` replaces the task's `cwd`; None leaves that. The farm removes the directories in `remove`, with all
    that is in them, once the attempt has ended, however it ended.

    Raises:
        ValueError: neither or both of `line` and `argv` are given, or `argv` is empty.
    """

    line: str | None = None
    argv: tuple[str, ...] | None = None
    shell: Literal["sh", "bash"] = "sh"
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    remove: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.line is None) == (self.argv is None):
            raise ValueError("a command is either a line or an argument list")
        if self.argv is not None and not self.argv:
            raise ValueError("an argument list names at least a program")


class Runner:
    """Base class of runners, old and new; see the head of this module.

    `job` is set by the farm before it calls `run`, so that a `prepare` behind `super().run(...)` knows its attempt.
    Class attributes hold the state, since old subclasses do not call `super().__init__()`.
    """

    job: Job | None = None
    blocking = False
    """Set by one that has both forms, and wants to be handed to `run` for what it keeps from task to task."""
    learnt: Mapping[str, Any] | None = None
    """Set by `check` to what other processes of the farmer, in which `run` is called, are to go by; must be JSON."""
    elsewhere = False
    """Set by an outer runner that runs this one's commands where files of this machine may not be."""
    leashed = False
    """Set by one whose commands open a file of the farmer's process, by which they learn of its end."""
    _group = 0
    _terminated = False

    def check(self) -> None:
        """Say whether the runner can work here; called once, before anything runs.

        Raises:
            InputError: a program is missing, or the class overrides neither `prepare` nor `run`.
        """
        if type(self).prepare is Runner.prepare and type(self).run is Runner.run:
            raise InputError(f"{type(self).__name__} overrides neither prepare nor run, so it cannot run anything")

    def check_directory(self, parent: str | None) -> None:
        """Say whether its commands can run in fresh directories in `parent`; None: where temporary files go.

        Called once, for its own `tempdir` or that of a runner around it, before anything runs.

        Raises:
            InputError: they cannot.
        """

    def check_cwd(self, cwd: str) -> None:
        """Say whether tasks can run in a directory, an absolute path, as far as its spelling tells.

        Called for the farm's and for each that tasks name, when they are added, also on hosts where none of them will
        run: so it must not look at the machine. What has runners in it does not ask them; see `chain`.

        Raises:
            InputError: they cannot, since the runner has no way to hand on such a path.
        """

    def prepare(self, job: Job) -> Command:
        """Return what to start for `job`. An exception fails the attempt, with its message in the log."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither prepare nor run")

    def run(self, taskid: int, command: str, logfh: TextIO) -> int:
        """Run the task to its end and return its exit status: 0-255, or minus the signal that killed it.

        `logfh` is an open text file; it receives both streams. A program that cannot be started gives 127 (not
        found) or 126, and a line in the log. The process that calls it is already in the task's directory, with the
        task's environment.
        """
        # Only here, since a farm of declarative runners never needs the module and what it imports.
        from taskfarmer.runners.blocking import run_blocking

        prepared = self.prepare(self._job_for(taskid, command))
        try:
            return run_blocking(prepared, taskid, logfh, self._started)
        finally:
            self._group = 0

    def terminate(self) -> None:
        """Kill what `run` started, with its process group; safe in a signal handler."""
        self._terminated = True
        if self._group:
            _kill_group(self._group)

    def close(self) -> None:
        """Let go of what is kept between tasks; called when nothing runs any more, by the farmer and by each process
        that called `run`.

        It may take some seconds. It is not called in a process that is killed.
        """

    def _started(self, pid: int) -> None:
        self._group = pid
        if self._terminated:  # the signal came between the start of the process and this line
            _kill_group(pid)

    def _job_for(self, taskid: int, command: str) -> Job:
        if self.job is None or self.job.taskid != taskid:
            return Job(taskid=taskid, task=Task(text=command), attempt=1, slot=0, workdir=os.curdir)
        job = self.job
        if job.task.cwd is not None and not os.path.isabs(job.task.cwd):  # this process is there already
            job = replace(job, task=replace(job.task, cwd=os.getcwd()))
        return job if command == job.task.line else replace(job, task=replace(job.task, command=command, argv=None))


def checked(runner: object) -> None:
    """Have a runner say whether it can work here. An old class need not derive from ours, nor know the question.

    Raises:
        InputError: it cannot.
    """
    check = getattr(runner, "check", None)
    if check is not None:
        check()


def chain(runner: object) -> Iterator[Runner]:
    """Yield a runner, the one in it, and so on; nothing of an old class that does not derive from ours."""
    while isinstance(runner, Runner):
        yield runner
        runner = getattr(runner, "inner", None)


def is_declarative(runner: object) -> bool:
    """Return whether the farm asks `prepare` (new style) or hands over to `run` (old style).

    The most derived class that defines one of the two decides; one that defines both is declarative, unless it is
    `blocking`.
    """
    if getattr(runner, "blocking", False) is True:
        return False
    for cls in type(runner).__mro__:
        if "prepare" in vars(cls):
            return True
        if "run" in vars(cls):
            return False
    return False


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.killpg(group, signal.SIGKILL)
