"""Grid Engine (Sun, Son of, Open, Univa, Altair): `qsub -t`, `qstat -xml`, `qacct`, `qdel`.

The unique name is the job's name, or ends it where the user gave one for people.

`qstat` forgets a job as soon as it ends. How it ended is in the accounting file: `qacct` reads it, where a submitting
host sees it at all, and up to 15 seconds later by default; of a job that was deleted while it waited it says nothing,
ever. So a job that left the queue is `GONE` if there is no record of it: what it left behind must tell.

Killed by itself or by `qdel`: the records are the same. So the script runs itself once more as its own child: a job
whose child was killed ended by itself, one whose script was killed has been ended. Exit statuses 99 (start anew) and
100 (put into the error state) mean something to Grid Engine: they are told as 1, but for the 99 of a job that may run
again.

What `qdel -f` takes out of the queue has a record as if it had ended well, in which it used nothing at all: no process
ends without a single page fault, so that one has been ended.
"""

from __future__ import annotations

import math
import re
from codecs import getincrementaldecoder
from collections.abc import Collection, Iterator
from functools import lru_cache
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
    Submission,
    Submitted,
)
from .calls import HUNG, Answer, Call, Steps, about_jobs, at_once
from .script import job_script
from .words import (
    beside,
    job_name,
    line_of,
    megabytes,
    option_words,
    own_output,
    people_name,
    refuse,
    refused_or_unsure,
    resource_words,
    spans,
    user_name,
)

TERSE = re.compile(r"^(\d+)(?:\.1-(\d+):1)?\s*$", re.MULTILINE)
REFUSED = re.compile(r"^Unable to (?:run|read)|^qsub: |rejected|denied", re.MULTILINE)
SILENT = re.compile(r"commlib|contact qmaster|send message|connection|timeout", re.IGNORECASE)
LATER = re.compile(r"allowed per user|max_u?_?jobs|job count|try again", re.IGNORECASE)
FORGIVEN = re.compile(r"does not exist|already in deletion|registered the job|has deleted", re.IGNORECASE)
NOT_FOUND = re.compile(r"job (?:id|name) .* not found", re.IGNORECASE)
OURS = "*tf????????????"
"""The names of jobs of ours, as a pattern of `qacct`."""
RESCHEDULED = frozenset({"24", "25"})
"""Kinds of failure (`failed` in the accounting) that are no end: migrated, rescheduled. 100 is a signal, 37 a limit."""
FORCED = "removed from the queue by force"
ACCOUNT = {name: f"\n{name} ".encode() for name in "hostname jobname jobnumber taskid failed exit_status".split()}
"""What is read of an accounting record, and what it begins with."""
USED = b"\nru_minflt "
"""What tells whether anything ran: page faults. Read if it is there."""
NOT_XML = bytes(set(range(32)) - set(b"\t\n\r"))
"""What no parser of XML takes. 8.1.9 has no such names; should another, one job is not to hide all others."""
ELEMENTS = frozenset("JB_job_number JB_name state queue_name tasks".split())
"""What is read of a `job_list`."""
TASKS = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?", re.ASCII)
DEFAULT_ARRAY_SIZE = 75_000
_WAITS = "it makes qsub wait for the job"
RESERVED = {
    "t": "the elements of a submission are an array already",
    "sync": _WAITS,
    "now": _WAITS,
    "verify": "nothing is submitted",
    "help": "nothing is submitted",
}
"""Options that would take jobs out of sight."""
BESIDE = ("-q", "-P", "-A", "-ar")
PARTS = {"-l": ("h_rt", "s_rt")}
"""Options, and parts of others, that say who pays, where a job may run and for how long."""


