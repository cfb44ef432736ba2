"""Runners: how a task is executed. The names here are the ones that INI files and users' classes refer to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfarmer.lazy import lazily
from taskfarmer.runners.base import Command, Job, Runner, is_declarative
from taskfarmer.runners.basic import BasicRunner
from taskfarmer.runners.shifter import ShifterRunner

if TYPE_CHECKING:
    from taskfarmer.runners.apptainer import ApptainerRunner
    from taskfarmer.runners.environment import EnvironmentRunner
    from taskfarmer.runners.mounts import Mount
    from taskfarmer.runners.podman import DockerRunner, PodmanRunner
    from taskfarmer.runners.slurmstep import SlurmStepRunner

__all__ = [
    "ApptainerRunner",
    "BasicRunner",
    "Command",
    "DockerRunner",
    "EnvironmentRunner",
    "Job",
    "Mount",
    "PodmanRunner",
    "Runner",
    "ShifterRunner",
    "SlurmStepRunner",
    "is_declarative",
]

__getattr__ = lazily(
    __name__,
    {
        "ApptainerRunner": "apptainer",
        "DockerRunner": "podman",
        "EnvironmentRunner": "environment",
        "Mount": "mounts",
        "PodmanRunner": "podman",
        "SlurmStepRunner": "slurmstep",
    },
)
