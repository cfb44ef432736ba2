"""Making a farm, once; taking up one that is there, or what PyTaskFarmer left; noticing that a list was edited."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from taskfarmer.core.entries import Join, Retry, Take
from taskfarmer.core.model import encode_text
from taskfarmer.definitions import Definition
from taskfarmer.errors import Damaged, InputError, WorkdirError
from taskfarmer.farm import create as creating
from taskfarmer.farm import edited
from taskfarmer.farm.create import Opened, open_or_create
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.options import FarmConfig


def config(tasklist: Path | str = "/lists/tasks.txt") -> FarmConfig:
    """Return a configuration."""
    return FarmConfig(
        tasklist=str(tasklist),
        handler=Definition("tasklist", "default", "taskfarmer.task.ListTaskList", {}, "built in", 0),
        runner=Definition("runner", "default", "taskfarmer.runners.BasicRunner", {}, "built in", 0),
        cwd="/",
    )


def create(
    path: Path, texts: Iterable[str] = ("a", "b", "c"), *, tasklist: str = "/lists/tasks.txt", disk: Disk | None = None
) -> Opened:
    """Make or take up a farm of these tasks; their digest is that of their texts."""
    given = list(texts)
    return open_or_create(path, config(tasklist), str(given), lambda _: map(encode_text, given), disk or Disk())


def names(ledger: Ledger) -> list[str]:
    """Return the states of all tasks."""
    return [ledger.state.name_of(task) for task in range(len(ledger.state))]


def everything(path: Path) -> set[str]:
    """Return all that is in a directory."""
    return {str(item.relative_to(path)) for item in path.rglob("*")}


# -- once --------------------------------------------------------------------------------------------------------------


def test_a_farm_is_made_and_then_taken_up(tmp_path: Path) -> None:
    first = create(tmp_path / "w")
    assert first.created
    assert names(first.ledger) == ["toprocess"] * 3
    second = create(tmp_path / "w")
    assert (second.created, second.notes) == (False, [])
    assert [second.ledger.task(n).text for n in range(3)] == ["a", "b", "c"]
    assert second.ledger.log.numbers() == [1]


def test_the_configuration_stands_in_the_log(tmp_path: Path) -> None:
    """Design: to resume, naming the workdir is enough."""
    create(tmp_path / "w")
    state = Ledger.open(tmp_path / "w").state
    again = FarmConfig.from_json(state.config, lease_s=state.lease_s, heartbeat_s=state.heartbeat_s)
    assert again == config()


def test_an_empty_list_is_a_farm_that_has_nothing_to_do(tmp_path: Path) -> None:
    assert len(create(tmp_path / "w", []).ledger.state) == 0
    assert len(Ledger.open(tmp_path / "w").state) == 0


@pytest.mark.parametrize("whole", [True, False], ids=["directory", "entries"])
def test_a_farm_whose_log_is_gone_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """A new farm in its place would run again what has finished."""
    log = create(tmp_path / "w").ledger.workdir.log
    (tmp_path / "w/ledger/journal/a").write_text("what happened\n")
    for entry in log.iterdir():
        entry.unlink()
    if whole:
        log.rmdir()
    monkeypatch.setattr(creating, "PATIENCE_S", 0.1)
    left = everything(tmp_path)
    with pytest.raises(Damaged, match="the log of this farm is gone"):
        create(tmp_path / "w")
    with pytest.raises(Damaged, match="the log of this farm is gone"):
        Ledger.open(tmp_path / "w")
    assert everything(tmp_path) == left


RACER = """
import sys, time
from pathlib import Path
from taskfarmer.core.model import encode_text
from taskfarmer.farm.create import open_or_create
from taskfarmer.farm.disk import Disk
from tests.test_create import config

def lines(_handler):
    for n in range(500):
        yield encode_text(f"task {n}")

while time.time() < float(sys.argv[2]):
    pass
