"""The timeline keeps the rules of Chrome's trace format, whatever happened: kills, retries, burials, damage."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.slices import Slice
from taskfarmer.farm.views import ViewKeeper
from taskfarmer.farm.views.timeline import event
from taskfarmer.monitor.tracing import write_timeline
from tests.farms import Farm, is_alive, kill, wait_for
from tests.ledgers import HandMade
from tests.test_look_commands import said

Event = dict[str, Any]
NAMING = {"process_name": "name", "thread_name": "name", "process_sort_index": "sort_index",
          "thread_sort_index": "sort_index"}  # fmt: skip
"""Metadata events, and the argument that each must have."""


def check(path: Path) -> list[Event]:
    """Check a file against the rules of the format (its "JSON Array" form); return its events."""
    events: list[Event] = json.loads(path.read_text())
    assert isinstance(events, list)
    named = {(e["name"], e["pid"], e.get("tid")) for e in events if e["ph"] == "M"}
    rows = defaultdict(list)
    for item in events:
        _check_one(item)
        if item["ph"] != "M":
            assert ("process_name", item["pid"], None) in named, item
            assert ("thread_name", item["pid"], item["tid"]) in named, item
        if item["ph"] == "X":
            rows[item["pid"], item["tid"]].append((item["ts"], item["ts"] + item["dur"]))
    for row in rows.values():
        _check_nested(row)
    return events


def _check_one(item: Event) -> None:
    assert item["ph"] in ("X", "i", "M"), item  # of those there are: what we need
    assert isinstance(item["name"], str)
    assert isinstance(item["pid"], int)
    if item["ph"] == "M":
        assert isinstance(item["args"][NAMING[item["name"]]], str | int)
        return
    assert isinstance(item["tid"], int)
    assert isinstance(item["cat"], str)
    assert 1e15 < item["ts"] < 1e16, "microseconds since the epoch"
    assert isinstance(item["ts"], int)
    if item["ph"] == "X":
        assert isinstance(item["dur"], int)
        assert item["dur"] >= 0
    else:
        assert item["s"] in ("g", "p", "t")


def _check_nested(row: list[tuple[int, int]]) -> None:
    """In one row a slice begins after another has ended, or lies within it."""
    open_ends: list[int] = []
    for start, end in sorted(row, key=lambda span: (span[0], -span[1])):
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1], f"{start} to {end} overlaps what ends at {open_ends[-1]}"
        open_ends.append(end)


def both(farm: HandMade, tmp_path: Path) -> list[Event]:
    """Check the timeline as a view and as a file of one's own; they say the same. Return the events."""
    keeper = ViewKeeper(farm.ledger)
    assert keeper.update(budget_s=60.0), keeper.problem
    ledger = Ledger.open(farm.path)
    ledger.read_tails()
    write_timeline(ledger, tmp_path / "own.json")
    kept, own = check(farm.path / "timeline.json"), check(tmp_path / "own.json")
    assert sorted(map(json.dumps, kept)) == sorted(map(json.dumps, own))
    return kept


def states(events: list[Event]) -> list[tuple[int, int, str, bool]]:
    found = [e["args"] for e in events if e["ph"] == "X"]
    return sorted((a["task"], a["attempt"], a["state"], a.get("superseded", False)) for a in found)


def test_a_farm_with_everything_in_it(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(8)])
    a, b = farm.join(host="north", guardian=1), farm.join(host="south", guardian=2)
    a.take(0, 1, 2, 3, 4)
    a.run(0, "again", slot=1)
    a.run(0, "ok", 2, slot=1)
    for task in (1, 2, 3, 4):
        a.start(task, slot=task % 4)
    farm.now += 1
    a.bury()
    a.end(1)  # all of these come after the burial
    a.end(2, "fail")
    a.end(3, "back")
    b.take(1, 2, 3)
    b.run(1, "ok", 2)
    b.run(2, "fail", 2)
    b.run(3, "ok", 2)
    b.leave("drain")
    events = both(farm, tmp_path)
    assert states(events) == [
        (0, 1, "retried", False), (0, 2, "finished", False),
        (1, 1, "finished", True), (1, 2, "finished", False),
        (2, 1, "failed", True), (2, 2, "failed", False),
        (3, 1, "stopped", True), (3, 2, "finished", False),
        (4, 1, "lost", False),
    ]  # fmt: skip
    lives = [(e["pid"], e["name"]) for e in events if e["ph"] == "i"]
    assert sorted(lives) == [(1, "died: silent for 300 s"), (1, "joined"), (2, "joined"), (2, "left: drain")]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes == {1: f"north farmer {a.id}", 2: f"south farmer {b.id}"}


def test_a_farm_whose_journal_is_damaged(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(4)])
    a = farm.join()
    a.take(0, 1, 2, 3)
    for task in range(4):
        a.run(task)
    journal = farm.workdir.journals / a.id
    journal.write_bytes(journal.read_bytes().replace(b"S 1 1", b"S 1 x").replace(b"E 2 1 ok", b"E 2 1 ko"))
    a.leave()
    both(farm, tmp_path)


