"""What the script of a job can do about its own job: start something on each of its nodes, and queue once more.

Both are a system's dialect, as data by the system's name. A system that is not listed cannot do it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

AGAIN = 99
"""Exit status of a job script that asks for its job to be queued once more, where the system goes by that (as Grid
Engine does by itself)."""


@dataclass(frozen=True, slots=True)
class Requeueing:
    """How a system queues a job once more when its script says so.

    `command`: a line of sh that asks for it; empty: exit status `AGAIN` is enough. `settings` and `native` are what the
    submission needs for it (`Needs`).
    """

    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    native: tuple[str, ...] = ()


REQUEUEING = {
    # The last element of an array has the id of the whole: by that all of them would be queued again.
    "slurm": Requeueing(
        command='scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    ),
    "htcondor": Requeueing(settings={"on_exit_remove": f"(ExitBySignal == False) && (ExitCode != {AGAIN})"}),
    "lsf": Requeueing(native=("-Q", str(AGAIN))),
    "sge": Requeueing(native=("-r", "y")),
}
TELLS_ITS_END = ("slurm", "lsf", "htcondor")
"""Systems that a job can ask when it will be ended (`farm.allocation`)."""


def on_each_node(system: str, nodes: int, cpus: int) -> tuple[str, ...]:
    """Return the words that start a command on each node of a job, and hand on signals; empty: it cannot.

    Neither the end nor the status of one ends the others, whatever the site does by itself (Slurm's `WaitTime`). They
    leave the CPUs to steps that they start (`runners.slurmstep`): by a variable, which versions that do not know it
    (before 20.11) pass over, and which those steps are not to have.
    """
    if system != "slurm":
        return ()
    return (
        "env", "SLURM_OVERLAP=1",
        "srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}",
        "--wait=0", "--kill-on-bad-exit=0", "--export=ALL", "env", "-u", "SLURM_OVERLAP",
    )  # fmt: skip


def back_to_the_queue(
    command: str, requeueing: Requeueing, *, status: int, least_s: int, progress: Sequence[str] = ()
) -> list[str]:
    """Return lines of sh that run a command, and have the job queued once more if it ends with `status`.

    Not when it was cancelled or its submission revoked; not when it ended by itself within `least_s` seconds, since it
    would do so again and again; and not when the files `progress` stayed as they were in three starts one after the
    other. Signals to the script are handed on to the command.
    """
    seen = f"$(cat {shlex.join(progress)} /dev/null 2>/dev/null | wc -c)"
    return [
        "began=$(date +%s) warned= ended= heard=",
        f"seen={seen}",
        'idle="$TASKFARMER_SUBMISSION/idle.${TASKFARMER_ELEMENT:-1}"',
        "trap 'heard=1; warned=1; kill -s USR1 \"$pilot\" 2>/dev/null' USR1",
        "trap 'heard=1; warned=1; kill -s USR2 \"$pilot\" 2>/dev/null' USR2",
        "trap 'heard=1; ended=1; kill -s TERM \"$pilot\" 2>/dev/null' TERM INT",
        f"{command} &",
        "pilot=$!",
        'wait "$pilot"; status=$?',
        'while [ -n "$heard" ]; do  # a signal ends the wait, not the pilot',
        "    heard=",
        '    wait "$pilot"; again=$?',
        '    if [ "$again" -ne 127 ]; then status=$again; fi',
        "done",
        f'if [ "$status" -ne {status} ] || [ -n "$ended" ] || [ -e "$TASKFARMER_SUBMISSION/revoked" ]; then',
        '    exit "$status"',
        "fi",
        f'if [ -z "$warned" ] && [ $(($(date +%s) - began)) -lt {least_s} ]; then exit "$status"; fi',
        f'if [ "{seen}" != "$seen" ]; then rm -f "$idle"; else echo >>"$idle"; fi',
        'if [ -e "$idle" ] && [ "$(wc -l <"$idle")" -ge 3 ]; then',
        '    echo "taskfarmer: nothing came of three starts: is there a task that needs more time than a job has?" >&2',
        '    exit "$status"',
        "fi",
        *([requeueing.command, 'exit "$status"'] if requeueing.command else [f"exit {AGAIN}"]),
    ]
