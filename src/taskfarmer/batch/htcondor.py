"""HTCondor: a submission is a cluster, its elements are the cluster's jobs, `CLUSTER.PROC` with PROC = element - 1.

Asked are the queue, then, for jobs that are no longer there, the history, then, for elements that do not exist yet
(`at_most`, HTCondor's late materialisation), the factories; three calls at most, whatever the number of jobs. Which
jobs is said in a constraint of ranges, so that it stays short. Answers are JSON and are read object by object.

The questions are put by HTCondor's commands, or by its Python bindings where these are installed. Since a library call
may hang for as long as a scheduler does, a small program makes it (`condor_calls`) and prints what the commands would.

What is known of the answers was seen from HTCondor 23.9 and 25.14:

* `condor_q -json` prints nothing for an empty queue, and ends with `]` else: what does not was cut. `condor_history`
  prints an empty list, and in old versions nothing.
* A job that is removed while it runs is in the queue with status 3 for as long as its program takes to end.
* `allowed_execute_duration` is not enforced by 23.9 for jobs without file transfer; `allowed_job_duration` is. Jobs
  that exceed it are put on hold (46), which for us is *lost*: the description has them removed a little later.
* `remove_kill_sig`, once set, is sent for holds and evictions as well, in place of `kill_sig`: so we leave it alone,
  and `condor_rm`, too, sends the signal that warns.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import ClassVar

from ..errors import InputError
from .base import GONE, BatchSystem, JobId, JobState, JobStatus, Limits, Needs, NoAnswer, Outcome, Submission
from .calls import Call, Steps
from .condor_answers import Objects, Statuses, is_spooled, job_of, of_factory, outcome
from .condor_commands import DESCRIPTION, Bindings, Commands, beside, checked
from .condor_description import ATTRIBUTE, description, is_text
from .condor_ranges import ID, MOST_TERMS, cluster_of, clusters, constraint, proc_of, removals
from .script import job_script

_QUEUE = (
    "ClusterId", "ProcId", "JobStatus", "ExitBySignal", "ExitSignal", "ExitCode", "HoldReason", "HoldReasonCode",
    "HoldReasonSubCode", "RemoveReason", "RemoteHost", "JobMaterializeNextProcId", "StageInFinish", "StageOutFinish",
    "LastMatchTime", "LastRejMatchReason", "LastRejMatchTime", "NumJobMatches",
)  # fmt: skip
_HISTORY = (
    "ClusterId", "ProcId", "JobStatus", "ExitBySignal", "ExitSignal", "ExitCode", "ExitStatus", "RemoveReason",
    "LastHoldReason", "LastHoldReasonCode", "LastRemoteHost",
)  # fmt: skip
_FACTORY = (
    "ClusterId", "TotalSubmitProcs", "JobMaterializeNextProcId", "JobFactoryPaused", "JobMaterializePaused",
    "JobMaterializePauseReason",
)  # fmt: skip
_FOUND = ("ClusterId", "ProcId", "TotalSubmitProcs")

_CONFIGURATIONS = ("/etc/condor/condor_config", "/usr/local/etc/condor_config")
_NOT_THERE = re.compile(r"(Job|Cluster) \d+(\.\d+)? not found|Couldn't find/remove all jobs .*", re.IGNORECASE)
_NO_HISTORY = re.compile(r"HISTORY is (unset|not defined)|no history file is defined", re.IGNORECASE)


class HTCondor(BatchSystem):
    """HTCondor, by its bindings if they are installed, else by its commands.

    `HTCondorCommands` and `HTCondorBindings` leave no choice.
    """

    name: ClassVar[str] = "htcondor"
    title: ClassVar[str] = "HTCondor"
    programs: ClassVar[tuple[str, ...]] = ("condor_submit", "condor_q", "condor_history", "condor_rm")

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        self._ask = Bindings() if self.by_bindings(environ) else Commands()

    @classmethod
    def by_bindings(cls, environ: Mapping[str, str]) -> bool:
        """Whether the bindings are used: they are installed and find a configuration."""
        # A process that has imported the bindings where there is none has `/dev/null` for its configuration since.
        named = environ.get("CONDOR_CONFIG") not in (None, "", "/dev/null")
        return find_spec("htcondor2") is not None and (named or any(map(os.path.exists, _CONFIGURATIONS)))

    @classmethod
    def missing(cls, environ: Mapping[str, str]) -> list[str]:
        """Return which commands are not on the PATH; none, if the bindings do without."""
        return [] if cls.by_bindings(environ) else super().missing(environ)

    # -- submitting

    def files(self, submission: Submission) -> dict[str, str]:
        """Return `job.sh` and the description."""
        checked(submission.needs.native)
        return {
            "job.sh": job_script(
                submission,
                # A job has no PATH of its own, and what it starts would find nothing.
                header=("PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}", "export PATH"),
                element='"$((${1:-0} + 1))"',
                shared=not submission.needs.transfer_files,
            ),
            DESCRIPTION: description(submission, self.environ),
        }

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return `condor_submit`, or what submits by the bindings: these know none of its options, and take a
        description for text, which one is not that names a path of other bytes than those of UTF-8.
        """
        native = submission.needs.native
        if native or not is_text(description(submission, self.environ)):
            return Commands().submit(*checked(native))
        return self._ask.submit()

    def beside(self, needs: Needs) -> Needs:
        """Return accounting group, flavour, requirements and the like."""
        return beside(needs)

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Hand over the cluster."""
        answer = yield Call(argv=self.command(submission), cwd=str(submission.directory))
        return outcome(answer, submission.count)

    # -- asking

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask the queue, the history for those that left it, the factories for those that are not made yet."""
        said = dict.fromkeys(jobs, GONE)
        asked = {job for job in said if ID.fullmatch(job)}
        if not asked:
            return said
        known = Statuses()
        next_procs: dict[int, int] = {}
        spooled = []
        queue = Objects((yield self._ask.queue(constraint(asked)[0], _QUEUE)))
        for ad in queue:
            job, cluster, following = job_of(ad), ad.get("ClusterId"), ad.get("JobMaterializeNextProcId")
            if isinstance(following, int) and isinstance(cluster, int):
                next_procs[cluster] = following
            if job in asked:
                asked.remove(job)
                said[job] = known.in_queue(ad)
                if is_spooled(ad):
                    spooled.append(job)
        to_come = {job for job in asked if proc_of(job) >= next_procs.get(cluster_of(job), sys.maxsize)}
        asked -= to_come
        doubt = queue.damaged
        if asked:
            doubt = (yield from self._look_back(asked, said, known)) or doubt
        if asked or to_come:
            doubt = (yield from self._look_ahead(asked, to_come, next_procs, said)) or doubt
        for job in asked if doubt else ():
            said[job] = JobStatus(JobState.UNKNOWN, reason=doubt)
        if spooled:
            yield from self._fetch(spooled, said)
        return said

    def _look_back(self, asked: set[JobId], said: dict[JobId, JobStatus], known: Statuses) -> Steps[str]:
        """Take jobs out of `asked` that the history tells of; return why it may not have told of all, else nothing."""
        text, count = constraint(asked)
        answer = yield self._ask.history(text, _HISTORY, count)
        if _NO_HISTORY.search(answer.err):
            return ""
        try:
            history = Objects(answer)
            for ad in history:
                if (job := job_of(ad)) in asked:
                    asked.remove(job)
                    said[job] = known.in_history(ad)
        except NoAnswer as trouble:
            return str(trouble)
        return history.damaged

    def _look_ahead(
        self, asked: set[JobId], to_come: set[JobId], next_procs: Mapping[int, int], said: dict[JobId, JobStatus]
    ) -> Steps[str]:
        """Say how elements are that are still to be made: those `to_come`, and those of `asked` in whose cluster
        nothing was in the queue; put those that no factory tells of into `asked`. Returns as `_look_back` does.
        """
        answer = yield self._ask.factories(clusters(asked | to_come), _FACTORY)
        try:
            factories = Objects(answer)
            by_cluster = {cluster: ad for ad in factories if isinstance(cluster := ad.get("ClusterId"), int)}
        except NoAnswer as trouble:
            asked |= to_come
            return str(trouble)
        for job in (*to_come, *asked):
            ad = by_cluster.get(cluster_of(job))
            if ad is None:
                asked.add(job)
            elif job in to_come or cluster_of(job) not in next_procs:
                said[job] = of_factory(ad, proc_of(job))
                asked.discard(job)
        return factories.damaged

    def _fetch(self, jobs: Sequence[JobId], said: dict[JobId, JobStatus]) -> Steps[None]:
        """Fetch the output of jobs that ended and whose files are with the scheduler (`condor_submit -spool`)."""
        now, later = jobs[:MOST_TERMS], jobs[MOST_TERMS:]
        answer = yield Call(argv=("condor_transfer_data", "-constraint", constraint(now)[0]))
        for job in later if answer.ok else jobs:
            why = "" if answer.ok else f": {answer.trouble}"
            said[job] = JobStatus(JobState.RUNNING, reason=f"its output is not here yet{why}")

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """Remove the jobs; of elements that do not exist yet only if the rest of their cluster is among the jobs.

        Else the factory goes on: those elements are in the queue later, and can be removed then.
        """
        for some in removals(job for job in jobs if ID.fullmatch(job)):
            answer = yield self._ask.remove(some)
            lines = [line for line in answer.err.splitlines() if line.strip()]
            forgiven = answer.status == 1 and lines and all(_NOT_THERE.fullmatch(line.strip()) for line in lines)
            if not answer.ok and not forgiven:
                raise NoAnswer(answer.trouble)

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Ask the queue, the history, the factories, until one of them knows the name."""
        text = f'{ATTRIBUTE} == "{name}"'
        for call in (
            self._ask.queue(text, _FOUND, limit=1),
            self._ask.history(text, _FOUND, 1),
            self._ask.factories(text, _FOUND),
        ):
            answer = yield call
            if _NO_HISTORY.search(answer.err):
                continue
            ads = Objects(answer)
            for ad in ads:
                cluster, total = ad.get("ClusterId"), ad.get("TotalSubmitProcs")
                if isinstance(cluster, int) and isinstance(total, int):
                    return {proc + 1: JobId(f"{cluster}.{proc}") for proc in range(total)}
                raise NoAnswer(f"HTCondor does not say how many jobs the submission {name} has")
            if ads.damaged:
                raise NoAnswer("HTCondor's answer cannot be read")
        return {}

    def limits(self) -> Steps[Limits]:
        """Read MAX_JOBS_PER_SUBMISSION and MAX_JOBS_PER_OWNER."""
        answer = yield self._ask.settings("MAX_JOBS_PER_SUBMISSION", "MAX_JOBS_PER_OWNER")
        numbers = [int(line) for line in answer.lines() if re.fullmatch(r"[1-9]\d{0,15}", line)]
        return Limits(elements=numbers[0], jobs=numbers[1]) if answer.ok and len(numbers) == 2 else Limits()

    def instance(self) -> Steps[str]:
        """Name the schedd that the commands speak with: the one that is set, else this machine's own."""
        answer = yield self._ask.settings("FULL_HOSTNAME", "SCHEDD_HOST")  # of which the second may not be set
        said = [line.strip() for line in answer.lines() if line.strip() and not line.startswith("Not defined")]
        if not said and not answer.never_ran:
            raise NoAnswer(answer.trouble)
        return said[-1] if said else ""

    def version(self) -> Steps[str]:
        """Read it from `$CondorVersion: 23.9.6 2025-05-08 ...`."""
        answer = yield self._ask.version()
        said = re.search(r"\$CondorVersion: ([\w.-]+)", answer.text) if answer.ok else None
        return said.group(1) if said else ""


class HTCondorCommands(HTCondor):
    """HTCondor by its commands, also where the bindings are installed."""

    @classmethod
    def by_bindings(cls, environ: Mapping[str, str]) -> bool:  # noqa: ARG003 - as its base
        """Never."""
        return False


class HTCondorBindings(HTCondor):
    """HTCondor by its bindings, which must be there."""

    @classmethod
    def by_bindings(cls, environ: Mapping[str, str]) -> bool:
        """Whether they are used: always.

        Raises:
            InputError: they are not installed, or there is no configuration.
        """
        if not super().by_bindings(environ):
            raise InputError(
                "the bindings of HTCondor are not installed, or find no configuration",
                hint="pip install htcondor, and let CONDOR_CONFIG name the configuration",
            )
        return True