class GridEngine(BatchSystem):
    """Grid Engine."""

    name: ClassVar[str] = "sge"
    title: ClassVar[str] = "Grid Engine"
    programs: ClassVar[tuple[str, ...]] = ("qconf", "qsub", "qstat", "qdel")

    # -- submitting

    def files(self, submission: Submission) -> dict[str, str]:
        """Return the script."""
        self.command(submission)  # which refuses what cannot be
        element = '"$SGE_TASK_ID"' if submission.count > 1 else "1"
        special = "100" if _runs_again(submission) else "99 | 100"
        header = [*_as_own_child(_shell(submission), special), *own_output(submission, element)]
        return {"job.sh": job_script(submission, header=header, element=element)}

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return `qsub` with its options and the script, which it takes along."""
        return ("qsub", "-terse", *_words(submission), *submission.needs.native, "job.sh")

    def beside(self, needs: Needs) -> Needs:
        """Return queue, project, account and the like."""
        return beside(needs, BESIDE, PARTS)

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Submit a job, or an array where there are several elements."""
        answer = yield Call(argv=self.command(submission), cwd=str(submission.directory))
        count = submission.count
        if answer.ok and (match := TERSE.search(answer.text)) and int(match[2] or 1) == count:
            jobs = [f"{match[1]}.{element}" for element in range(1, count + 1)] if count > 1 else [match[1]]
            return Submitted(tuple(JobId(job) for job in jobs))
        return refused_or_unsure(answer, f"{answer.err}\n{answer.text}", REFUSED, LATER, SILENT)

    # -- looking

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask `qstat` for all of the user's jobs, and once more, `qacct`, if some of ours are over."""
        if not jobs:
            return {}
        asked = frozenset(jobs)
        numbers = {job.partition(".")[0] for job in jobs}
        # All said, since ~/.sge_qstat may say otherwise for what is not.
        answer = yield about_jobs("qstat", "-xml", "-u", user_name(), "-s", "prs")
        said: dict[JobId, JobStatus] = {}
        for record in _queued(answer):
            if record.get("JB_job_number") in numbers:
                status = status_of(record.get("state", ""), record.get("queue_name", ""))
                said.update((job, status) for job in _ids(record) if job in asked)
        if over := asked - said.keys():
            numbers = {job.partition(".")[0] for job in over}
            which = (numbers.pop(),) if len(numbers) == 1 else (OURS, "-o", user_name())
            accounts = yield about_jobs("qacct", "-j", *which)
            for account in records(accounts):
                # The last record of each counts: there is one for each time that it was started.
                if (job := _id(account)) in over and account["failed"].partition(" ")[0] not in RESCHEDULED:
                    said[job] = ended(account["failed"], account["exit_status"], account["hostname"])
        return {job: said.get(job, GONE) for job in jobs}

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Look at the names in the queue and in the accounting."""
        found: dict[int, JobId] = {}
        for record in _queued((yield about_jobs("qstat", "-xml", "-u", user_name(), "-s", "prsz"))):
            if record.get("JB_name", "").endswith(name):
                found.update((_element(job), job) for job in _ids(record))
        accounts = yield about_jobs("qacct", "-j", f"*{name}", "-o", user_name())
        if accounts.status == HUNG or accounts.status < 0:
            raise NoAnswer(accounts.trouble)
        if not accounts.ok and not accounts.never_ran and not found and not NOT_FOUND.search(accounts.err):
            raise NoAnswer(accounts.trouble)
        for account in records(accounts):
            if account["jobname"].endswith(name):
                job = _id(account)
                found.setdefault(_element(job), job)
        return dict(sorted(found.items()))

    # -- acting

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """End the jobs: elements of an array as ranges, `7.1-3`."""
        if not jobs:
            return
        arrays: dict[str, list[int]] = {}
        for job in jobs:
            id, _, index = job.partition(".")
            arrays.setdefault(id, []).extend([int(index)] if index else [])
        words = [f"{id}.{span}" if span else id for id, indices in arrays.items() for span in (spans(indices) or [""])]
        answer = yield Call(argv=("qdel", *words))
        if not answer.ok and (answer.never_ran or not FORGIVEN.search(answer.text + answer.err)):
            raise NoAnswer(answer.trouble)

    # -- the site

    def limits(self) -> Steps[Limits]:
        """Read the cluster's configuration; 0 is no limit there."""
        answer = yield Call(argv=("qconf", "-sconf"))
        text = answer.text if answer.ok else ""
        if not (size := re.search(r"(?m)^max_aj_tasks\s+(\d+)", text)):
            return Limits()
        jobs = re.search(r"(?m)^max_u_jobs\s+(\d+)", text)
        return Limits(elements=int(size[1]) or DEFAULT_ARRAY_SIZE, jobs=(int(jobs[1]) or None) if jobs else None)

    def instance(self) -> Steps[str]:
        """Say what its settings file calls the cluster."""
        return at_once(self.environ.get("SGE_CLUSTER_NAME", ""))

    def version(self) -> Steps[str]:
        """Read the first line of a help text."""
        answer = yield Call(argv=("qstat", "-help"))
        match = re.match(r"(?:SGE|GE|UGE|AGE|OGS\S*)\s+\d\S*", answer.text if answer.ok else "")
        return match[0] if match else ""


