"""Tasks inside Shifter containers, as at NERSC."""

from __future__ import annotations

import shlex

from taskfarmer.runners.base import Command, Job, Runner
from taskfarmer.runners.programs import require_program


class ShifterRunner(Runner):
    """Runs `shifter --image IMAGE [--workdir=TMP] [-VVOL]... [-mMOD]... -- /bin/bash -c "SETUP && TASK"`.

    `setup` is shell text that runs before each task; empty, there is none. `volumes` and `modules` are separated
    by white space. With `tempdir` (True, or the text `True`, as an INI file gives it) each attempt starts in a fresh
    directory, which is removed after it.
    """

    def __init__(
        self, image: str, setup: str = "", volumes: str = "", modules: str = "", tempdir: bool | str = False
    ) -> None:
        self.image = image
        self.setup = setup
        self.volumes = tuple(volumes.split())
        self.modules = tuple(modules.split())
        self.tempdir = tempdir in (True, "True")

    def check(self) -> None:
        """Raise InputError if `shifter` is not on PATH. Directories that killed farmers left are removed."""
        require_program("shifter")
        if self.tempdir:
            from taskfarmer.runners.owners import remove_left_directories

            remove_left_directories()

    def prepare(self, job: Job) -> Command:
        """Return the call of shifter; makes the temporary directory, if one is wanted.

        Raises:
            OSError: the temporary directory cannot be made.
        """
        line = shlex.join(job.task.argv) if job.task.argv else job.task.line
        directories = (_fresh_directory(),) if self.tempdir else ()
        argv = (
            *("shifter", "--image", self.image),
            *(f"--workdir={directory}" for directory in directories),
            *(f"-V{volume}" for volume in self.volumes),
            *(f"-m{module}" for module in self.modules),
            *("--", "/bin/bash", "-c", f"{self.setup} && {line}" if self.setup.strip() else line),
        )
        # BASH_ENV names a file of the host, which bash in the container would otherwise try to read.
        return Command(argv=argv, env={"BASH_ENV": ""}, remove=directories)


def _fresh_directory() -> str:
    # Only here: the module costs as much to import as all the rest of the runners.
    from taskfarmer.runners.owners import private_directory

    return private_directory()
