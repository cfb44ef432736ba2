"""The views: true, whole at any time, never needed, and as cheap as what is new (spec: taskfarm 4)."""

from __future__ import annotations

import errno
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from taskfarmer.core.entries import Cancel, Retry
from taskfarmer.core.model import Task
from taskfarmer.farm import slices as slices_module
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.host import boot_id
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.views import ViewKeeper, refresh_views
from taskfarmer.farm.views.timeline import row
from tests.ledgers import HandMade, HandMadeFarmer

VIEWS = ("toprocess", "finished", "failed", "timeline.json")


class Killed(BaseException):
    """The process ends here."""


def lines(farm: HandMade, name: str) -> list[str]:
    return (farm.path / name).read_text(errors="surrogateescape").splitlines()


def slices(farm: HandMade) -> list[dict[str, Any]]:
    events = json.loads((farm.path / "timeline.json").read_text())
    return [event for event in events if event["ph"] == "X"]


def update(farm: HandMade) -> ViewKeeper:
    keeper = ViewKeeper(farm.ledger)
    assert keeper.update(budget_s=math.inf), keeper.problem
    return keeper


def contents(farm: HandMade) -> tuple[list[str], list[str], list[str], list[str]]:
    events = json.loads((farm.path / "timeline.json").read_text())
    return (
        lines(farm, "toprocess"),
        lines(farm, "finished"),
        lines(farm, "failed"),
        sorted(json.dumps(event) for event in events),
    )


