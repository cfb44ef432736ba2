"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# The same histories each time where a submission is judged; new ones at every developer's run, and in `make sweep`.
# None is judged by how long it took: machines are loaded, and some examples wait for a disk.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("developer", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

# Under `nohup`, or in the background of a script, the farmers of tests would ignore them, too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("tests.farms")

from tests.farms import farm, farmers, lone  # noqa: E402 - it must come after what is said about it
from tests.testbed.containers import apptainer, docker, engine, image_root, podman  # noqa: E402
from tests.testbed.fixtures import condor, redis, slurm, slurm_with_accounting  # noqa: E402

__all__ = [
    "apptainer",
    "condor",
    "docker",
    "engine",
    "farm",
    "farmers",
    "image_root",
    "lone",
    "podman",
    "redis",
    "slurm",
    "slurm_with_accounting",
]
