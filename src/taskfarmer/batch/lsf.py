"""IBM Spectrum LSF 10.1 and later: `bsub`, `bjobs -json`, `bkill`.

The script is handed to `bsub` on its standard input, so that LSF carries it to the node, and a node that does not see
the submission's directory can say so; the options are words of the command rather than `#BSUB` lines, since a word is
taken as it is, while LSF splits and unquotes lines by rules of its own. `command` shows what `bsub < job.sh` gets.

A job's two streams go to their file by the script's own doing: LSF would bring them at the end only, behind a report.

The unique name is the job's name; where the user gave one for people, it is the job's description (`-Jd`). `find` looks
at both. Jobs that ended are known for CLEAN_PERIOD, an hour by default, and `GONE` after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from .base import (
    GONE,
    MORE,
    BatchSystem,
    JobId,
    JobState,
    JobStatus,
    Limits,
    Needs,
    NoAnswer,
    Outcome,
    Submission,
    Submitted,
)
from .calls import HUNG, Answer, Call, Steps, about_jobs
from .script import job_script
from .words import (
    batched,
    beside,
    megabytes,
    minutes,
    option_words,
    own_output,
    people_name,
    refuse,
    refused_or_unsure,
    safe_name,
    spans,
)

STATES = {
    "PEND": JobState.QUEUED,
    "WAIT": JobState.QUEUED,  # a member of a chunk, on its host already
    "PROV": JobState.QUEUED,  # its host is being switched on
    "PSUSP": JobState.HELD,
    "RUN": JobState.RUNNING,
    "USUSP": JobState.RUNNING,
    "SSUSP": JobState.RUNNING,
    "DONE": JobState.ENDED,
    "EXIT": JobState.ENDED,  # or lost: see `_exited`
}
"""What `STAT` means; UNKWN and ZOMBI, whose host is silent, may live, as may what is not here."""
USED_MORE = frozenset("TERM_MEMLIMIT TERM_SWAP TERM_PROCESSLIMIT TERM_THREADLIMIT".split())
OWN_ENDS = USED_MORE | {"TERM_EXTERNAL_SIGNAL"}
"""Exit reasons that are the job's doing; after all others it is lost."""
SUBMITTED = re.compile(r"Job <(\d+)> is submitted")
REFUSED = re.compile(
    r"not submitted|illegal option|invalid option|requires an argument|^usage", re.IGNORECASE | re.MULTILINE
)
LATER = re.compile(
    r"threshold|limit (?:is |has been )?(?:reached|exceeded)|too many (?:jobs|processes)|busy|is down", re.IGNORECASE
)
NO_JOBS = re.compile(r"No (?:unfinished )?job found|is not found|No matching job found", re.IGNORECASE)
FORGIVEN = re.compile(
    r"already finished|No matching job|not found|in progress|being terminated|not started", re.IGNORECASE
)
DEFAULT_ARRAY_SIZE = 1000
"""MAX_JOB_ARRAY_SIZE where the administrator sets none."""
MOST_WORDS = 300
"""Job ids in one `bjobs`; above, all of the user's jobs are asked for."""
MOST_KILLED = 5000
"""Words in one `bkill`."""
MOST_SPANS = 100
"""Ranges of elements in one word."""
SILENCING = frozenset("BSUB_QUIET BSUB_QUIET2 BSUB_STDERR BSUB_BLOCK BSUB_CHK_RESREQ".split())
"""Variables that have `bsub` hide the job's id, wait for the job, or submit nothing."""
RENAMED = {"queue": "q", "job_slots": "n"}
"""Settings of b2luigi by LSF's names. spec: workflow 4.4"""
_WAITS = "it makes bsub wait for the job"
RESERVED = {
    "Jd": "the description has our own name for the jobs; --job-name is for people",
    "K": _WAITS, "I": _WAITS, "Ip": _WAITS, "Is": _WAITS, "IS": _WAITS, "ISp": _WAITS, "ISs": _WAITS,
    "pack": "it submits other jobs", "h": "nothing is submitted", "V": "nothing is submitted",
}  # fmt: skip
"""Options that would take jobs out of sight."""
BESIDE = ("-q", "-P", "-G", "-Lp", "-sla", "-U", "-m", "-W")
"""Options that say who pays, where a job may run and for how long. Not `-app` and `-R`, which also ask for memory,
slots or a host for itself."""
FIELDS = "jobid jobindex stat exit_code exit_reason exec_host pend_reason"


