"""A farmer whose client of the file system dies: from then on every call that concerns the workdir fails at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tests.farms import kill, wait_for
from tests.hosts.shared import SharedFarm
from tests.hosts.test_hosts import CUT_OFF, all_done, ends_of

pytestmark = pytest.mark.timeout(600)
CLIENTS = ("mfsmount", "sshfs")


def test_a_farmer_whose_client_dies_ends_its_tasks_and_leaves(farm: SharedFarm) -> None:
    total = 6
    a, b = farm.hosts(2)
    farm.write(*[f"[ $ON = b ] || {farm.beat(600)}"] * total)
    bereft = farm.start_on(a, "-n", "2")
    farm.wait_for_runs_on(a, 2)
    other = farm.start_on(b, "-n", "2")
    farm.wait_for_runs_on(b)
    for pid in a.processes():
        with suppress(OSError):  # a process of a task, which has ended
            if Path(f"/proc/{pid}/comm").read_text().strip() in CLIENTS:
                kill(pid)
    all_done(farm, [other], total)
    farm.check_alone()
    assert ends_of(farm, [bereft])[0].status == CUT_OFF
    wait_for(lambda: not bereft.started(), "its tasks to be dead")
    ledger = farm.check(total)
    assert [farmer.ended for farmer in ledger.state.farmers] == ["buried", "left"]
