"""What HTCondor says: what came of a submission, and how the jobs are that the ads of an answer are about."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .base import GONE, MORE, JobId, JobState, JobStatus, NoAnswer, Outcome, Refused, Submitted, Unsure
from .calls import Answer
from .condor_description import TIME_IS_UP

_SPOOLING = 16
_REMEDIES = {
    6: "mend the program and release it",
    12: "see to the file and release it",
    13: "see to the file and release it",
    21: MORE,
    26: MORE,
    34: MORE,
}
"""By the code for which a job is held; after any other it can be released. 21: the machine's policy, 26: the pool's."""
_FACTORY_HELD, _FACTORY_REMOVED = 1, 3

# In the words of condor_submit and of the bindings. All that is not unsure came to nothing for certain.
_UNSURE = re.compile(r"commit|transaction|spool|disconnect", re.IGNORECASE)
_AGAIN = re.compile(
    r"connect|can't find address|unable to locate|SECMAN|authenticat|communicat|timed out|temporar|too many"
    r"|MAX_JOBS_(SUBMITTED|PER_OWNER|RUNNING)|schedd says -[23]\b",
    re.IGNORECASE,
)
_USAGE = re.compile(r"\s*usage:", re.IGNORECASE)
_MOST_WORDS = 300
_TROUBLE = re.compile(r"failed|error|can't|unable|refused", re.IGNORECASE)
"""What stands on stderr of a command that found no jobs because it could not look."""
_DAMAGED = "some of HTCondor's answer cannot be read"


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
    if answer.status == 1 and _USAGE.match(answer.err):
        return Refused(f"it does not know one of its options: {shlex.join(answer.call.argv)}")
    why = _words(answer)
    words = re.sub(r"\S*/\S*", "", why)  # names of files say nothing about what went wrong
    if answer.status != 1 or ranges or _UNSURE.search(words):
        return Unsure(why)
    return Refused(why, again=bool(_AGAIN.search(words)))


def _words(answer: Answer) -> str:
    """Return what went wrong: the error itself, without the warnings before it."""
    said = " ".join(answer.err.split())
    return said[found:][:_MOST_WORDS] if (found := said.find("ERROR:")) >= 0 else answer.trouble


class Objects:
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


class Statuses:
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
            return JobStatus(JobState.QUEUED, reason=_unmatched(ad))
        case 2:
            return JobStatus(JobState.RUNNING, host=host)
        case 3 if host:
            return JobStatus(JobState.RUNNING, reason=f"is being removed: {_text(ad, 'RemoveReason')}", host=host)
        case 3:
            return JobStatus(JobState.LOST, reason=_why_removed(ad))
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


def _unmatched(ad: Mapping[str, Any]) -> str:
    """Return why the negotiator had no machine for a job when it looked last; empty if it had one, or did not look.

    Of jobs that want the same it looks at one, so that the others have no reason.
    """
    rejected, matched = ad.get("LastRejMatchTime"), ad.get("LastMatchTime")
    if not isinstance(rejected, int) or (isinstance(matched, int) and matched >= rejected):
        return ""
    why = _text(ad, "LastRejMatchReason") or "no match"
    return why if ad.get("NumJobMatches") else f"{why}, never so far"


def _in_history(ad: Mapping[str, Any]) -> JobStatus:
    host = _host(ad, "LastRemoteHost")
    if ad.get("JobStatus") == 4:
        return _ended(ad, host)
    return JobStatus(JobState.LOST, reason=_why_removed(ad), host=host)


def _why_removed(ad: Mapping[str, Any]) -> str:
    """Return why a job was removed; after the end of its walltime the reason of that is but our own rule."""
    for before in ("Last", ""):
        if ad.get(f"{before}HoldReasonCode") in TIME_IS_UP and (reason := _text(ad, f"{before}HoldReason")):
            return reason
    return _text(ad, "RemoveReason") or "removed"


def _held(ad: Mapping[str, Any]) -> JobStatus:
    code, subcode = ad.get("HoldReasonCode"), ad.get("HoldReasonSubCode")
    reason = _text(ad, "HoldReason") or "held"
    if code in TIME_IS_UP:
        return JobStatus(JobState.LOST, reason=reason)
    if code == _SPOOLING:
        return JobStatus(JobState.QUEUED, reason=reason)
    code_words = f"(code {code}, {subcode})" if subcode else f"(code {code})"
    return JobStatus(JobState.HELD, reason=f"{reason} {code_words}", remedy=_REMEDIES.get(code or 0, ""))


def _ended(ad: Mapping[str, Any], host: str) -> JobStatus:
    """Return how a job ended; what has no exit status did not end well. spec: workflow 4.5"""
    if ad.get("ExitBySignal") is True and isinstance(number := ad.get("ExitSignal"), int):
        return JobStatus(JobState.ENDED, -number, host=host)
    for name in ("ExitCode", "ExitStatus"):
        if isinstance(code := ad.get(name), int):
            return JobStatus(JobState.ENDED, code & 0xFF, host=host)
    return JobStatus(JobState.ENDED, 1, "HTCondor has no exit status of it", host)


def of_factory(ad: Mapping[str, Any], proc: int) -> JobStatus:
    """Return the status of an element that the factory of its cluster has not made yet."""
    total, paused = ad.get("TotalSubmitProcs"), ad.get("JobFactoryPaused", ad.get("JobMaterializePaused"))
    if isinstance(total, int) and proc >= total:
        return GONE
    if paused == _FACTORY_REMOVED:
        return JobStatus(JobState.LOST, reason="removed before it came into the queue")
    if paused == _FACTORY_HELD:
        return JobStatus(JobState.HELD, reason=_text(ad, "JobMaterializePauseReason") or "the cluster is held")
    return JobStatus(JobState.QUEUED)


def is_spooled(ad: Mapping[str, Any]) -> bool:
    """Whether a job has ended and its output is still with the scheduler."""
    return ad.get("JobStatus") == 4 and bool(ad.get("StageInFinish")) and not ad.get("StageOutFinish")


def _text(ad: Mapping[str, Any], name: str) -> str:
    value = ad.get(name)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _host(ad: Mapping[str, Any], name: str) -> str:
    """Return the host of `slot1_2@host.domain`."""
    return _text(ad, name).rpartition("@")[2]


def job_of(ad: Mapping[str, Any]) -> JobId:
    """Return the id of the job that an ad is about."""
    return JobId(f"{ad.get('ClusterId')}.{ad.get('ProcId')}")
