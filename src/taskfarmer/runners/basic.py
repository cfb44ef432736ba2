"""The runner that is always there: the task as it stands, in the environment of the farmer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner
from taskfarmer.runners.programs import require_program

if TYPE_CHECKING:
    from taskfarmer.runners.wrapping import Staging


class BasicRunner(Runner):
    """Runs each task as a shell would; a task that brings its own argument list runs without a shell.

    `shell` is `sh`, `bash`, or `none`: split the line at white space and start it as it is, quotes and all, as
    PyTaskFarmer did. With `tempdir` (yes, no, or the directory in which it is made) each attempt starts in a fresh
    directory, which is removed after it; `stageout` and `destination` bring results back (see `wrapping.Staging`).

    Raises:
        InputError: `shell` is none of the three; another argument cannot be used.
    """

    def __init__(
        self, shell: str = "sh", tempdir: bool | str = False, stageout: str = "", destination: str = ""
    ) -> None:
        if shell not in ("none", "sh", "bash"):
            raise InputError(f"shell = {shell}: there are none, sh and bash")
        self.shell = shell
        self.staging: Staging | None = None
        if tempdir or stageout or destination:
            # Only here: the module is for the few, and imports this one.
            from taskfarmer.runners.wrapping import Staging

            self.staging = Staging.of(tempdir, stageout, destination)

    def check(self) -> None:
        """Raise InputError if the shell is not installed."""
        if self.shell != "none":
            require_program(self.shell)
        if self.staging is not None:
            self.staging.check(self)

    def prepare(self, job: Job) -> Command:
        """Return the task's argument list if it has one, else its line.

        Raises:
            OSError: the temporary directory cannot be made.
        """
        return self._command(job) if self.staging is None else self.staging.around(job, self._command)

    def _command(self, job: Job) -> Command:
        if job.task.argv:
            return Command(argv=job.task.argv)
        if self.shell == "none":
            return Command(argv=tuple(job.task.line.split()))
        return Command(line=job.task.line, shell="bash" if self.shell == "bash" else "sh")