def _shell(submission: Submission) -> str:
    return "/bin/bash" if submission.needs.env_script else "/bin/sh"


def _runs_again(submission: Submission) -> bool:
    needs = submission.needs
    given = " ".join(needs.native)
    return "-r n" not in given and (needs.requeue or needs.settings.get("r") in ("y", "yes") or "-r y" in given)


def _as_own_child(shell: str, special: str) -> list[str]:
    """Return lines with which a script runs itself as its child."""
    return [
        'if [ "$job_inside" != "$JOB_ID.$SGE_TASK_ID" ]; then',
        "    trap : USR1 USR2 XCPU  # warnings, for the child",
        '    job_inside="$JOB_ID.$SGE_TASK_ID"',
        "    export job_inside",
        f'    {shell} "$0"',
        "    status=$?",
        f"    case $status in {special}) status=1 ;; esac",
        "    exit $status",
        "fi",
    ]


def _words(submission: Submission) -> list[str]:
    """Return the options of `qsub`; the user's own settings replace ours."""
    needs, asked = submission.needs, {key.lstrip("-"): value for key, value in submission.needs.settings.items()}
    refuse("Grid Engine", needs, RESERVED)
    name = job_name(submission, people_name("Grid Engine", "N", needs, asked))
    queue = asked.pop("queue", None) or needs.queue
    options: dict[str, Any] = {
        "S": _shell(submission), "j": "y", "o": "/dev/null",
        "N": name if name[0].isalpha() else f"j{name}",
    }  # fmt: skip
    if submission.count > 1:
        options["t"] = f"1-{submission.count}"
        if submission.at_most:
            options["tc"] = str(submission.at_most)
    if queue:
        options["q"] = queue
    if needs.account:
        options["P"] = needs.account
    if needs.requeue is not None:
        options["r"] = "y" if needs.requeue else "n"
    options["l"] = resource_words(_resources(submission), asked)
    environment = _environment(needs.cpus * needs.nodes, needs.nodes, asked.pop("pe", None))
    return [*option_words(options | asked), *environment]


def _environment(slots: int, nodes: int, given: Any) -> list[str]:
    """Return `-pe NAME SLOTS`: the name is the site's choice, mostly `smp` where all slots are on one host."""
    if given is None and nodes > 1:
        raise InputError(
            "Grid Engine: which parallel environment gives slots on several hosts is the site's choice",
            hint='say it, as in settings {"pe": "mpi 16"}; `qconf -spl` lists them',
        )
    words = str(given or ("smp" if slots > 1 else "")).split()
    return ["-pe", *words, *([str(slots)] if len(words) == 1 else [])] if words else []


def _resources(submission: Submission) -> list[str]:
    """Return what `-l` asks for. Memory is for each slot there, and mostly called h_vmem."""
    needs, words = submission.needs, []
    if needs.time_s is not None:
        words.append(f"h_rt={max(1, math.ceil(needs.time_s))}")
        if needs.warn_s is not None and needs.warn_s < needs.time_s:
            words.append(f"s_rt={max(1, math.ceil(needs.time_s - needs.warn_s))}")
    if needs.memory_bytes is not None:
        words.append(f"h_vmem={megabytes(-(-needs.memory_bytes // needs.cpus))}M")
    if needs.gpus:
        words.append(f"gpu={needs.gpus}")
    return words


