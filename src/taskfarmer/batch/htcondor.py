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
import math
import os
import posixpath
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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
    Needs,
    NoAnswer,
    Outcome,
    Refused,
    Submission,
    Submitted,
    Unsure,
)
from .calls import Answer, Call, Steps
from .script import job_script
from .words import megabytes

ATTRIBUTE = "TaskfarmerSubmission"
"""The attribute of its jobs that has the name of a submission."""
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

_LOGIN = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")
_SPOOLING = 16
_TIME_IS_UP = (46, 47)
"""HoldReasonCode of a job that exceeded `allowed_job_duration` or `allowed_execute_duration`."""
_FACTORY_HELD, _FACTORY_REMOVED = 1, 3

# What condor_submit and the bindings say of a submission that came to nothing for certain is all else.
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
        self._ask = _Bindings() if self.by_bindings() else _Commands()

    @classmethod
    def by_bindings(cls) -> bool:
        """Whether the bindings are used."""
        return find_spec("htcondor2") is not None

    @classmethod
    def missing(cls, environ: Mapping[str, str]) -> list[str]:
        """Return which commands are not on the PATH; none, if the bindings do without and find a configuration."""
        missing = super().missing(environ)
        configured = environ.get("CONDOR_CONFIG") or os.path.exists("/etc/condor/condor_config")
        return [] if missing and configured and cls.by_bindings() else missing

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
    def by_bindings(cls) -> bool:
        """Never."""
        return False


class HTCondorBindings(HTCondor):
    """HTCondor by its bindings, which must be there."""

    @classmethod
    def by_bindings(cls) -> bool:
        """Whether they are installed.

        Raises:
            InputError: they are not.
        """
        if not super().by_bindings():
            raise InputError("the bindings of HTCondor are not installed", hint="pip install htcondor")
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


# -- the submit description --------------------------------------------------------------------------------------------


def description(submission: Submission, environ: Mapping[str, str]) -> str:
    """Return the text of the submit description, in which who submits has `environ`.

    Raises:
        InputError: something cannot be said in one, or HTCondor cannot do it.
    """
    settings = {key: value_text(key, value) for key, value in submission.needs.settings.items()}
    given = {_canonical(key) for key in settings}
    if taken := sorted(given & _OURS.keys()):
        raise InputError(f"the setting {_OURS[taken[0]]} of HTCondor is taskfarmer's own", hint="leave it out")
    ours = (*_lines(submission), *_login(submission.needs, environ))
    lines = [(key, text) for key, text in ours if _canonical(key) not in given]
    queue = "queue 1" if submission.count == 1 else f"queue {submission.count}"
    return "\n".join([*(f"{key} = {text}" for key, text in (*lines, *settings.items())), queue, ""])


_OURS = {
    "executable": "executable", "arguments": "arguments", "args": "args", "queue": "queue",
    ATTRIBUTE.lower(): ATTRIBUTE,
}  # fmt: skip
_KEY = re.compile(r"(\+|[Mm][Yy]\.)?[A-Za-z_][A-Za-z0-9_.]*")


def _canonical(key: str) -> str:
    """Return what spellings of a key have in common: `request_memory`, `RequestMemory`; `+X`, `MY.X`."""
    bare = key.lower().removeprefix("+").removeprefix("my.").replace("_", "")
    return {"batchname": "jobbatchname", "acctgroup": "accountinggroup"}.get(bare, bare)


def _lines(submission: Submission) -> Iterator[tuple[str, str]]:
    """Yield what the description says, if the settings do not say otherwise. spec: workflow 4.5"""
    needs, directory = submission.needs, str(submission.directory)
    if needs.nodes != 1:
        raise InputError("a job of HTCondor has one node", hint="ask for more jobs instead of for more nodes")
    output = literal("output", submission.output).replace("{element}", "$INT(taskfarmer_element)")
    if "{element}" in submission.output:
        yield "taskfarmer_element", "$(Process) + 1"
    yield "output", output
    yield "error", output
    yield "log", literal("log", f"{directory}/job.log")
    yield "executable", literal("executable", f"{directory}/job.sh")
    yield "arguments", "$(Process)"
    yield f"My.{ATTRIBUTE}", f'"{submission.name}"'
    if submission.at_most is not None:
        yield "max_materialize", str(submission.at_most)
    if needs.job_name:
        yield "JobBatchName", literal("the job's name", needs.job_name)
    yield from _resources(needs)
    yield from _time(needs)
    if needs.transfer_files:
        yield "should_transfer_files", "YES"
        yield "when_to_transfer_output", "ON_EXIT"
        yield "transfer_input_files", transfer_list(needs)


