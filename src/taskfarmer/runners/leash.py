"""The leash: how a container ends with its farmer, whoever holds the container.

The client of a container program is all that the farm sees as a process; the container itself may be a daemon's child,
and a KILL of the client, or of loop and guardian in the same instant, tells it nothing. So each loop holds a pipe, and
never writes to it; the read end is the client's standard input, which the client hands on into the container. There, a
process beside the task waits for its end of file, which comes when the client dies (the program closes the container's
input) and when the loop does (the pipe ends), and then kills the task, with which the container ends.

The client opens `/proc/LOOP/fd/N`, so that nothing is inherited, and the blocking form of a runner works as well.
"""

from __future__ import annotations

import os
from functools import cache

from taskfarmer.runners.shell import EXEC

TIED = f"""\
echo "$2" 2>/dev/null >"$1"
shift 2
if [ $$ = 1 ]; then
    exec 3<&0
    "$@" </dev/null 3<&- &
    taskfarmer_task=$!
    for taskfarmer_signal in HUP INT TERM USR1 USR2; do
        trap "kill -$taskfarmer_signal $taskfarmer_task" $taskfarmer_signal
    done
    (read -r nothing; kill -KILL -1) <&3 3<&- >/dev/null 2>&1 &
    exec 3<&-
    while :; do
        wait $taskfarmer_task
        taskfarmer_status=$?
        kill -0 $taskfarmer_task 2>/dev/null || exit $taskfarmer_status
    done
elif [ $$ -lt 300 ]; then
    exec 3<&0
    ((read -r nothing; kill -KILL $$) <&3 3<&- >/dev/null 2>&1 &)
    exec 3<&-
fi
exec </dev/null
{EXEC}"""
"""What runs in the container: the arguments, and beside them what waits for the end of the leash. Before that it leaves
its name in a file (the first two words), by which is known that it was started.

Linux gives out ids below 300 only in a fresh namespace of processes, never again after they have wrapped around. In the
machine's own namespace, where nothing would end the waiting process with the task, there is no need for it: the task
belongs to the attempt's process group. The fork is double, so that the task has no child that it does not know.

Without the program's own init (`--no-init`, `--compat` of Apptainer, `--init=false`) nothing in the container can kill
the first process. So that is the shell then, with the task as its child, to which it hands signals on.
"""

TIED_STEP = """\
_start() {
    read -r _stat <"/proc/$$/stat" || return
    set -- ${_stat##*)}
    echo "${20}"
}
_started=$(_start)
exec 3<&0
((
    read -r _nothing
    [ "$(_start)" = "$_started" ] || exit
    [ "${SLURM_LOCALID:-0}" != 0 ] || scancel "$SLURM_JOB_ID.$SLURM_STEP_ID"
    sleep 10
    [ "$(_start)" != "$_started" ] || kill -KILL $$
) <&3 3<&- >/dev/null 2>&1 &)
exec 3<&-
exec "$@" </dev/null
"""
"""What runs in a step of Slurm. A step outlives its srun when that is killed with its group, and srun does not know
of the farmer's end; its input ends in both cases. Then Slurm is told to end the step, with all that is in it; where it
cannot be, the task's own process is killed. The input ends after the task as well, whose pid may be another's by then.
"""


def leash() -> str:
    """Return the path that the client of a container opens as its standard input."""
    return _of_process(os.getpid())


@cache
def _of_process(pid: int) -> str:
    """Make the pipe of this process (a fork needs its own), which is never closed: it is to end with the process."""
    read, _ = os.pipe()
    return f"/proc/{pid}/fd/{read}"
