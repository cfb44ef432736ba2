"""Batch systems: dialects as data and parsers, no loops and no threads.

`base` has the contract, `calls` what runs the commands, `script` the job script that all share, `pace` when to ask and
when to wait. The systems are loaded by name, so that a command that needs none pays for none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from ..errors import InputError
from .base import (
    GONE,
    BatchSystem,
    JobId,
    JobState,
    JobStatus,
    Limits,
    Needs,
    NoAnswer,
    Outcome,
    Refused,
    Submission,
    Submitted,
    Unsure,
)
from .calls import Answer, Call, Steps, about_jobs, at_once, carry_out

__all__ = [
    "AUTO", "GONE", "SYSTEMS", "Answer", "BatchSystem", "Call", "JobId", "JobState", "JobStatus", "Limits", "Needs",
    "NoAnswer", "Outcome", "Refused", "Steps", "Submission", "Submitted", "Unsure", "about_jobs", "at_once",
    "carry_out", "choose", "system_class",
]  # fmt: skip

SYSTEMS = {
    "lsf": "taskfarmer.batch.lsf.Lsf",
    "htcondor": "taskfarmer.batch.htcondor.HTCondor",
    "slurm": "taskfarmer.batch.slurm.Slurm",
    "pbs": "taskfarmer.batch.pbs.Pbs",
    "sge": "taskfarmer.batch.gridengine.GridEngine",
    "local": "taskfarmer.batch.local.Local",
}
"""The systems by name, in the order in which `auto` looks for them (as in b2luigi, then the others)."""
AUTO = ("lsf", "htcondor", "slurm", "pbs", "sge")
"""Those that `auto` may choose. PBS and Grid Engine both have a `qsub`; each looks for what only it has."""
_GROUP = "taskfarmer.batch"
"""Entry points of installed packages that add systems, or replace ours."""


def system_class(name: str) -> type[BatchSystem]:
    """Return the class of a batch system: `module.Class`, an entry point's name, or one of `SYSTEMS`.

    Raises:
        InputError: there is none of that name, or it cannot be loaded.
    """
    target = name if "." in name else SYSTEMS.get(name, "")
    if _are_added():
        from importlib.metadata import entry_points

        for entry in entry_points(group=_GROUP, name=name):
            target = entry.value.replace(":", ".")
    if not target:
        from importlib.metadata import entry_points

        known = ", ".join(sorted({*SYSTEMS, *entry_points(group=_GROUP).names}))
        raise InputError(
            f"there is no batch system {name!r}", hint=f"there are: auto, {known}; or give package.module.Class"
        )
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the batch system {name!r} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BatchSystem)):
        raise InputError(f"{target} is no batch system", hint="derive it from taskfarmer.batch.BatchSystem")
    return found


def _are_added() -> bool:
    """Whether some installed package adds batch systems. To load what reads entry points takes as long as all else that
    a submission loads; so it is looked first whether there is anything to read.
    """
    section = f"[{_GROUP}]".encode()
    for path in sys.path:
        with suppress(OSError):
            for name in os.listdir(path or "."):
                if name.endswith((".dist-info", ".egg-info")):
                    with suppress(OSError):
                        if section in Path(path, name, "entry_points.txt").read_bytes():
                            return True
    return False


def choose(name: str, environ: Mapping[str, str]) -> BatchSystem:
    """Return the batch system of that name; `auto`: the first whose commands are here.

    Raises:
        InputError: there is no such system, or its commands are not here.
    """
    if name == "auto":
        for candidate in AUTO:
            if not (found := system_class(candidate)).missing(environ):
                return found(environ)
        looked = ", ".join(system_class(candidate).programs[0] for candidate in AUTO)
        raise InputError(
            f"no batch system is here: none of {looked} is on the PATH",
            hint="load the site's module for it, or run the tasks here with `taskfarmer run`",
        )
    system = system_class(name)
    if missing := system.missing(environ):
        raise InputError(
            f"{system.title} is not here: {', '.join(missing)} not on the PATH",
            hint="load the site's module for it, or see `taskfarmer doctor`",
        )
    return system(environ)
