"""What Slurm's commands say: what came of a submission, how jobs are, which have a name, what the site allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache

from .base import JobId, JobState, JobStatus, Limits, NoAnswer, Outcome, Refused, Submitted, Unsure
from .calls import HUNG, Answer
from .slurm_ids import ID, numbers, unsplit
from .slurm_states import is_impossible, meant, status_of

SQUEUE_STATES = "JobArrayID:|,State:|,exit_code:|,Reason:|,BatchHost:|"
SACCT_STATES = "JobID,State,ExitCode,NodeList"
"""The fields of which `from_squeue` and `from_sacct` read all but the first."""
SQUEUE_NAMES = "JobArrayID:|,State:|,BatchHost:|,Name:|,Comment:|,WorkDir:|"
SACCT_NAMES = "JobID,State,NodeList,JobName,Comment,WorkDir"
"""The fields that `named` reads."""
DEFAULT_ARRAY = 1000
"""Elements of an array where the controller does not say: MaxArraySize is 1001 unless a site sets it."""
_SUBMITTED = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S*)?")
_UNKNOWN_ID = "Invalid job id"
_BUSY = ("temporarily unable", "Resource temporarily unavailable", "Unable to contact", "Limit", "limit")
"""Words of refusals that may be none later, unless `_NEVER` is among them."""
_NEVER = re.compile(
    r"\btime limit\b|time-min|\b(?:QOS|Assoc)(?:Max\w*Per(?:Job|Node)(?:Limit)?|Min\w+)\b", re.IGNORECASE
)
"""Words of refusals that speak of a limit and stay as they are: a job that asks for more than one may have, as in
`Requested time limit is invalid`, `QOSMaxWallDurationPerJobLimit`, `AssocMaxMemPerNode`; not so `time limits`, which
Slurm has in what it says of any policy, and `QOSMaxSubmitJobPerUserLimit`."""
_IN_DOUBT = ("timed out", "Zero Bytes", "Connection reset", "Unexpected message", "Communication connection failure")
"""Words after which the controller may have taken the job: the message went out and the answer did not come in."""
_FORGIVEN = (_UNKNOWN_ID, "already completing or completed", "Job/step already")


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
    again = any(word in said for word in _BUSY) and not _NEVER.search(said)
    return Refused(said.replace("sbatch: error: ", ""), again=again)


def is_cancelled(answer: Answer) -> bool:
    """Whether `scancel` did as it was told, but for jobs that are over or that it does not know."""
    complaints = [line for line in answer.err.splitlines() if line.strip()]
    forgiven = complaints and all(any(word in line for word in _FORGIVEN) for line in complaints)
    return answer.ok or bool(answer.status > 0 and forgiven)


def answered(answer: Answer) -> Answer:
    """Return an answer that is one. That a single id is not known is an answer, although `squeue` calls it an error.

    Raises:
        NoAnswer: it is none.
    """
    unknown = answer.status == 1 and _UNKNOWN_ID in answer.err
    if not (answer.ok or unknown) or not answer.is_whole:
        raise NoAnswer(answer.trouble)
    return answer


def read(
    answer: Answer, jobs: Collection[JobId], parse: Callable[[str], JobStatus]
) -> tuple[dict[JobId, JobStatus], bool]:
    """Return what is said of the jobs, and whether each line could be read, be it about them or not.

    One that stands for several elements (`77_[1-9%3]`) counts for those that have no line of their own. What all that
    waited of an array has come to when it was cancelled (`77`, and then no element) is said of that id: see `of`.
    """
    asked = frozenset(jobs)
    arrays = {array for job in asked for array, bar, _ in (job.partition("_"),) if bar}
    said: dict[JobId, JobStatus] = {}
    clear = True
    for line in answer.lines():
        id, bar, rest = line.partition("|")
        if id in asked:
            said[JobId(id)] = parse(rest)
        elif not (bar and ID.fullmatch(id)):
            clear = clear and (not line.strip() or line.startswith("CLUSTER:"))
        elif "[" in id:
            for job in unsplit(id, asked):
                said.setdefault(job, parse(rest))
        elif id in arrays and (status := parse(rest)).state.is_over:
            said[JobId(id)] = status
    return said, clear


def of(job: JobId, said: Mapping[JobId, JobStatus], otherwise: JobStatus) -> JobStatus:
    """Return what was said of a job, or else of the rest of its array."""
    return said.get(job) or said.get(JobId(job.partition("_")[0]), otherwise)


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
        if bar and (next_one := ID.fullmatch(id)):
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
    """Return the limits in `scontrol show config`; indices must be below MaxArraySize, and ours begin with 1.

    MaxJobCount is that of all jobs which the controller knows, whosever they are; what one user may have is known to
    the accounting, if at all.
    """
    said = dict(re.findall(r"^(MaxArraySize|MaxJobCount)\s*=\s*(\d+)\s*$", config, re.MULTILINE))
    elements = int(said["MaxArraySize"]) - 1 if "MaxArraySize" in said else DEFAULT_ARRAY
    if tasks := re.search(r"^SchedulerParameters\s*=.*\bmax_array_tasks=(\d+)", config, re.MULTILINE):
        elements = min(elements, int(tasks[1]))
    jobs = int(said["MaxJobCount"]) if "MaxJobCount" in said else None
    return Limits(elements=max(1, elements), jobs=jobs, of_all=jobs is not None)


def cluster_of(config: str) -> str:
    """Return the cluster's name in `scontrol show config`; empty if it does not say."""
    match = re.search(r"^ClusterName\s*=\s*(\S+)\s*$", config, re.MULTILINE)
    return match[1] if match else ""
