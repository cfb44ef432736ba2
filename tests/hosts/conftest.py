"""The fixtures of the tests on network file systems: a site of each kind, and a farm that its hosts share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.clients import FileSystem, MooseFS, Nfs, Site, Sshfs
from tests.hosts.machines import NoMachine
from tests.testbed import needs
from tests.testbed.needs import lacking

pytest.register_assert_rewrite("tests.hosts.shared")

from tests.hosts.shared import SharedFarm  # noqa: E402 - it must come after what is said about it


def _systems() -> Sequence[Any]:
    if version := os.environ.get("NFS_LAB"):
        return [Nfs(version)]
    far = (MooseFS(forgetful=True), Sshfs())
    return [MooseFS(), *(pytest.param(system, marks=pytest.mark.long) for system in far)]


def need(*programs: str) -> None:
    """Skip a test that cannot run here."""
    needs.need_root("make machines of namespaces")
    needs.need(*programs)


def site_of(system: FileSystem, where: Path) -> Iterator[Site]:
    """Serve a file system for as long as a fixture lives."""
    need(*system.programs)
    try:
        made = Site(system, where)
    except NoMachine as error:
        lacking(f"{system.name} cannot be had here: {error}")
    yield made
    made.close()


@pytest.fixture(scope="session", params=_systems(), ids=lambda system: system.name)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of each kind; in the NFS laboratory, of that kind only."""
    yield from site_of(request.param, tmp_path_factory.mktemp(request.param.name))


@pytest.fixture
def farm(tmp_path: Path, site: Site) -> Iterator[SharedFarm]:
    """A farm in a directory of the site, and hosts that come and go with it."""
    made = SharedFarm(tmp_path, site)
    yield made
    made.close()
