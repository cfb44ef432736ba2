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

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final

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
from .calls import HUNG, Answer, Call, Steps, about_jobs
from .script import UNSEEN, job_script
from .words import plain

SCRIPT = "job.sh"
STATES: Final[Mapping[str, JobState]] = {
    "PENDING": JobState.QUEUED,
    "REQUEUED": JobState.QUEUED,
    "REQUEUE_FED": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "CONFIGURING": JobState.RUNNING,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "POWER_UP_NODE": JobState.RUNNING,
    "EXPEDITING": JobState.RUNNING,
    "UPDATE_DB": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "COMPLETED": JobState.ENDED,
    "FAILED": JobState.ENDED,
    "OUT_OF_MEMORY": JobState.ENDED,
    "BOOT_FAIL": JobState.LOST,
    "CANCELLED": JobState.LOST,
    "DEADLINE": JobState.LOST,
    "LAUNCH_FAILED": JobState.LOST,
    "NODE_FAIL": JobState.LOST,
    "PREEMPTED": JobState.LOST,
    "RECONFIG_FAIL": JobState.LOST,
    "REVOKED": JobState.LOST,
    "TIMEOUT": JobState.LOST,
}
"""All states of Slurm. spec: workflow 4.6"""
PRECEDENCE = (JobState.HELD, JobState.QUEUED, JobState.RUNNING, JobState.LOST, JobState.ENDED)
"""Of a state with flags, as newer versions print it (`FAILED,REQUEUED`), the first of these counts."""
_ASK_LESS = "ask for less (CPUs, nodes, memory, GPUs, time), or for another partition"
HELD_FOR: Final[Mapping[str, str]] = {
    "JobHeld": "",
    "JobHoldMaxRequeue": "",
    "launch failed requeued held": "",
    "job requeued in held state": "",
    "DependencyNeverSatisfied": "what it waits for will never be: leave the dependency out",
    "PartitionConfig": _ASK_LESS,
    "PartitionNodeLimit": _ASK_LESS,
    "PartitionTimeLimit": _ASK_LESS,
    "BadConstraints": _ASK_LESS,
}
"""How the reasons begin for which a pending job waits until somebody does something; what, if not to release it."""
MOST_IDS = 200
"""With more submissions than this `squeue` is asked for all jobs of the user: the argument would grow long."""
MOST_DEPARTED = 5000
"""With more, one `sacct` does not take them all; the others are asked for next time."""
DEFAULT_ARRAY = 1000
"""Elements of an array where the controller does not say: MaxArraySize is 1001 unless a site sets it."""

NO_OUTPUT = 4021 & 127
"""What slurmd's error number for this looks like as a signal."""

_ID = re.compile(r"(\d+)(?:_(\d+)|_\[([^\]]*)\]?|\+\d+)?")
_SUBMITTED = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S*)?")
_POLL = "JobArrayID:|,State:|,exit_code:|,Reason:|,BatchHost:|"
_FIND = "JobArrayID:|,State:|,BatchHost:|,Name:|,Comment:|,WorkDir:|"
_UNKNOWN_ID = "Invalid job id"
_BUSY = ("temporarily unable", "Resource temporarily unavailable", "Unable to contact", "Limit", "limit")
"""Words of refusals that may be none later."""
_IN_DOUBT = ("timed out", "Zero Bytes", "Connection reset", "Unexpected message", "Communication connection failure")
"""Words after which the controller may have taken the job: the message went out and the answer did not come in."""
_FORGIVEN = (_UNKNOWN_ID, "already completing or completed", "Job/step already")

_MISLEADING = re.compile("SQUEUE_|SACCT_|SCANCEL_|SBATCH_(ARRAY_INX|WAIT|CLUSTERS)$")
"""`SQUEUE_PARTITION`, say, would have all jobs elsewhere look as if they were gone."""

