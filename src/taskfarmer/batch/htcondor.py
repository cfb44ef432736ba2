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

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Any, ClassVar

from ..errors import InputError
from .base import (
    GONE,
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
from .calls import Answer, Call, Steps
from .condor_description import ATTRIBUTE, TIME_IS_UP, description
from .script import job_script

DESCRIPTION = "job.submit"
SINCE = "EnteredCurrentStatus < time() - 30 * 86400"
"""Where a look into the history stops: it is read from its end, and may be gigabytes."""
MOST_TERMS = 300
"""So many ranges of jobs are named one by one; of more, all between the first and the last is asked for."""
REMOVED_TERMS = 800
"""Ranges of one `condor_rm`, which removes what it was told and nothing else; one argument has 128 KiB at most."""

_QUEUE = (
    "ClusterId", "ProcId", "JobStatus", "ExitBySignal", "ExitSignal", "ExitCode", "HoldReason", "HoldReasonCode",
    "HoldReasonSubCode", "RemoveReason", "RemoteHost", "JobMaterializeNextProcId", "StageInFinish", "StageOutFinish",
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
_SPOOLING = 16
_FACTORY_HELD, _FACTORY_REMOVED = 1, 3

# In the words of condor_submit and of the bindings. All that is not unsure came to nothing for certain.
_UNSURE = re.compile(r"commit|transaction|spool|disconnect", re.IGNORECASE)
_AGAIN = re.compile(
    r"connect|can't find address|unable to locate|SECMAN|authenticat|communicat|timed out|temporar|too many"
    r"|MAX_JOBS_(SUBMITTED|PER_OWNER|RUNNING)|schedd says -[23]\b",
    re.IGNORECASE,
)
_NOT_THERE = re.compile(r"(Job|Cluster) \d+(\.\d+)? not found|Couldn't find/remove all jobs .*", re.IGNORECASE)
_NO_HISTORY = re.compile(r"HISTORY is (unset|not defined)|no history file is defined", re.IGNORECASE)
_TROUBLE = re.compile(r"failed|error|can't|unable|refused", re.IGNORECASE)
"""What stands on stderr of a command that found no jobs because it could not look."""
_DAMAGED = "some of HTCondor's answer cannot be read"
_OTHER_SCHEDD = ("-name", "-remote", "-pool", "-addr")
_OTHER_ANSWER = ("-interactive", "-dry-run", "-dump", "-verbose")


class HTCondor(BatchSystem):
    """HTCondor, by its bindings if they are installed, else by its commands.

    `HTCondorCommands` and `HTCondorBindings` leave no choice.
    """

    name: ClassVar[str] = "htcondor"
    title: ClassVar[str] = "HTCondor"
    programs: ClassVar[tuple[str, ...]] = ("condor_submit", "condor_q", "condor_history", "condor_rm")

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        self._ask = _Bindings() if self.by_bindings(environ) else _Commands()

    @classmethod
    def by_bindings(cls, environ: Mapping[str, str]) -> bool:
        """Whether the bindings are used: they are installed and find a configuration."""
        return find_spec("htcondor2") is not None and (
            bool(environ.get("CONDOR_CONFIG")) or any(map(os.path.exists, _CONFIGURATIONS))
        )

    @classmethod
    def missing(cls, environ: Mapping[str, str]) -> list[str]:
        """Return which commands are not on the PATH; none, if the bindings do without."""
        return [] if cls.by_bindings(environ) else super().missing(environ)

    # -- submitting

    def files(self, submission: Submission) -> dict[str, str]:
        """Return `job.sh` and the description."""
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
        """Return `condor_submit`, or what submits by the bindings: these know none of its options."""
        native = submission.needs.native
        return self._ask.submit() if not native else _Commands().submit(*_checked(native))

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Hand over the cluster."""
        answer = yield Call(argv=self.command(submission), cwd=str(submission.directory))
        return outcome(answer, submission.count)

    # -- asking

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask the queue, the history for those that left it, the factories for those that are not made yet."""
        said = dict.fromkeys(jobs, GONE)
        asked = {job for job in said if _ID.fullmatch(job)}
        if not asked:
            return said
        known = _Statuses()
        next_procs: dict[int, int] = {}
        spooled = []
        queue = _Objects((yield self._ask.queue(constraint(asked)[0], _QUEUE)))
        for ad in queue:
            job, cluster, following = _job(ad), ad.get("ClusterId"), ad.get("JobMaterializeNextProcId")
            if isinstance(following, int) and isinstance(cluster, int):
                next_procs[cluster] = following
            if job in asked:
                asked.remove(job)
                said[job] = known.in_queue(ad)
                if _is_spooled(ad):
                    spooled.append(job)
        to_come = {job for job in asked if _proc(job) >= next_procs.get(_cluster(job), sys.maxsize)}
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

    def _look_back(self, asked: set[JobId], said: dict[JobId, JobStatus], known: _Statuses) -> Steps[str]:
        """Take jobs out of `asked` that the history tells of; return why it may not have told of all, else nothing."""
        text, count = constraint(asked)
        answer = yield self._ask.history(text, _HISTORY, count)
        if _NO_HISTORY.search(answer.err):
            return ""
        try:
            history = _Objects(answer)
            for ad in history:
                if (job := _job(ad)) in asked:
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
        answer = yield self._ask.factories(_clusters(asked | to_come), _FACTORY)
        try:
            factories = _Objects(answer)
            by_cluster = {cluster: ad for ad in factories if isinstance(cluster := ad.get("ClusterId"), int)}
        except NoAnswer as trouble:
            asked |= to_come
            return str(trouble)
        for job in (*to_come, *asked):
            ad = by_cluster.get(_cluster(job))
            if ad is None:
                asked.add(job)
            elif job in to_come or _cluster(job) not in next_procs:
                said[job] = _of_factory(ad, _proc(job))
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
        runs = _runs({(_cluster(job), _proc(job)) for job in jobs if _ID.fullmatch(job)})
        terms = map(_removal, runs)
        while some := list(islice(terms, REMOVED_TERMS)):
            answer = yield self._ask.remove(" || ".join(some))
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
            ads = _Objects(answer)
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


class _Commands:
    """HTCondor's commands for what there is to ask."""

    def submit(self, *native: str) -> tuple[str, ...]:
        """Submit the description in the current directory; prints the range of its jobs."""
        return ("condor_submit", "-terse", *native, DESCRIPTION)

    def queue(self, text: str, attributes: Sequence[str], limit: int | None = None) -> Call:
        """Ask for jobs in the queue."""
        # Without -allusers those of ours are left out whose owner has another name there.
        few = () if limit is None else ("-limit", str(limit))
        words = ("condor_q", "-allusers", "-json", "-attributes", ",".join(attributes), *few)
        return Call(argv=(*words, "-constraint", text))

    def factories(self, text: str, attributes: Sequence[str]) -> Call:
        """Ask for clusters that still make jobs."""
        words = ("condor_q", "-allusers", "-factory", "-json", "-attributes", ",".join(attributes))
        return Call(argv=(*words, "-constraint", text))

    def history(self, text: str, attributes: Sequence[str], count: int | None) -> Call:
        """Ask for jobs that left the queue, `count` at most."""
        few = () if count is None else ("-match", str(count))
        words = ("condor_history", "-json", "-attributes", ",".join(attributes), *few, "-since", SINCE)
        return Call(argv=(*words, "-constraint", text))

    def remove(self, text: str) -> Call:
        """Remove jobs."""
        return Call(argv=("condor_rm", "-constraint", text))

    def settings(self, *names: str) -> Call:
        """Ask for settings, each of which is printed on a line."""
        return Call(argv=("condor_config_val", *names))

    def version(self) -> Call:
        """Ask for the version."""
        return Call(argv=("condor_version",))


class _Bindings(_Commands):
    """The same by the bindings, in a process of their own."""

    def submit(self, *native: str) -> tuple[str, ...]:
        """Submit the description in the current directory."""
        return _program("submit", DESCRIPTION)

    def queue(self, text: str, attributes: Sequence[str], limit: int | None = None) -> Call:
        """Ask for jobs in the queue."""
        return Call(argv=_program("queue", text, ",".join(attributes), "-1" if limit is None else str(limit)))

    def factories(self, text: str, attributes: Sequence[str]) -> Call:
        """Ask for clusters that still make jobs."""
        return Call(argv=_program("factories", text, ",".join(attributes)))

    def history(self, text: str, attributes: Sequence[str], count: int | None) -> Call:
        """Ask for jobs that left the queue."""
        return Call(argv=_program("history", text, ",".join(attributes), str(-1 if count is None else count), SINCE))

    def remove(self, text: str) -> Call:
        """Remove jobs."""
        return Call(argv=_program("remove", text))

    def settings(self, *names: str) -> Call:
        """Ask for settings."""
        return Call(argv=_program("settings", *names))

    def version(self) -> Call:
        """Ask for the version."""
        return Call(argv=_program("version"))


def _program(*words: str) -> tuple[str, ...]:
    # -P: what lies in the directory of the submission is not to be imported.
    return (sys.executable, "-P", "-m", "taskfarmer.batch.condor_calls", *words)


def _checked(native: Sequence[str]) -> Sequence[str]:
    """Return words for condor_submit.

    Raises:
        InputError: one would leave the other commands without the jobs, or us without an answer.
    """
    for word in native:
        short = word.startswith("-") and len(word) > 2
        if short and any(option.startswith(word) for option in _OTHER_SCHEDD):
            raise InputError(
                f"condor_submit {word} would submit where the other commands do not look",
                hint="set _CONDOR_SCHEDD_HOST or _CONDOR_COLLECTOR_HOST in the environment, which all of them heed",
            )
        if short and any(option.startswith(word) for option in _OTHER_ANSWER):
            raise InputError(f"condor_submit {word} cannot be used here", hint="run condor_submit yourself for that")
    return native


# -- answers -----------------------------------------------------------------------------------------------------------

_ID = re.compile(r"(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})", re.ASCII)


def outcome(answer: Answer, count: int) -> Outcome:
    """Return what came of a submission: its answer is `CLUSTER.FIRST - CLUSTER.LAST`."""
    if answer.never_ran:
        return Refused(answer.trouble)
    ranges = re.findall(r"^(\d+)\.(\d+) - (\d+)\.(\d+)$", answer.text, re.MULTILINE | re.ASCII)
    if answer.ok:
        match ranges:
            case [(cluster, "0", same, last)] if cluster == same and int(last) == count - 1:
                return Submitted(tuple(JobId(f"{cluster}.{proc}") for proc in range(count)))
        return Unsure(f"{answer.call.program} said what cannot be read: {answer.text[:200]!r}")
    why = _words(answer)
    words = re.sub(r"\S*/\S*", "", why)  # names of files say nothing about what went wrong
    if answer.status != 1 or ranges or _UNSURE.search(words):
        return Unsure(why)
    return Refused(why, again=bool(_AGAIN.search(words)))


def _words(answer: Answer) -> str:
    """Return what went wrong: the error itself, without the warnings before it."""
    said = " ".join(answer.err.split())
    return said[found:][:500] if (found := said.find("ERROR:")) >= 0 else answer.trouble


class _Objects:
    """The objects of a JSON list, one after the other. `damaged`: that some of it could not be read, else empty.

    HTCondor writes `[`, objects of one or many lines with lines of `,` between them, and `]`.

    Raises:
        NoAnswer: there was none, or it does not end.
    """

    def __init__(self, answer: Answer) -> None:
        if not answer.ok:
            raise NoAnswer(answer.trouble)
        self.damaged = ""
        self._answer = answer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        part: list[str] = []
        last = ""
        for line in self._answer.lines():
            if bare := line.strip():
                last = bare
                if bare in ("[", ",", "]"):
                    yield from self._read(part)
                    part.clear()
                else:
                    part.append(bare)
        yield from self._read(part)
        if last and not last.endswith("]"):
            raise NoAnswer(f"{self._answer.call.program} gave an answer that is none, or not the whole of it")
        if not last and _TROUBLE.search(self._answer.err):
            raise NoAnswer(self._answer.err.strip())

    def _read(self, part: Sequence[str]) -> Iterable[dict[str, Any]]:
        if not part:
            return ()
        try:
            value = json.loads("".join(part))
        except ValueError:
            self.damaged = _DAMAGED
            return ()
        values = value if isinstance(value, list) else [value]
        good = [one for one in values if isinstance(one, dict)]
        if len(good) < len(values):
            self.damaged = _DAMAGED
        return good


class _Statuses:
    """What ads say about jobs; the same statuses are the same objects, since there may be 100,000."""

    def __init__(self) -> None:
        self._made: dict[JobStatus, JobStatus] = {}

    def in_queue(self, ad: Mapping[str, Any]) -> JobStatus:
        """Return the status of a job in the queue."""
        status = _in_queue(ad)
        return self._made.setdefault(status, status)

    def in_history(self, ad: Mapping[str, Any]) -> JobStatus:
        """Return the status of a job that left the queue."""
        status = _in_history(ad)
        return self._made.setdefault(status, status)


def _in_queue(ad: Mapping[str, Any]) -> JobStatus:
    host = _host(ad, "RemoteHost")
    match ad.get("JobStatus"):
        case 1:
            return JobStatus(JobState.QUEUED)
        case 2:
            return JobStatus(JobState.RUNNING, host=host)
        case 3 if host:
            return JobStatus(JobState.RUNNING, reason=f"is being removed: {_text(ad, 'RemoveReason')}", host=host)
        case 3:
            return JobStatus(JobState.LOST, reason=_text(ad, "RemoveReason") or "removed")
        case 4:
            return _ended(ad, host)
        case 5:
            return _held(ad)
        case 6:
            return JobStatus(JobState.RUNNING, reason="transfers its output", host=host)
        case 7:
            return JobStatus(JobState.RUNNING, reason="suspended", host=host)
        case other:
            return JobStatus(JobState.UNKNOWN, reason=f"JobStatus {other}")


def _in_history(ad: Mapping[str, Any]) -> JobStatus:
    host = _host(ad, "LastRemoteHost")
    if ad.get("JobStatus") == 4:
        return _ended(ad, host)
    # The reason of a removal after the end of the walltime is but our own rule.
    if ad.get("LastHoldReasonCode") in TIME_IS_UP and (reason := _text(ad, "LastHoldReason")):
        return JobStatus(JobState.LOST, reason=reason, host=host)
    return JobStatus(JobState.LOST, reason=_text(ad, "RemoveReason") or "removed", host=host)


def _held(ad: Mapping[str, Any]) -> JobStatus:
    code, subcode = ad.get("HoldReasonCode"), ad.get("HoldReasonSubCode")
    reason = _text(ad, "HoldReason") or "held"
    if code in TIME_IS_UP:
        return JobStatus(JobState.LOST, reason=reason)
    if code == _SPOOLING:
        return JobStatus(JobState.QUEUED, reason=reason)
    return JobStatus(JobState.HELD, reason=f"{reason} (code {code}" + (f", {subcode})" if subcode else ")"))


def _ended(ad: Mapping[str, Any], host: str) -> JobStatus:
    """Return how a job ended; what has no exit status did not end well. spec: workflow 4.5"""
    if ad.get("ExitBySignal") is True and isinstance(number := ad.get("ExitSignal"), int):
        return JobStatus(JobState.ENDED, -number, host=host)
    for name in ("ExitCode", "ExitStatus"):
        if isinstance(code := ad.get(name), int):
            return JobStatus(JobState.ENDED, code & 0xFF, host=host)
    return JobStatus(JobState.ENDED, 1, "HTCondor has no exit status of it", host)


def _of_factory(ad: Mapping[str, Any], proc: int) -> JobStatus:
    """Return the status of an element that the factory of its cluster has not made yet."""
    total, paused = ad.get("TotalSubmitProcs"), ad.get("JobFactoryPaused", ad.get("JobMaterializePaused"))
    if isinstance(total, int) and proc >= total:
        return GONE
    if paused == _FACTORY_REMOVED:
        return JobStatus(JobState.LOST, reason="removed before it came into the queue")
    if paused == _FACTORY_HELD:
        return JobStatus(JobState.HELD, reason=_text(ad, "JobMaterializePauseReason") or "the cluster is held")
    return JobStatus(JobState.QUEUED)


def _is_spooled(ad: Mapping[str, Any]) -> bool:
    """Whether a job has ended and its output is still with the scheduler."""
    return ad.get("JobStatus") == 4 and bool(ad.get("StageInFinish")) and not ad.get("StageOutFinish")


def _text(ad: Mapping[str, Any], name: str) -> str:
    value = ad.get(name)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _host(ad: Mapping[str, Any], name: str) -> str:
    """Return the host of `slot1_2@host.domain`."""
    return _text(ad, name).rpartition("@")[2]


def _job(ad: Mapping[str, Any]) -> JobId:
    return JobId(f"{ad.get('ClusterId')}.{ad.get('ProcId')}")


def _cluster(job: JobId) -> int:
    return int(job.partition(".")[0])


def _proc(job: JobId) -> int:
    return int(job.partition(".")[2])


# -- constraints -------------------------------------------------------------------------------------------------------

_Run = tuple[int, int, int, int]
"""First and last cluster, first and last job of each: all of that rectangle."""


def constraint(jobs: Iterable[JobId]) -> tuple[str, int | None]:
    """Return a constraint on these jobs, and how many there can be at most; None: on others of taskfarmer's as well."""
    runs = _runs((_cluster(job), _proc(job)) for job in jobs)
    if len(runs) <= MOST_TERMS:
        return " || ".join(map(_term, runs)), sum((b - a + 1) * (d - c + 1) for a, b, c, d in runs)
    return f"{_span(runs)} && {ATTRIBUTE} isnt undefined", None


def _clusters(jobs: Iterable[JobId]) -> str:
    """Return a constraint on the clusters of these jobs, and perhaps on more clusters."""
    runs = _runs({(_cluster(job), 0) for job in jobs})
    return " || ".join(_between("ClusterId", a, b) for a, b, _, _ in runs) if len(runs) <= MOST_TERMS else _span(runs)


def _runs(jobs: Iterable[tuple[int, int]]) -> list[_Run]:
    """Return rectangles of clusters and processes that are these jobs, and no others."""
    runs: list[_Run] = []
    for cluster, proc in sorted(jobs):
        if runs:
            first, last, low, high = runs[-1]
            if first == last == cluster and proc == high + 1:
                runs[-1] = first, last, low, proc
                continue
            if cluster == last + 1 and low == high == proc:
                runs[-1] = first, cluster, low, high
                continue
        runs.append((cluster, cluster, proc, proc))
    return runs


def _term(run: _Run) -> str:
    first, last, low, high = run
    return f"({_between('ClusterId', first, last)} && {_between('ProcId', low, high)})"


def _removal(run: _Run) -> str:
    """Return a term on jobs, and on the factory that would make nothing but them from now on."""
    first, last, low, high = run
    factory = f"(ProcId is undefined && JobMaterializeNextProcId >= {low} && TotalSubmitProcs <= {high + 1})"
    return f"({_between('ClusterId', first, last)} && ({_between('ProcId', low, high)} || {factory}))"


def _span(runs: Sequence[_Run]) -> str:
    return _between("ClusterId", runs[0][0], max(last for _, last, _, _ in runs))


def _between(name: str, low: int, high: int) -> str:
    return f"{name} == {low}" if low == high else f"{name} >= {low} && {name} <= {high}"
