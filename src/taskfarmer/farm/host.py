"""Which machine this is, who lives on it, what it can give; and ending all that descends from a process.

Processes are told apart by (pid, start time): a pid alone may be another's by now. A zombie is dead. What is compared
across farmers is the kernel's boot id and the PID namespace's inode: only where both are the same does a pid mean the
same process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cgroups import ControlGroups

TOKEN = "TASKFARMER_TOKEN"
"""The variable by which what a farmer started is found again, wherever it went: the farmer's id."""
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a farmer lives. `start` and `guardian_start` in clock ticks since boot, as /proc/PID/stat has them."""

    host: str
    boot: str
    pid_namespace: int
    pid: int
    start: int
    guardian: int
    guardian_start: int

    def to_json(self) -> dict[str, Any]:
        """Return the place as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Place | None:
        """Return the place, or None when it does not say enough."""
        try:
            return cls(**{key: value[key] for key in cls.__slots__})
        except KeyError:
            return None


def here(guardian: int) -> Place:
    """Return the place of this process, whose guardian has that pid."""
    return Place(
        host=os.uname().nodename,
        boot=boot_id(),
        pid_namespace=_namespace(),
        pid=os.getpid(),
        start=start_of(os.getpid()),
        guardian=guardian,
        guardian_start=start_of(guardian),
    )


def boot_id() -> str:
    """Return the kernel's id of this boot; empty where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def start_of(pid: int) -> int:
    """Return when a living process started, in ticks since boot; 0 for one that is dead, or a zombie."""
    words = _stat(pid)
    return 0 if words[0] in (b"Z", b"X") else int(words[19])


def is_at_terminal(pid: int) -> bool:
    """Whether a process is in the foreground of a terminal, so that what is typed there is meant for it."""
    words = _stat(pid)
    return words[0] != b"X" and words[2] == words[5]


def _stat(pid: int) -> list[bytes]:
    """Return what /proc/PID/stat says from the state on, if but that there is no such process: `X`."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return [b"X"]
    return stat[stat.rfind(b")") + 2 :].split()


def same_machine(place: Place) -> bool:
    """Whether pids of that farmer mean the same here."""
    return bool(place.boot) and place.boot == boot_id() and place.pid_namespace == _namespace() != 0


def is_gone(place: Place) -> bool:
    """Whether loop and guardian of a farmer are certainly dead. Only on its own machine can that be known."""
    return loop_is_gone(place) and _is_dead(place.guardian, place.guardian_start)


def loop_is_gone(place: Place) -> bool:
    """Whether the loop of a farmer is certainly dead. Its guardian may still be ending what it left."""
    return same_machine(place) and _is_dead(place.pid, place.start)


def guardian_has_only(place: Place, pids: Collection[int]) -> bool:
    """Whether the guardian of a farmer on this machine has no children but these, so that it has ended all others.

    False also where that cannot be seen. What its loops leave becomes its own: it is their subreaper.
    """
    if not same_machine(place) or _is_dead(place.guardian, place.guardian_start):
        return False
    try:
        children = Path(f"/proc/{place.guardian}/task/{place.guardian}/children").read_text()
    except OSError:
        return False
    return {*map(int, children.split())} <= {*pids}


def _is_dead(pid: int, start: int) -> bool:
    return start_of(pid) != start or not start


def with_token(token: str) -> Iterator[int]:
    """Yield the processes here that carry a farmer's token in their environment."""
    wanted = f"{TOKEN}={token}".encode()
    for pid in _pids():
        with suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                yield pid


def of_attempt(token: str, task: int, attempt: int) -> Iterator[int]:
    """Yield the processes here that belong to one attempt of a farmer."""
    wanted = {f"{TOKEN}={token}".encode(), b"TASKFARMER_TASK_ID=%d" % task, b"TASKFARMER_ATTEMPT=%d" % attempt}
    for pid in _pids():
        with suppress(OSError):
            if wanted <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                yield pid