def test_the_views_say_what_happened(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one", "two", "three", "four"])
    a = farm.join()
    a.take(0, 1, 2, 3)
    a.run(1, slot=2)
    a.run(0)
    a.run(2, "fail")
    a.start(3)
    update(farm)
    assert lines(farm, "finished") == ["1 one", "0 zero"]
    assert lines(farm, "failed") == ["2 two"]
    assert lines(farm, "toprocess") == ["4 four"]  # 3 runs
    first = slices(farm)[0]
    assert first["name"] == "one"
    assert (first["cat"], first["pid"], first["tid"], first["ts"], first["dur"]) == ("task", 1, 4, 1.7e15, 1e6)
    assert first["args"] == {
        "task": 1, "attempt": 1, "exit": 0, "cpu_s": 0.5, "rss_kib": 2048, "state": "finished",
    }  # fmt: skip


def test_farmers_and_slots_have_names_in_the_timeline(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["x"])
    a = farm.join(host="node7", slots=2)
    update(farm)
    events = json.loads((farm.path / "timeline.json").read_text())
    named = {(e["name"], e.get("tid")): e["args"]["name"] for e in events if e["name"].endswith("_name")}
    assert named == {
        ("process_name", None): f"node7 farmer {a.id}",
        ("thread_name", 1): "life",
        ("thread_name", 2): "slot 0",
        ("thread_name", 3): "slot 1",
    }


def test_rows_are_what_perfetto_keeps_apart(tmp_path: Path) -> None:
    """It takes a thread with the number 0, or with that of its process, for the main thread, and merges the two."""
    farm = HandMade(tmp_path / "w", ["x"])
    for _ in range(4):
        farm.join(slots=3)
    update(farm)
    events = json.loads((farm.path / "timeline.json").read_text())
    rows = [(e["pid"], e["tid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"]
    assert len({(pid, tid) for pid, tid, _ in rows}) == len(rows) == 4 * 4
    assert all(tid > 0 for _, tid, _ in rows)
    assert all((pid == tid) == (name == "life") for pid, tid, name in rows)
    order = {(e["pid"], e["tid"]): e["args"]["sort_index"] for e in events if e["name"] == "thread_sort_index"}
    assert [name for *_, name in sorted(rows, key=lambda row: (row[0], order[row[:2]]))][:4] == [
        "life", "slot 0", "slot 1", "slot 2",
    ]  # fmt: skip


@pytest.mark.parametrize(("end", "name"), [("leave", "left: done"), ("bury", "died: silent for 300 s")])
def test_the_lives_of_farmers_are_in_the_timeline(tmp_path: Path, end: str, name: str) -> None:
    farm = HandMade(tmp_path / "w", ["x"])
    a = farm.join()
    keeper = update(farm)
    assert lives(farm) == ["joined"]
    getattr(a, end)()
    assert keeper.update()
    assert lives(farm) == ["joined", name]
    keeper = ViewKeeper(farm.ledger)
    farm.join()
    assert keeper.update()
    assert lives(farm) == ["joined", name, "joined"]


def lives(farm: HandMade) -> list[str]:
    events = json.loads((farm.path / "timeline.json").read_text())
    return [event["name"] for event in events if event["ph"] == "i"]


def test_a_farm_without_tasks_has_empty_views(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [])
    update(farm)
    assert contents(farm) == ([], [], [], [])


def test_a_retried_task_leaves_failed_and_may_come_back(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one", "two"])
    a = farm.join()
    a.take(0, 1, 2)
    for task in (0, 1, 2):
        a.run(task, "fail")
    a.report()
    keeper = update(farm)
    farm.append(Retry(ids="0-1"))
    assert keeper.update()
    assert lines(farm, "failed") == ["2 two"]
    assert lines(farm, "toprocess") == ["0 zero", "1 one"]
    a.take(0, 1)
    a.run(1, "fail", 2)
    a.run(0, "ok", 2)
    assert keeper.update()
    assert lines(farm, "failed") == ["2 two", "1 one"]
    assert lines(farm, "finished") == ["0 zero"]


def test_a_task_that_fails_again_between_two_updates_stands_there_once(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a = farm.join()
    a.take(0, 1)
    a.run(0, "fail")
    a.run(1, "fail")
    a.report()
    keeper = update(farm)
    farm.append(Retry(ids="0"))
    a.take(0)
    a.run(0, "fail", 2)
    assert keeper.update()
    assert lines(farm, "failed") == ["1 one", "0 zero"]


def test_an_end_behind_the_cut_of_a_burial_does_not_count(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a, b = farm.join(), farm.join(host="node2")
    a.take(0, 1)
    a.run(0)
    a.start(1)
    a.bury()
    farm.now += 1
    a.end(1)
    b.take(1)
    b.run(1, "ok", 2)
    b.leave()
    update(farm)
    assert lines(farm, "finished") == ["0 zero", "1 one"]
    of_one = [event for event in slices(farm) if event["args"]["task"] == 1]
    assert sorted((event["pid"], event["args"].get("superseded", False)) for event in of_one) == [(1, True), (2, False)]


@pytest.mark.parametrize("again", [True, False], ids=["same keeper", "new keeper"])
def test_an_attempt_that_was_lost_and_ended_after_all_stands_there_once(tmp_path: Path, again: bool) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one", "two"])
    a, b = farm.join(), farm.join()
    a.take(0, 1)
    a.run(0)
    a.start(1)
    b.take(2)
    b.run(2)
    a.bury()
    keeper = update(farm)
    assert states(farm) == [(0, "finished", False), (1, "lost", False), (2, "finished", False)]
    farm.now += 5
    a.end(1)
    keeper = keeper if again else ViewKeeper(farm.ledger)
    assert keeper.update()
    assert states(farm) == [(0, "finished", False), (1, "finished", True), (2, "finished", False)]
    assert next(event["dur"] for event in slices(farm) if event["args"]["task"] == 1) > 1e6
    with open(farm.workdir.journals / a.id, "ab") as journal:
        journal.write(b"a torn ta")
    inode = (farm.path / "timeline.json").stat().st_ino
    assert keeper.update()
    assert (farm.path / "timeline.json").stat().st_ino == inode, "what is torn is no news"
    assert lines(farm, "finished") == ["0 zero", "2 two"]


@pytest.mark.parametrize("again", [True, False], ids=["same keeper", "new keeper"])
def test_a_tail_that_is_ahead_of_the_log_is_not_taken_for_superseded(tmp_path: Path, again: bool) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one", "two"])
    a, b = farm.join(), farm.join()
    keeper = ViewKeeper(Ledger.open(farm.path))
    a.take(0)
    a.start(0, slot=2)
    farm.now += 1
    a.end(0)
    a.run(1, "again")  # taken later, as far as the keeper knows
    b.take(2)
    assert keeper.update(), "it has not seen that these were taken"
    assert states(farm) == []
    keeper.ledger.refresh()
    keeper = keeper if again else ViewKeeper(keeper.ledger)
    assert keeper.update()
    assert states(farm) == [(0, "finished", False), (1, "retried", False)]
    assert next((event["tid"], event["dur"]) for event in slices(farm)) == (row(1, 2), 1e6)
    assert lines(farm, "finished") == ["0 zero"]


def states(farm: HandMade) -> list[tuple[int, str, bool]]:
    told = (event["args"] for event in slices(farm))
    return sorted((args["task"], args["state"], args.get("superseded", False)) for args in told)


def test_a_finish_that_was_listed_before_the_burial_cut_it_off_is_taken_back(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a = farm.join()
    a.take(0, 1)
    a.run(0)
    keeper = ViewKeeper(Ledger.open(farm.path))
    other = Ledger.open(farm.path)
    news = other.news_of(a.id)  # this observer has not seen what comes now
    a.run(1)
    assert keeper.update()
    assert lines(farm, "finished") == ["0 zero", "1 one"]
    from taskfarmer.core.entries import Bury

    other.append(lambda _state: (Bury(farmer=a.id, why="silent"), (news,)))
    keeper.ledger.refresh()
    assert keeper.update()
    assert lines(farm, "finished") == ["0 zero"]
    assert lines(farm, "toprocess") == ["1 one"]


def test_attempts_that_died_with_their_farmer_are_lost_and_those_to_be_done_again_are_slices_too(
    tmp_path: Path,
) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a = farm.join()
    a.take(0, 1)
    a.run(0, "again")
    a.run(0, "back", 2)
    a.start(1)
    a.bury()
    update(farm)
    assert [event["args"]["state"] for event in slices(farm)] == ["retried", "stopped", "lost"]


def test_a_task_that_was_cancelled_and_finished_all_the_same_has_finished(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    a = farm.join()
    a.take(0)
    a.start(0)
    a.report()
    farm.append(Cancel(ids="0"))
    keeper = update(farm)
    assert lines(farm, "toprocess") == lines(farm, "finished") == []
    farm.append(Retry(ids="0"))  # too early: its farmer has not let it go
    a.end(0)
    assert keeper.update()
    assert lines(farm, "finished") == ["0 zero"]
    assert [event["args"].get("superseded", False) for event in slices(farm)] == [False]


def test_what_pytaskfarmer_had_done_comes_first(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one", "two", "three"], ok="1-2", bad="3")
    a = farm.join()
    a.take(0)
    a.run(0)
    update(farm)
    assert lines(farm, "finished") == ["1 one", "2 two", "0 zero"]
    assert lines(farm, "failed") == ["3 three"]


def test_what_pytaskfarmer_had_done_is_listed_when_the_first_entry_is_gone(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one", "two"], ok="1")
    a = farm.join()
    a.take(0)
    a.run(0)
    farm.ledger.snapshot_at = -1000
    farm.ledger.snapshot(a.id)
    farm.ledger.log.forget_before(farm.ledger.state.number)
    farm.ledger = Ledger.open(farm.path)
    update(farm)
    assert sorted(lines(farm, "finished")) == ["0 zero", "1 one"]


ODD = [
    "a\nb\r\nc",
    'say "hi"',
    "caf\u00e9 \u2028 \U0001f642",
    "\udc80\udcff bytes",
    "tab\there",
    "\\n stays",
    "x" * 5000,
]


def test_odd_texts_stay_on_one_line_and_keep_their_bytes(tmp_path: Path) -> None:
    farm = HandMade(
        tmp_path / "w", [*ODD, Task(text="shown", command="run this"), Task(text="half \ud800 pair", cpus=2)]
    )
    a = farm.join()
    a.take(*range(9))
    for task in range(8):
        a.run(task)
    a.report()
    update(farm)
    raw = (farm.path / "finished").read_bytes().split(b"\n")
    assert raw[0] == rb"0 a\nb\r\nc"
    assert raw[2] == "2 caf\u00e9 \u2028 \U0001f642".encode()
    assert raw[3] == b"3 \x80\xff bytes"
    assert raw[7] == b"7 shown"
    assert len(raw) == 9
    assert (farm.path / "toprocess").read_bytes() == b"8 half ? pair\n"
    names = [event["name"] for event in slices(farm)]
    assert names[:3] == ODD[:3]
    assert names[3] == "\ufffd\ufffd bytes"


# -- never needed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [*VIEWS, "ledger/views.json"])
@pytest.mark.parametrize("again", [True, False], ids=["same keeper", "new keeper"])
def test_any_view_may_be_deleted_at_any_time(tmp_path: Path, gone: str, again: bool) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(200)])
    a = farm.join()
    a.take(*range(150))
    for task in range(70):
        a.run(task, "fail" if task % 7 == 0 else "ok")
    keeper = update(farm)
    (farm.path / gone).unlink()
    for task in range(70, 90):
        a.run(task)
    if not again:
        keeper = ViewKeeper(farm.ledger)
    assert keeper.update()
    kept = contents(farm)
    for name in (*VIEWS, "ledger/views.json"):
        (farm.path / name).unlink(missing_ok=True)
    update(farm)
    assert contents(farm) == kept


@pytest.mark.parametrize("name", ["finished", "failed", "timeline.json", "toprocess"])
def test_a_view_that_somebody_wrote_into_is_made_again(tmp_path: Path, name: str) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one", "two"])
    a = farm.join()
    a.take(0, 1)
    a.run(0)
    a.run(1, "fail")
    keeper = update(farm)
    good = contents(farm)
    with open(farm.path / name, "a") as file:
        file.write("rubbish\n")
    assert keeper.update()
    assert contents(farm) == good


def test_a_kill_at_any_operation_leaves_valid_views_and_the_next_keeper_makes_them_exact(tmp_path: Path) -> None:
    def history(farm: HandMade, a: HandMadeFarmer, step: int) -> None:
        for task in range(step * 20, step * 20 + 20):
            a.run(task, "fail" if task % 5 == 0 else "ok")
        a.report()
        if step:
            farm.append(Retry(ids=f"{step * 20 - 20}"))

    at = 0
    while True:
        at += 1
        farm = HandMade(tmp_path / str(at), [f"task {n}" for n in range(100)])
        a = farm.join()
        a.take(*range(100))
        history(farm, a, 0)
        update(farm)
        history(farm, a, 1)
        ledger = Ledger.open(farm.path, Disk(_raising_at(at, Killed)))
        try:
            keeper = ViewKeeper(ledger)
            keeper.update()
            for step in (2, 3):  # from here on the timeline is made from the one before the last
                history(farm, a, step)
                ledger.refresh()
                keeper.update()
        except Killed:
            killed = True
        else:
            killed = False
        json.loads((farm.path / "timeline.json").read_text())
        if not killed:
            history(farm, a, 4)
        farm.ledger.refresh()
        update(farm)
        found = contents(farm)
        for name in (*VIEWS, "ledger/views.json"):
            (farm.path / name).unlink()
        update(farm)
        assert contents(farm) == found, f"killed at operation {at}"
        if not killed:
            break
    assert at > 20


def test_a_long_timeline_is_not_copied_again_and_again(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(1000)])
    a = farm.join()
    a.take(*range(1000))
    keeper = ViewKeeper(farm.ledger)
    for step in range(10):
        for task in range(step * 100, step * 100 + 100):
            a.run(task)
        assert keeper.update(budget_s=math.inf)
        json.loads((farm.path / "timeline.json").read_text())
    copied = keeper._timeline.copied
    lacking = "what the file before the last lacked, and what is new"
    assert 0 < copied < (farm.path / "timeline.json").stat().st_size / 4, lacking
    assert len(list(farm.path.glob("ledger/timeline.json.*.old"))) == 1
    keeper.close()
    assert list(farm.path.glob("ledger/timeline.json.*.old")) == []
    assert len(slices(farm)) == 1000


def _raising_at(when: int, error: type[BaseException]) -> Callable[[str, str], None]:
    left = when

    def hook(_operation: str, _what: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error

    return hook


def test_a_full_disk_is_a_problem_of_the_views_only(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a = farm.join()
    a.take(0)
    a.run(0)
    full = True

    def hook(operation: str, what: str) -> None:
        if full and operation == "write":
            raise OSError(errno.ENOSPC, "No space left on device", what)

    keeper = ViewKeeper(Ledger.open(farm.path, Disk(hook)))
    assert not keeper.update()
    assert "No space left" in keeper.problem
    full = False
    assert keeper.update()
    assert keeper.problem == ""
    assert lines(farm, "finished") == ["0 zero"]
    assert not list(farm.path.glob("*.new"))


def test_a_read_only_workdir_is_forgiven(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])

    def hook(operation: str, what: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", what)

    assert not refresh_views(Ledger.open(farm.path, Disk(hook)))
    assert not (farm.path / "finished").exists()


# -- bounded -----------------------------------------------------------------------------------------------------------


def test_updates_take_a_bounded_share_of_the_time(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    keeper = ViewKeeper(farm.ledger)
    assert keeper.due(time.monotonic())
    keeper.update()
    assert not keeper.due(time.monotonic())
    assert keeper.due(time.monotonic() + 3.0)


def test_an_update_reads_each_journal_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    disk = Disk(looks=lambda kind, path: names.append(Path(path).name) if kind == "read" else None)
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(100)])
    hands = [farm.join() for _ in range(3)]
    for place, hand in enumerate(hands):
        hand.take(*range(10 * place, 10 * place + 10))
    ledger = Ledger.open(farm.path, disk)
    keeper = ViewKeeper(ledger)
    assert keeper.update()
    for count in (1, 2):
        for place, hand in enumerate(hands):
            hand.run(10 * place + count)
        names.clear()
        monkeypatch.setattr(slices_module, "_read", lambda *_: pytest.fail("read twice"))
        assert keeper.update()
        monkeypatch.undo()
        assert sorted(names) == sorted(hand.id for hand in hands)
        assert len(lines(farm, "finished")) == 3 * count


def test_an_update_stops_when_its_time_is_over_and_the_next_goes_on(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(2000)])
    a = farm.join()
    a.take(*range(2000))
    for task in range(1500):
        a.run(task)
    keeper = ViewKeeper(farm.ledger)
    rounds = 1
    while not keeper.update(budget_s=0.0):
        assert not (farm.path / "finished").exists()  # nothing half-done is shown
        rounds += 1
    assert rounds > 4
    assert lines(farm, "finished") == [f"{n} task {n}" for n in range(1500)]
    assert len(slices(farm)) == 1500


def test_what_an_update_has_read_serves_those_that_go_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    disk = Disk(looks=lambda kind, path: names.append(Path(path).name) if kind == "read" else None)
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(100)])
    hands = [farm.join() for _ in range(3)]
    for place, hand in enumerate(hands):
        hand.take(*range(10 * place, 10 * place + 10))
    keeper = ViewKeeper(Ledger.open(farm.path, disk))
    assert keeper.update()
    monkeypatch.setattr(slices_module, "_SLICES", 2)
    monkeypatch.setattr(slices_module, "_read", lambda *_: pytest.fail("read twice"))
    for place, hand in enumerate(hands):
        hand.run(10 * place)
        hand.run(10 * place + 1)
    names.clear()
    assert not keeper.update(budget_s=0.0)
    assert sorted(names) == sorted(hand.id for hand in hands)
    hands[0].run(2)
    keeper.ledger.read_tail(hands[0].id)  # is for the next
    names.clear()
    assert not keeper.update(budget_s=0.0)
    assert lines(farm, "finished") == [], "nothing half-done is shown"
    assert not keeper.update(budget_s=0.0)
    assert keeper.update(budget_s=0.0), "all that was read is shown, though there is more by now"
    assert not names
    assert len(lines(farm, "finished")) == 6
    assert keeper.update()
    assert len(lines(farm, "finished")) == 7


def test_views_that_are_begun_anew_go_as_far_as_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(10)])
    a = farm.join()
    a.take(*range(10))
    keeper = ViewKeeper(farm.ledger)
    for task in range(6):
        a.run(task)
    assert keeper.update()
    with (farm.path / "finished").open("a") as file:
        file.write("somebody's\n")
    monkeypatch.setattr(slices_module, "_SLICES", 2)
    assert not keeper.update(budget_s=0.0)
    assert not keeper.update(budget_s=0.0), "the journal was read for this one"
    a.run(6)
    farm.ledger.read_tail(a.id)
    while not keeper.update(budget_s=0.0):
        pass
    assert keeper.update(budget_s=math.inf)
    found = contents(farm)
    assert lines(farm, "finished") == [f"{n} task {n}" for n in range(7)]
    (farm.path / "ledger/views.json").unlink()
    update(farm)
    assert contents(farm) == found


def test_a_hundred_thousand_tasks_cost_what_ten_times_ten_thousand_do(tmp_path: Path) -> None:
    small = _cost_of(tmp_path / "small", 10_000)
    large = _cost_of(tmp_path / "large", 100_000)
    assert large < 25 * small


def _cost_of(path: Path, count: int) -> float:
    """CPU seconds of a keeper that is asked ten times on the way."""
    farm = HandMade(path, (f"simulate --seed {n}" for n in range(count)))
    a = farm.join()
    keeper = ViewKeeper(farm.ledger)
    spent = 0.0
    step = count // 10
    for first in range(0, count, step):
        a.take(*range(first, first + step))
        for task in range(first, first + step):
            farm.now += 0.001
            a.journal.append(f"S {task} 1 0 {farm.now:.6f}")
            a.journal.append(f"E {task} 1 ok 0 {farm.now + 0.001:.6f} 0.001 0.001 2048 -")
        a.journal.flush()
        began = time.process_time()
        assert keeper.update(budget_s=math.inf)
        spent += time.process_time() - began
    assert len(lines(farm, "finished")) == count
    return spent


# -- commands ----------------------------------------------------------------------------------------------------------


def test_a_command_leaves_the_views_alone_while_a_farmer_lives(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    farm.join()
    assert not refresh_views(Ledger.open(farm.path))
    assert not (farm.path / "toprocess").exists()


def test_a_command_makes_the_views_exact_when_all_farmers_are_dead(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    place = {"boot": boot_id(), "pid_namespace": Path("/proc/self/ns/pid").stat().st_ino}
    a = HandMadeFarmer(farm, "here", 1, place=place)
    a.take(0)
    a.run(0)
    assert refresh_views(Ledger.open(farm.path))
    assert lines(farm, "finished") == ["0 zero"]
    assert lines(farm, "toprocess") == ["1 one"]


@pytest.mark.parametrize("tasks", [1, 3, 5])
def test_views_that_another_farm_left_here_are_made_anew(tmp_path: Path, tasks: int) -> None:
    """A farmer of a farm that was removed may still write its views, when another farm has that name."""
    farms = [HandMade(tmp_path / name, ["x"] * count) for name, count in (("old", 3), ("new", tasks))]
    for farm in farms:
        a = farm.join()
        a.take(0)
        a.run(0)
        a.leave()
        assert refresh_views(Ledger.open(farm.path))
    old, new = (farm.path for farm in farms)
    right = {name: (new / name).read_bytes() for name in VIEWS}
    for name in (*VIEWS, "ledger/views.json"):
        shutil.copy(old / name, new / name)
    assert refresh_views(Ledger.open(new))
    assert {name: (new / name).read_bytes() for name in VIEWS} == right


def test_exact_views_are_not_written_again(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    a = farm.join()
    a.take(0)
    a.run(0)
    a.leave()
    assert refresh_views(Ledger.open(farm.path))
    before = {name: (farm.path / name).stat() for name in VIEWS}
    assert refresh_views(Ledger.open(farm.path))
    assert {name: (farm.path / name).stat() for name in VIEWS} == before


def test_a_command_does_not_read_a_great_deal_for_the_sake_of_the_views(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    a = farm.join()
    a.take(0)
    a.run(0)
    a.leave()
    assert not refresh_views(Ledger.open(farm.path), most_bytes=10)
    assert not (farm.path / "finished").exists()


def test_rubbish_of_killed_keepers_is_swept_away_after_a_while(tmp_path: Path) -> None:
    import os

    farm = HandMade(tmp_path / "w", ["zero"])
    old, young, other = (farm.path / name for name in ("timeline.json.12.new", "failed.13.new", "mine.12.new"))
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (1, 1))
    update(farm)
    assert not old.exists()
    assert young.exists()
    assert other.exists()


# -- any history -------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["run", "fail", "again", "back", "retry", "cancel", "bury", "leave", "update", "begin"]),
        st.integers(0, 11),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@example(steps=[("fail", 0), ("update", 0), ("retry", 0), ("run", 0)])
@example(steps=[("fail", 0), ("update", 0), ("retry", 0), ("run", 0), ("update", 0), ("fail", 1), ("retry", 1)])
def test_kept_up_step_by_step_the_views_are_those_made_at_once(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    farm = HandMade(tmp_path_factory.mktemp("farm") / "w", [f"task {n}" for n in range(12)])
    keeper = ViewKeeper(farm.ledger)
    farmer = farm.join()
    for what, task in steps:
        farmer = _step(farm, keeper, farmer, what, task)
    assert keeper.update(budget_s=math.inf)
    found = contents(farm)
    state = farm.state()
    names = [state.name_of(task) for task in range(12)]
    for name in ("toprocess", "finished", "failed"):
        assert sorted(int(line.split()[0]) for line in lines(farm, name)) == [n for n in range(12) if names[n] == name]
    for name in (*VIEWS, "ledger/views.json"):
        (farm.path / name).unlink()
    update(farm)
    assert contents(farm) == found


def _step(farm: HandMade, keeper: ViewKeeper, farmer: HandMadeFarmer, what: str, task: int) -> HandMadeFarmer:
    state = farm.ledger.state
    match what:
        case "update":
            keeper.update()
        case "begin":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(slices_module, "_SLICES", task + 1)
                keeper.update(budget_s=0.0)
        case "retry":
            farm.append(Retry(ids=str(task)), *farm.ledger.all_news())
        case "cancel":
            farm.append(Cancel(ids=str(task)), *farm.ledger.all_news())
        case "bury":
            farmer.bury()
            return farm.join()
        case "leave":
            farmer.leave()
            return farm.join()
        case _:
            if state.name_of(task) == "toprocess":
                if state.owner[task] != state.index[farmer.id]:
                    farmer.take(task)
                number = state.tries_of(task).attempts + 1
                farmer.start(task, number)
                farm.now += 1.0
                if task != 11:  # that one hangs
                    farmer.end(task, "ok" if what == "run" else what, number)
                farm.ledger.read_tails()
    return farmer