_SHORT = {
    "A": "account", "C": "constraint", "D": "chdir", "J": "job-name", "M": "clusters", "N": "nodes", "a": "array",
    "c": "cpus-per-task", "d": "dependency", "e": "error", "n": "ntasks", "o": "output", "p": "partition",
    "q": "qos", "t": "time", "V": "version", "W": "wait", "h": "help",
}  # fmt: skip
_OURS = ("array", "wrap", "clusters", "parsable", "test-only", "wait", "help", "usage", "version")
"""Options that taskfarmer gives, that would take the job out of its sight, or with which nothing is submitted."""
_INSTEAD = {
    "job-name": "give --job-name in front of the --, or the setting 'job-name'",
    "comment": "leave it out, or give the setting 'comment'",
}
_NAMES = tuple(_INSTEAD)
"""Options by which jobs are found: as words for `sbatch` they would take the place of ours."""
_TOGETHER = (
    {"mem", "mem-per-cpu", "mem-per-gpu"},
    {"nodes", "ntasks", "ntasks-per-node"},
    {"gpus-per-node", "gpus", "gpus-per-task", "gpus-per-socket", "gres"},
    {"requeue", "no-requeue"},
)
"""Options that say the same thing in several ways: whoever gives one of them replaces all of ours."""
_HANDED_ON = re.compile(
    "(HOME|USER|LOGNAME|SHELL|PATH|LANG|LC_[A-Z]+|TZ|KRB5CCNAME|MODULE(SHOME|PATH)|LMOD_(PKG|CMD|DIR))$"
    "|SLURM_(?!GET_USER_ENV$)|(SBATCH|SPANK)_"
)
"""What jobs get of the environment: who submits, where programs and modules are, and what Slurm's commands want."""
_PREAMBLE = (
    # What a site's or a user's --export=NONE would otherwise do to `srun` within the job, and a login without a PATH.
    "SLURM_EXPORT_ENV=ALL; export SLURM_EXPORT_ENV",
    'PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"; export PATH',
    # srun does not take it from sbatch any more since 22.05.
    'if [ -n "${SLURM_CPUS_PER_TASK-}" ]; then SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; export SRUN_CPUS_PER_TASK; fi',
)


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
        check(submission)
        element = "${SLURM_ARRAY_TASK_ID}" if submission.count > 1 else "1"
        header = [*directives(submission.needs), *_PREAMBLE]
        return {SCRIPT: job_script(submission, header=header, element=element)}

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return `sbatch` with all that taskfarmer asks for; settings are lines of the script.

        On the command line, since variables of the user's or the site's (`SBATCH_ACCOUNT`) go above the script.
        """
        settings = canonical(submission.needs.settings)
        words = ["sbatch", "--parsable", *naming(submission, settings)]
        if "output" not in settings:
            words.append(f"--output={output_pattern(submission)}")
        if submission.count > 1:
            rest = f"%{submission.at_most}" if submission.at_most else ""
            words.append(f"--array=1-{submission.count}{rest}")
        return (*words, *wanted(submission.needs), *submission.needs.native, SCRIPT)

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Call `sbatch`."""
        environ = None if self._exports(submission) else handed_on(self.environ)
        answer = yield Call(argv=self.command(submission), cwd=str(submission.directory), environ=environ)
        return submitted(answer, submission.count)

    def _exports(self, submission: Submission) -> bool:
        """Whether somebody has said what jobs get of the environment: the user, or the site."""
        words = (word.partition("=")[0] for word in submission.needs.native)
        asked = any(len(word) > len("--ex") and "--export".startswith(word) for word in words)
        return asked or "export" in canonical(submission.needs.settings) or "SBATCH_EXPORT" in self.environ

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask `squeue` for all, and `sacct` for those that it does not know."""
        if not jobs:
            return {}
        arrays = {job.partition("_")[0] for job in jobs}
        which = ("-j", ",".join(sorted(arrays))) if len(arrays) <= MOST_IDS else ()
        answer = yield about_jobs("squeue", "--me", "-h", "-a", "-r", "-t", "all", "-O", _POLL, *which)
        said, clear = read(answered(answer), jobs, from_squeue)
        departed = [job for job in jobs if job not in said]
        if departed and clear:
            said |= yield from self._departed(departed)
        unreadable = JobStatus(JobState.UNKNOWN, reason="squeue's answer cannot be read")
        return {job: said.get(job, GONE if clear else unreadable) for job in jobs}

    def _departed(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Say what accounting knows of jobs that have left the queue; nothing where there is no accounting."""
        arrays = sorted({job.partition("_")[0] for job in jobs if job.partition("_")[0].isdecimal()})
        if not arrays:
            return {}
        fields = "--format=JobID,State,ExitCode,NodeList"
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
        complaints = [line for line in answer.err.splitlines() if line.strip()]
        forgiven = complaints and all(any(word in line for word in _FORGIVEN) for line in complaints)
        if not answer.ok and not (answer.status > 0 and forgiven):
            raise NoAnswer(answer.trouble)

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Look for the name among the user's jobs: as job name, in the comment, or as working directory.

        What no node can have is refused, and stands in the queue as a job that failed; it is none.
        """
        answer = answered((yield about_jobs("squeue", "--me", "-h", "-a", "-r", "-t", "all", "-O", _FIND)))
        if found := named(answer, name):
            return found
        fields = "--format=JobID,State,NodeList,JobName,Comment,WorkDir"
        answer = yield about_jobs("sacct", "-n", "-P", "-X", "-S", "now-7days", fields)
        if answer.never_ran or (answer.status == 1 and "accounting storage is disabled" in answer.err):
            return {}
        return named(answered(answer), name)

    def limits(self) -> Steps[Limits]:
        """Read them from the controller's configuration."""
        answer = yield Call(argv=("scontrol", "show", "config"))
        return limits_of(answer.text if answer.ok else "")

    def instance(self) -> Steps[str]:
        """Read the cluster's name from the controller's configuration."""
        answer = answered((yield Call(argv=("scontrol", "show", "config"))))
        match = re.search(r"^ClusterName\s*=\s*(\S+)\s*$", answer.text, re.MULTILINE)
        return match[1] if match else ""

    def version(self) -> Steps[str]:
        """Ask `sbatch`."""
        answer = yield Call(argv=("sbatch", "--version"))
        said = answer.text.strip()
        return said if answer.ok and re.fullmatch(r"slurm\S* \S+", said) else ""


