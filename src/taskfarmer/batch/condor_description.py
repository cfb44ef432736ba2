"""What HTCondor is told in a submit description: a file of `key = value` lines, the last of which says how many jobs.

Values end with their line. `$(x)` stands for something, a dollar is `$(DOLLAR)`, and two of them cannot be said at all.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from ..errors import InputError
from .base import Needs, Submission
from .words import megabytes

ATTRIBUTE = "TaskfarmerSubmission"
"""The attribute of its jobs that has the name of a submission."""
TIME_IS_UP = (46, 47)
"""HoldReasonCode of a job that exceeded `allowed_job_duration` or `allowed_execute_duration`."""

_LOGIN = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")


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
_BESIDE = frozenset({
    "accountinggroup", "accountinggroupuser", "projectname", "sendcredential", "requirements", "desiredsites",
    "jobflavour", "maxruntime",
})  # fmt: skip
"""Settings that are the same for any job of a user's: see `BatchSystem.beside`. With CERN's `SendCredential` jobs read
the user's files."""
_KEY = re.compile(r"(\+|[Mm][Yy]\.)?[A-Za-z_][A-Za-z0-9_.]*")


def _canonical(key: str) -> str:
    """Return what spellings of a key have in common: `request_memory`, `RequestMemory`; `+X`, `MY.X`."""
    bare = key.lower().removeprefix("+").removeprefix("my.").replace("_", "")
    return {"batchname": "jobbatchname", "acctgroup": "accountinggroup"}.get(bare, bare)


def our_key(line: str) -> str:
    """Return the setting that a line of a description gives, if only taskfarmer may give it; else nothing."""
    return _OURS.get(_key(line), "")


def _key(line: str) -> str:
    found = re.match(rf"\s*({_KEY.pattern})", line)
    return _canonical(found[1]) if found else ""


def for_any_job(line: str) -> bool:
    """Whether a line of a description, or a setting's key, says who pays, where a job may run or for how long."""
    return _key(line) in _BESIDE


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
    """Yield what a login would set, and many programs look for: of these HTCondor gives a job HOME at most."""
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
        remove.append(" || ".join(f"HoldReasonCode == {code}" for code in TIME_IS_UP))
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


def is_text(description: str) -> bool:
    """Whether a description is text, rather than bytes that are none (in a path, say)."""
    return not any("\udc80" <= letter <= "\udcff" for letter in description)


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
