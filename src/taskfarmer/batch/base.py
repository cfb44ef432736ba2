"""What a batch system is to taskfarmer: it takes jobs, says how they are, ends them, and finds them by name.

One class a system knows its dialect; nothing else in the project does. A batch system holds no state, starts no thread
and runs no loop: who uses it decides when to ask again and how often (`batch.pace`). Its methods are generators that
yield calls (`batch.calls`). To add a system, derive from `BatchSystem`, and from the contract suite in the tests.

Words: a *submission* is what one command hands over, under one unique name; it consists of `count` >= 1 *elements*,
numbered from 1, each of which becomes a *job*. A job id is text, as the system's own commands take it.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, NewType

from ..errors import TaskfarmerError
from .calls import Steps, at_once

JobId = NewType("JobId", str)
"""A job as the system's commands name it: `123`, `123_4` (Slurm), `42.0` (HTCondor), `7[3]` (LSF)."""


class JobState(Enum):
    """How a job is. What a system says beyond that is `UNKNOWN`, which is neither success nor an end."""

    QUEUED = "queued"
    """It waits for its turn, also once more after a requeue."""
    RUNNING = "running"
    """It has been started; suspended, completing and transferring jobs are."""
    HELD = "held"
    """It waits until somebody does something; `reason` says for what."""
    ENDED = "ended"
    """Its program ended by itself; `exit_status` says how."""
    LOST = "lost"
    """It was ended by something else: node, walltime, preemption, an administrator, a cancel. Not the task's fault."""
    GONE = "gone"
    """The system does not know it, or no longer. What it left behind must tell."""
    UNKNOWN = "unknown"
    """The system said something that we do not understand; it may live."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobState.ENDED, JobState.LOST, JobState.GONE)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a system says about a job. `exit_status`: 0..255, or minus the signal that ended its script; None: not said.

    `reason` is the system's own word for it, or why it waits; `host` where it runs or ran, as far as was said.
    `remedy`: what to do about a held job that nobody can release, a lost one that no node can have, or one that ended
    since it used more than it asked for; empty: there is nothing to do, but for a held one, to release it.
    """

    state: JobState
    exit_status: int | None = None
    reason: str = ""
    host: str = ""
    remedy: str = ""


GONE = JobStatus(JobState.GONE)
MORE = "ask for more"
"""The remedy for a job that used more than it asked for: memory, mostly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What each job of a submission asks for; what is not given is left to the system.

    `cpus` and `gpus` for each of `nodes`; `memory_bytes` for all CPUs of a node together; `time_s` of walltime, with
    `time_min_s` the least that would do (Slurm's flexible queues). `queue` is a partition, queue or job flavour.
    `warn_s`: a SIGUSR1 that long before the end, where the system can. `requeue`: start it again when its node is
    lost; None: as the system does. `job_name` for people. `env` is set in the job; `env_script` is sourced in it.
    `transfer_files`: absolute paths to carry to the node, for pools without a shared file system (HTCondor).
    `settings`: options of the system by their own names, as in b2luigi's `slurm_settings` and `htcondor_settings`
    (True or None: without a value); they win over everything above. `native`: words for the submitting command, as
    they are.
    """

    cpus: int = 1
    nodes: int = 1
    gpus: int = 0
    memory_bytes: int | None = None
    time_s: float | None = None
    time_min_s: float | None = None
    queue: str = ""
    account: str = ""
    warn_s: float | None = None
    requeue: bool | None = None
    job_name: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    env_script: str = ""
    transfer_files: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    native: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What one command hands over.

    `name`: unique among all that were ever made: `tf` and 12 hexadecimal digits, which every system takes; the system
    keeps it where `find` finds it. `directory`: absolute, of this submission alone; what the system needs is written
    there by `files`, and the submitting command runs in it. `body`: lines of sh that each job runs, in `cwd`; they find
    the number of their element in TASKFARMER_ELEMENT and the submission's directory in TASKFARMER_SUBMISSION. `output`:
    where both streams of element N go, absolute, `{element}` standing for N. `at_most`: elements that run at once.
    """

    name: str
    directory: Path
    body: str
    cwd: str
    output: str
    count: int = 1
    at_most: int | None = None
    needs: Needs = field(default_factory=Needs)


@dataclass(frozen=True, slots=True)
class Submitted:
    """It is in the queue. `jobs[i]` is element i + 1."""

    jobs: tuple[JobId, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was submitted. `why`: in the system's own words; `again`: later it may be (limits, a busy system).

    `ended_well`: the command said nothing of that, see `Unsure`.
    """

    why: str
    again: bool = False
    ended_well: bool = False


@dataclass(frozen=True, slots=True)
class Unsure:
    """Nobody knows whether it was submitted: a time-out, an answer that cannot be read. `find` tells, in a while.

    `ended_well`: the command ended with status 0, without an id of a job. Whoever submits sees to that
    (`farm.submissions`); a system need not.
    """

    why: str
    ended_well: bool = False