def _pids() -> Iterator[int]:
    own = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != own:
            yield int(name)


def become_subreaper() -> None:
    """From now on orphans below this process become its children, so that none is lost from sight."""
    _prctl(_SUBREAPER, 1)


def signal_at_parents_death(number: int) -> None:
    """Have this process sent a signal when its parent dies; 0: none. Children do not inherit it."""
    _prctl(_PARENT_DEATH_SIGNAL, number)


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(root: int, spare: frozenset[int] | set[int] = frozenset()) -> list[int]:
    """Return the living processes below `root`, in no order, but for the trees of `spare`."""
    parents: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            continue
        words = stat[stat.rfind(b")") + 2 :].split()
        if words[0] not in (b"Z", b"X"):
            parents.setdefault(int(words[1]), []).append(pid)
    found, front = [], [root]
    while front:
        children = [pid for pid in parents.get(front.pop(), ()) if pid not in spare]
        found += children
        front += children
    return found


def kill_descendants(
    limit_s: float = 20.0, *, spare: frozenset[int] | set[int] = frozenset(), reap: Callable[[], None] | None = None
) -> bool:
    """Kill everything below this process but the trees of `spare`; False if something resists (uninterruptible I/O).

    This process must be a subreaper. Anew until none is found: what is killed may have had time to fork. `reap` takes
    exit statuses of children.
    """
    deadline = time.monotonic() + limit_s
    me = os.getpid()
    while time.monotonic() < deadline:
        (reap or bury_children)()
        if not _has_children():  # then nothing is below: orphans come to a subreaper. /proc may be long to read
            return True
        living = descendants(me, spare)
        if not living:
            return True
        for pid in living:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return False


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def kill_with_token(token: str, limit_s: float = 5.0) -> bool:
    """Kill every process here that carries the token; False if one resists, or cannot be looked at."""
    deadline = time.monotonic() + limit_s
    while True:
        living = [pid for pid in with_token(token) if start_of(pid)]
        if not living:
            return True
        if time.monotonic() > deadline:
            return False
        for pid in living:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def bury_children() -> None:
    """Take the exit statuses of children that nobody asks for."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def usable_cpus(environ: Mapping[str, str], groups: ControlGroups | None = None) -> int:
    """Return how many CPUs this process may use: the least of affinity, quotas of its control groups (those of this
    process unless given) and SLURM_CPUS_ON_NODE; >= 1.
    """
    counts = [len(os.sched_getaffinity(0))]
    slurm = environ.get("SLURM_CPUS_ON_NODE", "")
    if slurm.isdigit() and int(slurm):
        counts.append(int(slurm))
    if (quota := (groups or ControlGroups()).cpus()) is not None:
        counts.append(quota)
    return max(1, min(counts))


def usable_cpu_numbers(environ: Mapping[str, str]) -> tuple[int, ...]:
    """Return as many CPUs, the first that this process may use, by their numbers."""
    return tuple(sorted(os.sched_getaffinity(0))[: usable_cpus(environ)])


def keep_to(cpus: Collection[int]) -> None:
    """Have this process, and what it starts from now on, run on these CPUs, as far as it may; none: as it is."""
    with suppress(OSError):
        if cpus:
            os.sched_setaffinity(0, cpus)


def usable_memory(groups: ControlGroups | None = None) -> int:
    """Return the bytes of memory that tasks may share, at most what the control groups allow; 0 where it cannot be
    told.
    """
    with suppress(OSError, ValueError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = (groups or ControlGroups()).memory_bytes()
        return total if limit is None else min(total, limit)
    return 0


def usable_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(dict.fromkeys(name for name in named.split(",") if name and name not in ("-1", "NoDevFiles")))
    with suppress(OSError):
        return tuple(sorted(d[6:] for d in os.listdir("/dev") if d.startswith("nvidia") and d[6:].isdigit()))
    return ()
