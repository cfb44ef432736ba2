"""Slurm: one `sbatch` for a submission, an array if it has several elements; `squeue` tells how it is, then `sacct`.

Written for Slurm 20.02 and later. Two queries tell everything, whatever the number of jobs:

* `squeue --me -t all` knows what waits and runs, and what ended within `MinJobAge` (five minutes, usually), with its
  exit status. `--me` lets the controller look at one user's jobs only. `scontrol show job` would read the same table,
  one job a call, so it is never needed.
* `sacct` knows what ended before that, where the site keeps accounts. It may be absent, slow, or seconds late; then a
  job that left the queue is `GONE`, and what it left behind must tell.

Text instead of `--json`, since that takes ten times as long and differs from version to version.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import ClassVar

from .base import GONE, BatchSystem, JobId, JobState, JobStatus, Limits, Needs, NoAnswer, Outcome, Submission
from .calls import Call, Steps, about_jobs
from .slurm_answers import (
    SACCT_NAMES,
    SACCT_STATES,
    SQUEUE_NAMES,
    SQUEUE_STATES,
    answered,
    cluster_of,
    from_sacct,
    from_squeue,
    is_cancelled,
    limits_of,
    named,
    of,
    read,
    submitted,
)
from .slurm_ids import condensed
from .slurm_options import SCRIPT, beside, command, environment, script

MOST_IDS = 200
"""With more submissions than this `squeue` is asked for all jobs of the user: the argument would grow long."""
MOST_DEPARTED = 5000
"""With more, one `sacct` does not take them all; the others are asked for next time."""
_MISLEADING = re.compile("SQUEUE_|SACCT_|SCANCEL_|SBATCH_(ARRAY_INX|WAIT|CLUSTERS)$")
"""`SQUEUE_PARTITION`, say, would have all jobs elsewhere look as if they were gone."""


class Slurm(BatchSystem):
    """Slurm, by its commands. Variables that would change what these say, or whom they speak of, are kept from them."""

    name: ClassVar[str] = "slurm"
    title: ClassVar[str] = "Slurm"
    programs: ClassVar[tuple[str, ...]] = ("sbatch", "squeue", "scancel", "scontrol")

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        self.environ = {name: value for name, value in self.environ.items() if not _MISLEADING.match(name)}
        self.environ["SLURM_BITSTR_LEN"] = "0"  # or long rests of arrays end in dots

    def files(self, submission: Submission) -> dict[str, str]:
        """Return the script, with the settings in `#SBATCH` lines."""
        return {SCRIPT: script(submission)}

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return `sbatch` with all that taskfarmer asks for; settings are lines of the script."""
        return command(submission)

    def beside(self, needs: Needs) -> Needs:
        """Return account, partition, QOS and the like."""
        return beside(needs)

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Call `sbatch`."""
        environ = environment(submission, self.environ)
        answer = yield Call(argv=self.command(submission), cwd=str(submission.directory), environ=environ)
        return submitted(answer, submission.count)

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask `squeue` for all, and `sacct` for those that it does not know."""
        if not jobs:
            return {}
        arrays = {job.partition("_")[0] for job in jobs}
        which = ("-j", ",".join(sorted(arrays))) if len(arrays) <= MOST_IDS else ()
        answer = yield about_jobs("squeue", "--me", "-h", "-a", "-r", "-t", "all", "-O", SQUEUE_STATES, *which)
        said, clear = read(answered(answer), jobs, from_squeue)
        departed = [job for job in jobs if job not in said]
        if departed and clear:
            said |= yield from self._departed(departed)
        unreadable = JobStatus(JobState.UNKNOWN, reason="squeue's answer cannot be read")
        return {job: of(job, said, GONE if clear else unreadable) for job in jobs}

    def _departed(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Say what accounting knows of jobs that have left the queue; nothing where there is no accounting."""
        arrays = sorted({job.partition("_")[0] for job in jobs if job.partition("_")[0].isdecimal()})
        if not arrays:
            return {}
        fields = f"--format={SACCT_STATES}"
        answer = yield about_jobs("sacct", "-n", "-P", "-X", fields, "-j", ",".join(arrays[:MOST_DEPARTED]))
        if not answer.ok or not answer.is_whole:
            return {}
        said, _ = read(answer, jobs, from_sacct)
        later = set(arrays[MOST_DEPARTED:])
        asked_later = JobStatus(JobState.UNKNOWN, reason="it will be asked for next time")
        over = {job: status for job, status in said.items() if status.state.is_over}
        # What the controller does not know cannot run: then accounting is late, or never heard of the end.
        return over | {job: asked_later for job in jobs if job.partition("_")[0] in later}

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """Call `scancel` once, with ranges of elements."""
        words = condensed(jobs)
        if not words:
            return
        answer = yield Call(argv=("scancel", *words))
        if not is_cancelled(answer):
            raise NoAnswer(answer.trouble)

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Look for the name among the user's jobs, then in the accounts."""
        if found := (yield from self.find_recent(name)):
            return found
        fields = f"--format={SACCT_NAMES}"
        answer = yield about_jobs("sacct", "-n", "-P", "-X", "-S", "now-7days", fields)
        if answer.never_ran or (answer.status == 1 and "accounting storage is disabled" in answer.err):
            return {}
        return named(answered(answer), name)

    def find_recent(self, name: str) -> Steps[dict[int, JobId]]:
        """Look for the name among the jobs that the controller knows, the user's: as job name, in the comment, or as
        working directory. It knows a job as soon as it has taken it, and for `MinJobAge` after its end.

        What no node can have is refused, and stands in the queue as a job that failed; it is none.
        """
        answer = answered((yield about_jobs("squeue", "--me", "-h", "-a", "-r", "-t", "all", "-O", SQUEUE_NAMES)))
        return named(answer, name)

    def limits(self) -> Steps[Limits]:
        """Read them from the controller's configuration."""
        answer = yield Call(argv=("scontrol", "show", "config"))
        return limits_of(answer.text if answer.ok else "")

    def instance(self) -> Steps[str]:
        """Read the cluster's name from the controller's configuration."""
        answer = answered((yield Call(argv=("scontrol", "show", "config"))))
        return cluster_of(answer.text)

    def version(self) -> Steps[str]:
        """Ask `sbatch`."""
        answer = yield Call(argv=("sbatch", "--version"))
        said = answer.text.strip()
        return said if answer.ok and re.fullmatch(r"slurm\S* \S+", said) else ""