Outcome = Submitted | Refused | Unsure


class NoAnswer(TaskfarmerError):
    """The system could not be asked, or its answer was none: nothing is known anew. To be tried again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a site allows. `elements` >= 1 of one submission; `jobs` of one user at a time, None: not known.

    `of_all`: that is the number of jobs of all users together, so that there may be room for fewer.
    """

    elements: int = 1
    jobs: int | None = None
    of_all: bool = False


_OF_A_TASK = frozenset("TASKFARMER_TOKEN TASKFARMER_TASK_ID TASKFARMER_ATTEMPT TASKFARMER_SLOT PROC_NUMBER".split())


class BatchSystem(ABC):
    """A batch system, by the commands that `environ` (the PATH in it) has; its calls are to be run with that.

    Promises that every system keeps, and that the contract suite holds it to:

    * `submit` ends in one of three ways. After `Refused` nothing is in the queue; after `Unsure` anything may be.
    * `poll` answers for each job that it was asked about, and for no other, whatever stands in the system's answer:
      other people's jobs, other arrays, lines that cannot be read. It makes one call whatever the number of jobs, and
      at most one or two more for those that left the queue. When the system cannot be asked it raises `NoAnswer`: a job
      is `GONE` only if the system answered and did not know it.
    * `cancel` may be told of jobs that are over or that never were. It does not wait for their end.
    * `find` tells the jobs of a submission by its name, those that ended a short while ago included. Elements that the
      system has forgotten may be missing. What cannot be read is `NoAnswer`, never that there is none.
    """

    name: ClassVar[str]
    """As in `--batch NAME`."""
    title: ClassVar[str]
    """For people: `Slurm`, `HTCondor`."""
    programs: ClassVar[tuple[str, ...]]
    """The commands that it needs; the first tells whether the system is here."""
    reads: ClassVar[str] = ""
    """The file in the submission's directory that the submitting command reads as its standard input, if any."""
    lasting: ClassVar[bool] = True
    """Whether jobs live on when all processes are killed that descend from who submitted them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # A job is no process of the farmer's, also if a task of it submits one: it must not look like that to whoever
        # cleans up behind a dead farmer.
        self.environ = {name: value for name, value in environ.items() if name not in _OF_A_TASK}

    @classmethod
    def missing(cls, environ: Mapping[str, str]) -> list[str]:
        """Return which of its commands are not on the PATH."""
        return [program for program in cls.programs if shutil.which(program, path=environ.get("PATH", "")) is None]

    @abstractmethod
    def files(self, submission: Submission) -> dict[str, str]:
        """Return the text of each file that `submit` needs in the submission's directory, by name; pure.

        `job.sh` among them is the job's script (see `batch.script`), and is made executable.

        Raises:
            InputError: it asks for what the system cannot do; in one line, with the remedy.
        """

    @abstractmethod
    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return the submitting command, to be run in the submission's directory; pure, and what --dry-run shows."""

    def beside(self, needs: Needs) -> Needs:
        """Return what of `settings` and `native` a small job may have that submits jobs with these needs; pure.

        Only what says who pays, where jobs may run, and for how long. Most of the other words ask for something, GPUs
        or whole nodes; and what is not known is left out, since a small job that is refused is seen at once, while one
        that holds a node for days is not.
        """
        return replace(needs, settings={}, native=())

    @abstractmethod
    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Hand over the submission, whose files have been written."""

    @abstractmethod
    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Say how the jobs are.

        Raises:
            NoAnswer: the system cannot be asked now.
        """

    @abstractmethod
    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """End the jobs, with few commands whatever their number; those that are over are forgiven.

        Raises:
            NoAnswer: the system cannot be asked now.
        """

    @abstractmethod
    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Return the jobs of the submission of that name, by element; empty: the system knows of none.

        Raises:
            NoAnswer: the system cannot be asked now.
        """

    def find_recent(self, name: str) -> Steps[dict[int, JobId]]:
        """As `find`, of a submission whose command has ended a moment ago: accounts of the past need not be asked, and
        may be away while jobs are taken.

        Raises:
            NoAnswer: the system cannot be asked now.
        """
        return self.find(name)

    @abstractmethod
    def limits(self) -> Steps[Limits]:
        """Say what the site allows; what cannot be learnt is left at its default."""

    def instance(self) -> Steps[str]:
        """Say which of the system's schedulers has our jobs, by a name that tells it from others of its kind: Slurm's
        cluster, HTCondor's schedd. Job ids mean nothing to another one. Empty: it does not say.

        Raises:
            NoAnswer: the system cannot be asked now.
        """
        return at_once("")

    @abstractmethod
    def version(self) -> Steps[str]:
        """Say which version it is, for `taskfarmer doctor`; empty if it does not say."""
