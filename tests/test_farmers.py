"""Farmers as people see them: how they stand, by host, what they lost; the last to leave; the ones that are told to."""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.core.entries import Bury, Stop
from taskfarmer.farm.damage import discovered
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.host import start_of
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.upkeep import Undertaker
from taskfarmer.monitor.describe import farm_lines
from taskfarmer.monitor.farmers import FarmerSummary, farmers_of, hosts_of
from taskfarmer.monitor.parting import parting
from taskfarmer.monitor.standing import file_time, short_ids, standings
from taskfarmer.monitor.summary import FarmSummary, summary
from tests.farms import TASKFARMER, Farm, wait_for
from tests.ledgers import EPOCH, HERE, HandMade, HandMadeFarmer
from tests.test_look_commands import call, said


def look(farm: HandMade, disk: Disk | None = None) -> Ledger:
    ledger = Ledger.open(farm.path, disk)
    ledger.read_tails()
    return ledger


def printed(farm: HandMade, *, each_farmer: bool = False) -> list[str]:
    """Return the lines of `status`."""
    return "\n".join(farm_lines(summary(look(farm)), each_farmer=each_farmer)).split("\n")


def beat(farm: HandMade, farmer: HandMadeFarmer, ago_s: float) -> None:
    """Have a farmer's last sign of life be so many seconds old."""
    for path in (farm.workdir.alive / farmer.id, farm.workdir.journals / farmer.id):
        os.utime(path, (time.time() - ago_s,) * 2)


@pytest.fixture
def farm(tmp_path: Path) -> HandMade:
    return HandMade(tmp_path / "w", [f"task {n}" for n in range(20)])


# -- how a farmer stands -----------------------------------------------------------------------------------------------


def test_how_farmers_stand(farm: HandMade) -> None:
    alive, silent, dead, buried, left = (
        farm.join(), farm.join(), HandMadeFarmer(farm, "here", 1, place=HERE), farm.join(), farm.join(),
    )  # fmt: skip
    beat(farm, alive, 40)
    beat(farm, silent, 50)  # a heartbeat is 15 s
    buried.bury()
    left.leave()
    by_id = {farmer.id: farmer for farmer in farmers_of(look(farm))}
    assert {id: farmer.standing for id, farmer in by_id.items()} == standings(look(farm))
    assert [by_id[f.id].standing for f in (alive, silent, dead, buried, left)] == [
        "alive", "silent", "gone", "buried", "left",
    ]  # fmt: skip
    assert by_id[silent.id].silence_s == pytest.approx(50, abs=20)
    assert by_id[left.id].silence_s is None


