"""Whose containers and directories these are, told by their names, so that what a killed farmer left can be removed.

An owner is a process: the kernel's boot, the namespace of processes, the pid and its start, which together never come
again. Only in the same boot and namespace can it be known that one is dead.
"""

from __future__ import annotations

import os
import shutil
import tempfile

_PREFIX = "taskfarmer-"
_UNKNOWN = "unknown"


def prefix() -> str:
    """Return what names of this process's containers and directories begin with."""
    return f"{_PREFIX}{_machine()}.{os.getpid()}.{_start_of(os.getpid())}-"


def is_left(name: str) -> bool:
    """Whether a name is one of a process of this machine that is certainly dead."""
    owner, dash, _ = name.removeprefix(_PREFIX).partition("-")
    machine, _, process = owner.partition(".")
    pid, _, start = process.partition(".")
    if not (name.startswith(_PREFIX) and dash and pid.isdecimal()) or machine != _machine() or machine == _UNKNOWN:
        return False
    return _start_of(int(pid)) != start


def private_directory(parent: str | None = None) -> str:
    """Make a directory of this process in `parent` (None: where temporary files go), for its user alone.

    Raises:
        OSError: it cannot be made.
    """
    return tempfile.mkdtemp(prefix=prefix(), dir=parent)


def remove_left_directories(parent: str | None = None) -> None:
    """Remove the directories that dead processes left there."""
    place = parent or tempfile.gettempdir()
    for name in os.listdir(place):
        if is_left(name):
            shutil.rmtree(os.path.join(place, name), ignore_errors=True)


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read(8)}{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return _UNKNOWN


def _start_of(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty for one that is not there, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return ""
    words = stat[stat.rfind(b")") + 2 :].split()
    return "" if words[0] in (b"Z", b"X") else words[19].decode()
