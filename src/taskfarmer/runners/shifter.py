"""Tasks inside Shifter containers, as at NERSC."""

from __future__ import annotations

import shlex

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner
from taskfarmer.runners.programs import require_program


class ShifterRunner(Runner):
    """Runs `shifter --image IMAGE [--workdir=TMP] [-VVOL]... [-mMOD]... -- /bin/bash -c "SETUP && TASK"`.

    `setup` is shell text that runs before each task; empty, there is none. `volumes` and `modules` are separated
    by white space, with the quotes of a shell around what has some. With `tempdir` (yes, no, or the directory in which
    it is made) each attempt starts in a fresh directory, which is removed after it; `stageout` and `destination` bring
    results back (see `wrapping.Staging`).

    Raises:
        InputError: an argument cannot be used.
    """

    def __init__(
        self,
        image: str,
        setup: str = "",
        volumes: str = "",
        modules: str = "",
        tempdir: bool | str = False,
        stageout: str = "",
        destination: str = "",
    ) -> None:
        # Only here: the modules cost as much to import as all the rest of the runners.
        from taskfarmer.runners.mounts import words_of
        from taskfarmer.runners.wrapping import Staging

        self.image = image
        self.setup = setup
        self.volumes = words_of(volumes, "volumes")
        for volume in self.volumes:
            if set(volume) & {*";\n\r"}:  # shifter takes a semicolon for the end of a volume
                raise InputError(f"volumes: {volume!r}: shifter takes no path with a semicolon or a line break")
            parts = volume.split(":")
            if len(parts) not in (2, 3) or not all(parts):
                hint = "say both, as in /data:/data; no path can have a colon"
                raise InputError(f"volumes: {volume!r} is not SOURCE:TARGET[:FLAGS]", hint=hint)
        self.modules = words_of(modules, "modules")
        self.staging = Staging.of(tempdir, stageout, destination)

    def check(self) -> None:
        """Raise InputError if `shifter` is not on PATH. Directories that killed farmers left are removed."""
        require_program("shifter")
        self.staging.check(self)

    def prepare(self, job: Job) -> Command:
        """Return the call of shifter; makes the temporary directory, if one is wanted.

        Raises:
            OSError: the temporary directory cannot be made.
        """
        with self.staging.directory() as directory:
            # BASH_ENV names a file of the host, which bash in the container would otherwise try to read.
            command = Command(
                argv=self._call(job, directory or job.directory),
                env={"BASH_ENV": ""},
                remove=(directory,) if directory else (),
            )
            return self.staging.bringing_back(job, directory, command)

    def _call(self, job: Job, directory: str | None) -> tuple[str, ...]:
        """Return the words that start shifter, with the task in that directory (None: where shifter is started)."""
        line = shlex.join(job.task.argv) if job.task.argv else job.task.line
        return (
            *("shifter", "--image", self.image),
            *((f"--workdir={directory}",) if directory else ()),
            *(f"-V{volume}" for volume in self.volumes),
            *(f"-m{module}" for module in self.modules),
            *("--", "/bin/bash", "-c", f"{self.setup} && {line}" if self.setup.strip() else line),
        )
