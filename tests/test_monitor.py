"""Readers of the ledger: attempts, summaries, reasons, indexes, exports, the progress display."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from taskfarmer.core.entries import Cancel, Report, Retry
from taskfarmer.core.model import Task, TaskId
from taskfarmer.errors import InputError, NewerFormat, WorkdirError
from taskfarmer.farm.host import boot_id
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.views import ViewKeeper
from taskfarmer.monitor import progress
from taskfarmer.monitor.attempts import attempts, attempts_at
from taskfarmer.monitor.describe import farm_lines, task_lines
from taskfarmer.monitor.export import export_file, export_stream
from taskfarmer.monitor.index import build_index
from taskfarmer.monitor.outputs import follow, log_files, output
from taskfarmer.monitor.progress import Progress, ProgressView
from taskfarmer.monitor.rows import plain_rows, row_lines
from taskfarmer.monitor.summary import summary
from taskfarmer.monitor.text import duration, memory, moment, per_second, period, printable, shortened, span, table
from taskfarmer.monitor.tracing import write_timeline
from taskfarmer.monitor.why import why
from tests.ledgers import EPOCH, HandMade, HandMadeFarmer


def look(farm: HandMade) -> Ledger:
    ledger = Ledger.open(farm.path)
    ledger.read_tails()
    return ledger


@pytest.fixture
def farm(tmp_path: Path) -> HandMade:
    """Six tasks: one finished at once, one after a retry, one failed, one lost and finished elsewhere, one runs."""
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(6)])
    a, b = farm.join(host="north"), farm.join(host="south")
    a.take(0, 1, 2, 3)
    a.run(0)
    a.run(1, "again")
    a.run(1, "ok", 2, seconds=5.0, slot=3)
    a.start(2)
    a.end(2, "fail", status=-11)
    a.start(3)
    a.bury()
    a.end(3)
    b.take(3, 4)
    b.run(3, "ok", 2)
    b.start(4, slot=1)
    return farm


# -- attempts ----------------------------------------------------------------------------------------------------------


def test_every_attempt_is_told(farm: HandMade) -> None:
    found = [(a.task, a.attempt, a.host, a.ending, a.status) for a in attempts(look(farm))]
    assert found == [
        (0, 1, "north", "finished", 0),
        (1, 1, "north", "retried", 1),
        (1, 2, "north", "finished", 0),
        (2, 1, "north", "failed", -11),
        (3, 1, "north", "finished", 0),
        (3, 2, "south", "finished", 0),
        (4, 1, "south", "running", None),
    ]


def test_a_finish_behind_the_cut_is_superseded(farm: HandMade) -> None:
    assert [a.superseded for a in attempts_at(look(farm), 3)] == [True, False]


def test_a_finish_that_the_log_is_still_behind_of_is_not_superseded(farm: HandMade) -> None:
    ledger = look(farm)
    west = farm.join(host="west")
    ledger.refresh()
    west.take(5)
    west.run(5)
    ledger.read_tails()  # and not the log, which says who had taken it
    (attempt,) = attempts_at(ledger, 5)
    assert (attempt.ending, attempt.superseded, attempt.counted) == ("finished", False, False)
    ledger.refresh()
    ledger.read_tails()
    (attempt,) = attempts_at(ledger, 5)
    assert (attempt.superseded, attempt.counted) == (False, True)


def test_what_the_log_has_not_told_of_yet_is_left_out(farm: HandMade, tmp_path: Path) -> None:
    ledger = look(farm)
    farm.add(["new"])
    south = next(farmer for farmer in ledger.state.farmers if farmer.host["host"] == "south")
    text = b"S 6 1 0 1700000100.000000"
    end = b"E 6 1 ok 0 1700000101.000000 0.1 0.1 9 -"
    with open(farm.workdir.journals / south.id, "ab") as journal:
        journal.write(b"".join(b"%08x %b\n" % (crc32(line), line) for line in (text, end)))
    ledger.read_tails()
    assert [a.task for a in attempts(ledger)] == [a.task for a in attempts(look(farm)) if a.task < 6]
    assert len(build_index(ledger).choose()) == 6
    keeper = ViewKeeper(ledger)
    assert keeper.update(budget_s=60), keeper.problem
    assert sum(event["ph"] == "X" for event in json.loads((farm.path / "timeline.json").read_text())) == 6


def test_an_attempt_knows_how_it_ended(farm: HandMade) -> None:
    ledger = look(farm)
    (failed,) = attempts_at(ledger, 2)
    assert failed.signal == "SIGSEGV"
    assert failed.how() == "failed, SIGSEGV, after 0 ms"
    second = attempts_at(ledger, 1)[1]
    assert (second.seconds, second.slot, second.cpu_s, second.rss_kib) == (5.0, 3, 0.5, 2048)
    (running,) = attempts_at(ledger, 4)
    assert (running.seconds, running.how()) == (None, "running")


def test_an_attempt_without_an_end_is_lost_with_its_farmer(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    a = farm.join()
    a.take(0)
    a.start(0)
    a.bury()
    (lost,) = attempts_at(look(farm), 0)
    assert (lost.ending, lost.status, lost.start) == ("lost", None, EPOCH)


@pytest.mark.parametrize("count", [1, 25])
def test_the_attempts_at_some_tasks_are_those_of_all_that_concern_them(tmp_path: Path, count: int) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(2000)])
    a = farm.join()
    a.take(*range(2000))
    for task in range(2000):
        a.run(task, "again" if task % 10 == 0 else "ok")
    ledger = look(farm)
    wanted = range(10, 10 + count)
    assert list(attempts(ledger, wanted)) == [a for a in attempts(ledger) if a.task in wanted]


def test_a_damaged_line_hides_only_itself(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a = farm.join()
    a.take(0, 1)
    a.run(0)
    a.run(1)
    journal = farm.workdir.journals / a.id
    data = journal.read_bytes()
    at = data.index(b" E 0 ")
    journal.write_bytes(data[:at] + b"\0\0\0\0\0" + data[at + 5 :])
    assert [(a.task, a.ending) for a in attempts(look(farm))] == [(1, "finished"), (0, "running")]


@pytest.mark.parametrize("tasks", [None, (0,)])
def test_a_journal_of_a_later_version_is_refused_by_name(farm: HandMade, tasks: tuple[int] | None) -> None:
    ledger = look(farm)
    journal = farm.workdir.journals / ledger.state.farmers[0].id
    journal.write_bytes(journal.read_bytes().replace(b"#taskfarmer journal 1 ", b"#taskfarmer journal 9 "))
    with pytest.raises(NewerFormat, match=f"{journal}: format 9 of journals is newer"):
        list(attempts(ledger, tasks))
    keeper = ViewKeeper(ledger)
    assert not keeper.update()
    assert "format 9 of journals" in keeper.problem


# -- summary -----------------------------------------------------------------------------------------------------------


def test_the_summary_counts_tasks_and_farmers(farm: HandMade) -> None:
    said = summary(look(farm))
    assert said.total == 6
    assert said.counts["finished"] == 3
    assert {name: count for name, count in said.counts.items() if count} == {
        "toprocess": 1, "running": 1, "finished": 3, "failed": 1,
    }  # fmt: skip
    north, south = said.farmers
    assert (north.standing, north.why, north.finished, north.failed) == ("buried", "silent for 300 s", 2, 1)
    assert (south.standing, south.running, south.finished, south.host, south.pid) == ("alive", 1, 1, "south", 4242)


def test_the_rate_is_that_of_the_last_minute(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(400)])
    farm.now = time.time() - 100
    a = farm.join()
    a.take(*range(400))
    farm.ledger.state.farmers[0].since = farm.now
    for task in range(200):
        a.run(task, seconds=0.5)
    farm.ledger.read_tails()
    said = summary(farm.ledger)
    assert said.rate_per_s == pytest.approx(2.0, rel=0.1)
    assert said.left_s == pytest.approx(100.0, rel=0.1)


def test_the_rate_of_tasks_so_short_that_only_the_last_second_is_read(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(4000)])
    farm.now = time.time() - 4
    a = farm.join()
    a.take(*range(4000))
    farm.ledger.state.farmers[0].since = farm.now - 50
    for task in range(4000):
        a.run(task, seconds=0.001)
    farm.ledger.read_tails()
    assert farm.ledger.state.farmers[0].seen > 2 * (64 << 10), "more than is read"
    assert summary(farm.ledger).rate_per_s == pytest.approx(1000.0, rel=0.5), "the test itself takes a while"


def test_of_a_host_where_all_are_over_those_that_left_and_the_buried_are_told_apart(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["true"] * 4)
    farmers = [farm.join("north", guardian=number) for number in range(4)]
    for farmer in farmers[:3]:
        farmer.leave()
    farmers[3].bury()
    hosts = summary(farm.ledger).hosts
    assert [(host.standing, host.farmers) for host in hosts] == [("left", 3), ("buried", 1)]


@pytest.mark.parametrize("after", ["nothing", "report", "another tells", "leave", "bury"])
def test_the_status_says_that_lines_cannot_be_read_whoever_told_of_them(tmp_path: Path, after: str) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a, b = farm.join(), farm.join()
    a.take(0, 1)
    a.run(0)
    journal = farm.workdir.journals / a.id
    journal.write_bytes(journal.read_bytes().replace(b" E 0 1 ok", b" E 0 1 ko"))
    if after == "another tells":
        farm.append(Report(), farm.ledger.news_of(a.id), by=b.id)
        a.start(1)
    elif after in ("report", "leave", "bury"):
        getattr(a, after)()
    said = summary(look(farm))
    assert [farmer.damaged for farmer in said.farmers] == [1, 0]
    assert f"1 line of the journals cannot be read (farmer {a.id})" in list(farm_lines(said))


def test_the_status_does_not_speak_of_damage_where_there_is_none(farm: HandMade) -> None:
    assert not any("cannot be read" in line for line in farm_lines(summary(look(farm))))


# -- why ---------------------------------------------------------------------------------------------------------------


def reason(farm: HandMade, task: int) -> str:
    return why(look(farm), task).reason


def test_why_names_the_reason(tmp_path: Path) -> None:
    tasks: list[str | Task] = [
        "zero",
        "one",
        Task(text="two", after=(TaskId(1),)),
        Task(text="three", after=(TaskId(2),)),
    ]
    farm = HandMade(tmp_path / "w", [*tasks, Task(text="four", cpus=9), "five", "six"])
    assert reason(farm, 0) == "nobody"
    a = farm.join()
    assert reason(farm, 0) == "queued"
    assert reason(farm, 2) == "waits"
    assert reason(farm, 4) == "too-wide"
    a.take(0, 1, 5)
    assert reason(farm, 0) == "taken"
    a.start(0)
    assert reason(farm, 0) == "running"
    a.end(0, "again")
    assert reason(farm, 0) == "delayed"
    a.run(0, "ok", 2)
    assert reason(farm, 0) == "finished"
    a.run(1, "fail")
    a.report()
    assert reason(farm, 1) == "failed"
    answer = why(look(farm), 3)
    assert answer.reason == "blocked"
    assert "task 1 (failed)" in answer.text
    farm.append(Cancel(ids="6"))
    assert reason(farm, 6) == "cancelled"


def test_why_tells_why_a_task_ran_again(farm: HandMade) -> None:
    ledger = look(farm)
    assert why(ledger, 1).again == ["attempt 1 on north: retried, exit status 1, after 1.00 s; so attempt 2"]
    assert "presumed dead" in why(ledger, 3).again[0]


def test_a_task_that_was_given_up_with_its_farmers_is_explained_until_a_retry(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    for attempt in (1, 2):
        farmer = farm.join()
        farmer.take(0)
        farmer.start(0, attempt)
        farmer.bury()
    last = farm.join()
    last.take(0)
    last.start(0, 3)
    last.end(0, "fail", 3, status=126, reason="lost")
    last.report()
    said = "its farmer or its batch job was lost while it ran, 2 times, so it was not started again"
    answer = why(look(farm), 0)
    assert (answer.state, answer.reason) == ("failed", "failed")
    assert answer.text == f"{said}; `taskfarmer retry {farm.path} 0` gives it another chance"
    assert f"  {said}; `taskfarmer retry` gives it another chance" in shown(farm, 0)
    farm.append(Retry(ids="0"))
    assert not any(said in line for line in shown(farm, 0))


def shown(farm: HandMade, task: int) -> list[str]:
    ledger = look(farm)
    return list(task_lines(task, ledger.task(task), ledger.state.name_of(task), attempts_at(ledger, task), []))


def test_why_tells_of_a_farmer_that_is_dead_or_silent(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    here = {"boot": boot_id(), "pid_namespace": Path("/proc/self/ns/pid").stat().st_ino}
    a = HandMadeFarmer(farm, "here", 1, place=here)
    a.take(0)
    assert reason(farm, 0) == "gone"


# -- lists and exports -------------------------------------------------------------------------------------------------


def test_rows_of_tasks(farm: HandMade) -> None:
    rows = list(plain_rows(look(farm)))
    assert [(row["id"], row["state"], row["attempts"]) for row in rows] == [
        (0, "finished", 1),
        (1, "finished", 2),
        (2, "failed", 1),
        (3, "finished", 2),
        (4, "running", 1),
        (5, "toprocess", 0),
    ]
    assert [row["id"] for row in plain_rows(look(farm), ("running", "failed"))] == [2, 4]
    assert [row["id"] for row in plain_rows(look(farm), ("toprocess",))] == [5]
    assert next(row_lines(rows)).split() == ["id", "state", "attempts", "text"]
    assert list(row_lines([])) == []


def test_the_index_has_the_last_attempt_of_each_task(farm: HandMade) -> None:
    index = build_index(look(farm))
    by_id = {row["id"]: row for row in index.choose()}
    assert (by_id[1]["attempts"], by_id[1]["seconds"], by_id[1]["failures"], by_id[1]["slot"]) == (2, 5.0, 1, 3)
    assert (by_id[3]["host"], by_id[3]["losses"], by_id[3]["attempts"]) == ("south", 1, 2)
    assert (by_id[2]["exit"], by_id[2]["signal"]) == (-11, "SIGSEGV")
    assert by_id[5]["host"] is None
    assert len(list(index.rows("attempts"))) == 7
    assert [row[1:3] for row in index.rows("farmers")][1][1] == "south"


def test_tasks_are_chosen_and_sorted_by_sql(farm: HandMade) -> None:
    index = build_index(look(farm))
    assert [row["id"] for row in index.choose(where="host = 'north' -- they say")] == [0, 1, 2]
    assert [row["id"] for row in index.choose(states=("finished",), sort="-seconds", limit=1)] == [1]
    with pytest.raises(InputError, match="--where 'nonsense': no such column: nonsense; columns: id, "):
        index.choose(where="nonsense")
    with pytest.raises(InputError, match="no column 'drop table'"):
        index.choose(sort="drop table")
    with pytest.raises(InputError, match="--where"):
        index.choose(where="1); DROP TABLE tasks; --")
    assert len(index.choose()) == 6


def test_csv_and_json_lines_survive_odd_texts(tmp_path: Path) -> None:
    texts = ['say "a, b"', "two\nlines", "caf\u00e9", "\udc80 byte"]
    farm = HandMade(tmp_path / "w", texts)
    stream = io.StringIO()
    export_stream(look(farm), "csv", "tasks", stream)
    shown = [*texts[:3], "\\x80 byte"]
    assert [row["text"] for row in csv.DictReader(io.StringIO(stream.getvalue()))] == shown
    stream = io.StringIO()
    export_stream(look(farm), "jsonl", "tasks", stream)
    assert [json.loads(line)["text"] for line in stream.getvalue().splitlines()] == shown


def test_sqlite_export_has_all_tables(farm: HandMade, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("an old file")
    export_file(look(farm), "sqlite", "tasks", path)
    connection = sqlite3.connect(path)
    counts = [
        connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("tasks", "attempts", "farmers")
    ]
    connection.close()
    assert counts == [6, 7, 2]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("x.db")] == ["x.db"]


def test_parquet_export(farm: HandMade, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_file(look(farm), "parquet", "attempts", tmp_path / "x.parquet")
    read = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert read["task"] == [0, 1, 1, 2, 3, 3, 4]
    assert read["ended"][-1] is None


def test_parquet_without_pyarrow_names_the_extra(
    farm: HandMade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"Parquet needs pyarrow; pip install 'taskfarmer\[parquet\]'"):
        export_file(look(farm), "parquet", "tasks", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_export_that_cannot_be_written_is_one_line(farm: HandMade, tmp_path: Path) -> None:
    for kind in ("csv", "sqlite"):
        with pytest.raises(WorkdirError, match="nowhere/x"):
            export_file(look(farm), kind, "tasks", tmp_path / "nowhere" / "x")


def test_the_timeline_in_a_file_of_ones_own(farm: HandMade, tmp_path: Path) -> None:
    write_timeline(look(farm), tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())
    ended = [(e["args"]["task"], e["args"].get("superseded", False)) for e in events if e["ph"] == "X"]
    assert ended == [(0, False), (1, False), (1, False), (2, False), (3, True), (3, False)]
    with pytest.raises(WorkdirError):
        write_timeline(look(farm), tmp_path / "nowhere" / "t.json")


# -- output ------------------------------------------------------------------------------------------------------------


def test_output_of_each_attempt(farm: HandMade) -> None:
    (farm.workdir.logs / "log_1").write_bytes(b"first\xff\n")
    (farm.workdir.logs / "log_1.2").write_bytes(b"second\n")
    ledger = look(farm)
    assert b"".join(output(ledger, 1, 1)) == b"first\xff\n"
    assert b"".join(output(ledger, 1, 2, skip=3)) == b"ond\n"
    assert [path.name for path in log_files(ledger, 1)] == ["log_1", "log_1.2"]
    assert list(output(ledger, 0, 1)) == []


def test_following_ends_with_the_attempt(farm: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    log = farm.workdir.logs / "log_4"
    log.write_bytes(b"one\n")
    said = iter([b"two\n", b"three\n"])

    def asleep(_seconds: float) -> None:
        with open(log, "ab") as file:
            file.write(next(said))
        if next(reversed(log.read_bytes().split())) == b"three":
            south = next(f for f in farm.ledger.state.farmers if f.host["host"] == "south")
            end = b"E 4 1 ok 0 1700000100.000000 0.1 0.1 9 -"
            from zlib import crc32

            with open(farm.workdir.journals / south.id, "ab") as journal:
                journal.write(b"%08x %b\n" % (crc32(end), end))

    monkeypatch.setattr("taskfarmer.monitor.outputs.time.sleep", asleep)
    assert b"".join(follow(look(farm), 4, None)) == b"one\ntwo\nthree\n"


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12 ms"), (1.5, "1.50 s"), (59.4, "59 s"), (187, "3:07"), (7500, "2:05:00"), (273600, "3 d 4:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_times_and_spans() -> None:
    noon = time.mktime((2026, 11, 20, 12, 0, 0, 0, 0, -1))
    assert moment(noon) == "2026-11-20 12:00:00"
    assert period(noon, noon + 61) == "2026-11-20 12:00:00 to 12:01:01"
    assert period(noon, noon + 86400) == "2026-11-20 12:00:00 to 2026-11-21 12:00:00"
    assert [span(s) for s in (-3.0, 0.4, 9.7, 61.2)] == ["0 s", "0 s", "10 s", "1:01"]


def test_rates_and_amounts() -> None:
    assert [per_second(rate) for rate in (250.0, 2.5, 0.1, 0.001)] == ["250/s", "2.5/s", "6.0/min", "3.6/h"]
    assert [memory(kib) for kib in (900, 20480, 20 << 20)] == ["900 KiB", "20 MiB", "20.0 GiB"]


def test_nothing_that_a_task_holds_can_disturb_a_terminal() -> None:
    assert printable("a\x1b[31m\n\udc80\u2028b") == "a\\x1b[31m\\n\\x80\\u2028b"
    assert shortened("x" * 100, 10) == "xxxxxxx..."
    assert table([["a", "1"], ["long", "22"]], right={1}) == "a      1\nlong  22"


# -- progress ----------------------------------------------------------------------------------------------------------


def view(finished: int, **more: Any) -> ProgressView:
    return ProgressView(counts={"finished": finished, "failed": 1, "running": 2, "toprocess": 97 - finished}, **more)


def test_progress_in_words() -> None:
    assert view(10, rate_per_s=2.0, left_s=100.0, farmers=2).words() == (
        "10 finished, 1 failed, 2 running, 2.0/s, 1:40 left, 2 farmers"
    )
    assert view(10, farmers=2).words(of_all=True) == "10 finished, 1 failed, 2 running of 100, 2 farmers"
    assert view(10).total == 100
    assert view(10).ended == 11


def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("taskfarmer.monitor.progress.time.monotonic", lambda: now)
    display = Progress()
    display.start()
    for second in range(200):
        now = 1000.0 + second
        display.update(view(second // 3))
    display.line("taskfarmer: odd \udc80 line")
    display.stop()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "taskfarmer: 3 finished, 1 failed, 2 running of 100"
    assert 12 <= len(printed) <= 16  # each ten seconds at first, each minute later
    assert printed[-1] == "taskfarmer: odd \\x80 line"


def test_on_a_terminal_there_is_a_live_display(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_FIRST_S", 0.0)
    display = Progress()
    display.start()
    display.update(view(50, last_failures=["task 3 failed [red] \x1b[2J"]))
    display.line("a line [bold] above")
    display.stop()
    shown = terminal.getvalue()
    assert "50 finished, 1 failed, 2 running" in shown
    assert "task 3 failed [red] \\x1b[2J" in shown
    assert "a line [bold] above" in shown


def test_a_terminal_that_is_gone_silences_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        encoding = "utf-8"

        def write(self, _text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("sys.stdout", Gone())
    display = Progress()
    display.start()
    display.line("lost")
    display.line("lost, too")
    display.update(view(1))
    display.stop()


def test_a_retry_is_an_attempt_more(farm: HandMade) -> None:
    farm.append(Retry(ids="2"), *farm.ledger.all_news())
    assert why(look(farm), 2).state == "toprocess"
    assert next(row for row in plain_rows(look(farm)) if row["id"] == 2)["attempts"] == 1
