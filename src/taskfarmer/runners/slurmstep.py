"""Tasks as steps of the Slurm allocation that the farmer runs in."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from typing import Any

from taskfarmer.core.model import Task
from taskfarmer.errors import InputError
from taskfarmer.runners.base import Command, Job, Runner
from taskfarmer.runners.leash import TIED_STEP, leash
from taskfarmer.runners.mounts import words_of
from taskfarmer.runners.programs import require_program
from taskfarmer.runners.warm import message
from taskfarmer.runners.wrapping import Staging, argv_of, inner_runner

TRIAL_S = 20.0
"""How long a first step may take; one that waits for others to end says nothing of whether it could run."""
_RAN = "taskfarmer: this step runs"
_FIRST_OF_SLURM = 0xFFFFFFF0
"""Ids of steps from here on are Slurm's own: of the script, of the shell of an interactive job."""
_OF_THE_JOB = ("SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_SOCKET", "SLURM_GPUS_PER_TASK")
"""In which srun finds how many GPUs the job was given, and takes them for the step's, beside what it is asked for."""
_OF_THE_STEP = ("SLURM_CPU_BIND", "SLURM_MEM_BIND", "SLURM_DISTRIBUTION", "SLURM_NTASKS_PER_NODE")
"""In which a farmer that is itself a step was told how it is placed; srun would place the task's step likewise, that is
on CPUs which are not the step's, or would complain."""
_OVERLAP = "SLURM_OVERLAP"
"""By which a farmer's step may have been told to share its CPUs; those of tasks are not to share theirs."""
_MEMORY = frozenset(("--mem", "--mem-per-cpu", "--mem-per-gpu"))
_GPUS = frozenset(("-G", "--gpus", "--gpus-per-node", "--gpus-per-socket", "--gpus-per-task", "--gres"))


class SlurmStepRunner(Runner):
    """Runs `srun --nodes=N --ntasks=N --cpus-per-task=CPUS --exact [OPTION]... TASK` for each task.

    The step gets the task's CPUs, memory and GPUs; Slurm places it on a node of the allocation, and makes it wait while
    none is free. Of a task that names no memory the step shares what the job has on the node, and keeps none of it from
    other steps; one that names no GPUs gets none: by itself srun would take all that the job has of both, and run one
    step at a time. `ntasks` > 1 is for programs of MPI. Of several farmers, one in each process of a step (`srun
    --overlap`), each has its tasks run on its own node.

    Raises:
        InputError: an argument cannot be used.
    """

    leashed = True

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
        if self.nodes > 1 and _own_node():
            raise InputError(
                f"nodes = {self.nodes}: the job has several farmers, and each runs its tasks on its own node",
                hint="start a single farmer, in the script of a job of several nodes",
            )
        self.staging.check(self)
        self.inner.check()
        self._try_step()

    def check_directory(self, parent: str | None) -> None:
        """Raise InputError if nobody has named a directory, and other nodes run the farmer's steps, too."""
        if parent is None and not _own_node() and os.environ.get("SLURM_JOB_NUM_NODES", "1") != "1":
            raise InputError(
                "tempdir = yes: the steps run on several nodes, of which each has a directory of its own for that",
                hint="name a directory that all of them see",
            )

    def _try_step(self) -> None:
        """Raise InputError if srun takes no such step, or runs nothing in it.

        One that has to wait says nothing, unless it may be for the farmer's own step to end.
        """
        call = self._call(Task(text=""))
        try:
            done = subprocess.run(
                [*call, "/bin/sh", "-c", f"echo {_RAN}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=TRIAL_S,
                env={name: value for name, value in os.environ.items() if name not in _hidden()},
            )
        except subprocess.TimeoutExpired:
            if _is_step(os.environ.get("SLURM_STEP_ID", "")):
                raise InputError(
                    f"no step starts within {TRIAL_S:g} s: the farmer is itself one, which has its CPUs for itself",
                    hint="start it by `srun --overlap`, or in the job's script",
                ) from None
            return
        if done.returncode or _RAN not in done.stdout:
            said = message(done.stderr) or "it ends well without running anything"
            raise InputError(f"{shlex.join(call)}: {said} (status {done.returncode})")

    def prepare(self, job: Job) -> Command:
        """Return the call of srun.

        Raises:
            OSError: the temporary directory cannot be made.
        """
        return self.staging.around(job, self._step)

    def _step(self, job: Job) -> Command:
        command = self.inner.prepare(job)
        argv = argv_of(command)
        call = self._call(job.task)
        if leash() in argv:  # a container's: on another node that path is not, but srun hands its input on
            inside = tuple("/dev/stdin" if word == leash() else word for word in argv)
        else:
            inside = ("/bin/sh", "-c", TIED_STEP, "sh", *argv)
        start = f'unset {" ".join(_hidden())}; exec "$@" <"$0"'
        argv = ("/bin/sh", "-c", start, leash(), *call, *inside)
        return replace(command, line=None, argv=argv)

    def _call(self, task: Task) -> tuple[str, ...]:
        """Return the words that start a step."""
        megabytes = -(-task.memory_bytes // (1 << 20))
        memory, gpus = f"--mem={megabytes}M" if megabytes else "", f"--gpus={task.gpus}" if task.gpus else ""
        said = {word[:2] if word[1:2] != "-" else word.partition("=")[0] for word in self.options}
        if not (memory or said & _MEMORY):
            memory = "--mem=0"
        if not (gpus or said & _GPUS):
            gpus = "--gres=none"
        node = _own_node()
        return (
            *("srun", f"--nodes={self.nodes}", f"--ntasks={self.ntasks}", f"--cpus-per-task={task.cpus}", "--exact"),
            *filter(None, (memory, gpus, f"--nodelist={node}" if node else "")),
            *self.options,
        )


def _hidden() -> tuple[str, ...]:
    """Return the names of variables that are kept from srun."""
    of_the_step = _OF_THE_STEP if _is_step(os.environ.get("SLURM_STEP_ID", "")) else ()
    return (*_OF_THE_JOB, _OVERLAP, *of_the_step)


def _own_node() -> str:
    """Return the node on which the farmer's tasks run; empty: any of the allocation, which is its alone."""
    if not _is_step(os.environ.get("SLURM_STEP_ID", "")) or os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return ""
    return os.environ.get("SLURMD_NODENAME", "")


def _is_step(id: str) -> bool:
    """Whether this is the id of a step that srun started, and not of what Slurm itself runs: scripts, shells."""
    return id.isdecimal() and int(id) < _FIRST_OF_SLURM


def _count(value: str | int, name: str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise InputError(f"{name} = {value}: not a number of at least 1")
    return int(value)