class Lsf(BatchSystem):
    """LSF."""

    name: ClassVar[str] = "lsf"
    title: ClassVar[str] = "LSF"
    programs: ClassVar[tuple[str, ...]] = ("bsub", "bjobs", "bkill")
    reads: ClassVar[str] = "job.sh"

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__({name: value for name, value in environ.items() if name not in SILENCING})

    # -- submitting

    def files(self, submission: Submission) -> dict[str, str]:
        """Return the script."""
        self.command(submission)  # which refuses what cannot be
        element = '"$LSB_JOBINDEX"' if submission.count > 1 else "1"
        header = own_output(submission, element)
        return {"job.sh": job_script(submission, header=header, element=element)}

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return `bsub` with its options; it reads `job.sh`."""
        return ("bsub", *option_words(_options(submission)), *submission.needs.native)

    def beside(self, needs: Needs) -> Needs:
        """Return queue, project, group and the like."""
        return beside(needs, BESIDE)

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Submit a job, or an array where there are several elements."""
        script = self.files(submission)["job.sh"].encode(errors="surrogateescape")
        answer = yield Call(argv=self.command(submission), stdin=script, cwd=str(submission.directory))
        return _outcome(answer, submission.count)

    # -- looking

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask once for all: by their ids where these are few, else for all of the user's jobs."""
        if not jobs:
            return {}
        ids = sorted({job.partition("[")[0] for job in jobs}, key=lambda id: (len(id), id))
        words = ids if len(ids) <= MOST_WORDS else []
        answer = yield about_jobs("bjobs", "-a", "-json", "-o", FIELDS, *words)
        said: dict[JobId, JobStatus] = {}
        asked, absent = frozenset(jobs), GONE
        for record in _answered(answer):
            if record is None:  # one that cannot be read may be any of them
                absent = JobStatus(JobState.UNKNOWN, reason="bjobs: a record that cannot be read")
            elif (job := job_id(record)) in asked and "STAT" in record:
                said[job] = status_of(record)
        return {job: said.get(job, absent) for job in jobs}

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Look at the names and descriptions of all of the user's jobs that LSF still knows."""
        answer = yield about_jobs("bjobs", "-a", "-json", "-o", "jobid jobindex job_name job_description")
        found = {}
        for record in _answered(answer):
            if record is None:
                raise NoAnswer("bjobs: a record that cannot be read")
            names = (str(record.get("JOB_NAME", "")).partition("[")[0], record.get("JOB_DESCRIPTION", ""))
            if name in names and (job := job_id(record)):
                found[int(job.partition("[")[2].rstrip("]") or 1)] = job
        return dict(sorted(found.items()))

    # -- acting

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """End the jobs: elements of an array as one word, as `7[1-3,5]`."""
        if not jobs:
            return
        arrays: dict[str, list[int]] = {}
        for job in jobs:
            id, _, index = job.partition("[")
            arrays.setdefault(id, []).extend([int(index.rstrip("]"))] if index else [])
        words = [word for id, indices in arrays.items() for word in _words(id, indices)]
        for some in batched(words, MOST_KILLED):
            answer = yield Call(argv=("bkill", *some))
            if (
                answer.never_ran
                or answer.status == HUNG
                or not (answer.ok or FORGIVEN.search(answer.err + answer.text))
            ):
                raise NoAnswer(answer.trouble)

    # -- the site

    def limits(self) -> Steps[Limits]:
        """Read MAX_JOB_ARRAY_SIZE."""
        answer = yield Call(argv=("bparams", "-a"))
        if match := re.search(r"\bMAX_JOB_ARRAY_SIZE\s*=\s*(\d+)", answer.text if answer.ok else ""):
            return Limits(elements=max(1, int(match[1])))
        return Limits(elements=DEFAULT_ARRAY_SIZE if answer.ok and "=" in answer.text else 1)

    def instance(self) -> Steps[str]:
        """Ask `lsid` for the cluster's name."""
        answer = yield Call(argv=("lsid",))
        if not (answer.ok or answer.never_ran):
            raise NoAnswer(answer.trouble)
        match = re.search(r"^My cluster name is (\S+)", answer.text, re.MULTILINE)
        return match[1] if match else ""

    def version(self) -> Steps[str]:
        """Ask `lsid`, whose first line tells it."""
        answer = yield Call(argv=("lsid",))
        first = next(answer.lines(), "") if answer.ok else ""
        match = re.search(r"(?:LSF|Platform).*?\d[\d.]*\d", first)
        return match[0] if match else ""


