"""PBS Professional and OpenPBS: `qsub -J`, `qstat -x -t -f`, `qdel`. (Torque is another system, whose `-x` is XML.)

Answers are read as text and not as JSON: versions of OpenPBS tell as JSON the first only of several jobs (openpbs issue
2672), or what is no JSON where a variable of a job has odd characters; and text can be read line by line.

The unique name is the job's name, or ends it where the user gave one for people. Jobs that ended are known where the
site keeps a history (`job_history_enable`), for two weeks by default, and `GONE` at once where it does not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
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
    beside,
    clock,
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

STATES = {
    "Q": JobState.QUEUED,
    "T": JobState.QUEUED,  # on its way to or from a server or node
    "W": JobState.QUEUED,  # for its time
    "H": JobState.HELD,
    "R": JobState.RUNNING,
    "B": JobState.RUNNING,  # an array that has begun
    "E": JobState.RUNNING,  # exiting
    "S": JobState.RUNNING,
    "U": JobState.RUNNING,
    "F": JobState.ENDED,  # or lost: see `_ended`
    "X": JobState.ENDED,  # the same, of an element whose array goes on
}
"""What `job_state` means; M (moved to another server) may live, as may what is not here."""
TERMINATED = "91"
"""Substate of jobs that were deleted, whether they ran or not."""
OVER_MEMORY = frozenset({-26, -27})
"""Exit_status of a job that was killed for its (virtual) memory; other negative ones are PBS's own doing."""
ID = re.compile(r"(\d+)(\[\d*\])?(\.\S+)?")
UNKNOWN = re.compile(r"Unknown Job Id|has finished", re.IGNORECASE)
FORGIVEN = re.compile(rf"{UNKNOWN.pattern}|invalid for state of job", re.IGNORECASE)
"""What `qdel` may say of a job that is over, or already on its way out."""
REFUSED = re.compile(r"^qsub: |usage: qsub", re.MULTILINE)
SILENT = re.compile(
    r"cannot connect|No Permission|time[d ]?out|Connection|communication|End of File|errno", re.IGNORECASE
)
LATER = re.compile(r"would exceed|Maximum number|limit of jobs|busy|try again", re.IGNORECASE)
DEFAULT_ARRAY_SIZE = 10_000
_WAITS = "it makes qsub wait for the job"
RESERVED = {
    "J": "the elements of a submission are an array already",
    "I": _WAITS,
    "X": _WAITS,
    "z": "it hides the job's id",
    "-": "the one option with two dashes is --version, with which nothing is submitted",
}
"""Options that would take jobs out of sight."""
BESIDE = ("-q", "-A", "-P")
PARTS = {"-l": ("walltime", "filesystems"), "-W": ("group_list",)}
"""Options, and parts of others, that say who pays, where a job may run and for how long. Some sites run no job
that does not say which `filesystems` it needs."""


