"""This host as a farmer finds it: what it may use, which limits stand in its way, and which batch job it is in."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .. import __version__
from ..batch.calls import Call, run_call
from ..core.words import plural
from ..errors import InputError
from ..farm import host
from ..farm.allocation import UNKNOWN, condor_end, source_of
from ..farm.cgroups import ControlGroups
from ..runners.programs import find_program
from .problem import Problem, error, warning

EXTRAS = {
    "uproot": "event counts of ROOT files, for ATLAS lists",
    "awkward": "the same",
    "pyarrow": "export to Parquet",
    "htcondor": "HTCondor without its commands",
}
"""Optional packages, and what they are for."""
NEEDED = ("sh", "env")
ANSWER_S = 10.0
"""How long a scheduler may take to say when the job ends."""
_FILES_FOR_ALL, _FILES_A_SLOT = 64, 4
_PROCESSES_FOR_ALL, _PROCESSES_A_SLOT = 16, 3
_LEAST_SHM = 128 << 20
"""Containers have 64 MiB unless they are told otherwise, and programs that share arrays are ended by SIGBUS there."""
_LEAST_SCRATCH = 100 << 20
_LEAST_ADDRESSES = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a farmer has here. Sizes in bytes; a limit that is None is none.

    `cpus`: those that may be used, of `cpus_here`. `processes`: limit for this user, or of the control group;
    `processes_now`: how many this user has. `shm_free`: of /dev/shm, None where there is none. `scratch`: where
    temporary files go, empty where they can go nowhere. `extras`: versions, None of what is not installed.
    `missing`: programs that tasks are started by, and that are not on the PATH.
    """

    host: str
    kernel: str
    python: str
    executable: str
    taskfarmer: str
    cpus: int
    cpus_here: int
    memory: int
    memory_free: int | None
    gpus: tuple[str, ...]
    open_files: int | None
    open_files_most: int | None
    processes: int | None
    processes_now: int
    cpu_time_s: int | None
    file_size: int | None
    addresses: int | None
    shm_free: int | None
    scratch: str
    scratch_free: int | None
    extras: dict[str, str | None]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """The batch job that we are in. `end`: seconds since the epoch, None: not known, or no end; `trouble`: why not."""

    name: str
    end: float | None = None
    trouble: str = ""


def machine(environ: Mapping[str, str]) -> Machine:
    """Return what a farmer that is started now would find here."""
    groups = ControlGroups()
    files, files_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    scratch = _scratch()
    return Machine(
        host=os.uname().nodename,
        kernel=os.uname().release,
        python=sys.version.split()[0],
        executable=sys.executable,
        taskfarmer=__version__,
        cpus=host.usable_cpus(environ, groups),
        cpus_here=os.cpu_count() or 1,
        memory=host.usable_memory(groups),
        memory_free=_memory_free(),
        gpus=host.usable_gpus(environ),
        open_files=_limit(files),
        open_files_most=_limit(files_most),
        processes=_processes(groups),
        processes_now=_own_processes(),
        cpu_time_s=_limit(resource.getrlimit(resource.RLIMIT_CPU)[0]),
        file_size=_limit(resource.getrlimit(resource.RLIMIT_FSIZE)[0]),
        addresses=_limit(resource.getrlimit(resource.RLIMIT_AS)[0]),
        shm_free=_free("/dev/shm"),
        scratch=scratch,
        scratch_free=_free(scratch) if scratch else None,
        extras={name: _version(name) for name in EXTRAS},
        missing=tuple(name for name in NEEDED if find_program(name, environ.get("PATH", os.defpath)) is None),
    )


def batch_job(environ: Mapping[str, str]) -> BatchJob | None:
    """Return the batch job that an environment is of; its scheduler is asked when the job ends, for `ANSWER_S`."""
    try:
        source = source_of(environ)
    except InputError as problem:
        return BatchJob(name="TASKFARMER_END_TIME", trouble=str(problem))
    if not source.name:
        for variable, system in (("PBS_JOBID", "PBS"), ("SGE_TASK_ID", "Grid Engine")):
            if environ.get(variable):
                return BatchJob(name=f"{system} job {environ.get('JOB_ID') or environ[variable]}")
        return None
    end, trouble = source.end, ""
    if source.job_ad:
        try:
            end = condor_end(Path(source.job_ad).read_text(errors="replace"))
        except OSError as problem:
            trouble = f"{source.job_ad}: {problem.strerror}"
    if source.argv:
        # A user's SQUEUE_FORMAT and the like would change the answer.
        plain = {name: value for name, value in environ.items() if not name.startswith("SQUEUE_")}
        answer = run_call(Call(argv=source.argv, limit_s=ANSWER_S), plain)
        left = source.reading(answer.text) if answer.ok and source.reading is not None else None
        if left is not None:
            end = time.time() + left
        elif end == UNKNOWN:
            trouble = f"{answer.call.program} does not say it" if answer.ok else answer.trouble
    return BatchJob(name=source.name, end=None if end == UNKNOWN else end, trouble=trouble)