def test_the_age_of_a_heartbeat_is_told_by_the_clock_of_the_file_system(
    farm: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.join()
    monkeypatch.setattr("time.time", lambda: EPOCH * 2)  # our own clock is decades ahead
    assert [farmer.standing for farmer in farmers_of(look(farm))] == ["alive"]
    assert list(farm.workdir.new.iterdir()) == []


def test_where_nothing_can_be_written_our_own_clock_must_do(farm: HandMade) -> None:
    def refuse(_operation: str, what: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", what)

    assert file_time(look(farm, Disk(refuse))) == pytest.approx(time.time(), abs=20)


def test_who_was_buried_says_why_by_whom_and_what_it_lost(farm: HandMade) -> None:
    a, b = farm.join(host="north"), farm.join(host="south")
    a.take(0, 1, 2)
    a.run(0)
    a.start(1)
    a.start(2)
    news = farm.ledger.news_of(a.id, final=True)
    farm.append(Bury(farmer=a.id, why="silent for 300 s"), news, by=b.id)
    first, second = farmers_of(look(farm))
    assert (first.standing, first.why, first.buried_by, first.lost) == ("buried", "silent for 300 s", b.id, 2)
    assert (second.buried_by, second.lost) == (None, 0)
    text = "\n".join(printed(farm, each_farmer=True))
    assert f"silent for 300 s, buried by {b.id[:8]}" in text


def test_journals_that_are_too_long_to_be_searched_are_not(farm: HandMade) -> None:
    first, last = farm.join(), farm.join()
    for task, farmer in enumerate((first, last)):
        farmer.take(task)
        farmer.start(task)
        farmer.bury()
    ledger = look(farm)
    assert [farmer.lost for farmer in farmers_of(ledger)] == [1, 1]
    enough_for_one = ledger.state.farmers[1].seen
    some = farmers_of(ledger, most_bytes=enough_for_one)
    assert [farmer.lost for farmer in some] == [None, 1]
    assert [host.lost for host in hosts_of(some)] == [None]
    lines = [line for text in (True, False) for line in farm_lines(_with(ledger, some), each_farmer=text)]
    assert sum(" ?" in line for line in lines) == 2


def _with(ledger: Ledger, known: list[FarmerSummary]) -> FarmSummary:
    return replace(summary(ledger), farmers=known, hosts=hosts_of(known))


# -- by host -----------------------------------------------------------------------------------------------------------


def test_loops_of_one_guardian_are_one_farmer(farm: HandMade) -> None:
    for guardian in (7, 7, 7, 8):
        farm.join(host="wide", slots=32, guardian=guardian)
    farm.join(host="other", slots=2, guardian=7)
    other, wide = hosts_of(farmers_of(look(farm)))
    assert (wide.host, wide.farmers, wide.loops, wide.slots) == ("wide", 2, 4, 128)
    assert (other.host, other.farmers, other.loops, other.slots) == ("other", 1, 1, 2)
    assert any(line.startswith("wide, 2 farmers  at work") for line in printed(farm))
    farm.join(host="one", guardian=5), farm.join(host="one", guardian=5)
    assert any(line.startswith("one, 2 loops ") for line in printed(farm))


def test_a_host_has_what_was_done_there_also_by_those_that_are_over(farm: HandMade) -> None:
    old, new = farm.join(host="node1", guardian=1), farm.join(host="node1", guardian=2)
    old.take(0, 1, 2)
    old.run(0)
    old.run(1, "fail")
    old.start(2)
    old.bury()
    new.take(2, 3)
    new.run(2, "ok", 2)
    new.start(3)
    (host,) = hosts_of(farmers_of(look(farm)))
    assert (host.standing, host.farmers, host.slots, host.running) == ("alive", 1, 4, 1)
    assert (host.finished, host.failed, host.lost) == (2, 1, 1)
    assert "of the farmers that there were, 1 died; `status --farmers` lists them" in printed(farm)


def test_hosts_are_in_the_order_of_their_numbers_and_those_that_are_over_come_last(farm: HandMade) -> None:
    for name in ("n10", "n9", "n1"):
        farmer = farm.join(host=name)
        if name == "n1":
            farmer.leave("drain")
    dead = HandMadeFarmer(farm, "n10", 2, place=HERE)
    found = [(host.host, host.standing) for host in hosts_of(farmers_of(look(farm)))]
    assert found == [("n9", "alive"), ("n10", "alive"), ("n10", "gone"), ("n1", "left")]
    assert dead.id


def test_those_that_are_not_well_are_explained(farm: HandMade) -> None:
    beat(farm, farm.join(host="far"), 130)
    HandMadeFarmer(farm, "here", 1, place=HERE)
    text = "\n".join(printed(farm))
    assert "silent: no sign of life; another farmer takes over once it has seen none for 5:00" in text
    assert "dead: its processes are gone; the next farmer on its host takes over at once" in text
    assert "no farmer is at work" not in text  # the silent one may be


def test_hosts_where_all_is_over_are_not_listed_without_end(farm: HandMade) -> None:
    for number in range(15):
        farm.join(host=f"node{number}", guardian=number).leave()
    lines = printed(farm)
    assert sum(line.startswith("node") for line in lines) == 10
    assert "and 5 hosts more where nobody is at work any more" in lines
    assert "of the farmers that there were, 15 have left; `status --farmers` lists them" in lines


def test_the_hosts_for_programs(farm: HandMade) -> None:
    farm.join(host="north", slots=3)
    value = said("status", farm.path)
    (host,) = value["hosts"]
    assert (host["host"], host["standing"], host["farmers"], host["slots"]) == ("north", "alive", 1, 3)
    assert value["lease_s"] == 300.0


def test_ids_are_shown_as_short_as_they_are_different() -> None:
    assert short_ids(["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"]) == {
        "aaaaaaaaaaaaaaaa": "aaaaaaaa", "bbbbbbbbbbbbbbbb": "bbbbbbbb",
    }  # fmt: skip
    assert set(short_ids(["0123456789abcdef", "0123456789fedcba"]).values()) == {"0123456789a", "0123456789f"}
    assert short_ids([]) == {}


# -- stop and drain ----------------------------------------------------------------------------------------------------


def stops(farm: HandMade) -> list[Any]:
    return [(mode, sorted(ids)) for _, mode, ids in farm.state().stops]


@pytest.mark.parametrize(("command", "mode"), [("stop", "now"), ("drain", "drain")])
def test_farmers_are_chosen_by_host_and_by_the_beginning_of_their_id(farm: HandMade, command: str, mode: str) -> None:
    a, b, c = farm.join(host="north"), farm.join(host="north"), farm.join(host="south")
    word = "stop" if command == "stop" else "drain"
    assert call(command, farm.path, "--host", "north").stdout == f"told 2 farmers on north to {word}; 1 other goes on\n"
    assert call(command, farm.path, "--farmer", c.id[:6].upper()).stdout == f"told 1 farmer to {word}\n"
    both = said(command, farm.path, "--farmer", c.id, "--host", "north", "--host", "south")
    assert (both["mode"], both["farmers"], both["hosts"]) == (mode, [a.id, b.id, c.id], ["north", "south"])
    assert call(command, farm.path).stdout == f"told 3 farmers on 2 hosts to {word}\n"
    every = sorted([a.id, b.id, c.id])
    assert stops(farm) == [(mode, sorted([a.id, b.id])), (mode, [c.id]), (mode, every), (mode, [])]


@pytest.mark.parametrize("command", ["stop", "drain"])
def test_who_is_not_at_work_cannot_be_told(farm: HandMade, command: str) -> None:
    a = farm.join(host="north")
    gone = HandMadeFarmer(farm, "south", 1, place=HERE)
    old = farm.join(host="west")
    old.leave()
    before = farm.state().number
    for option, name in (("--host", "south"), ("--host", "west"), ("--farmer", gone.id), ("--farmer", old.id),
                         ("--farmer", "nobody"), ("--farmer", "")):  # fmt: skip
        result = call(command, farm.path, option, name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "at work: north\n" in result.stderr or f"at work: {a.id} on north\n" in result.stderr
        assert result.stderr.count("\n") == 1
    assert farm.state().number == before


def test_an_id_that_may_mean_two_is_refused(farm: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["abcd000000000000", "abce000000000000"])
    monkeypatch.setattr("tests.ledgers.secrets.token_hex", lambda _count: next(ids))
    farm.join(), farm.join()
    result = call("stop", farm.path, "--farmer", "abc")
    assert result.exit_code == 2
    assert "the ids of 2 farmers begin with 'abc'; say more: abcd000000000000 on node1, abce" in result.stderr
    assert call("stop", farm.path, "--farmer", "abcd").exit_code == 0


def test_the_dead_are_told_nothing(farm: HandMade) -> None:
    HandMadeFarmer(farm, "here", 1, place=HERE)
    assert call("stop", farm.path).stdout == "no farmer is at work\n"
    assert call("drain", farm.path).stdout == "no farmer is at work\n"
    assert stops(farm) == []
    assert "none is at work" in call("drain", farm.path, "--host", "here").stderr


def test_drain_and_stop_with_that_option_say_the_same(farm: HandMade) -> None:
    farm.join()
    call("drain", farm.path)
    call("stop", farm.path, "--drain")
    ledger = Ledger.open(farm.path)
    assert [ledger.log.read(ledger.state.number - back).body for back in (1, 0)] == [Stop(mode="drain")] * 2


def test_a_live_farmer_that_is_drained_ends_what_runs(lone: Farm) -> None:
    lone.write(*["sleep 1"] * 40)
    farmer = lone.start("-n", "2")
    lone.wait_for_runs(2)
    (host,) = [host["host"] for host in said("status", lone.workdir)["hosts"]]
    assert lone.once("drain", lone.workdir, "--host", host).out == f"told 1 farmer on {host} to drain\n"
    assert farmer.wait().status == 3
    counts = lone.counts()
    assert counts == {"finished": len(lone.runs()), "toprocess": 40 - len(lone.runs())}
    assert max(lone.attempts().values()) == 1
    (row,) = said("status", lone.workdir)["hosts"]
    assert (row["standing"], row["finished"]) == ("left", counts["finished"])
    assert "it was told to drain" in lone.once("status", lone.workdir, "--farmers").out


# -- parting -----------------------------------------------------------------------------------------------------------

LEFT = {"toprocess": 3, "running": 1, "failed": 0, "blocked": 0, "cancelled": 0, "unknown": 0, "finished": 16}
DONE = LEFT | {"toprocess": 0, "running": 0, "finished": 20}


def test_who_was_alone_says_nothing_of_others(farm: HandMade) -> None:
    before = farm.join(guardian=1)
    before.leave()
    a = farm.join(guardian=2)
    a.leave()
    assert parting(look(farm), a.id).words(DONE) == ""


def test_who_leaves_while_others_work_says_so(farm: HandMade) -> None:
    a, _b, _c = (farm.join(guardian=number) for number in range(3))
    HandMadeFarmer(farm, "here", 1, place=HERE | {"guardian": 9})
    a.leave("drain")
    end = parting(look(farm), a.id)
    assert end.others == 2
    assert end.words(LEFT) == "this farmer leaves; 2 others are still at work"
    assert end.words(DONE) == "this farmer leaves; 2 others are still about to leave; all tasks have ended"


def test_of_those_that_leave_at_once_exactly_one_was_the_last(farm: HandMade) -> None:
    a, b = farm.join(guardian=1), farm.join(guardian=2)
    a.leave()
    b.leave()
    first, last = parting(look(farm), a.id), parting(look(farm), b.id)
    assert (first.others, last.others) == (1, 0)
    assert last.words(DONE) == "this farmer was the last one: the farm is done, all tasks have finished"
    assert last.words(DONE | {"failed": 2, "blocked": 1}).endswith("the farm is done, 2 failed, 1 blocked by those")
    assert last.words(LEFT) == "this farmer was the last one: nobody is at work any more, 4 tasks are left"
    assert last.words({"toprocess": 1, "running": 0}).endswith("nobody is at work any more, 1 task is left")


def test_who_leaves_may_be_the_last_unless_another_is_seen_to_live_or_two_may(farm: HandMade) -> None:
    """`may_be_last`: such a farmer makes the views exact."""
    me = farm.join()

    def may_be_last() -> bool:
        return Undertaker(look(farm), me.id, 15.0, 300.0, print).may_be_last()

    assert may_be_last()
    HandMadeFarmer(farm, "here", 1, place=HERE)  # gone
    assert may_be_last()
    elsewhere = farm.join("node2")
    assert may_be_last(), "one of another host may be dead, though nobody can know yet"
    lives = HandMadeFarmer(farm, "here", 1, place=HERE | {"pid": os.getpid(), "start": start_of(os.getpid())})
    assert not may_be_last(), "who lives on this machine comes later"
    elsewhere.leave()
    assert not may_be_last()
    lives.leave()
    assert may_be_last()
    farm.join("node2")
    farm.join("node3")
    assert not may_be_last()


def test_its_own_loops_are_no_company(farm: HandMade) -> None:
    loops = [farm.join(guardian=1) for _ in range(3)]
    for loop in loops:
        loop.leave()
    end = parting(look(farm), loops[0].id)
    assert (end.others, end.shared) == (0, False)


def test_who_died_is_not_waited_for(farm: HandMade) -> None:
    a, b = farm.join(guardian=1), farm.join(guardian=2)
    b.bury()
    a.leave()
    end = parting(look(farm), a.id)
    assert (end.others, end.shared) == (0, True)


def test_who_was_taken_for_dead_does_not_wait_for_those_that_left_since(farm: HandMade) -> None:
    a, b = farm.join(guardian=1), farm.join(guardian=2)
    a.bury()
    end = parting(look(farm), a.id)
    assert end.words(LEFT) == "this farmer leaves; another one is still at work"
    b.leave()
    end = parting(look(farm), a.id)
    assert end.words(DONE) == "this farmer was taken for dead: the farm is done, all tasks have finished"


def test_that_too_many_failed_is_said_once(lone: Farm) -> None:
    lone.write(*["sleep 0.05; exit 1"] * 60)
    farmers = [lone.start("-n", "1", "--max-failures", "4", "--lease", "60") for _ in range(2)]
    for end in [farmer.wait() for farmer in farmers]:
        assert (end.out + end.err).count("the limit is reached") == 1, end


def test_the_limit_of_failures_is_that_of_the_farm(lone: Farm) -> None:
    lone.write(*["sleep 0.3; exit 1"] * 90)
    farmers = [lone.start("-n", "1", "--max-failures", "9", "--lease", "60") for _ in range(3)]
    for farmer in farmers:
        farmer.wait()
    assert 9 <= lone.counts()["failed"] <= 9 + 2 * len(farmers), "what ran meanwhile may fail, too"


def test_who_comes_later_hears_of_failures_that_nobody_had_to_be_told(lone: Farm) -> None:
    lone.write(*["sleep 0.2; exit 1"] * 90)
    first = lone.start("-n", "1", "--max-failures", "12", "--lease", "60")
    lone.wait_for_runs(1)
    wait_for(lambda: lone.counts().get("failed", 0) >= 8, "eight failures")
    second = lone.start("-n", "1", "--max-failures", "12", "--lease", "60")
    for farmer in (first, second):
        farmer.wait()
    assert 12 <= lone.counts()["failed"] <= 12 + 2 * 2


def test_long_tasks_after_many_short_ones_do_not_wait_for_each_other(lone: Farm) -> None:
    """Who has ended hundreds in a second takes two of ten seconds for next to nothing, and has both in its queue."""
    lone.write(*["true"] * 600, *["sleep 10"] * 2)
    farmers = [lone.start("-n", "1", "--logs", "packed") for _ in range(2)]
    for farmer in farmers:
        assert farmer.wait().status == 0
    said = json.loads(lone.once("show", lone.workdir, "600,601", "--json").out)
    first, second = sorted(task["attempts"][0]["start"] for task in said["tasks"])
    assert second - first < 8.0


def test_who_has_one_long_task_and_empty_slots_beside_it_is_given_more(lone: Farm) -> None:
    lone.write(*["true"] * 100, *["sleep 10"] * 6)
    first = lone.start("-n", "2", "--logs", "packed")
    second = lone.start("-n", "4", "--logs", "packed")
    for farmer in (first, second):
        assert farmer.wait().status == 0
    said = json.loads(lone.once("show", lone.workdir, "100-105", "--json").out)
    begun = sorted(task["attempts"][0]["start"] for task in said["tasks"])
    assert begun[-1] - begun[0] < 8.0, "six slots, six tasks"


def test_the_last_to_finish_says_so(lone: Farm) -> None:
    lone.write(*["sleep 0.2"] * 10)
    first = lone.start("-n", "1")
    lone.wait_for_runs(1)
    second = lone.start("-n", "2", "--loops", "2")
    ends = [first.wait().out, second.wait().out]
    assert sum("this farmer was the last one: the farm is done, all tasks have finished" in out for out in ends) == 1
    assert sum("this farmer leaves; another one is still" in out for out in ends) == 1


def test_who_waits_for_room_hears_that_the_farm_is_to_stop(lone: Farm) -> None:
    lone.write(*["sleep 0.5"] * 200)
    cpus = len(os.sched_getaffinity(0))
    works = lone.start("-n", str(cpus))
    lone.wait_for_runs(1)
    waits = lone.start()
    wait_for(lambda: "which leaves if none is free" in waits.said(), "the second farmer to wait")
    assert lone.once("stop", lone.workdir).status == 0
    assert works.wait().status == 3
    end = waits.wait()
    assert (end.status, "asked to stop" in end.out) == (3, True), end
    assert len(Ledger.open(lone.workdir).state.farmers) == 1


@pytest.mark.parametrize("logs", ["files", "packed"])
def test_what_ends_a_farmer_is_said_to_who_wants_to_hear_nothing(lone: Farm, logs: str) -> None:
    """Nor does it make anything where the farm was: that would be in the way when the farm comes back."""
    lone.write(*["sleep 0.2"] * 200)
    farmer = lone.start_command(*TASKFARMER, "run", lone.list, "-n", "1", "--quiet", "--logs", logs)
    lone.wait_for_runs(1)
    lone.workdir.rename(lone.path / "away")
    end = farmer.wait()
    assert (end.status, end.out) == (3, ""), end
    assert "taskfarmer: the workdir is gone\n" in end.err
    assert not lone.workdir.exists()


def test_what_was_settled_when_the_farm_was_made_is_said(lone: Farm) -> None:
    lone.write("true")
    assert lone.run("--lease", "60", "--logs", "packed").status == 0
    end = lone.run("--lease", "7", "--logs", "files", "--pin")
    assert end.status == 0
    said = [line.partition(": ")[2] for line in end.out.splitlines() if "changes nothing" in line]
    assert said == [
        "--lease changes nothing: the farm was made with 60.0, and 7.0 was asked for",
        "--logs changes nothing: the farm was made with packed, and files was asked for",
        "--pin changes nothing: the farm was made with False, and True was asked for",
    ]


def test_the_number_of_others_is_there_for_programs(lone: Farm) -> None:
    lone.write("sleep 1", "sleep 1", "sleep 1")
    stays = lone.start("-n", "1")
    lone.wait_for_farmers(1)
    goes = lone.start_command(*TASKFARMER, "run", lone.list, "-n", "1", "--json")
    lone.wait_for_farmers(2)
    assert lone.once("stop", lone.workdir, "--farmer", Ledger.open(lone.workdir).state.farmers[1].id).status == 0
    assert json.loads(goes.wait().out)["others_at_work"] == 1
    assert stays.wait().status == 0


# -- real ones ---------------------------------------------------------------------------------------------------------


def test_a_farmer_that_is_killed_is_dead_and_then_buried(lone: Farm) -> None:
    lone.write(*["sleep 0.3"] * 30)
    victim = lone.start("-n", "2")
    lone.wait_for_runs(3)
    loop = victim.loop()
    os.kill(victim.pid, 9)
    wait_for(lambda: victim.process.poll() is not None, "the guardian to die")
    os.kill(loop, 9) if Path(f"/proc/{loop}").exists() else None
    wait_for(lambda: _standings(lone) in (["gone"], ["left"]), "it to be dead")
    if _standings(lone) == ["gone"]:  # otherwise the loop saw that its guardian was gone, and had time to leave
        assert "dead: its processes are gone" in lone.once("status", lone.workdir).out
        assert "no farmer is at work" in lone.once("status", lone.workdir).out
    assert lone.start("-n", "4").wait().status == 0
    farmers_now: list[dict[str, Any]] = said("status", lone.workdir)["farmers"]
    assert farmers_now[0]["standing"] in ("buried", "left")
    assert farmers_now[1]["standing"] == "left"
    if farmers_now[0]["standing"] == "buried":
        assert farmers_now[0]["why"] == "its processes are gone"


def _standings(farm: Farm) -> list[str]:
    return [farmer["standing"] for farmer in said("status", farm.workdir)["farmers"]]


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["nothing", "own report", "another tells", "bury", "made anew"])
def test_a_farmer_speaks_of_no_damage_that_status_does_not_name(farm: HandMade, after: str) -> None:
    a, b = farm.join(), farm.join()
    a.take(0, 1)
    a.run(0)
    reader = look(farm)
    a.run(1)
    journal = farm.workdir.journals / a.id
    writer = Ledger.open(farm.path)
    writer.read_tail(a.id)  # knows what stands there, as the one who wrote it does
    journal.write_bytes(journal.read_bytes().replace(b" E 1 1 ok", b" E 1 1 ko"))
    reader.read_tails()
    assert discovered(reader) == 1
    if after == "own report":
        farm.ledger = writer
        a.report()
    elif after == "another tells":
        farm.append(Bury(farmer=b.id, why="x"), *farm.ledger.all_news())
    elif after == "bury":
        a.bury()
    elif after == "made anew":
        reader._reload()
    reader.refresh()
    reader.read_tails()
    named = summary(look(farm)).damaged
    assert discovered(reader) == named == (0 if after == "own report" else 1)
    assert discovered(look(farm)) <= named


def test_a_summary_has_every_field_of_a_farmer(farm: HandMade) -> None:
    farm.join()
    (farmer,) = said("status", farm.path)["farmers"]
    assert set(farmer) == set(FarmerSummary.__dataclass_fields__)
