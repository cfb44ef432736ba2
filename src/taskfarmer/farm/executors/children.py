"""What the executors on this machine share: the variables of an attempt, its CPUs, and the end of processes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from resource import struct_rusage
from typing import NoReturn

from ..output import FileAction, Output
from .base import Launch, StartError

MACHINE = frozenset((errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO))
"""Errors of starting that say something of the machine, not of the task."""


def variables(launch: Launch, extra: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return the environment variables of an attempt, beyond those of the farmer; `extra` wins over the task's own.

    Raises:
        ValueError: a name or a value has a character that no byte stands for.
    """
    number = b"%d" % launch.id
    env = {
        b"PROC_NUMBER": number,
        b"TASKFARMER_TASK_ID": number,
        b"TASKFARMER_ATTEMPT": b"%d" % launch.attempt,
        b"TASKFARMER_SLOT": b"%d" % launch.share.slots[0],
    }
    for given in (launch.task.env, extra):
        for key, value in given.items():
            env[os.fsencode(key)] = os.fsencode(value)
    if launch.task.gpus:
        env[b"CUDA_VISIBLE_DEVICES"] = ",".join(launch.share.gpus).encode()
    return env


def pinned(launch: Launch) -> set[int]:
    """Return the CPUs of an attempt: one a slot of it, of those that the loop keeps to."""
    cpus = sorted(os.sched_getaffinity(0))
    return {cpus[slot % len(cpus)] for slot in launch.share.slots}


def ended_children() -> Iterator[tuple[int, int, struct_rusage]]:
    """Yield (pid, exit status or minus a signal, resources used) of each child that has ended, without waiting.

    The loop is subreaper of what it started, so processes come up here that no executor knows.
    """
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, os.waitstatus_to_exitcode(status), usage


def why_no_output(actions: Sequence[FileAction]) -> OSError | None:
    """Return what keeps a process from opening its streams, if anything does: the error of a start does not tell."""
    for kind, *arguments in actions:
        if kind == os.POSIX_SPAWN_OPEN:
            _, path, flags, mode = arguments
            try:
                os.close(os.open(path, flags | os.O_CLOEXEC, mode))
            except OSError as error:
                return error
    return None


def refuse(output: Output, launch: Launch, why: str, *, retryable: bool, status: int = 126) -> NoReturn:
    """Raise the StartError; what is the task's own fault is said in its output, too."""
    if not retryable:
        output.note(launch, why)
    raise StartError(why, retryable=retryable, status=status)
