"""Farmers on two hosts where the file system has no links, so that numbers of the log are created and renamed over."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.hosts.clients import Site, Sshfs
from tests.hosts.conftest import site_of
from tests.hosts.shared import SharedFarm
from tests.hosts.test_hosts import all_done, selftest

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site without links."""
    yield from site_of(Sshfs(links=False), tmp_path_factory.mktemp("without-links"))


def test_hosts_share_a_list_where_no_links_can_be_made(farm: SharedFarm) -> None:
    total = farm.site.system.many
    farm.write(*["sleep 0.05"] * total)
    with pytest.raises(OSError, match="not"):
        os.link(farm.list, farm.list.with_name("another"))
    a, b = farm.hosts(2)
    farmers = [farm.start_on(a, "-n", "2")]
    farm.wait_for_runs_on(a)
    farmers.append(farm.start_on(b, "-n", "2"))
    all_done(farm, farmers, total)
    assert set(farm.attempts().values()) == {1}
    assert set(farm.runs_by_host()) == {"a", "b"}
    farm.check(total)


@pytest.mark.long
def test_the_self_test_of_two_hosts_where_no_links_can_be_made(farm: SharedFarm) -> None:
    seen = selftest(farm, lacks=["link"])["farm"]
    assert (seen["finished"], seen["farmers"], seen["problems"]) == (300, 2, [])
