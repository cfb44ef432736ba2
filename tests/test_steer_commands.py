"""The commands that steer, and those that list what is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from taskfarmer.core.entries import Add, Cancel, Stop
from taskfarmer.farm.ledger import Ledger
from tests.ledgers import HandMade
from tests.test_look_commands import call, said


@pytest.fixture
def farm(tmp_path: Path) -> HandMade:
    """0 and 1 have failed (1 only by the journal), 2 finished, 3 and 4 are to be done."""
    farm = HandMade(tmp_path / "w", ["zero", "one", "two", "three", "four"])
    a = farm.join()
    a.take(0, 1, 2)
    a.run(0, "fail")
    a.report()
    a.run(1, "fail")
    a.run(2)
    return farm


def names(farm: HandMade) -> list[str]:
    state = farm.state()
    return [state.name_of(task) for task in range(len(state))]


def texts(farm: HandMade, start: int) -> list[str]:
    ledger = Ledger.open(farm.path)
    return [ledger.task(task).text for task in range(start, len(ledger.state))]


# -- add ---------------------------------------------------------------------------------------------------------------


def test_add_a_file(farm: HandMade, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("# not this\nfive\n\n  six  \n")
    result = call("add", farm.path, tmp_path / "more.txt")
    assert (result.exit_code, result.stdout) == (0, "added 2 tasks: 5-6\n")
    assert texts(farm, 5) == ["five", "six"]
    assert Ledger.open(farm.path).state.segments[1][1].source == str(tmp_path / "more.txt")


def test_add_from_standard_input(farm: HandMade) -> None:
    result = call("add", farm.path, "-", "--json", stdin=b"caf\xc3\xa9\n\xff\n")
    assert json.loads(result.stdout) == {
        "version": 1, "command": "add", "workdir": str(farm.path), "count": 2, "ids": "5-6",
    }  # fmt: skip
    assert texts(farm, 5) == ["caf\u00e9", "\udcff"]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["echo", "a b", "--json", "-x"], "echo 'a b' --json -x"),
        (["echo a | wc"], "echo a | wc"),
        (["true", "--", "x"], "true -- x"),
    ],
)
def test_add_a_command(farm: HandMade, command: list[str], text: str) -> None:
    assert call("add", farm.path, "--", *command).exit_code == 0
    assert texts(farm, 5) == [text]


def test_added_tasks_may_wait_for_others(farm: HandMade, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text('{"command": "a", "name": "x"}\n{"command": "b"}\n')
    assert call("add", farm.path, tmp_path / "more.jsonl", "-t", "jsonl", "--after", "2,4").exit_code == 0
    ledger = Ledger.open(farm.path)
    assert [ledger.task(task).after for task in (5, 6)] == [(2, 4), (2, 4)]
    assert call("add", farm.path, "--after", "1", "--", "never").exit_code == 0
    assert names(farm)[5:] == ["toprocess", "toprocess", "blocked"]


def test_what_waits_within_the_list_goes_on_to_do_so(farm: HandMade, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text('{"command": "a"}\n{"command": "b", "after": [0]}\n')
    assert call("add", farm.path, tmp_path / "more.jsonl", "-t", "jsonl").exit_code == 0
    assert call("add", farm.path, tmp_path / "more.jsonl", "-t", "jsonl", "--after", "3").exit_code == 0
    ledger = Ledger.open(farm.path)
    assert [ledger.task(task).after for task in (5, 6, 7, 8)] == [(), (5,), (3,), (7, 3)]


def test_tasks_that_somebody_else_adds_at_the_same_time_do_not_shift_who_waits_for_whom(
    farm: HandMade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more.jsonl").write_text('{"command": "a"}\n{"command": "b", "after": [0]}\n')
    append = Ledger.append
    others = ["someone else's"]

    def late(self: Ledger, make: object, by: str = "cli") -> object:
        if others:
            farm.add([others.pop()])
        return append(self, make, by)  # type: ignore[arg-type]  # as it was given

    monkeypatch.setattr(Ledger, "append", late)
    monkeypatch.setattr(farm.ledger, "append", append.__get__(farm.ledger))
    assert call("add", farm.path, tmp_path / "more.jsonl", "-t", "jsonl", "--after", "3").exit_code == 0
    ledger = Ledger.open(farm.path)
    assert [ledger.task(task).after for task in (5, 6, 7)] == [(), (3,), (6, 3)]
    assert len(list(farm.workdir.tasks.glob("*.jsonl"))) == 3  # what was written in vain is gone


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.txt"], "nowhere.txt: no such task list"),
        (["empty.txt"], "empty.txt: there are no tasks in it"),
        (["-"], "standard input: there are no tasks in it"),
        (["empty.txt", "-t", "jsnl"], "there is no task list handler 'jsnl'; did you mean jsonl?"),
        (["--after", "77", "--", "true"], "there is no task 77"),
        (["--", " "], "the command is empty"),
    ],
)
def test_what_cannot_be_added_changes_nothing(
    farm: HandMade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("# nothing\n")
    before = sorted(farm.workdir.ledger.rglob("*"))
    result = call("add", farm.path, *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(farm.workdir.ledger.rglob("*")) == before


@pytest.mark.parametrize("args", [[], ["x.txt", "--", "true"], ["--"], ["-t", "jsonl", "--", "true"]])
def test_add_needs_exactly_one_thing_to_add(farm: HandMade, args: list[str]) -> None:
    assert call("add", farm.path, *args).exit_code == 2


def test_add_to_a_farm_that_is_not_there(tmp_path: Path) -> None:
    assert "no such workdir" in call("add", tmp_path / "none", "--", "true").stderr


# -- retry -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [[], ["--failed"]])
def test_retry_all_that_failed_also_what_only_a_journal_knows(farm: HandMade, args: list[str]) -> None:
    result = call("retry", farm.path, *args)
    assert (result.exit_code, result.stdout) == (0, "to be done again: 2 tasks: 0-1\n")
    assert names(farm) == ["toprocess", "toprocess", "finished", "toprocess", "toprocess"]
    assert Ledger.open(farm.path).state.name_of(1) == "toprocess"  # the log alone says so, too
    assert call("retry", farm.path).stdout == "to be done again: 0 tasks\n"


def test_retry_some(farm: HandMade) -> None:
    farm.append(Cancel(ids="3"))
    result = call("retry", farm.path, "1-3")
    assert result.stdout == "to be done again: 2 tasks: 1,3\n"
    assert result.stderr == "taskfarmer: left out 1 of the tasks, of which none failed, was cancelled or is unknown\n"
    assert names(farm) == ["failed", "toprocess", "finished", "toprocess", "toprocess"]
    refused = call("retry", farm.path, "2")
    assert refused.exit_code == 2
    assert "none of these tasks failed, was cancelled or is unknown: task 2 is finished" in refused.stderr


def test_retry_says_how_to_go_on_when_nobody_is_at_work(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    a = farm.join()
    a.take(0)
    a.run(0, "fail")
    a.leave()
    assert call("status", farm.path).exit_code == 0
    assert (farm.path / "failed").read_text() == "0 zero\n"
    assert f"start one with: taskfarmer resume {farm.path}" in call("retry", farm.path).stdout
    assert (farm.path / "failed").read_text() == ""
    assert (farm.path / "toprocess").read_text() == "0 zero\n"


def test_retry_unblocks(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('{"command": "test -e made"}\n{"command": "true", "after": [0]}\n')
    here = tmp_path / "l.jsonl"
    command = [sys.executable, "-m", "taskfarmer", "run", str(here), "-t", "jsonl", "--quiet"]
    assert subprocess.run(command, cwd=tmp_path, check=False, timeout=60).returncode == 1
    assert said("status", here)["tasks"]["blocked"] == 1
    (tmp_path / "made").touch()
    assert said("retry", here)["ids"] == "0"
    assert said("status", here)["tasks"]["toprocess"] == 2
    assert subprocess.run(command, cwd=tmp_path, check=False, timeout=60).returncode == 0


# -- cancel, stop ------------------------------------------------------------------------------------------------------


def test_cancel(farm: HandMade) -> None:
    assert call("cancel", farm.path, "2-3").stdout == "cancelled 1 task: 3\n"
    assert names(farm)[3] == "cancelled"
    assert said("cancel", farm.path)["ids"] == "4"
    assert said("cancel", farm.path, "--all")["count"] == 0
    assert call("cancel", farm.path, "2").exit_code == 2
    assert call("cancel", farm.path, "1", "--all").exit_code == 2


def test_stop(farm: HandMade) -> None:
    (id,) = (farmer.id for farmer in farm.ledger.state.farmers)
    assert call("stop", farm.path).stdout == "told 1 farmer to stop\n"
    assert said("stop", farm.path, "--drain", "--farmer", id)["farmers"] == [id]
    assert [stop[1:] for stop in farm.state().stops] == [("now", []), ("drain", [id])]
    refused = call("stop", farm.path, "--farmer", "nobody")
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_stop_when_nobody_is_at_work_writes_nothing(tmp_path: Path) -> None:
    farm = HandMade(tmp_path / "w", ["zero"])
    assert call("stop", farm.path).stdout == "no farmer is at work\n"
    assert farm.state().number == 1


def test_a_live_farmer_obeys(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("sleep 60\nsleep 60\n")
    command = [sys.executable, "-m", "taskfarmer", "run", str(tmp_path / "l.txt"), "-n", "1", "--quiet"]
    with subprocess.Popen(command) as farmer:
        workdir = tmp_path / "l.txt_workdir"
        made = workdir / "ledger" / "log" / "00000001"
        _wait(lambda: made.exists() and said("status", workdir)["tasks"]["running"] == 1)
        assert call("add", workdir, "--", "touch", str(tmp_path / "added")).exit_code == 0
        assert said("cancel", workdir, "0-1")["count"] == 2
        assert farmer.wait(30) == 0
    assert (tmp_path / "added").exists()
    assert said("status", workdir)["tasks"]["cancelled"] == 2


def _wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("steer", [("add", "--", "true"), ("retry",), ("cancel", "3"), ("stop",)], ids=" ".join)
def test_a_log_that_cannot_be_written_is_one_line(
    farm: HandMade, monkeypatch: pytest.MonkeyPatch, steer: tuple[str, ...]
) -> None:
    def refuse(_self: object, path: str, _flags: int = 0) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("taskfarmer.farm.disk.Disk.create", refuse)
    before = names(farm)
    result = call(steer[0], farm.path, *steer[1:])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Permission denied" in result.stderr
    assert result.stderr.count("\n") == 1
    assert names(farm) == before


def test_the_entries_say_what_was_asked_and_nothing_else(farm: HandMade) -> None:
    number = farm.state().number
    call("add", farm.path, "--", "x")
    call("stop", farm.path, "--drain")
    log = Ledger.open(farm.path).log
    added, stopped = (log.read(number + more) for more in (1, 2))
    assert isinstance(added.body, Add)
    assert stopped.body == Stop(mode="drain")
    assert (added.by, added.news, stopped.news) == ("cli", (), ())


# -- what is installed -------------------------------------------------------------------------------------------------


def test_runners_and_tasklists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "mine.ini").write_text("[default]\nRunner = a.B\nkey = v\n[steer]\nTaskList = c.D\n")
    (tmp_path / "broken.ini").write_text("no section\n")
    text = call("runners").stdout
    assert "a.B" in text
    assert f"{tmp_path}/mine.ini:1 (hides the one of built in)" in text
    assert "key='v'" in text
    assert f"cannot be read: {tmp_path}/broken.ini:1: there is no [section] above this line" in text
    value = said("tasklists")
    assert [d["name"] for d in value["tasklists"]] == ["default", "jsonl", "steer", "table"]
    assert value["broken"][0]["line"] == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = call("completion", shell).stdout
    assert "_TASKFARMER_COMPLETE" in script
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=script, text=True, check=True, timeout=30)


def test_completion_of_another_shell() -> None:
    assert call("completion", "tcsh").exit_code == 2
