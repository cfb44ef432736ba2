"""Batch systems and a server as session fixtures: every worker of pytest-xdist has its own, brought up at first use.

    from tests.testbed.slurm import Slurm

    def test_something(slurm: Slurm) -> None:
        job = slurm.submit("--wrap", "true")
        slurm.wait_for(job, "COMPLETED")

A test leaves them as it found them: no jobs in the queue, all nodes up, the controller running. What is not installed
skips the test, or fails it where `CI=true`; `make testbed-packages` installs it on Debian, as root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.testbed.htcondor import HTCondor
from tests.testbed.needs import lacking, need
from tests.testbed.redis import Redis
from tests.testbed.service import NoService, Service, new_state
from tests.testbed.slurm import Settings, Slurm

S = TypeVar("S", bound=Service)


@contextmanager
def running(kind: type[S], make: Callable[[Path], S] | None = None) -> Iterator[S]:
    """Bring up a service for so long; `make` it from its directory for other settings than the usual ones."""
    need(*kind.programs)
    service = (make or kind)(new_state(kind.kind))
    try:
        service.up()
    except NoService as error:
        service.down()
        lacking(f"{kind.kind} cannot be had here: {error}")
    try:
        yield service
    finally:
        service.down()


@contextmanager
def slurm_with(settings: Settings) -> Iterator[Slurm]:
    """Bring up a Slurm with those settings, for so long."""
    if settings.accounting:
        need(*Slurm.accounting_programs)
    with running(Slurm, lambda state: Slurm(state, settings)) as made:
        yield made


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Slurm with two nodes of eight CPUs; `sacct` does not work."""
    with slurm_with(Settings()) as made:
        yield made


@pytest.fixture(scope="session")
def slurm_with_accounting() -> Iterator[Slurm]:
    """Slurm with two nodes of eight CPUs, and `sacct`."""
    with slurm_with(Settings(accounting=True)) as made:
        yield made


@pytest.fixture(scope="session")
def condor() -> Iterator[HTCondor]:
    """An HTCondor pool with eight CPUs."""
    with running(HTCondor) as made:
        yield made


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """A Redis server."""
    with running(Redis) as made:
        yield made
