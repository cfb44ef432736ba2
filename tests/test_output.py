"""Outputs: a file an attempt, or none."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.core.model import Task
from taskfarmer.core.resources import Share
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.executors import Launch
from taskfarmer.farm.output import Files, Nothing, Output, line
from taskfarmer.farm.output.packs import Packs
from taskfarmer.farm.workdir import Workdir


def launch(id: int = 1, attempt: int = 1) -> Launch:
    """Return an attempt."""
    return Launch(id, attempt, Task(text="t"), Share((0,)))


def put(actions: list[Any], text: str) -> None:
    """Run a process with those actions that writes to both streams."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"echo {text}; echo error >&2"], os.environ, file_actions=actions)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    """Return a workdir with its directories."""
    workdir = Workdir(tmp_path)
    for directory in workdir.directories():
        directory.mkdir(exist_ok=True)
    return workdir


def test_files_are_named_by_task_and_attempt(workdir: Workdir) -> None:
    files = Files(workdir)
    put(files.begin(launch(7)), "first")
    put(files.begin(launch(7, 2)), "second")
    assert sorted(path.name for path in workdir.logs.iterdir()) == ["log_7", "log_7.2"]
    assert (workdir.logs / "log_7").read_text() == "first\nerror\n"
    assert (workdir.logs / "log_7.2").read_text() == "second\nerror\n"


def test_nothing_that_was_written_is_destroyed(workdir: Workdir) -> None:
    files = Files(workdir)
    for text in ("one", "two"):
        put(files.begin(launch()), text)
    files.note(launch(), "three")
    assert (workdir.logs / "log_1").read_text() == "one\nerror\ntwo\nerror\ntaskfarmer: three\n"


def test_files_obey_the_umask(workdir: Workdir) -> None:
    before = os.umask(0o027)
    try:
        put(Files(workdir).begin(launch()), "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((workdir.logs / "log_1").stat().st_mode) == 0o640


def test_a_note_that_has_no_place_is_forgiven(workdir: Workdir) -> None:
    workdir.logs.rmdir()
    Files(workdir).note(launch(), "x")
    Nothing().note(launch(), "x")
    assert not workdir.logs.exists()


def test_nothing_is_nothing(workdir: Workdir) -> None:
    put(Nothing().begin(launch()), "x")
    assert list(workdir.logs.iterdir()) == []


def test_lines_of_our_own_carry_any_text() -> None:
    assert line("a\udcffä") == b"taskfarmer: a\xff\xc3\xa4\n"
    assert line("a\ud800") == b"taskfarmer: a\\ud800\n"


@pytest.mark.parametrize("make", [Files, lambda _: Nothing(), lambda workdir: Packs(workdir, "f" * 16, Disk())])
def test_an_output_that_was_not_used_leaves_nothing(workdir: Workdir, make: Callable[[Workdir], Output]) -> None:
    output = make(workdir)
    output.flush()
    output.close()
    assert output.problem == ""
    assert list(workdir.logs.iterdir()) == list(workdir.packs.iterdir()) == []
