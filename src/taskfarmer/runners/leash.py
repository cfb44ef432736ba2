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

TIED = """\
if [ $$ -lt 300 ]; then
    exec 3<&0
    ((read -r nothing; kill -KILL $$) <&3 3<&- >/dev/null 2>&1 &)
    exec 3<&-
fi
exec "$@" </dev/null
"""
"""What runs in the container: the arguments, and beside them what waits for the end of the leash.

Linux gives out ids below 300 only in a fresh namespace of processes, never again after they have wrapped around. In the
machine's own namespace, where nothing would end the waiting process with the task, there is no need for it: the task
belongs to the attempt's process group. The fork is double, so that the task has no child that it does not know.
"""


def leash() -> str:
    """Return the path that the client of a container opens as its standard input."""
    return _of_process(os.getpid())


@cache
def _of_process(pid: int) -> str:
    """Make the pipe of this process (a fork needs its own), which is never closed: it is to end with the process."""
    read, _ = os.pipe()
    return f"/proc/{pid}/fd/{read}"
