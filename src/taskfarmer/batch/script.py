"""The script of a job: the one frame that all systems share, around a body of sh.

A job script must not depend on what the submitting shell had: it finds its own way, says when it cannot, and leaves at
once when it comes too late. POSIX sh, unless a script of the user's is sourced.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .base import Needs, Submission
from .words import plain

UNSEEN = 72
"""Exit status of a job on a node that does not see the submission's directory (EX_OSFILE of sysexits.h)."""
REVOKED = "revoked"
"""A file of this name in the submission's directory tells jobs that start from then on to do nothing: somebody who was
not sure whether they had been submitted has submitted others in their place."""


def job_script(submission: Submission, *, header: Sequence[str] = (), element: str = "1", shared: bool = True) -> str:
    """Return the text of `job.sh`.

    `header`: lines for the scheduler, directly behind the first. `element`: a word of sh that gives the number of the
    element, from 1, such as `${SLURM_ARRAY_TASK_ID:-1}`. `shared`: the node sees the submitter's directories; else the
    job runs where the system put it, with what was transferred.

    Raises:
        InputError: the name for people has control characters.
    """
    plain("the job's name", submission.needs.job_name)
    needs, quoted = submission.needs, shlex.quote(str(submission.directory))
    lines = [
        "#!/bin/bash" if needs.env_script else "#!/bin/sh",  # scripts of sites are written for bash
        *header,
        f"# Written by taskfarmer for the submission {submission.name}.",
        f"TASKFARMER_ELEMENT={element}",
        f"TASKFARMER_SUBMISSION={quoted}",
        "export TASKFARMER_ELEMENT TASKFARMER_SUBMISSION",
    ]
    if shared:
        where = shlex.quote(submission.cwd)
        lines += [
            f"if [ ! -d {quoted} ] || ! cd {where}; then",
            f'    echo "taskfarmer: $(hostname) does not see "{quoted}" or "{where} >&2',
            f"    exit {UNSEEN}",
            "fi",
            f"if [ -e {quoted}/{REVOKED} ]; then exit 0; fi",
        ]
    lines += exports(needs, shared=shared)
    return "\n".join([*lines, submission.body]) + "\n"


def exports(needs: Needs, *, shared: bool = True) -> list[str]:
    """Return lines that set what is to be set in a job: the script to source first, then the variables."""
    script = needs.env_script if shared else needs.env_script.rpartition("/")[2]
    lines = sourced(script if "/" in script else f"./{script}") if script else []
    return lines + [f"export {name}={shlex.quote(value)}" for name, value in needs.env.items()]


def sourced(script: str) -> list[str]:
    """Return lines of bash that source a script.

    If it fails, or is not there, the job ends: what would run without its environment fails later and worse. That is
    said in the job's output, also if the script itself calls `exit`; an EXIT trap of its own is left to it. To the left
    of `||` the `set -e` of a script would mean nothing; behind it, it would end what comes next.
    """
    word = shlex.quote(script)
    return [
        f'taskfarmer_ends() {{ echo "taskfarmer: "{word}" ended the job with status $?" >&2; }}',
        "trap taskfarmer_ends EXIT",
        f"source {word}",
        "taskfarmer_status=$?",
        "[ $taskfarmer_status = 0 ] || exit $taskfarmer_status",
        "set +eu",
        "case $(trap -p EXIT) in *taskfarmer_ends*) trap - EXIT;; esac",
        "unset -f taskfarmer_ends; unset -v taskfarmer_status",
    ]