def _words(id: str, indices: list[int]) -> list[str]:
    """Return a job, or elements of an array, as words for `bkill`."""
    return [f"{id}[{','.join(some)}]" for some in batched(spans(indices), MOST_SPANS)] if indices else [id]


def _options(submission: Submission) -> dict[str, Any]:
    """Return the options of `bsub` by name; the user's own settings replace ours."""
    needs, asked = submission.needs, dict(submission.needs.settings)
    for theirs, ours in RENAMED.items():
        if theirs in asked:
            asked[ours] = asked.pop(theirs)
    asked = {key.lstrip("-"): value for key, value in asked.items()}
    refuse("LSF", needs, RESERVED)
    title = people_name("LSF", "J", needs, asked)
    options: dict[str, Any] = {"env": "all"}
    if needs.queue:
        options["q"] = needs.queue
    options.update(_size(submission))
    if needs.time_s is not None:
        options["W"] = minutes(needs.time_s)
        if needs.warn_s is not None and needs.warn_s < needs.time_s:
            options |= {"wa": "USR1", "wt": minutes(needs.warn_s)}
    if needs.account:
        options["P"] = needs.account
    if needs.requeue is not None:
        options["r" if needs.requeue else "rn"] = True
    options |= {"o": "/dev/null", "J": _job_name(submission, title)}
    if title:
        options["Jd"] = submission.name
    return options | asked


def _size(submission: Submission) -> dict[str, Any]:
    """Return options for CPUs, memory and GPUs. Units are given, since LSF_UNIT_FOR_LIMITS is another one at each site.

    LSF limits memory for each host of a job (with cgroups) and reserves it for each host, or for each slot where
    RESOURCE_RESERVE_PER_TASK is set: only then what is reserved is too much, by the number of slots.
    """
    needs, options, places = submission.needs, {}, []
    slots = needs.cpus * needs.nodes
    if slots > 1:
        options["n"] = str(slots)
        places.append("span[hosts=1]" if needs.nodes == 1 else f"span[ptile={needs.cpus}]")
    if needs.memory_bytes is not None:
        size = f"{megabytes(needs.memory_bytes)}MB"
        options["M"] = size
        places.append(f"rusage[mem={size}]")
    if places:
        options["R"] = " ".join(places)
    if needs.gpus:
        options["gpu"] = f"num={needs.gpus}"
    return options


def _job_name(submission: Submission, title: str) -> str:
    name = safe_name(title, 200) if title else submission.name
    if submission.count == 1:
        return name
    at_most = f"%{submission.at_most}" if submission.at_most else ""
    return f"{name}[1-{submission.count}]{at_most}"


def _outcome(answer: Answer, count: int) -> Outcome:
    """Say what became of a submission."""
    if match := SUBMITTED.search(answer.text):
        id = match[1]
        jobs = [f"{id}[{index}]" for index in range(1, count + 1)] if count > 1 else [id]
        return Submitted(tuple(JobId(job) for job in jobs))
    return refused_or_unsure(answer, f"{answer.err}\n{answer.text}", REFUSED, LATER)


