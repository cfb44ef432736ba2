"""Tasks as steps of the Slurm allocation that the farmer runs in."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner
from taskfarmer.runners.leash import TIED_STEP, leash
from taskfarmer.runners.mounts import words_of
from taskfarmer.runners.programs import require_program
from taskfarmer.runners.wrapping import Staging, argv_of, inner_runner


class SlurmStepRunner(Runner):
    """Runs `srun --nodes=N --ntasks=N --cpus-per-task=CPUS --exact [OPTION]... TASK` for each task.

    The step gets the task's CPUs and, if it has any, its memory and GPUs; Slurm places it on a node of the allocation,
    and makes it wait while none is free. `ntasks` > 1 is for programs of MPI.

    Raises:
        InputError: an argument cannot be used.
    """

    def __init__(
        self,
        options: str = "",
        nodes: str | int = 1,
        ntasks: str | int = 1,
        shell: str = "sh",
        tempdir: bool | str = False,
        stageout: str = "",
        destination: str = "",
        inner: Runner | str | None = None,
        **inner_arguments: Any,
    ) -> None:
        self.options = words_of(options, "options")
        if any(word.startswith(("--input", "-i")) for word in self.options):
            raise InputError("options: --input is what ends a step with its farmer")
        self.nodes = _count(nodes, "nodes")
        self.ntasks = _count(ntasks, "ntasks")
        if self.nodes > self.ntasks:
            raise InputError(f"nodes = {self.nodes}: more than ntasks = {self.ntasks}")
        self.staging = Staging.of(tempdir, stageout, destination)
        self.inner = inner_runner(inner, inner_arguments, shell, elsewhere=True)

    def check(self) -> None:
        """Raise InputError without srun, or outside an allocation, where srun would submit a job for each task."""
        require_program("srun")
        if not os.environ.get("SLURM_JOB_ID"):
            raise InputError(
                "SLURM_JOB_ID is not set, so this is no allocation", hint="start the farm in a job of Slurm"
            )
        self.staging.check()
        self.inner.check()

    def prepare(self, job: Job) -> Command:
        """Return the call of srun.

        Raises:
            OSError: the temporary directory cannot be made.
        """
        command = self.inner.prepare(job)
        argv = argv_of(command)
        megabytes = -(-job.task.memory_bytes // (1 << 20))
        call = (
            *(
                "srun",
                f"--nodes={self.nodes}",
                f"--ntasks={self.ntasks}",
                f"--cpus-per-task={job.task.cpus}",
                "--exact",
            ),
            *((f"--mem={megabytes}M",) if megabytes else ()),
            *((f"--gpus={job.task.gpus}",) if job.task.gpus else ()),
            *self.options,
        )
        if leash() in argv:  # a container's: on another node that path is not, but srun hands its input on
            inside = tuple("/dev/stdin" if word == leash() else word for word in argv)
        else:
            inside = ("/bin/sh", "-c", TIED_STEP, "sh", *argv)
        argv = ("/bin/sh", "-c", 'exec "$@" <"$0"', leash(), *call, *inside)
        return self.staging.around(job, replace(command, line=None, argv=argv))


def _count(value: str | int, name: str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise InputError(f"{name} = {value}: not a number of at least 1")
    return int(value)