class Pbs(BatchSystem):
    """PBS Professional."""

    name: ClassVar[str] = "pbs"
    title: ClassVar[str] = "PBS"
    programs: ClassVar[tuple[str, ...]] = ("pbsnodes", "qsub", "qstat", "qdel", "qselect")

    # -- submitting

    def files(self, submission: Submission) -> dict[str, str]:
        """Return the script."""
        self.command(submission)  # which refuses what cannot be
        element = '"$PBS_ARRAY_INDEX"' if submission.count > 1 else "1"
        return {"job.sh": job_script(submission, header=own_output(submission, element), element=element)}

    def command(self, submission: Submission) -> tuple[str, ...]:
        """Return `qsub` with its options and the script, which it takes along."""
        return ("qsub", *option_words(_options(submission)), *submission.needs.native, "job.sh")

    def beside(self, needs: Needs) -> Needs:
        """Return queue, account, project and the like."""
        return beside(needs, BESIDE, PARTS, glued=True)

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Submit a job, or an array where there are several elements."""
        answer = yield Call(argv=self.command(submission), cwd=str(submission.directory))
        id = answer.text.strip().rpartition("\n")[2]
        match = ID.fullmatch(id)
        if answer.ok and match and match[3] and bool(match[2]) == (submission.count > 1):
            numbers = range(1, submission.count + 1)
            return Submitted(tuple(JobId(id.replace("[]", f"[{number}]")) for number in numbers))
        return refused_or_unsure(answer, answer.err, REFUSED, LATER, SILENT)

    # -- looking

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask once for all, for arrays as a whole."""
        if not jobs:
            return {}
        wanted = dict.fromkeys(map(_whole, jobs))
        answer = yield about_jobs("qstat", "-x", "-t", "-f", *wanted)
        said: dict[JobId, JobStatus] = {}
        answered, asked = set(), frozenset(jobs)
        for told in _answered(answer):
            answered.add(told.id)
            if told.id in asked:
                said[told.id] = status_of(told)
        # What was neither told nor said to be unknown is not known to be gone.
        unknown = GONE if UNKNOWN.search(answer.err) else JobStatus(JobState.UNKNOWN, reason="no word about it")
        for job in jobs:
            if job not in said:
                said[job] = GONE if _whole(job) in answered else unknown
        return said

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Look at the names of all of the user's jobs that PBS still knows: it can select by whole names only."""
        listing = yield about_jobs("qselect", "-x", "-u", user_name())
        ids = listing.text.split()
        if not listing.ok or not listing.is_whole or not all(ID.fullmatch(id) for id in ids):
            raise NoAnswer(listing.trouble)
        if not ids:
            return {}
        found = {}
        for told in _answered((yield about_jobs("qstat", "-x", "-t", "-f", *ids))):
            if told["Job_Name"].endswith(name) and told["array"] != "True":
                found[_index(told.id)] = told.id
        return dict(sorted(found.items()))

    # -- acting

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """End the jobs: elements of an array as ranges, `7[1-3].server`."""
        if not jobs:
            return
        arrays: dict[str, list[int]] = {}
        for job in jobs:
            arrays.setdefault(_whole(job), []).append(_index(job))
        words = [
            id.replace("[]", f"[{span}]")
            for id, indices in arrays.items()
            for span in (spans(indices) if "[]" in id else [""])
        ]
        answer = yield Call(argv=("qdel", *words))
        if not answer.ok and (answer.never_ran or answer.status == HUNG or not FORGIVEN.search(answer.err)):
            raise NoAnswer(answer.trouble)

    # -- the site

    def limits(self) -> Steps[Limits]:
        """Read the server's attributes."""
        answer = yield Call(argv=("qstat", "-B", "-f"))
        text = answer.text if answer.ok else ""
        if not (size := re.search(r"max_array_size = (\d+)", text)):
            return Limits(elements=DEFAULT_ARRAY_SIZE if "server_state = " in text else 1)
        jobs = re.search(r"max_queued = .*?\bu:PBS_GENERIC=(\d+)", text)
        return Limits(elements=max(1, int(size[1])), jobs=max(1, int(jobs[1])) if jobs else None)

    def instance(self) -> Steps[str]:
        """Ask for the server's name."""
        answer = yield Call(argv=("qstat", "-B", "-f"))
        if not answer.ok:
            raise NoAnswer(answer.trouble)
        match = re.search(r"^Server: (\S+)", answer.text, re.MULTILINE)
        return match[1] if match else ""

    def version(self) -> Steps[str]:
        """Read it from the server's attributes."""
        answer = yield Call(argv=("qstat", "-B", "-f"))
        match = re.search(r"pbs_version = (\S+)", answer.text if answer.ok else "")
        return f"PBS {match[1]}" if match else ""


def _options(submission: Submission) -> dict[str, Any]:
    """Return the options of `qsub` by letter. Settings of one letter are options, longer ones resources (`-l`)."""
    needs, asked = submission.needs, {key.lstrip("-"): value for key, value in submission.needs.settings.items()}
    letters = replace(needs, native=tuple(word[:2] for word in needs.native))  # qsub takes `-Nname`, too
    refuse("PBS", letters, RESERVED)
    name = job_name(submission, people_name("PBS", "N", letters, asked))
    queue = asked.pop("queue", None) or needs.queue
    options: dict[str, Any] = {
        "S": "/bin/bash" if needs.env_script else "/bin/sh", "j": "oe", "o": "/dev/null",
        "N": name.lstrip("."),
    }  # fmt: skip
    if submission.count > 1:
        options["J"] = f"1-{submission.count}" + (f"%{submission.at_most}" if submission.at_most else "")
    if queue:
        options["q"] = queue
    if needs.account:
        options["A"] = needs.account
    if needs.requeue is not None:
        options["r"] = "y" if needs.requeue else "n"
    wanted = _resources(submission) | {key: asked.pop(key) for key in list(asked) if len(key) > 1}
    options["l"] = resource_words((f"{key}={value}" for key, value in wanted.items() if value is not False), asked)
    return options | asked


