"""Farmers on several hosts, which share nothing but a directory: with the same kernel, and so the same boot id, but
other process ids, networks and names. Each has a client of its own of one network file system.

On MooseFS in every run; with `-m long` on the others, and by `test_nfs.py` on NFS.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import pytest

from taskfarmer.core.entries import Farm as FarmEntry
from tests.farms import TASKFARMER, Done, counted_finishes, kill, wait_for
from tests.hosts.doorman import Doorman
from tests.hosts.shared import HostFarmer, SharedFarm

pytestmark = pytest.mark.timeout(900)
MOST_IDLE_S = 2.0
"""The promise."""
PROMPTLY_S = 3.0
"""What a busy machine may add to it."""
CUT_OFF = 3
"""Exit status of a farmer that was ended by its guardian, since no heartbeat could be confirmed."""


def ends_of(farm: SharedFarm, farmers: Sequence[HostFarmer]) -> list[Done]:
    """Return how the farmers ended; they have time to wait for a lease and for caches."""
    system = farm.site.system
    ends = [farmer.wait(60 + 4 * system.lease_s + 4 * system.delay_s) for farmer in farmers]
    for end in ends:
        assert "Traceback" not in end.err + end.out, end.err + end.out
    return ends


def all_done(farm: SharedFarm, farmers: Sequence[HostFarmer], total: int) -> None:
    """Wait until all have left, and each said that all tasks are finished."""
    for end in ends_of(farm, farmers):
        assert end.status == 0, end
        assert end.json()["tasks"]["finished"] == total


def lost(farm: SharedFarm) -> set[int]:
    """The tasks that began more than once."""
    return {task for task, count in farm.attempts().items() if count > 1}


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_share_a_list(farm: SharedFarm, count: int) -> None:
    total = farm.site.system.many
    farm.write(*["sleep 0.05"] * total)
    first, *others = farm.hosts(count)
    farmers = [farm.start_on(first, "-n", "2")]
    farm.wait_for_runs_on(first)
    farmers += [farm.start_on(host, "-n", "2") for host in others]
    all_done(farm, farmers, total)
    assert set(farm.attempts().values()) == {1}
    assert len(farm.attempts()) == total
    assert set(farm.runs_by_host()) == {farmer.host.name for farmer in farmers}
    farm.check(total)


def test_hosts_that_start_in_the_same_instant_make_one_farm(farm: SharedFarm) -> None:
    total = 8
    go = farm.path / "go"
    farm.write(*["sleep 0.2"] * total)
    farmers = [farm.start_on(host, "-n", "1", after=go) for host in farm.hosts(4)]
    time.sleep(0.5)  # for all shells to wait
    go.touch()
    all_done(farm, farmers, total)
    assert set(farm.attempts().values()) == {1}
    ledger = farm.check(total)
    entries = [ledger.log.read(number).body for number in ledger.log.numbers()]
    assert [type(body) is FarmEntry for body in entries].count(True) == 1
    assert len(list(ledger.workdir.tasks.iterdir())) == 2, "the lists of those that lost the race are removed"


def test_a_host_that_dies_is_buried_after_the_lease(farm: SharedFarm) -> None:
    total, lease_s = 24, farm.site.system.lease_s
    a, b = farm.hosts(2)
    go = farm.path / "go"
    farm.write(*[f"[ $ON = b ] || {farm.beat(600)}; until [ -e {go} ]; do sleep 0.1; done"] * total)
    farm.start_on(a, "-n", "2")
    farm.wait_for_runs_on(a, 2)
    other = farm.start_on(b, "-n", "2")
    farm.wait_for_runs_on(b, 2)
    a.kill()
    died = time.time()
    go.touch()
    all_done(farm, [other], total)
    again = [run for run in farm.runs() if run.task in lost(farm) and run.attempt > 1]
    assert len(again) == 2, "what ran on the host that died runs again, and nothing else"
    assert min(run.time for run in again) - died > 0.9 * lease_s, "taken over before anybody could know that it is dead"
    farm.check_alone()
    ledger = farm.check(total)
    assert [farmer.ended for farmer in ledger.state.farmers] == ["buried", "left"]
    tries = [ledger.state.tries_of(run.task) for run in again]
    assert [(t.losses, t.failures) for t in tries] == [(1, 0)] * 2, "lost, not failed"
    places = [farmer.host for farmer in ledger.state.farmers]
    assert len({place["boot"] for place in places}) == 1
    assert len({place["pid_namespace"] for place in places}) == 2
    assert [place["host"] for place in places] == ["a", "b"]


def test_a_host_that_is_cut_off_for_longer_than_the_lease(farm: SharedFarm) -> None:
    total, loops = 8, 3
    a, b = farm.hosts(2)
    go = farm.path / "go"
    # On the host that will be cut off, half of what runs goes on and on, and half ends after the cable was pulled.
    farm.write(*[f"[ $ON = b ] || [ -e {go} ] || {farm.beat(600)}"] * (total - 2),
               *[f"[ $ON = b ] || until [ -e {go} ]; do {farm.beat(0.1)}; done"] * 2)  # fmt: skip
    cut_off = farm.start_on(a, "-n", str(total), "--loops", str(loops))
    farm.wait_for_runs_on(a, total)
    a.cable.pull()
    go.touch()
    other = farm.start_on(b, "-n", "2")
    all_done(farm, [other], total)
    assert farm.runs_by_host() == {"a": total, "b": total}
    farm.check_alone()
    a.cable.plug()
    end = ends_of(farm, [cut_off])[0]
    assert end.status == CUT_OFF
    assert "no confirmed heartbeat" in end.err
    ledger = farm.check(total)
    assert [farmer.ended for farmer in ledger.state.farmers] == ["buried"] * loops + ["left"]
    assert {finish.attempt for ends in counted_finishes(ledger).values() for finish in ends} == {2}, "late results"
    all_done(farm, [farm.start_on(a, "-n", "2")], total)  # it may come back, and finds all done


def test_a_host_that_is_cut_off_for_shorter_than_the_lease(farm: SharedFarm) -> None:
    total = 300
    a, b = farm.hosts(2)
    farm.write(*["sleep 0.2"] * total)
    farmers = [farm.start_on(host, "-n", "2", "--lease", "90") for host in (a, b)]
    farm.wait_for_runs_on(a, 5)
    farm.wait_for_runs_on(b, 5)
    a.cable.pull()
    time.sleep(3)
    a.cable.plug()
    all_done(farm, farmers, total)
    assert set(farm.attempts().values()) == {1}
    ledger = farm.check(total)
    assert [farmer.ended for farmer in ledger.state.farmers] == ["left", "left"]


@pytest.mark.parametrize("whom", ["loop", "host"])
def test_who_is_stopped_for_longer_than_the_lease(farm: SharedFarm, whom: str) -> None:
    """A loop that is stopped is killed by its guardian. A host that sleeps as a whole finds itself buried."""
    total = 6
    a, b = farm.hosts(2)
    farm.write(*[f"[ $ON = b ] || {farm.beat(600)}"] * total)
    sleeper = farm.start_on(a, "-n", "2")
    farm.wait_for_runs_on(a, 2)
    other = farm.start_on(b, "-n", "2")
    asleep = [sleeper.loop()] if whom == "loop" else [*sleeper.started(), sleeper.loop(), sleeper.guardian()]
    for pid in asleep:
        kill(pid, signal.SIGSTOP)
    all_done(farm, [other], total)
    if whom == "loop":
        farm.check_alone()
    for pid in [*reversed(asleep), sleeper.pid]:
        kill(pid, signal.SIGCONT)
    assert ends_of(farm, [sleeper])[0].status in (0, CUT_OFF)
    wait_for(lambda: not sleeper.started(), "its tasks to be dead")
    ledger = farm.check(total)
    assert [farmer.ended for farmer in ledger.state.farmers] == ["buried", "left"]
    assert set(farm.attempts().values()) == {1, 2}


def test_nobody_idles_while_another_holds_what_it_has_not_started(farm: SharedFarm) -> None:
    """Short tasks first, so that farmers take many at once; then long ones, of which they took too many.

    Longer than what is allowed below, but with the longest delays: who waits for the end of one is found out.
    """
    short, long = 120, 4
    farm.write(*["true"] * short, *[farm.beat(10.0)] * long)
    go = farm.path / "go"
    farmers = [farm.start_on(host, "-n", "1", after=go) for host in farm.hosts(2)]
    go.touch()
    all_done(farm, farmers, short + long)
    assert set(farm.attempts().values()) == {1}
    ledger = farm.check(short + long)
    idle_s = longest_idle(farm, since=max(farmer.since for farmer in ledger.state.farmers))
    there_and_back_s = 2 * farm.site.system.delay_s  # who idles must be heard, and what it is given must be seen
    assert idle_s <= MOST_IDLE_S + there_and_back_s + PROMPTLY_S


def test_no_slot_is_empty_while_another_host_holds_what_it_has_not_started(farm: SharedFarm) -> None:
    """With as many long tasks as there are slots: who has one, and an empty slot beside it, is given another."""
    short, long = 120, 6
    farm.write(*["true"] * short, *[farm.beat(15.0)] * long)
    go = farm.path / "go"
    farmers = [farm.start_on(host, "-n", "3", after=go) for host in farm.hosts(2)]
    go.touch()
    all_done(farm, farmers, short + long)
    ledger = farm.check(short + long)
    began = [life.run.time for life in farm.lives() if life.run.task >= short]
    assert len(began) == long
    all_there = max([min(began), *(farmer.since for farmer in ledger.state.farmers)])
    there_and_back_s = 2 * farm.site.system.delay_s
    assert max(began) - all_there <= MOST_IDLE_S + there_and_back_s + PROMPTLY_S


def selftest(farm: SharedFarm, *options: str, lacks: Sequence[str] = ()) -> dict[str, Any]:
    """Test the site from one host, which reaches the other only by the launcher; return the figures by check.

    It is fit, with nothing left in it, and sound but for what it `lacks`.
    """
    a, b = farm.hosts(2)
    with Doorman(farm.path / "calls", [a, b]) as doorman:
        words = ("--dir", str(farm.there), "--hosts", "a,b", "--launcher", doorman.launcher, "--json", *options)
        argv = a.argv(*TASKFARMER, "selftest", *words)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)
    wrong = [check for check in said["checks"] if check["verdict"] == "NOT OK"]
    assert [check["name"] for check in wrong] == list(lacks), wrong
    assert (done.returncode, done.stderr) == (0, ""), done
    assert (said["hosts"], said["fit"], said["left"]) == (["a", "b"], True, "")
    assert list(farm.workdir.parent.iterdir()) == []
    return {check["name"]: check["figures"] for check in said["checks"]}


def test_the_self_test_of_two_hosts(farm: SharedFarm) -> None:
    seen = selftest(farm)["farm"]
    assert (seen["finished"], seen["problems"]) == (300, [])
    assert seen["farmers"] >= 1, "one may have done all before the other came; more come where hosts stand still"


@pytest.mark.long
def test_the_self_test_of_two_hosts_with_chaos(farm: SharedFarm) -> None:
    lease_s = farm.site.system.lease_s
    chaos = ("--chaos", "--seconds", f"{2 * lease_s:g}", "--lease", f"{lease_s:g}", "--farmers", "3", "--seed", "1")
    seen = selftest(farm, *chaos, "--tasks", "2000")["chaos"]
    assert seen["finished"] == seen["tasks"] == seen["executions"] - seen["again"]
    assert sum(seen["strikes"].values()) > 0


def longest_idle(farm: SharedFarm, since: float) -> float:
    """Return for how long at most (seconds) a host with one slot had nothing to do before another began a task."""
    lives = list(farm.lives())
    worst = 0.0
    for late in lives:
        here = farm.host_of(late.run)
        for name in {farm.host_of(life.run) for life in lives} - {here}:
            busy = (life.last for life in lives if farm.host_of(life.run) == name and life.run.time < late.run.time)
            worst = max(worst, late.run.time - max([since, *busy]))
    return worst
