"""The runner that is always there: the task as it stands, in the environment of the farmer."""

from __future__ import annotations

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner
from taskfarmer.runners.programs import require_program


class BasicRunner(Runner):
    """Runs each task as a shell would; a task that brings its own argument list runs without a shell.

    `shell` is `sh`, `bash`, or `none`: split the line at white space and start it as it is, quotes and all, as
    PyTaskFarmer did.

    Raises:
        InputError: `shell` is none of the three.
    """

    def __init__(self, shell: str = "sh") -> None:
        if shell not in ("none", "sh", "bash"):
            raise InputError(f"shell = {shell}: there are none, sh and bash")
        self.shell = shell

    def check(self) -> None:
        """Raise InputError if the shell is not installed."""
        if self.shell != "none":
            require_program(self.shell)

    def prepare(self, job: Job) -> Command:
        """Return the task's argument list if it has one, else its line."""
        if job.task.argv:
            return Command(argv=job.task.argv)
        if self.shell == "none":
            return Command(argv=tuple(job.task.line.split()))
        return Command(line=job.task.line, shell="bash" if self.shell == "bash" else "sh")