# -- submitting


def check(submission: Submission) -> None:
    """Refuse what Slurm cannot do, or what would take its jobs out of our sight.

    Raises:
        InputError: in one line, with the remedy.
    """
    if "\\" in submission.output:
        raise InputError(f"Slurm cannot write to a path with a backslash: {submission.output}", hint="rename it")
    given = canonical(submission.needs.settings)
    for name in _OURS:
        if name in given:
            raise InputError(f"slurm setting {name!r}: it is taskfarmer that says this", hint="leave it out")
    for key, value in given.items():
        plain(f"the slurm setting {key!r}", f"{key}{value}")
    if ":" in submission.needs.native:
        raise InputError(
            "native option ':' would make several jobs of different kind of one", hint="submit one kind after the other"
        )
    for word in submission.needs.native:
        if (name := option(word)) in _OURS:
            raise InputError(f"native option {word!r}: it is taskfarmer that says this", hint="leave it out")
        if name in _NAMES:
            raise InputError(f"native option {word!r} would hide the job", hint=_INSTEAD[name])


def option(word: str) -> str:
    """Return which of the options that we care for a word on the command line is; options may be abbreviated."""
    if word.startswith("--"):
        name = word[2:].partition("=")[0]
        return next((ours for ours in (*_OURS, *_NAMES) if len(name) > 2 and ours.startswith(name)), "")
    return _SHORT.get(word[1], "") if re.match("-[A-Za-z]", word) else ""


def canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their long names: `p` is `partition`, and dashes in front say nothing."""
    names = ((key.lstrip("-"), value) for key, value in settings.items())
    return {_SHORT.get(key, key): value for key, value in names}


def handed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what `sbatch` gets of the environment, and so the jobs: they are not to hang on what a shell had loaded,
    and those of a keeper elsewhere are to be like those from the shell.
    """
    return {name: value for name, value in environ.items() if _HANDED_ON.match(name)}


def naming(submission: Submission, settings: Mapping[str, Any]) -> list[str]:
    """Return the options by which people and `find` know the job; our name goes to the comment if people have one."""
    ours = submission.name
    for_people = str(settings.get("job-name") or submission.needs.job_name)
    comment = str(settings.get("comment") or "")
    if not for_people:
        return [f"--job-name={ours}", *([f"--comment={comment}"] if comment else [])]
    return [f"--job-name={for_people}", f"--comment={ours} {comment}".rstrip()]


def output_pattern(submission: Submission) -> str:
    """Return the output file as Slurm writes patterns."""
    number = "%a" if submission.count > 1 else "1"
    return submission.output.replace("%", "%%").replace("{element}", number)