@settings(max_examples=200, deadline=None)
@given(start_us=st.integers(1_600_000_000_000_000, 2_000_000_000_000_000), durations=st.lists(st.integers(0, 10**10)))
def test_what_follows_in_a_row_does_not_overlap_by_a_rounding_error(start_us: int, durations: list[int]) -> None:
    row = []
    at = start_us
    for span in durations:
        start, end = float(f"{at / 1e6:.6f}"), float(f"{(at + span) / 1e6:.6f}")
        item = Slice(end, 1, 0, 0, 1, "ok", 0, 0, start, 0.0, 0, "-")
        made = json.loads(event(item, b'"x"', superseded=False))
        row.append((made["ts"], made["ts"] + made["dur"]))
        at += span
    _check_nested(row)


@pytest.mark.parametrize("how", ["guardian", "both", "stop"])
def test_the_timeline_of_a_real_farm_after_a_kill(lone: Farm, how: str) -> None:
    lone.write(*["sleep 0.05"] * 40, *["test $TASKFARMER_ATTEMPT -gt 1"] * 3)
    first, second = (lone.start("--retries", "1", *more) for more in (("-n", "3"), ("-n", "2", "--loops", "2")))
    lone.wait_for_farmers(3)
    lone.wait_for_runs(12)
    if how == "stop":
        first.signal(signal.SIGTERM)
    else:
        for pid in [*([first.loop()] if how == "both" else []), first.pid]:
            kill(pid)
    first.wait()
    second.wait()
    assert lone.start("-n", "4", "--retries", "1").wait().status == 0
    events = check(lone.workdir / "timeline.json")
    finished = [s[0] for s in states(events) if s[2] == "finished" and not s[3]]
    assert sorted(finished) == list(range(43))
    assert lone.once("timeline", lone.workdir, "-o", lone.path / "own.json").status == 0
    assert states(check(lone.path / "own.json")) == states(events)
    joined, over = (
        [e for e in events if e["ph"] == "i" and e["name"].startswith(names)]
        for names in (("joined",), ("left", "died"))
    )
    assert len(joined) == len(over) == 4


def test_the_rules_are_not_empty(tmp_path: Path) -> None:
    good: Event = {"name": "a", "cat": "task", "ph": "X", "pid": 1, "tid": 0, "ts": 1_700_000_000_000_000, "dur": 10}
    names: list[Event] = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "p"}},
             {"name": "thread_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "t"}}]  # fmt: skip
    path = tmp_path / "t.json"
    path.write_text(json.dumps([*names, good]))
    check(path)
    bad = [
        [good], [*names, good | {"tid": 1}], [*names, good | {"dur": -1}], [*names, good | {"ts": 17.5}],
        [*names, good, good | {"ts": good["ts"] + 5}], [*names, good | {"ph": "Q"}],
    ]  # fmt: skip
    for events in bad:
        path.write_text(json.dumps(events))
        with pytest.raises(AssertionError):
            check(path)


def test_a_result_that_comes_after_the_burial_is_kept_and_marked_everywhere(lone: Farm) -> None:
    lone.write("sleep 4")
    sleeper = lone.start("-n", "1", "--lease", "2", "--stop-grace", "0.5")
    lone.wait_for_runs(1)
    loop = sleeper.loop()
    for pid in (sleeper.pid, loop):  # the task goes on, and ends
        kill(pid, signal.SIGSTOP)
    other = lone.start("-n", "1")
    lone.wait_for_runs(2)
    assert [f["standing"] for f in said("status", lone.workdir)["farmers"]] == ["buried", "alive"]
    wait_for(lambda: not is_alive(lone.runs()[0].pid), "the first attempt to end")
    kill(loop, signal.SIGCONT)
    wait_for(lambda: not is_alive(loop), "the first farmer to write it down and leave")
    kill(sleeper.pid, signal.SIGCONT)
    sleeper.wait()
    assert other.wait().status == 0

    assert states(check(lone.workdir / "timeline.json")) == [(0, 1, "finished", True), (0, 2, "finished", False)]
    text = lone.once("show", lone.workdir, "0").out
    assert "superseded: this result does not count, it came after its farmer was buried" in text
    assert "attempt 2: finished" in text
    (task,) = said("show", lone.workdir, "0")["tasks"]
    assert [(a["superseded"], a["counted"]) for a in task["attempts"]] == [(True, False), (False, True)]
    rows = [
        json.loads(line) for line in lone.once("export", lone.workdir, "-f", "jsonl", "-t", "attempts").out.splitlines()
    ]
    assert [(row["superseded"], row["counted"]) for row in rows] == [(1, 0), (0, 1)]
    (task,) = said("tasks", lone.workdir, "--where", "id = 0")["tasks"]
    assert (task["farmer"], task["attempts"], task["losses"]) == (rows[1]["farmer"], 2, 1)
    farmers = said("status", lone.workdir)["farmers"]
    assert [(f["standing"], f["finished"], f["lost"]) for f in farmers] == [("buried", 0, 1), ("left", 1, 0)]