opened = open_or_create(Path(sys.argv[1]), config(), "digest", lines, Disk())
assert len(opened.ledger.state) == 500
assert opened.ledger.task(499).text == "task 499"
print(opened.created)
"""


def test_of_several_processes_one_makes_the_farm_and_all_use_it(tmp_path: Path) -> None:
    """Races between farmers are harmless. spec: taskfarm 2.1"""
    start = str(time.time() + 1.5)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "w"), start],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        )
        for _ in range(4)
    ]  # fmt: skip
    answers = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert sorted(answers) == ["False", "False", "False", "True"]
    ledger = Ledger.open(tmp_path / "w")
    segment = ledger.state.segments[0][1].file
    tasks = set(os.listdir(ledger.workdir.tasks))
    assert tasks == {segment, segment.replace(".jsonl", ".idx")}, "the losers' files are removed"
    assert os.listdir(ledger.workdir.new) == []


# -- nothing is left behind --------------------------------------------------------------------------------------------


def test_a_list_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def lines(_handler: Definition) -> Iterator[bytes]:
        yield encode_text("good")
        raise InputError("not a task", file="list", line=2)

    with pytest.raises(InputError, match="list:2: not a task"):
        open_or_create(tmp_path / "w", config(), "d", lines, Disk())
    assert everything(tmp_path) == set()


def test_a_list_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    def lines(_handler: Definition) -> list[bytes]:
        (tmp_path / "w" / "output").mkdir()  # as handlers of ATLAS do
        raise InputError("not a task")

    (tmp_path / "w" / "logs").mkdir(parents=True)
    (tmp_path / "w" / "mine").write_text("kept")
    with pytest.raises(InputError, match="not a task"):
        open_or_create(tmp_path / "w", config(), "d", lines, Disk())
    assert everything(tmp_path) >= {"w", "w/logs", "w/mine"}
    assert not (tmp_path / "w" / "ledger").exists()


class FullAfter(Disk):
    """A disk without space from the n-th write or creation on."""

    def __init__(self, when: int) -> None:
        super().__init__(self._count)
        self.left = when

    def _count(self, operation: str, what: str) -> None:
        if operation in ("create", "write", "mkdir"):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)


@pytest.mark.parametrize("when", range(16))
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, when: int) -> None:
    if when == 15:  # nine directories, two files and an entry
        assert create(tmp_path / "w", disk=FullAfter(when)).created
        return
    with pytest.raises(WorkdirError, match="No space left on device") as caught:
        create(tmp_path / "w", disk=FullAfter(when))
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == set()


def test_a_farm_that_was_killed_while_it_was_made_is_made(tmp_path: Path) -> None:
    (tmp_path / "w" / "ledger" / "log").mkdir(parents=True)
    (tmp_path / "w" / "ledger" / "tasks").mkdir()
    (tmp_path / "w" / "ledger" / "tasks" / "0123.jsonl").write_text("#taskfarmer tasks 1\n")
    with pytest.raises(WorkdirError, match="the farm was never completed"):
        Ledger.open(tmp_path / "w")
    assert create(tmp_path / "w").created


def test_a_farm_whose_maker_died_as_it_wrote_its_first_entry_is_made_when_that_lapses(tmp_path: Path) -> None:
    """Without links the number is taken before the entry is in it."""
    entry = create(tmp_path / "w").ledger.workdir.log / "00000001"
    entry.write_bytes(b"")
    for look in (create, Ledger.open):
        with pytest.raises(
            WorkdirError, match=f"{entry}: the writer of this entry may be dead; it lapses within 300 s"
        ):
            look(tmp_path / "w")
    os.utime(entry, (time.time() - 310, time.time() - 310))
    with pytest.raises(WorkdirError, match="the farm was never completed; run its list"):
        Ledger.open(tmp_path / "w")
    made = create(tmp_path / "w")
    assert (made.created, made.ledger.log.numbers()) == (True, [1, 2])
    assert names(Ledger.open(tmp_path / "w")) == ["toprocess"] * 3
    assert not create(tmp_path / "w").created


def test_the_parent_must_exist(tmp_path: Path) -> None:
    """spec: taskfarm 1"""
    with pytest.raises(WorkdirError, match="cannot be made: No such file or directory; its parent must exist"):
        create(tmp_path / "missing" / "w")
    assert everything(tmp_path) == set()


def test_a_directory_that_refuses_is_one_line() -> None:
    """/proc refuses new directories also to root."""
    with pytest.raises(WorkdirError) as caught:
        create(Path("/proc/taskfarmer_workdir"))
    assert str(caught.value).startswith("/proc/taskfarmer_workdir: the workdir cannot be made: ")
    assert "\n" not in str(caught.value)


def test_a_file_in_the_place_of_the_workdir_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("mine")
    with pytest.raises(WorkdirError, match="Not a directory; choose another with --workdir"):
        create(tmp_path / "w")
    assert (tmp_path / "w").read_text() == "mine"


@pytest.mark.parametrize("made", [[], ["finished"], ["stray"]])
def test_what_is_no_farm_is_refused(tmp_path: Path, made: list[str]) -> None:
    for name in made:
        (tmp_path / name).write_text("")
    with pytest.raises(WorkdirError, match="this is no workdir of taskfarmer") as caught:
        Ledger.open(tmp_path)
    assert ("PyTaskFarmer" in str(caught.value)) == (made == ["finished"])
    with pytest.raises(WorkdirError, match="there is no such workdir"):
        Ledger.open(tmp_path / "missing")


# -- what PyTaskFarmer left --------------------------------------------------------------------------------------------


def old_workdir(path: Path, **files: str | bytes) -> Path:
    """Make a workdir as PyTaskFarmer leaves it."""
    (path / "logs").mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_an_old_workdir_is_taken_over(tmp_path: Path) -> None:
    """Finished, failed, and all others remain, named or not. spec: taskfarm 4"""
    path = old_workdir(tmp_path / "w", finished="2 c\n0 a\n", failed="1 b\n", toprocess="4 e\n")
    opened = create(path, "abcdef")
    assert opened.created
    assert names(opened.ledger) == ["finished", "failed", "finished", "toprocess", "toprocess", "toprocess"]
    assert opened.notes == [
        "a workdir of PyTaskFarmer is taken over: 2 tasks finished, 1 failed",
        "2 tasks were in none of its files; they will be run (3,5)",
    ]


@pytest.mark.parametrize("toprocess", [{}, {"toprocess": "0 a\n1 b\n3 d\n"}])
def test_an_old_workdir_from_which_nothing_was_lost(tmp_path: Path, toprocess: dict[str, str]) -> None:
    """Spec: taskfarm 4: without `toprocess` nothing was taken yet, and nothing is lost."""
    opened = create(old_workdir(tmp_path / "w", finished="2 c\n", **toprocess), "abcd")
    assert names(opened.ledger).count("toprocess") == 3
    assert len(opened.notes) == 1


def test_an_empty_toprocess_means_none_left(tmp_path: Path) -> None:
    """Spec: taskfarm 4. What no file names was lost, and is run."""
    opened = create(old_workdir(tmp_path / "w", toprocess="", finished="0 a\n"), "abc")
    assert "2 tasks were in none of its files; they will be run (1-2)" in opened.notes


def test_a_task_that_failed_and_finished_has_finished(tmp_path: Path) -> None:
    opened = create(old_workdir(tmp_path / "w", finished="0 a\n", failed="0 a\n"), "ab")
    assert names(opened.ledger) == ["finished", "toprocess"]


@pytest.mark.parametrize(
    ("finished", "note", "state"),
    [
        ("0 a\n1 b", "finished: the last line was cut; it is not counted", "toprocess"),
        ("0 a\n1", "finished: the last line was cut; it is not counted", "toprocess"),
        ("0 a\n7 b\n", "finished:2: no task of the list has the id '7'", "toprocess"),
        ("0 a\n-1 b\n", "finished:2: no task of the list has the id '-1'", "toprocess"),
        ("0 a\n\n", "finished:2: no task of the list has the id ''", "toprocess"),
        ("0 a\n" + "9" * 5000 + " b\n", "finished:2: no task of the list has the id '999", "toprocess"),
        ("0 a\n\xff b\n", "finished:2: no task of the list has the id", "toprocess"),
        ("0 a\n1 other\n", "finished:2: task 1 has another text than in the list; it is run again", "toprocess"),
        ("0 a\n1 c1 b\n", "finished:2: task 1 has another text than in the list; it is run again", "toprocess"),
    ],
)  # fmt: skip
def test_what_is_odd_in_an_old_workdir_is_reported(tmp_path: Path, finished: str, note: str, state: str) -> None:
    """Lines cut in the middle, ids out of range and texts that differ are reported. spec: taskfarm 4"""
    path = old_workdir(tmp_path / "w", finished=finished.encode("latin-1"))
    opened = create(path, "abc")
    assert names(opened.ledger) == ["finished", state, "toprocess"]
    assert any(item.startswith(f"{path}/{note}") for item in opened.notes)
    assert all("\n" not in item for item in opened.notes)


def test_the_timeline_of_an_old_workdir_is_kept_under_another_name(tmp_path: Path) -> None:
    path = old_workdir(tmp_path / "w", finished="0 a\n", **{"timeline.json": "[]"})
    assert f"its timeline is now {path}/timeline.pytaskfarmer.json" in create(path, "ab").notes
    assert (path / "timeline.pytaskfarmer.json").read_text() == "[]"
    assert not (path / "timeline.json").exists()
    (path / "timeline.json").write_text("ours")
    assert create(path, "ab").notes == []
    assert (path / "timeline.json").read_text() == "ours"


def test_texts_that_are_no_utf_8_are_compared_as_they_are(tmp_path: Path) -> None:
    path = old_workdir(tmp_path / "w", finished=b"0 cat \xff\n")
    assert names(create(path, [b"cat \xff".decode(errors="surrogateescape")]).ledger) == ["finished"]


def test_a_take_over_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    path = old_workdir(tmp_path / "w", finished="0 a\n")
    (path / "ledger" / "log").mkdir(parents=True)
    assert names(create(path, "ab").ledger) == ["finished", "toprocess"]


def test_a_farm_of_ours_is_not_taken_over_twice(tmp_path: Path) -> None:
    path = old_workdir(tmp_path / "w", finished="0 a\n")
    create(path, "ab")
    (path / "finished").write_text("0 a\n1 b\n")
    assert names(create(path, "ab").ledger) == ["finished", "toprocess"], "views are never read back"


def test_failed_tasks_of_an_old_workdir_keep_their_logs_when_retried(tmp_path: Path) -> None:
    ledger = create(old_workdir(tmp_path / "w", failed="0 a\n"), "ab").ledger
    ledger.append(lambda _state: (Retry(ids="0"), ()))
    assert ledger.state.tries_of(0).attempts == 1, "the next attempt has a log of its own"


# -- edited lists ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("abcd", "(1 added)"),
        ("ab", "(1 removed)"),
        ("abX", "(1 added, 1 removed)"),
        ("cab", "(3 moved)"),
        ("bacd", "(1 added, 2 moved)"),
        ("aabc", "(1 added, 2 moved)"),
    ],
)
def test_an_edited_list_is_said_and_never_renumbers(tmp_path: Path, new: str, said: str) -> None:
    """Issue: noticed and reported with what it means, never silently renumbered."""
    create(tmp_path / "w", "abc")
    opened = create(tmp_path / "w", new)
    assert not opened.created
    assert said in opened.notes[0]
    assert "goes on with its tasks as they were, under their old ids" in opened.notes[0]
    assert f"taskfarmer add {tmp_path}/w FILE" in opened.notes[1]
    assert [opened.ledger.task(n).text for n in range(3)] == ["a", "b", "c"]


def test_comments_that_changed_are_nobody_s_business(tmp_path: Path) -> None:
    create(tmp_path / "w")
    opened = open_or_create(tmp_path / "w", config(), "another digest", lambda _: map(encode_text, "abc"), Disk())
    assert opened.notes == []


def test_another_list_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "w")
    with pytest.raises(InputError) as caught:
        create(tmp_path / "w", "xyz", tasklist="/lists/other.txt")
    assert str(caught.value) == (
        f"/lists/other.txt: {tmp_path}/w belongs to another list (/lists/tasks.txt); "
        "give this list a workdir of its own with --workdir"
    )
    assert Ledger.open(tmp_path / "w").log.numbers() == [1]


def test_the_same_list_elsewhere_is_the_same_list(tmp_path: Path) -> None:
    create(tmp_path / "w")
    assert create(tmp_path / "w", tasklist="/moved/tasks.txt").notes == []
    assert create(tmp_path / "w", "abcd", tasklist="/moved/tasks.txt").notes, "and was edited"


@pytest.mark.parametrize("texts", ["xyz", "abcd"])
def test_another_sweep_is_refused(tmp_path: Path, texts: str) -> None:
    """A sweep has no list that could have been edited: none of its tasks may be left out in silence."""
    create(tmp_path / "w", tasklist="")
    with pytest.raises(InputError, match="give this sweep a workdir of its own with --workdir"):
        create(tmp_path / "w", texts, tasklist="")
    assert create(tmp_path / "w", tasklist="").notes == []


def test_a_list_that_was_written_anew_is_its_own_successor(tmp_path: Path) -> None:
    create(tmp_path / "w")
    assert "(3 added, 3 removed)" in create(tmp_path / "w", "xyz").notes[0]


def test_duplicates_are_separate_tasks() -> None:
    difference = edited.compare("aab", "aabb")
    assert (difference.same, difference.moved, difference.added, difference.removed) == (3, 0, 1, 0)


def test_edits_are_found_while_farmers_work(tmp_path: Path) -> None:
    ledger = create(tmp_path / "w").ledger
    ledger.append(lambda _state: (Join(host={}, slots=1), ()), "f")
    ledger.append(lambda _state: (Take(ids="0-2"), ()), "f")
    assert create(tmp_path / "w", "abcd").ledger.state.counts()["toprocess"] == 3