def directives(needs: Needs) -> list[str]:
    """Return the `#SBATCH` lines: what is always wanted, and the settings, which are Slurm's own words.

    `--export=ALL`: of the little that `sbatch` has (`handed_on`). With NONE, or names, the node would make a login
    environment for each job, which takes seconds where profiles are long, and holds jobs where `su` is forbidden; NIL
    does without, but only since Slurm 23.
    """
    options = {"export": "ALL", "open-mode": "append"} | canonical(needs.settings)
    return [directive(key, value) for key, value in options.items() if key not in _NAMES and value is not False]


def wanted(needs: Needs) -> list[str]:
    """Return the options for what a job needs, without those that the settings replace."""
    given = set(canonical(needs.settings))
    replaced = given.union(*(group for group in _TOGETHER if group & given))
    options = ((key, value) for key, value in options_of(needs).items() if key not in replaced)
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in options]


def options_of(needs: Needs) -> dict[str, Any]:
    """Return the options that ask for what a job needs; True: without a value."""
    options: dict[str, Any] = {
        "partition": needs.queue or None,
        "account": needs.account or None,
        "time": minutes(needs.time_s),
        "time-min": minutes(needs.time_min_s),
        "mem": f"{math.ceil(needs.memory_bytes / 2**20)}M" if needs.memory_bytes else None,
        "cpus-per-task": needs.cpus if needs.cpus > 1 else None,
        "gpus-per-node": needs.gpus or None,
        "signal": f"B:USR1@{math.ceil(needs.warn_s)}" if needs.warn_s else None,
    }
    if needs.nodes > 1:
        options |= {"nodes": needs.nodes, "ntasks-per-node": 1}
    if needs.requeue is not None:
        options["requeue" if needs.requeue else "no-requeue"] = True
    return {key: value for key, value in options.items() if value is not None}