def _login(needs: Needs, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what a login would set, and many programs look for: HTCondor gives a job nothing of the kind."""
    found = {name: environ[name] for name in _LOGIN if environ.get(name)}
    if found and not needs.transfer_files:  # for where the same directories are seen
        with suppress(InputError):
            yield "environment", environment(found)


def _resources(needs: Needs) -> Iterator[tuple[str, str]]:
    if needs.cpus != 1:
        yield "request_cpus", str(needs.cpus)
    if needs.memory_bytes is not None:
        yield "request_memory", str(megabytes(needs.memory_bytes))
    if needs.gpus:
        yield "request_gpus", str(needs.gpus)
    if needs.account:
        yield "accounting_group", literal("the account", needs.account)
    if needs.queue:
        yield "+JobFlavour", classad_string(needs.queue)


def _time(needs: Needs) -> Iterator[tuple[str, str]]:
    """Yield the walltime: HTCondor's own, which puts jobs on hold, from which they are removed, and that of CERN.

    With a warning it ends by so much earlier, when the job is told by the signal and given that time to leave.
    """
    remove = []
    if needs.time_s is not None:
        warn_s = min(needs.warn_s or 0.0, needs.time_s)
        yield "allowed_job_duration", str(max(1, math.ceil(needs.time_s - warn_s)))
        yield "+MaxRuntime", str(math.ceil(needs.time_s))
        remove.append(" || ".join(f"HoldReasonCode == {code}" for code in _TIME_IS_UP))
    if needs.warn_s is not None:
        yield "kill_sig", "SIGUSR1"
        yield "job_max_vacate_time", str(math.ceil(needs.warn_s))
    if needs.requeue is False:
        yield "requirements", "NumJobStarts == 0"
        remove.append("JobStatus == 1 && NumJobStarts > 0")
    if remove:
        yield "periodic_remove", " || ".join(remove)


def transfer_list(needs: Needs) -> str:
    """Return the files to transfer, each once, in their order, and the script to source. spec: workflow 4.5

    Raises:
        InputError: one is not absolute, not normalised, or has a comma in its name.
    """
    files = list(dict.fromkeys([*needs.transfer_files, *([needs.env_script] if needs.env_script else [])]))
    for file in files:
        if not file.startswith("/") or posixpath.normpath(file) != file:
            raise InputError(f"{file!r} in transfer_files is no absolute, normalised path", hint="give it in full")
        if "," in file:
            raise InputError(f"HTCondor cannot transfer {file!r}, for the comma in its name", hint="rename it")
    return ", ".join(literal("transfer_files", file) for file in files)


def literal(what: str, text: str) -> str:
    """Return how the description says a text as it is; `what` names it.

    Raises:
        InputError: it cannot.
    """
    if text != text.strip() or re.search(r"[\0-\x1f\x7f]", text) or text.endswith("\\") or "$$" in text:
        raise InputError(
            f"HTCondor cannot take {what} {text!r}",
            hint="no spaces or backslash at its ends, no control characters, no $$",
        )
    return text.replace("$", "$(DOLLAR)")


def classad_string(text: str) -> str:
    """Return a string of a ClassAd, in quotes, for attributes: `+JobFlavour = "longlunch"`."""
    return '"' + literal("the text", text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def environment(variables: Mapping[str, str]) -> str:
    """Return the value of `environment`: in double quotes, doubled within, and words with spaces in single ones.

    Raises:
        InputError: a name or a value has what HTCondor cannot say.
    """
    words = []
    for name, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise InputError(f"{name!r} is no name of an environment variable")
        if re.search(r"[\0\n\r]", value) or "$$" in value:
            raise InputError(f"HTCondor cannot set {name} to {value!r}", hint="set it by `env`")
        quoted = "'" + value.replace("'", "''").replace('"', '""').replace("$", "$(DOLLAR)") + "'"
        words.append(f"{name}={quoted}")
    return f'"{" ".join(words)}"'


def value_text(key: str, value: object) -> str:
    """Return how a setting's value is written: as `str` does, nothing for None; for `environment` also from a mapping.

    Raises:
        InputError: the key is none, or the value has several lines.
    """
    if not _KEY.fullmatch(key):
        raise InputError(f"{key!r} is no setting of HTCondor")
    if isinstance(value, Mapping) and _canonical(key) == "environment":
        return environment(value)
    text = "" if value is None else str(value)
    if re.search(r"[\0\n\r]", text) or text.endswith("\\"):
        raise InputError(f"the setting {key} of HTCondor must be one line: {text!r}")
    return text


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
    if answer.status != 1 or ranges or _UNSURE.search(why):
        return Unsure(why)
    return Refused(why, again=bool(_AGAIN.search(why)))


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
    if ad.get("LastHoldReasonCode") in _TIME_IS_UP and (reason := _text(ad, "LastHoldReason")):
        return JobStatus(JobState.LOST, reason=reason, host=host)
    return JobStatus(JobState.LOST, reason=_text(ad, "RemoveReason") or "removed", host=host)


def _held(ad: Mapping[str, Any]) -> JobStatus:
    code, subcode = ad.get("HoldReasonCode"), ad.get("HoldReasonSubCode")
    reason = _text(ad, "HoldReason") or "held"
    if code in _TIME_IS_UP:
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
