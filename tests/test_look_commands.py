"""The commands that look, as a person or a script calls them."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from taskfarmer.cli import main
from taskfarmer.core.model import Task, TaskId
from tests.ledgers import HERE, HandMade, HandMadeFarmer


def call(*args: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)


def said(*args: object) -> dict[str, Any]:
    result = call(*args, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["version"], value["command"]) == (1, args[0])
    assert isinstance(value, dict)
    return value


@pytest.fixture
def farm(tmp_path: Path) -> HandMade:
    """`list.txt_workdir`: 0 finished at the second attempt, 1 failed, 2 waits for 1, 3 runs, 4 has odd text."""
    odd = 'odd "text"\nof \udc80 and \u00e9'
    tasks: list[str | Task] = [
        "zero",
        "one",
        Task(text="two", after=(TaskId(1),), name="second", env={"A": "b"}, cpus=2),
        "three",
        odd,
    ]
    farm = HandMade(tmp_path / "list.txt_workdir", tasks)
    (tmp_path / "list.txt").write_text("the list\n")
    a = farm.join(host="north")
    a.take(0, 1, 3)
    a.run(0, "again")
    a.run(0, "ok", 2)
    a.run(1, "fail")
    a.report()
    a.start(3, slot=1)
    (farm.workdir.logs / "log_0").write_bytes(b"first try\n")
    (farm.workdir.logs / "log_0.2").write_bytes(b"second \xff try\n")
    (farm.workdir.logs / "log_1").write_bytes(b"it broke\n")
    return farm


# -- status ------------------------------------------------------------------------------------------------------------


def test_status(farm: HandMade) -> None:
    result = call("status", farm.path)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["finished", "1", "20.0%"] in lines
    assert ["blocked", "1", "20.0%"] in lines
    assert ["all", "5"] in lines
    assert ["host", "state", "for", "slots", "running", "finished", "failed", "rate"] in lines
    (north,) = (line for line in result.stdout.splitlines() if line.startswith("north "))
    assert re.match(r"north  at work +\S+( s|:\d\d)? +4 +1 +1 +1\b", north)


def test_status_lists_every_farmer_when_asked(farm: HandMade) -> None:
    (farmer,) = farm.ledger.state.farmers
    lines = call("status", farm.path, "--farmers").stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("farmer "))
    assert lines[at + 1].split() == [farmer.id[:8], "north", "4241", "at", "work", "4", "1", "1", "1", "0"]
    assert lines[at + 2].startswith("  since ")
    assert call("status", farm.path, "-v").stdout.count("last sign of life") == 1


@pytest.mark.parametrize("options", [(), ("-v",)], ids=["hosts", "farmers"])
def test_status_fits_into_80_columns(tmp_path: Path, options: tuple[str, ...]) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(9)])
    for host in ("nid000012", "nid000013", "nid000014"):
        farmer = farm.join(host=host, slots=128)
        farmer.take(*range(9))
        farmer.start(0)
        if host != "nid000014":
            farmer.bury()
    lines = call("status", farm.path, *options).stdout.splitlines()
    tables = [
        line
        for line in lines
        if line.startswith(("host ", "farmer ", "nid", *(f.id[:8] for f in farm.ledger.state.farmers)))
    ]
    assert len(tables) == 4
    assert max(map(len, tables)) <= 80


def test_status_for_programs(farm: HandMade) -> None:
    value = said("status", farm.path)
    assert value["total"] == 5
    assert value["tasks"] == {
        "toprocess": 1, "running": 1, "finished": 1, "failed": 1, "cancelled": 0, "blocked": 1, "unknown": 0,
    }  # fmt: skip
    assert value["workdir"] == str(farm.path)
    assert [farmer["standing"] for farmer in value["farmers"]] == ["alive"]


def test_the_list_stands_for_its_workdir(farm: HandMade, tmp_path: Path) -> None:
    assert said("status", tmp_path / "list.txt")["workdir"] == str(farm.path)


def test_status_of_something_else(tmp_path: Path) -> None:
    result = call("status", tmp_path / "nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"taskfarmer: {tmp_path}/nowhere: there is no such workdir")
    assert result.stderr.count("\n") == 1
    assert call("status", tmp_path).exit_code == 2
    assert call("status").exit_code == 2


def test_status_says_how_to_go_on_when_nobody_is_at_work(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "a b", ["zero"])
    assert "no farmer is at work; `taskfarmer resume '" in call("status", farm.path).stdout


def test_status_watches_until_it_is_interrupted(farm: HandMade) -> None:
    command = [sys.executable, "-m", "taskfarmer", "status", str(farm.path), "--watch", "--interval", "0.1", "--json"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert watching.stderr is not None
    with watching:
        looks = [json.loads(watching.stdout.readline()) for _ in range(3)]
        watching.send_signal(signal.SIGINT)
        watching.wait(10)
        assert "Traceback" not in watching.stderr.read()
    assert all(look["total"] == 5 for look in looks)


def test_whoever_reads_only_the_first_lines_gets_no_complaint(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", [f"task {n}" for n in range(20_000)])
    command = f"{sys.executable} -m taskfarmer tasks {farm.path} | head -2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[1].split() == ["0", "toprocess", "0", "task", "0"]
    assert done.stderr == ""


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_tasks(farm: HandMade) -> None:
    lines = call("tasks", farm.path).stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["id", "state", "attempts"],
        ["0", "finished", "2"],
        ["1", "failed", "1"],
        ["2", "blocked", "0"],
        ["3", "running", "1"],
        ["4", "toprocess", "0"],
    ]
    assert lines[-1].endswith('odd "text"\\nof \\x80 and \u00e9')


def test_tasks_by_state_and_limit(farm: HandMade) -> None:
    assert [t["id"] for t in said("tasks", farm.path, "--state", "failed", "--state", "blocked")["tasks"]] == [1, 2]
    assert [t["id"] for t in said("tasks", farm.path, "--limit", "2")["tasks"]] == [0, 1]
    assert said("tasks", farm.path, "--state", "unknown")["tasks"] == []
    assert call("tasks", farm.path, "--state", "unknown").stdout == ""
    assert call("tasks", farm.path, "--state", "gone").exit_code == 2


def test_tasks_that_run(farm: HandMade) -> None:
    (farmer,) = farm.ledger.state.farmers
    heading, line = call("tasks", farm.path, "--running").stdout.splitlines()
    assert heading.split() == ["id", "attempt", "for", "host", "farmer", "slot", "text"]
    assert line.split()[:2] == ["3", "1"]
    assert line.split()[-4:] == ["north", farmer.id[:8], "1", "three"]
    (found,) = said("tasks", farm.path, "--running")["tasks"]
    assert (found["id"], found["state"], found["attempt"], found["attempts"]) == (3, "running", 1, 1)
    assert (found["host"], found["farmer"], found["slot"], found["standing"]) == ("north", farmer.id, 1, "alive")
    assert found["running_s"] == pytest.approx(time.time() - found["started"], abs=60)
    assert said("tasks", farm.path, "--running", "--where", "host = 'north'")["tasks"][0]["farmer"] == farmer.id
    assert said("tasks", farm.path, "--running", "--where", "host = 'south'")["tasks"] == []
    assert call("tasks", farm.path, "--running", "--state", "failed").exit_code == 2


def test_what_runs_with_a_dead_farmer_says_so(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    dead = HandMadeFarmer(farm, "here", 1, place=HERE)
    dead.take(0)
    dead.start(0)
    (_, line) = call("tasks", farm.path, "--running").stdout.splitlines()
    assert line.split()[-3:] == ["0", "dead", "zero"]
    assert "(the farmer is dead)" in call("show", farm.path, "0").stdout


def test_tasks_by_condition_and_order(farm: HandMade) -> None:
    found = said("tasks", farm.path, "--where", "attempts > 0", "--sort", "-attempts")["tasks"]
    assert [t["id"] for t in found] == [0, 1, 3]
    assert found[0]["cpu_s"] == 0.5
    assert found[2]["host"] == "north"
    assert "SIG" not in call("tasks", farm.path, "--sort", "id").stdout
    bad = call("tasks", farm.path, "--where", "colour = 3")
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert "no such column: colour; columns: id, state" in bad.stderr


# -- show, why ---------------------------------------------------------------------------------------------------------


def test_show(farm: HandMade) -> None:
    text = call("show", farm.path, "0,2").stdout
    assert "task 0: finished" in text
    assert "attempt 1: retried, exit status 1, after 1.00 s" in text
    assert "attempt 2: finished, after 1.00 s" in text
    assert "0.50 s CPU, 2 MiB at most" in text
    assert str(farm.workdir.logs / "log_0.2") in text
    assert "task 2: blocked" in text
    assert "A=b" in text


def test_show_marks_what_counts(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a, b = farm.join(host="north"), farm.join(host="south")
    a.take(0, 1)
    a.start(0)
    a.start(1)
    a.bury()
    a.end(0)
    b.take(0)
    b.run(0, "back", 2)
    b.run(0, "ok", 3)
    lines = call("show", farm.path, "0-1").stdout.splitlines()
    attempts = [line.split(": ", 1)[1] for line in lines if line.startswith("  attempt")]
    assert attempts == [
        "finished, after 0 ms, superseded: this result does not count, it came after its farmer was buried",
        "stopped, exit status 1, after 1.00 s",
        "finished, after 1.00 s, counted",
        "lost with its farmer",
    ]
    assert sum(line.split() == ["farmer", "buried:", "silent", "for", "300", "s"] for line in lines) == 2
    first, second = said("show", farm.path, "0-1")["tasks"]
    assert [(a["counted"], a["superseded"]) for a in first["attempts"]] == [
        (False, True), (False, False), (True, False),
    ]  # fmt: skip
    assert [a["buried"] for a in second["attempts"]] == ["silent for 300 s"]


def test_show_for_programs(farm: HandMade) -> None:
    first, second = said("show", farm.path, "0,2")["tasks"]
    assert [a["ending"] for a in first["attempts"]] == ["retried", "finished"]
    assert first["logs"] == [str(farm.workdir.logs / "log_0"), str(farm.workdir.logs / "log_0.2")]
    assert (second["name"], second["after"], second["cpus"], second["attempts"]) == ("second", [1], 2, [])


@pytest.mark.parametrize("command", ["show", "why", "logs"])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("5", "there is no task 5; its ids are 0 to 4"),
        ("2-99999999999", "there is no task 5"),
        ("x", "'x' is not an id or a range of ids such as 3-7; write ids as 7, 3-9 or 0-4,12"),
        ("", "no task is named"),
    ],
)
def test_ids_that_are_none(farm: HandMade, command: str, ids: str, message: str) -> None:
    result = call(command, farm.path, ids)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_why(farm: HandMade) -> None:
    result = call("why", farm.path, "0-2")
    assert "task 0: finished: attempt 2 on north, after 1.00 s" in result.stdout
    assert "attempt 1 on north: retried, exit status 1, after 1.00 s; so attempt 2" in result.stdout
    assert "task 2: blocked: it cannot run because of task 1 (failed); `taskfarmer retry" in result.stdout
    values = said("why", farm.path, "3-4")["tasks"]
    assert [(value["id"], value["state"], value["reason"]) for value in values] == [
        (3, "running", "running"),
        (4, "toprocess", "queued"),
    ]


# -- logs --------------------------------------------------------------------------------------------------------------


def test_logs_come_out_byte_by_byte(farm: HandMade) -> None:
    assert call("logs", farm.path, "0").stdout_bytes == b"second \xff try\n"
    assert call("logs", farm.path, "0", "--attempt", "1").stdout_bytes == b"first try\n"
    several = call("logs", farm.path, "0-1").stdout_bytes
    assert several == b"==> task 0, attempt 2 <==\nsecond \xff try\n==> task 1, attempt 1 <==\nit broke\n"


def test_logs_for_programs(farm: HandMade) -> None:
    (log,) = said("logs", farm.path, "0")["logs"]
    assert log == {"id": 0, "attempt": 2, "output": "second \udcff try\n"}


def test_logs_that_cannot_be(farm: HandMade, tmp_path: Path) -> None:
    assert "has no attempt 7; its attempts are 1 to 2" in call("logs", farm.path, "0", "--attempt", "7").stderr
    assert "it was never started (toprocess)" in call("logs", farm.path, "4").stderr
    silent = HandMade(tmp_path / "silent", ["zero"], logs="none")
    a = silent.join()
    a.take(0)
    a.run(0)
    result = call("logs", silent.path, "0")
    assert (result.exit_code, result.stderr) == (
        2,
        "taskfarmer: this farm keeps no output; it was made with --logs none\n",
    )


def test_logs_are_followed_until_the_task_ends(farm: HandMade) -> None:
    log = farm.workdir.logs / "log_3"
    log.write_bytes(b"one\n")
    command = [sys.executable, "-m", "taskfarmer", "logs", str(farm.path), "3", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"one\n"
        with open(log, "ab") as file:
            file.write(b"two\n")
        assert following.stdout.readline() == b"two\n"
        from zlib import crc32

        text = b"E 3 1 ok 0 1700000100.000000 0.1 0.1 9 -"
        with open(farm.workdir.journals / farm.ledger.state.farmers[0].id, "ab") as journal:
            journal.write(b"%08x %b\n" % (crc32(text), text))
        assert following.wait(20) == 0


def test_following_is_for_one_task(farm: HandMade) -> None:
    assert call("logs", farm.path, "0-1", "-f").exit_code == 2


def test_packed_logs_are_found(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("echo packed; echo two >&2\n")
    run = [sys.executable, "-m", "taskfarmer", "run", str(tmp_path / "list.txt"), "--logs", "packed", "--quiet"]
    subprocess.run(run, check=True, timeout=60)
    assert call("logs", tmp_path / "list.txt", "0").stdout_bytes == b"packed\ntwo\n"
    assert said("show", tmp_path / "list.txt", "0")["tasks"][0]["logs"] == []


# -- export, timeline --------------------------------------------------------------------------------------------------


def test_export_to_standard_output(farm: HandMade) -> None:
    lines = call("export", farm.path, "--table", "attempts").stdout.splitlines()
    assert lines[0].startswith("task,attempt,farmer,host,slot,started,ended,")
    assert len(lines) == 5
    rows = [json.loads(line) for line in call("export", farm.path, "-f", "jsonl").stdout.splitlines()]
    assert [row["state"] for row in rows] == ["finished", "failed", "blocked", "running", "toprocess"]


def test_export_to_a_file(farm: HandMade, tmp_path: Path) -> None:
    value = said("export", farm.path, "-f", "sqlite", "-o", tmp_path / "x.db")
    assert (value["file"], value["format"], value["table"]) == (str(tmp_path / "x.db"), "sqlite", "all")
    assert (tmp_path / "x.db").read_bytes().startswith(b"SQLite format 3")
    assert call("export", farm.path, "-f", "sqlite").exit_code == 2


def test_timeline(farm: HandMade, tmp_path: Path) -> None:
    target = tmp_path / "mine.json"
    assert said("timeline", farm.path, "-o", target) == {
        "version": 1, "command": "timeline", "workdir": str(farm.path), "file": str(target), "exact": True,
    }  # fmt: skip
    assert len([event for event in json.loads(target.read_text()) if event["ph"] == "X"]) == 3
    # Farmers are at work, so the one in the workdir is theirs to write; but here it was never written, or was removed.
    result = call("timeline", farm.path)
    assert result.exit_code == 0
    assert (farm.path / "timeline.json").read_bytes() == target.read_bytes()


def test_timeline_of_a_farm_that_rests_is_made_exact(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    a = farm.join()
    a.take(0)
    a.run(0)
    a.leave()
    result = call("timeline", farm.path)
    assert result.stdout.splitlines()[0] == str(farm.path / "timeline.json")
    assert "ui.perfetto.dev" in result.stdout
    events = json.loads((farm.path / "timeline.json").read_text())
    assert [event["name"] for event in events if event["ph"] != "M"] == ["joined", "zero", "left: done"]


# -- all of them -------------------------------------------------------------------------------------------------------

LOOKS = [
    ("status",), ("tasks",), ("tasks", "--sort", "id"), ("show", "0"), ("logs", "0"), ("why", "0"), ("export",),
]  # fmt: skip


@pytest.mark.parametrize("look", LOOKS, ids=" ".join)
def test_looking_changes_nothing_in_the_ledger(farm: HandMade, look: tuple[str, ...]) -> None:
    def ledger() -> dict[str, bytes]:
        files = (path for path in farm.workdir.ledger.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    before = ledger()
    assert call(look[0], farm.path, *look[1:]).exit_code == 0
    assert ledger() == before


@pytest.mark.parametrize("look", LOOKS, ids=" ".join)
def test_looking_makes_the_views_exact_when_nobody_is_at_work(tmp_path: Path, look: tuple[str, ...]) -> None:
    farm = HandMade(tmp_path / "w", ["zero", "one"])
    a = farm.join()
    a.take(0)
    a.run(0)
    a.leave()
    assert call(look[0], farm.path, *look[1:]).exit_code == 0
    assert (farm.path / "finished").read_text() == "0 zero\n"
    assert (farm.path / "toprocess").read_text() == "1 one\n"


@pytest.mark.parametrize("look", LOOKS, ids=" ".join)
def test_a_workdir_that_cannot_be_written_can_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: tuple[str, ...]
) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    a = farm.join()
    a.take(0)
    a.run(0)
    a.leave()

    def refuse(_self: object, _operation: str, what: str = "") -> None:
        raise OSError(errno.EROFS, "Read-only file system", what)

    monkeypatch.setattr("taskfarmer.farm.disk.Disk.about_to", refuse)
    result = call(look[0], farm.path, *look[1:])
    assert (result.exit_code, result.stderr) == (0, "")
    assert not (farm.path / "finished").exists()


def test_status_is_quick(farm: HandMade) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "taskfarmer", "status", str(farm.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"rich", "sqlite3", "pyarrow", "asyncio", "multiprocessing"}
    assert "taskfarmer.monitor.summary" in loaded


def test_a_damaged_log_is_one_line_and_status_4(farm: HandMade) -> None:
    entry = max(farm.workdir.log.iterdir())  # what stands in earlier ones is repeated by later ones
    data = entry.read_bytes()
    entry.write_bytes(data[:20] + b"\0" + data[21:])
    result = call("status", farm.path)
    assert (result.exit_code, result.stdout) == (4, "")
    assert str(entry) in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_journal_that_cannot_be_read_is_one_line(farm: HandMade) -> None:
    journal = farm.workdir.journals / farm.ledger.state.farmers[0].id
    journal.unlink()
    journal.mkdir()
    result = call("tasks", farm.path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"taskfarmer: {journal}: Is a directory\n"


def test_a_log_of_a_later_version_is_refused(farm: HandMade) -> None:
    from zlib import crc32

    number = farm.ledger.state.number + 1
    text = json.dumps({"v": 99, "kind": "magic", "nonce": "x", "by": "cli", "t": time.time()}).encode()
    (farm.workdir.log / f"{number:08d}").write_bytes(b"%08x %b\n" % (crc32(text), text))
    result = call("status", farm.path)
    assert result.exit_code == 2
    assert "format 99" in result.stderr