def _answered(answer: Answer) -> Iterator[dict[str, Any] | None]:
    """Yield the records of an answer of `bjobs -json`; none: there are no such jobs.

    Raises:
        NoAnswer: it is no answer, or only part of one.
    """
    if answer.never_ran or answer.status == HUNG or answer.status < 0:
        raise NoAnswer(answer.trouble)
    any_json = False
    for record in records(answer.lines()):
        any_json = True
        if record == {}:
            break
        yield record
    if not any_json and not (NO_JOBS.search(answer.err) or NO_JOBS.search(answer.text)):
        raise NoAnswer(answer.trouble)


def records(lines: Iterable[str]) -> Iterator[dict[str, Any] | None]:
    """Yield the records of `bjobs -json`, one at a time, and an empty one behind the last; nothing: there is no JSON.

    None: a record that cannot be read, or that is missing of those that were announced. Lines before are passed over,
    such as "Cannot connect to LSF. Please wait ...".

    Raises:
        NoAnswer: it ends too early.
    """
    decode = json.JSONDecoder(strict=False).raw_decode
    announced = seen = 0
    inside = False
    parts: list[str] = []  # of a record whose end has not come
    for line in lines:
        if not inside:
            if match := re.search(r'"JOBS"\s*:\s*"?(\d+)', line):
                announced = int(match[1])
            if '"RECORDS"' not in line:
                continue
            inside, line = True, line.partition('"RECORDS"')[2].partition("[")[2]  # noqa: PLW2901
        if parts and "{" in line and line.lstrip().startswith("{"):
            yield None  # the one before has no end
            parts.clear()
        parts.append(line)
        if parts[0].lstrip(" ,\t").startswith("{") and "}" not in line:
            continue
        text = "".join(parts).lstrip(" ,\t")
        parts.clear()
        while text.startswith("{"):
            try:
                record, end = decode(text)
            except json.JSONDecodeError:
                parts.append(text)
                break
            seen += 1
            yield record or None
            text = text[end:].lstrip(" ,\t")
        if text.startswith("]"):
            if seen < announced:
                yield None
            yield {}
            return
    if inside:
        raise NoAnswer("bjobs: its answer ends too early")


def job_id(record: dict[str, Any]) -> JobId:
    """Return the id of a record: elements of arrays as `7[3]`, whichever way LSF says it."""
    id, index = record.get("JOBID", ""), record.get("JOBINDEX", "0")
    return JobId(str(id) if index in ("0", "", "-", 0) or "[" in str(id) else f"{id}[{index}]")


def status_of(record: dict[str, Any]) -> JobStatus:
    """Return what a record says."""

    def said(field: str) -> str:
        return " ".join(str(record.get(field, "")).split())

    stat = said("STAT")
    host = ",".join(dict.fromkeys(name.rpartition("*")[2] for name in said("EXEC_HOST").split(":")))
    state = STATES.get(stat, JobState.UNKNOWN)
    if stat == "DONE":
        return JobStatus(state, 0, host=host)
    if stat == "EXIT":
        return _exited(said("EXIT_CODE"), said("EXIT_REASON"), host)
    reason = said("PEND_REASON") if state in (JobState.QUEUED, JobState.HELD) else ""
    if state is JobState.UNKNOWN or (state is JobState.HELD and not reason):
        reason = stat
    return JobStatus(state, reason=reason, host=host)


def _exited(code: str, why: str, host: str) -> JobStatus:
    """Return how a job ended that did not end well.

    LSF has one number for an exit status above 128 and for a signal; where it says that there was one, that is told.
    """
    word = why.partition(":")[0].strip()
    status = int(code) if code.isdecimal() else 0
    if (word.startswith("TERM_") and word not in OWN_ENDS) or status == 0:
        return JobStatus(JobState.LOST, reason=why or "ended before it was started", host=host)
    if word in OWN_ENDS and 128 < status < 128 + 65:
        status = 128 - status
    return JobStatus(JobState.ENDED, status, reason=why, host=host, remedy=MORE if word in USED_MORE else "")