def minutes(seconds: float | None) -> str | None:
    """Return a time as `hours:minutes:seconds`; Slurm rounds it up to minutes."""
    if seconds is None:
        return None
    whole = max(1, math.ceil(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def directive(key: str, value: object) -> str:
    """Return a line for the head of the script; sbatch reads words of it much as a shell does."""
    dashes = "-" if len(key) == 1 else "--"
    if value is None or value is True:
        return f"#SBATCH {dashes}{key}"
    text = re.sub(r"""([\s\\"'#])""", r"\\\1", str(value))
    return f"#SBATCH {dashes}{key}{' ' if len(key) == 1 else '='}{text}"


def submitted(answer: Answer, count: int) -> Outcome:
    """Return what an answer of `sbatch` means."""
    said = " ".join(answer.err.split())
    if answer.never_ran:
        return Refused(answer.trouble)
    if answer.ok:
        ids = [match[1] for line in answer.lines() if (match := _SUBMITTED.fullmatch(line.strip()))]
        if not ids or not answer.is_whole:
            return Unsure(f"sbatch gave no job id: {said or answer.text.strip()[:200]!r}")
        return Submitted(tuple(JobId(f"{ids[-1]}_{n}" if count > 1 else ids[-1]) for n in range(1, count + 1)))
    if answer.status < 0 or not said or answer.status == HUNG or any(word in said for word in _IN_DOUBT):
        return Unsure(answer.trouble)
    return Refused(said.replace("sbatch: error: ", ""), again=any(word in said for word in _BUSY))


# -- reading answers


def answered(answer: Answer) -> Answer:
    """Return an answer that is one. That a single id is not known is an answer, although `squeue` calls it an error.

    Raises:
        NoAnswer: it is none.
    """
    unknown = answer.status == 1 and _UNKNOWN_ID in answer.err
    if not (answer.ok or unknown) or not answer.is_whole:
        raise NoAnswer(answer.trouble)
    return answer


def read(answer: Answer, jobs: Collection[JobId], parse: Any) -> tuple[dict[JobId, JobStatus], bool]:
    """Return what is said of the jobs, and whether each line could be read, be it about them or not.

    One that stands for several elements (`77_[1-9%3]`) counts for those that have no line of their own.
    """
    asked = frozenset(jobs)
    said: dict[JobId, JobStatus] = {}
    clear = True
    for line in answer.lines():
        id, bar, rest = line.partition("|")
        if id in asked:
            said[JobId(id)] = parse(rest)
        elif not (bar and _ID.fullmatch(id)):
            clear = clear and (not line.strip() or line.startswith("CLUSTER:"))
        elif "[" in id:
            for job in unsplit(id, asked):
                said.setdefault(job, parse(rest))
    return said, clear


def unsplit(id: str, asked: Collection[JobId]) -> Iterator[JobId]:
    """Yield those of the jobs that `77_[1-3,5%2]` stands for."""
    array, _, expression = id.rstrip("]").partition("_[")
    elements = numbers(expression)
    start = f"{array}_"
    ours = (job for job in asked if job.startswith(start) and job.removeprefix(start).isdecimal())
    return (job for job in ours if int(job.removeprefix(start)) in elements)


@lru_cache(maxsize=64)
def numbers(expression: str) -> frozenset[int]:
    """Return the elements of `1-3,5,10-20:5%2`; what was cut off (`1,3,...`) is not among them."""
    found: set[int] = set()
    for part in expression.partition("%")[0].split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first, last, step = match.groups()
            found.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return frozenset(found)


@lru_cache(maxsize=4096)
def from_squeue(rest: str) -> JobStatus:
    """Return what a line of `squeue` says behind the id: state, wait status, reason, host."""
    state, *more = rest.split("|")
    if len(more) < 3:
        return JobStatus(JobState.UNKNOWN, reason=rest)
    return status_of(state, more[0], reason=meant(more[1]), host=meant(more[2]))


@lru_cache(maxsize=4096)
def from_sacct(rest: str) -> JobStatus:
    """Return what a line of `sacct` says behind the id: state, exit code, nodes."""
    state, *more = rest.split("|")
    if len(more) < 2:
        return JobStatus(JobState.UNKNOWN, reason=rest)
    return status_of(state, more[0], host=meant(more[1]))


def meant(word: str) -> str:
    """Return a word of Slurm's, or nothing where it means nothing."""
    word = word.strip("() ")
    return "" if word in ("None", "null", "n/a", "None assigned", "N/A") else word


def status_of(said: str, code: str, *, reason: str = "", host: str = "") -> JobStatus:
    """Return the status for a state as Slurm prints it, cut (`OUT_OF_ME+`), with flags, or `CANCELLED by 0`."""
    states = [state_of(word) for word in said.partition(" ")[0].split(",")]
    state = min((state for state in states if state in PRECEDENCE), key=PRECEDENCE.index, default=JobState.UNKNOWN)
    if state is JobState.UNKNOWN:
        return JobStatus(state, reason=said, host=host)
    if state is JobState.QUEUED and (why := next(filter(reason.startswith, HELD_FOR), None)):
        return JobStatus(JobState.HELD, None, reason, host, HELD_FOR[why])
    if state is JobState.ENDED:
        return never_began(said, reason) if is_impossible(said, host) else ended(said, code, reason, host)
    word = "" if said == "RUNNING" else said
    return JobStatus(state, None, said if state.is_over else reason or word, host)


def is_impossible(said: str, host: str) -> bool:
    """Whether Slurm made a job fail that never was on a node: none can have what it asks for (`BadConstraints`)."""
    return said == "FAILED" and not host


def never_began(said: str, reason: str) -> JobStatus:
    """Return the status of such a job; the exit status that Slurm has for it is nobody's. `sacct` gives no reason."""
    return JobStatus(JobState.LOST, None, reason or f"{said} before it began", remedy=HELD_FOR.get(reason, _ASK_LESS))


def ended(said: str, code: str, reason: str, host: str) -> JobStatus:
    """Return how a job ended that was not ended by Slurm. Where its script could not be started, an error number of
    slurmd stands for the wait status: 4021 (`0:53` or `15:53`) if its output file could not be opened on the node.
    """
    exited, number = exit_code(code) or (0, 0)
    if number == NO_OUTPUT:
        return JobStatus(JobState.ENDED, UNSEEN, "the node could not open the job's output file", host)
    if exited and number:
        return JobStatus(JobState.LOST, None, reason or said, host)
    status = exit_status(code, failed=not said.startswith("COMPLETED"))
    return JobStatus(JobState.ENDED, status, said if said.startswith("OUT") else reason, host)


@lru_cache(maxsize=256)
def state_of(word: str) -> JobState:
    """Return the state for a word, which may have been cut to ten characters with a `+` at the end."""
    if word in STATES:
        return STATES[word]
    start = word.removesuffix("+")
    known = {state for name, state in STATES.items() if start != word and len(start) > 3 and name.startswith(start)}
    return known.pop() if len(known) == 1 else JobState.UNKNOWN


def exit_status(code: str, *, failed: bool) -> int | None:
    """Return 0..255 or minus a signal for `3:0`, `0:9`, or a wait status such as 768; None: it does not say.

    Slurm has 125 for the signal of what ran out of memory, which was killed with SIGKILL.
    """
    if (parts := exit_code(code)) is None:
        return None
    exited, number = parts
    status = -(9 if number == 125 else number) if number else exited & 255
    return None if failed and status == 0 else status


def exit_code(code: str) -> tuple[int, int] | None:
    """Return exit status and signal."""
    if match := re.fullmatch(r"(\d+):(\d+)", code):
        return int(match[1]), int(match[2])
    return (int(code) >> 8, int(code) & 127) if code.isdecimal() else None


def named(answer: Answer, name: str) -> dict[int, JobId]:
    """Return by element the jobs on whose lines a name stands.

    Raises:
        NoAnswer: there is what cannot be read, and no job of that name.
    """
    word = re.compile(rf"(?<![0-9A-Za-z]){re.escape(name)}(?![0-9A-Za-z])")
    found: dict[int, JobId] = {}
    unreadable = ""
    for match, rest in jobs_in(answer):
        if match is None:
            unreadable = rest
            continue
        said, _, texts = rest.partition("|")
        host, _, texts = texts.partition("|")
        if word.search(texts) and not is_impossible(said, meant(host)):
            array, element, several = match.groups()
            if several is not None:
                found |= {n: JobId(f"{array}_{n}") for n in numbers(several)}
            else:
                found[int(element or 1)] = JobId(match[0])
    if unreadable and not found:
        raise NoAnswer(f"{answer.call.program} said what cannot be read: {unreadable[:200]!r}")
    return found


def jobs_in(answer: Answer) -> Iterator[tuple[re.Match[str] | None, str]]:
    """Yield each job's id and what is said of it; None and the line for what stands before the first of them.

    Names of jobs and of directories may have line breaks in them: then a job has several lines, and the others do not
    begin with an id.
    """
    match: re.Match[str] | None = None
    said: list[str] = []
    for line in answer.lines():
        id, bar, rest = line.partition("|")
        if bar and (next_one := _ID.fullmatch(id)):
            if match:
                yield match, "\n".join(said)
            match, said = next_one, [rest]
        elif match:
            said.append(line)
        elif line.strip() and not line.startswith("CLUSTER:"):
            yield None, line
    if match:
        yield match, "\n".join(said)


def limits_of(config: str) -> Limits:
    """Return the limits in `scontrol show config`; indices must be below MaxArraySize, and ours begin with 1."""
    said = dict(re.findall(r"^(MaxArraySize|MaxJobCount)\s*=\s*(\d+)\s*$", config, re.MULTILINE))
    elements = int(said["MaxArraySize"]) - 1 if "MaxArraySize" in said else DEFAULT_ARRAY
    if tasks := re.search(r"^SchedulerParameters\s*=.*\bmax_array_tasks=(\d+)", config, re.MULTILINE):
        elements = min(elements, int(tasks[1]))
    jobs = int(said["MaxJobCount"]) if "MaxJobCount" in said else None
    return Limits(elements=max(1, elements), jobs=jobs)


def condensed(jobs: Iterable[JobId]) -> list[str]:
    """Return words for `scancel`, elements of an array together: `5`, `77_[1-3,8]`; what is no id is left out."""
    arrays: dict[str, list[int]] = {}
    words = []
    for job in jobs:
        match = _ID.fullmatch(job)
        if match and match[2]:
            arrays.setdefault(match[1], []).append(int(match[2]))
        elif match and job == match[1]:
            words.append(job)
    return words + [f"{array}_[{ranges(elements)}]" for array, elements in arrays.items()]


def ranges(elements: Iterable[int]) -> str:
    """Return numbers as `1-3,8`."""
    parts: list[list[int]] = []
    for number in sorted(set(elements)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in parts)