def machine_problems(found: Machine, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what stands in a farmer's way here."""
    for name in found.missing:
        yield error(
            "programs", f"{name} is not on the PATH, and tasks are started by it", "set PATH, to /usr/bin:/bin say"
        )
    files = _FILES_FOR_ALL + _FILES_A_SLOT * found.cpus
    if found.open_files is not None and found.open_files < files:
        able = found.open_files_most is None or found.open_files_most >= files
        remedy = (
            f"`ulimit -n {files}` first" if able else f"ask for a hard limit of {files}, or use fewer slots (--proc)"
        )
        text = f"{found.open_files} are allowed, {_needs(found.cpus)} about {files}"
        yield error("open files", text, remedy)
    processes = _PROCESSES_FOR_ALL + _PROCESSES_A_SLOT * found.cpus
    if found.processes is not None and found.processes - found.processes_now < processes:
        text = f"{found.processes} are allowed, {found.processes_now} are there, {_needs(found.cpus)} {processes} more"
        yield error("processes", text, "raise it with `ulimit -u`, or use fewer slots (--proc)")
    if found.cpu_time_s is not None:
        text = f"a process is ended after {found.cpu_time_s} s of CPU time, a farmer, too"
        yield warning("CPU time", text, "login nodes have such a limit: run in a batch job, or `ulimit -t unlimited`")
    if found.file_size is not None:
        yield warning("file size", f"no file may have more than {found.file_size} bytes", "`ulimit -f unlimited`")
    if found.addresses is not None and found.addresses < _LEAST_ADDRESSES:
        text = f"a process may have {found.addresses} bytes of address space"
        yield warning("address space", text, "`ulimit -v unlimited`, and --memory for what tasks may have")
    yield from _room_problems(found, environ)
    slurm = environ.get("SLURM_CPUS_ON_NODE", "")
    if slurm.isdigit() and int(slurm) > found.cpus:
        text = f"{found.cpus} of the {slurm} that the job has on this node may be used"
        yield warning("processors", text, f"start the farmer with `srun --cpus-per-task={slurm}`")


def _room_problems(found: Machine, environ: Mapping[str, str]) -> Iterator[Problem]:
    if found.shm_free is None:
        yield warning("/dev/shm", "there is none", "tasks that share memory need it: mount a tmpfs there")
    elif found.shm_free < _LEAST_SHM:
        remedy = "tasks that share memory may be ended by SIGBUS: remove old files there; for a container, --shm-size"
        yield warning("/dev/shm", f"{found.shm_free >> 20} MiB are free", remedy)
    asked = environ.get("TMPDIR", "")
    if not found.scratch:
        yield error("temporary files", "none can be made", "set TMPDIR to a directory that can be written, with space")
    elif asked and os.path.abspath(asked) != os.path.abspath(found.scratch):
        text = f"none can be made in TMPDIR, {asked}: they go to {found.scratch}"
        yield warning("temporary files", text, "make that directory, or unset TMPDIR")
    if found.scratch_free is not None and found.scratch_free < _LEAST_SCRATCH:
        text = f"{found.scratch_free >> 20} MiB are free in {found.scratch}"
        yield warning("temporary files", text, "remove what is old there, or set TMPDIR to another directory")


def job_problems(job: BatchJob) -> Iterator[Problem]:
    """Yield what is wrong with what is known of the batch job."""
    if job.name == "TASKFARMER_END_TIME" and job.trouble:
        text, _, remedy = job.trouble.partition("; ")
        yield error("end of the job", text, remedy)
    elif job.end is None:
        text = f"that of the {job.name} is not known" + (f": {job.trouble}" if job.trouble else "")
        remedy = "give it with `--until TIME` or TASKFARMER_END_TIME, so that nothing is started that cannot end"
        yield warning("end of the job", text, remedy)
    elif job.end <= time.time():
        yield warning("end of the job", f"the one that {job.name} names has passed", "it is not minded; give --until")


def _needs(slots: int) -> str:
    return f"{plural(slots, 'slot')} {'needs' if slots == 1 else 'need'}"


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _processes(groups: ControlGroups) -> int | None:
    """Return the least limit that holds; that of a user does not hold for root."""
    own = _limit(resource.getrlimit(resource.RLIMIT_NPROC)[0]) if os.getuid() else None
    return min((limit for limit in (own, groups.processes()) if limit is not None), default=None)


def _own_processes() -> int:
    count = 0
    with suppress(OSError):
        for entry in os.scandir("/proc"):
            with suppress(OSError):
                count += entry.name.isdigit() and entry.stat().st_uid == os.getuid()
    return count


def _memory_free() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None


def _free(directory: str) -> int | None:
    with suppress(OSError):
        return shutil.disk_usage(directory).free
    return None


def _scratch() -> str:
    """Return where temporary files can be made; empty: nowhere."""
    with suppress(OSError), tempfile.NamedTemporaryFile() as file:
        return os.path.dirname(file.name)
    return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
