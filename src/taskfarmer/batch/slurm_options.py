"""What a submission asks for, in the words of `sbatch`: its options, the head of the script, and its environment."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import InputError
from .base import Needs, Submission
from .script import job_script
from .words import beside as _beside
from .words import plain

SCRIPT = "job.sh"
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
_BESIDE = (
    "-A", "--account", "-C", "--constraint", "-p", "--partition", "-q", "--qos", "--reservation", "-t", "--time",
    "--wckey", "-x", "--exclude",
)  # fmt: skip
"""Options that say who pays, where a job may run and for how long. Not `--nodelist`, which asks for all that
it names."""
_HANDED_ON = re.compile(
    "(HOME|USER|LOGNAME|SHELL|PATH|LANG|LC_[A-Z]+|TZ|KRB5CCNAME|MODULE(SHOME|PATH)|LMOD_(PKG|CMD|DIR))$"
    "|(SLURM|SBATCH|SPANK)_"
)
"""What jobs get of the environment: who submits, where programs and modules are, and what Slurm's commands want."""
_OF_A_JOB = re.compile("SLURM_(?!(CONF|CONF_SERVER|JWT|CLUSTERS)$)|SBATCH_MEM_BIND")
"""What Slurm tells a job about itself, or takes from it: all of its variables but those by which its commands find the
controller. Within a job they are that job's; what Slurm does not set anew would be believed of ours: an id that is
another's (`SLURM_ARRAY_JOB_ID`), its end, its memory, its umask. By what they begin with, since each version has more
of them; for what of it was the user's own (`SLURM_HINT`) `sbatch` has options.
"""
_PREAMBLE = (
    # What a site's or a user's --export=NONE would otherwise do to `srun` within the job, and a login without a PATH.
    "SLURM_EXPORT_ENV=ALL; export SLURM_EXPORT_ENV",
    'PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"; export PATH',
    # srun does not take it from sbatch any more since 22.05.
    'if [ -n "${SLURM_CPUS_PER_TASK-}" ]; then SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; export SRUN_CPUS_PER_TASK; fi',
)


def script(submission: Submission) -> str:
    """Return the job's script, with the settings in `#SBATCH` lines.

    Raises:
        InputError: it asks for what Slurm cannot do.
    """
    check(submission)
    element = "${SLURM_ARRAY_TASK_ID}" if submission.count > 1 else "1"
    header = [*directives(submission.needs), *_PREAMBLE]
    return job_script(submission, header=header, element=element)


def command(submission: Submission) -> tuple[str, ...]:
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


def beside(needs: Needs) -> Needs:
    """Return what a small job may have of the settings and the words: see `BatchSystem.beside`."""
    return _beside(replace(needs, settings=canonical(needs.settings)), _BESIDE, glued=True)


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


def environment(submission: Submission, environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return what `sbatch` gets of the environment, if not all of it: nothing that tells of a job that submits it."""
    if not _exports(submission, environ):
        return handed_on(environ)
    return _of_no_job(environ) if "SLURM_JOB_ID" in environ else None


def _exports(submission: Submission, environ: Mapping[str, str]) -> bool:
    """Whether somebody has said what jobs get of the environment: the user, or the site."""
    words = (word.partition("=")[0] for word in submission.needs.native)
    asked = any(len(word) > len("--ex") and "--export".startswith(word) for word in words)
    return asked or "export" in canonical(submission.needs.settings) or "SBATCH_EXPORT" in environ


def handed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what `sbatch` gets of the environment, and so the jobs: they are not to hang on what a shell had loaded,
    and those of a keeper elsewhere are to be like those from the shell.
    """
    return {name: value for name, value in _of_no_job(environ).items() if _HANDED_ON.match(name)}


def _of_no_job(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not _OF_A_JOB.match(name)}