def _queued(answer: Answer) -> Iterator[dict[str, str]]:
    """Yield `ELEMENTS` of what `qstat -xml` says of each job, or of some elements of an array together.

    Raises:
        NoAnswer: it is no answer, or only part of one.
    """
    from xml.parsers import expat  # what needs no Grid Engine need not wait for it

    if not answer.ok:
        raise NoAnswer(answer.trouble)
    # A tree of elements, even one that is cut down as it grows, takes twice the time.
    record: dict[str, str] = {}
    complete: list[dict[str, str]] = []
    text: list[str] = []
    last = ""

    def end(tag: str) -> None:
        nonlocal record, last
        if tag in ELEMENTS:
            record[tag] = "".join(text).strip()
        elif tag == "job_list":
            complete.append(record)
            record = {}
        text.clear()
        last = tag

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.CharacterDataHandler = text.append
    parser.EndElementHandler = end
    decode = getincrementaldecoder("utf-8")("replace").decode
    try:
        for block in answer.blocks():
            parser.Parse(decode(block.translate(None, NOT_XML)))
            yield from complete
            complete.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise NoAnswer(f"qstat: its answer cannot be read: {error}") from error
    if last != "job_info":
        raise NoAnswer(f"qstat: its answer cannot be read: {answer.trouble}")


def _ids(record: dict[str, str]) -> Iterator[JobId]:
    """Yield the ids of a record, whose elements are as `3`, `4-12:1` or `1,7-9:2`; none: a job that is no array."""
    id, tasks = record.get("JB_job_number", ""), record.get("tasks", "")
    if not tasks:
        yield JobId(id)
    for part in tasks.split(",") if tasks else ():
        if match := TASKS.fullmatch(part.strip()):
            for element in range(int(match[1]), int(match[2] or match[1]) + 1, int(match[3] or 1)):
                yield JobId(f"{id}.{element}")


def _id(account: dict[str, str]) -> JobId:
    """Return the id in an accounting record."""
    task = account["taskid"]
    return JobId(account["jobnumber"] + (f".{task}" if task.isdecimal() else ""))


def _element(job: JobId) -> int:
    return int(job.partition(".")[2] or 1)


@lru_cache(4096)
def status_of(letters: str, queue: str = "") -> JobStatus:
    """Return what the letters of a state say, such as `qw`, `hqw`, `Eqw`, `r`, `dr`, `Rq`; `queue` is `name@host`."""
    host = queue.partition("@")[2]
    if "E" in letters:
        return JobStatus(JobState.HELD, reason=f"{letters}: in error, see qstat -j")
    if set(letters) & set("rtsSTNP") and "q" not in letters:
        return JobStatus(JobState.RUNNING, host=host)
    if "q" in letters:
        return JobStatus(JobState.HELD if "h" in letters else JobState.QUEUED, reason=letters)
    return JobStatus(JobState.UNKNOWN, reason=letters)


def records(answer: Answer) -> Iterator[dict[str, str]]:
    """Yield `ACCOUNT` of each record that `qacct -j` tells, some forty lines each; none: it failed.

    A record that was cut is none, since a number that was cut is another. One that stands for nothing that ran has the
    word for it as its `failed`.
    """
    for part in answer.parts(b"=====") if answer.ok else ():
        account = {name: line for name, start in ACCOUNT.items() if (line := line_of(part, start)) is not None}
        if len(account) == len(ACCOUNT):
            if account["failed"] == account["exit_status"] == line_of(part, USED) == "0":
                account["failed"] = FORCED
            yield account


@lru_cache(4096)
def ended(failed: str, status: str, host: str) -> JobStatus:
    """Return how a job ended, by its accounting record."""
    code, status = failed.partition(" ")[0] or "0", status.partition(" ")[0]
    if code == "0" and status.isdecimal():
        return JobStatus(JobState.ENDED, int(status), host=host)
    return JobStatus(JobState.LOST, reason=" ".join(failed.split()), host=host)
