"""`local`: job scripts as processes of this machine, to try batch mode where there is no batch system.

The jobs outlive whoever submitted them, unless that has a guardian, which ends all that descends from it. What plays
the scheduler are the commands of `local_jobs`, and a directory of this machine's own: TASKFARMER_LOCAL_JOBS, else
`~/.local/state/taskfarmer/local/HOST`. As many CPUs' worth of jobs run at once as the machine has, or
TASKFARMER_LOCAL_SLOTS says. Queues, accounts and memory mean nothing here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from ..errors import InputError
from . import local_jobs
from .base import (
    BatchSystem,
    JobId,
    JobState,
    JobStatus,
    Limits,
    NoAnswer,
    Outcome,
    Refused,
    Submission,
    Submitted,
    Unsure,
)
from .calls import Answer, Call, Steps, at_once
from .script import job_script

STATES = {
    "queued": JobState.QUEUED,
    "started": JobState.RUNNING,
    "ended": JobState.ENDED,
    "lost": JobState.LOST,
    "gone": JobState.GONE,
}
INHERITED = (
    "HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_STATE_HOME",
    "TASKFARMER_LOCAL_JOBS", "TASKFARMER_LOCAL_SLOTS",
)  # fmt: skip
"""What jobs get of the submitter's environment: what a node would give them, too, and where the queue is that they are
in."""
SCRIPT = "job.sh"
SPEC = "submission.json"


class Local(BatchSystem):
    """Jobs on this machine."""

    name: ClassVar[str] = "local"
    title: ClassVar[str] = "local"
    programs: ClassVar[tuple[str, ...]] = ("sh",)
    reads: ClassVar[str] = SPEC
    lasting: ClassVar[bool] = False  # a guardian that lives on when its loop ends finds them

    @property
    def spool(self) -> str:
        """The directory that jobs are recorded in; of this machine alone, since pids are."""
        if given := self.environ.get("TASKFARMER_LOCAL_JOBS"):
            return os.path.abspath(given)
        home = self.environ.get("HOME") or os.path.expanduser("~")
        state = self.environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
        return f"{state}/taskfarmer/local/{os.uname().nodename}"

    @property
    def slots(self) -> int:
        """How many jobs of one CPU run at once."""
        given = self.environ.get("TASKFARMER_LOCAL_SLOTS") or str(len(os.sched_getaffinity(0)))
        if not given.isdecimal() or not int(given):
            raise InputError(f"TASKFARMER_LOCAL_SLOTS: {given!r} is no number of slots", hint="give 1 or more")
        return int(given)

    def _call(self, command: str, *words: str, stdin: str = "", cwd: str | None = None) -> Call:
        # Neither packages nor the user's PYTHON... variables: it starts in half the time, and the same everywhere.
        argv = (sys.executable, "-I", "-S", local_jobs.__file__, command, self.spool, *words)
        return Call(argv=argv, stdin=os.fsencode(stdin), cwd=cwd)

    def files(self, submission: Submission) -> dict[str, str]:
        """Return the script, and what `submit` reads."""
        if submission.needs.native:
            raise InputError("`local` takes no native options", hint="leave them out, or choose another --batch")
        spec = {
            "name": submission.name,
            "count": submission.count,
            "at_most": submission.at_most,
            "slots": self.slots,
            "cpus": submission.needs.cpus,
            "time_s": submission.needs.time_s,
            "warn_s": submission.needs.warn_s,
            "script": str(submission.directory / SCRIPT),
            "output": submission.output,
            "env": {name: self.environ[name] for name in INHERITED if name in self.environ},
        }
        return {SCRIPT: job_script(submission, element='"${1:-1}"'), SPEC: json.dumps(spec, indent=1)}

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return the command, which reads `submission.json`."""
        return self._call("submit").argv

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Start the jobs' supervisor."""
        spec = (Path(submission.directory) / SPEC).read_text()
        answer = yield self._call("submit", stdin=spec, cwd=str(submission.directory))
        if answer.never_ran or answer.status == 1:
            return Refused(answer.err.strip() or answer.trouble)
        if not answer.ok or answer.text != f"{submission.count}\n":
            return Unsure(answer.trouble)
        return Submitted(self._ids(submission.name, submission.count))

    @staticmethod
    def _ids(name: str, count: int) -> tuple[JobId, ...]:
        return tuple(JobId(f"{name}.{element}") for element in range(1, count + 1))

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask for all of them at once."""
        if not jobs:
            return {}
        answer = yield self._call("poll", stdin="".join(f"{job}\n" for job in jobs))
        if not answer.ok or not answer.is_whole:
            raise NoAnswer(answer.trouble)
        unknown = JobStatus(JobState.UNKNOWN, reason="no word about it in the answer")
        said = dict.fromkeys(jobs, unknown)
        for line in answer.lines():
            job, _, rest = line.partition("\t")
            if job in said:
                said[JobId(job)] = parsed(rest)
        return said

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """End them."""
        if jobs:
            answered((yield self._call("cancel", stdin="".join(f"{job}\n" for job in jobs))))

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Look whether it is in the spool."""
        answer = answered((yield self._call("find", name)))
        if not answer.text.strip().isdecimal():
            raise NoAnswer(answer.trouble)
        return dict(enumerate(self._ids(name, int(answer.text)), 1))

    def limits(self) -> Steps[Limits]:
        """Say how many elements a submission may have."""
        return at_once(Limits(elements=local_jobs.MOST_ELEMENTS))

    def instance(self) -> Steps[str]:
        """Say which machine this is, and where its jobs are recorded."""
        return at_once(f"{os.uname().nodename}:{self.spool}")

    def version(self) -> Steps[str]:
        """Say which Python plays the scheduler."""
        return at_once(f"Python {sys.version.split()[0]}, {self.slots} slots")


def answered(answer: Answer) -> Answer:
    """Return an answer that is one.

    Raises:
        NoAnswer: it is none.
    """
    if not answer.ok or not answer.is_whole:
        raise NoAnswer(answer.trouble)
    return answer


def parsed(rest: str) -> JobStatus:
    """Return what a line of the answer says, behind the id."""
    try:
        state, status, reason = rest.split("\t")
        return JobStatus(STATES[state], int(status) if status else None, reason)
    except (KeyError, ValueError):
        return JobStatus(JobState.UNKNOWN, reason=rest)
