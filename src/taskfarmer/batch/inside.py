"""What the script of a job can do about its own job: start something on each of its nodes, and queue once more.

Both are a system's dialect, as data by the system's name. A system that is not listed cannot do it.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    "slurm": Requeueing(command='scontrol requeue "$SLURM_JOB_ID"'),
    "htcondor": Requeueing(settings={"on_exit_remove": f"(ExitBySignal == False) && (ExitCode != {AGAIN})"}),
    "lsf": Requeueing(native=("-Q", str(AGAIN))),
    "sge": Requeueing(native=("-r", "y")),
}
TELLS_ITS_END = ("slurm", "lsf")
"""Systems that a job can ask when it will be ended (`farm.allocation`)."""


def on_each_node(system: str, nodes: int, cpus: int) -> tuple[str, ...]:
    """Return the words that start a command on each node of a job, and hand on signals; empty: it cannot."""
    if system != "slurm":
        return ()
    return (
        "srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}",
        "--kill-on-bad-exit=0", "--export=ALL",
    )  # fmt: skip


def back_to_the_queue(command: str, requeueing: Requeueing, *, status: int, least_s: int) -> list[str]:
    """Return lines of sh that run a command, and have the job queued once more if it ends with `status`.

    Not when it was cancelled or its submission revoked, and not when it ended by itself within `least_s` seconds:
    it would do so again and again. Signals to the script are handed on to the command.
    """
    return [
        "began=$(date +%s) warned= ended=",
        "trap 'warned=1; kill -s USR1 \"$pilot\" 2>/dev/null' USR1",
        "trap 'warned=1; kill -s USR2 \"$pilot\" 2>/dev/null' USR2",
        "trap 'ended=1; kill -s TERM \"$pilot\" 2>/dev/null' TERM INT",
        f"{command} &",
        "pilot=$!",
        'wait "$pilot"; status=$?',
        'while [ "$status" -gt 128 ] && kill -0 "$pilot" 2>/dev/null; do wait "$pilot"; status=$?; done',
        'if [ -n "$warned" ] && [ "$status" -gt 128 ]; then',
        f"    status={status}  # the signal came just as it ended: queueing once more costs little",
        "fi",
        f'if [ "$status" -ne {status} ] || [ -n "$ended" ] || [ -e "$TASKFARMER_SUBMISSION/revoked" ]; then',
        '    exit "$status"',
        "fi",
        f'if [ -z "$warned" ] && [ $(($(date +%s) - began)) -lt {least_s} ]; then exit "$status"; fi',
        *([requeueing.command, 'exit "$status"'] if requeueing.command else [f"exit {AGAIN}"]),
    ]