def _resources(submission: Submission) -> dict[str, Any]:
    needs = submission.needs
    chunk = f"{needs.nodes}:ncpus={needs.cpus}"
    if needs.memory_bytes is not None:
        chunk += f":mem={megabytes(needs.memory_bytes)}mb"
    if needs.gpus:
        chunk += f":ngpus={needs.gpus}"
    resources: dict[str, Any] = {} if chunk == "1:ncpus=1" else {"select": chunk}
    if needs.nodes > 1:
        resources["place"] = "scatter"
    if needs.time_s is not None:
        resources["walltime"] = clock(needs.time_s)
        if needs.time_min_s is not None and needs.time_min_s < needs.time_s:
            resources |= {"min_walltime": clock(needs.time_min_s), "max_walltime": resources.pop("walltime")}
    return resources


def _whole(job: JobId) -> str:
    """Return the id of the array that an element is of, or the job's own."""
    before, bracket, after = job.partition("[")
    return f"{before}[]{after.partition(']')[2]}" if bracket else job


def _index(id: str) -> int:
    """Return the element of an id."""
    match = re.search(r"\[(\d+)\]", id)
    return int(match[1]) if match else 1


def _answered(answer: Answer) -> Iterator[Told]:
    """Yield what an answer of `qstat -f` tells of each job; none: there are no such jobs.

    Raises:
        NoAnswer: it is no answer, or only part of one.
    """
    if answer.never_ran or answer.status == HUNG or answer.status < 0 or not answer.is_whole:
        raise NoAnswer(answer.trouble)
    if not answer.ok and not UNKNOWN.search(answer.err):
        raise NoAnswer(answer.trouble)
    any_job = False
    for part in answer.parts(b"Job Id: "):
        any_job = True
        yield Told(part)
    if not any_job and not UNKNOWN.search(answer.err):
        raise NoAnswer(f"qstat: its answer cannot be read: {answer.trouble}")


class Told:
    """What `qstat -f` tells of a job: its id, and attributes by their names, empty if they are not told.

    It tells some forty of a job, two thousand letters: to look for two or three takes a third of the time of reading
    all lines. The first of a name counts: what others may write, variables and comments, comes behind what PBS says.
    """

    def __init__(self, part: bytes) -> None:
        """Take what stands behind `Job Id: `."""
        self.id = JobId(part.partition(b"\n")[0].decode(errors="replace").strip())
        self._part = part

    def __getitem__(self, name: str) -> str:
        return line_of(self._part, b"\n    %b = " % name.encode()) or ""


def status_of(job: Told) -> JobStatus:
    """Return how a job is."""
    letter = job["job_state"]
    state = STATES.get(letter, JobState.UNKNOWN)
    hosts = (place.partition("/")[0].strip("()") for place in job["exec_host"].split("+"))
    host = ",".join(dict.fromkeys(hosts))
    if state is JobState.ENDED:
        return _ended(job["Exit_status"], job["substate"], job["comment"], host)
    if state is JobState.RUNNING:
        return JobStatus(state, host=host)
    return JobStatus(state, reason=job["comment"] or letter, host=host)


def _ended(code: str, substate: str, comment: str, host: str) -> JobStatus:
    status = int(code) if re.fullmatch(r"-?\d+", code) else None
    over_memory = status in OVER_MEMORY or re.search(r"exceeded resource v?mem", comment)
    if over_memory:
        return JobStatus(JobState.ENDED, None, comment or "memory limit", host, MORE)
    if status is None or status < 0 or substate == TERMINATED or re.search(r"exceeded resource|terminated$", comment):
        return JobStatus(JobState.LOST, reason=comment or "deleted", host=host)
    return JobStatus(JobState.ENDED, status if status < 256 else 256 - status, host=host)
