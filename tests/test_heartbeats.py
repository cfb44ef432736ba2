"""Since when a farmer may be taken for dead: from the beginning of its last confirmed heartbeat, never from its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from taskfarmer.farm.clock import Clock
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.guardian import DEADLINE, Guardian, Link, _Loop
from taskfarmer.farm.upkeep import Heart
from tests.simulation import Host, SimulatedDisk, Simulation, Work


class Slow(Disk):
    """A disk, and a clock, on which a sync takes 200 s."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Still()

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.clock.now += 200.0


class Still(Clock):
    """A clock that stands still."""

    now = 1000.0

    def boottime(self) -> float:
        return self.now


def test_a_heartbeat_counts_from_its_beginning(tmp_path: Path) -> None:
    """Others may have seen it long before its sync returned."""
    disk = Slow()
    heart = Heart(tmp_path / "heart", disk, disk.clock)
    heart.beat()
    assert heart.confirmed == 1000.0
    assert heart.unconfirmed_s() == 200.0
    heart.end()


@pytest.mark.parametrize("lay_s", [0.0, 100.0, 1000.0])
def test_a_heartbeat_that_lay_unread_is_as_old_as_it_is(lay_s: float) -> None:
    """The machine slept, or the guardian was stopped: it reads what was said before."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    up_r, up_w = os.pipe()
    down_r, down_w = os.pipe()
    guardian, link, loop = Guardian(lambda _link, _place: 0, 1), Link(down_r, up_w, os.getpid()), _Loop(0, up_r, down_w)
    link.say(f"lease 300.0 {now - lay_s - 1}")
    guardian._listen(loop)
    assert loop.deadline == pytest.approx(now - lay_s - 1 + DEADLINE * 300)
    link.say(f"beat {now - lay_s}")
    guardian._listen(loop)
    assert loop.deadline == pytest.approx(now - lay_s + DEADLINE * 300)
    for fd in (up_r, up_w, down_r, down_w):
        os.close(fd)


@pytest.mark.parametrize(("slow", "stops"), [(1, False), (99, True)], ids=["once", "for long"])
def test_who_hung_in_a_heartbeat_beats_again_before_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: int, stops: bool
) -> None:
    left = slow

    def sync(disk: SimulatedDisk, fd: int) -> None:
        nonlocal left
        if disk._shared.world.time > 50 and left:
            left -= 1
            disk._shared.world.spend(160.0, settle=True)
        Disk.sync(disk, fd)

    monkeypatch.setattr(SimulatedDisk, "sync", sync)
    simulation = Simulation(tmp_path, [Work(seconds=600)])
    simulation.farmers([Host()])
    simulation.run()
    said = "\n".join(text for _, _, text in simulation.trace.said)
    assert ("no heartbeat could be confirmed for half of the lease" in said) == stops
