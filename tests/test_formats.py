"""Files of every format that was ever written keep loading, and a later format is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from taskfarmer.errors import NewerFormat
from taskfarmer.farm.framing import frame
from taskfarmer.farm.journal import read_tail
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.segments import Segments
from taskfarmer.monitor.attempts import attempts

DATA = Path(__file__).parent / "data"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "format-1", tmp_path / "w"))


def test_format_1_is_read(old: Path) -> None:
    ledger = Ledger.open(old)
    ledger.read_tails()
    assert [ledger.state.name_of(task) for task in range(6)] == [
        "finished", "failed", "finished", "failed", "finished", "cancelled",
    ]  # fmt: skip
    assert [ledger.task(task).text for task in (2, 5)] == ['echo "two words"', "echo three"]
    assert ledger.state.tries_of(3).attempts == 3
    assert [farmer.ended for farmer in ledger.state.farmers] == ["left", "left"]
    assert [(a.attempt, a.status) for a in attempts(ledger, [3])] == [(1, 3), (2, 3), (3, 3)]


def test_a_later_log_is_refused(old: Path) -> None:
    last = max((old / "ledger" / "log").iterdir())
    last.write_bytes(frame(json.dumps(json.loads(last.read_text()[9:]) | {"v": 2})))
    with pytest.raises(NewerFormat, match="use the version of taskfarmer that made the farm"):
        Ledger.open(old)


def test_a_later_journal_is_refused(old: Path) -> None:
    journal = next((old / "ledger" / "journal").iterdir())
    journal.write_bytes(journal.read_bytes().replace(b"journal 1", b"journal 2", 1))
    with pytest.raises(NewerFormat, match="journals"):
        read_tail(journal)


def test_a_later_file_of_tasks_is_refused(old: Path) -> None:
    ledger = Ledger.open(old)
    path = old / "ledger" / "tasks" / ledger.state.segments[0][1].file
    path.write_bytes(path.read_bytes().replace(b"tasks 1", b"tasks 2", 1))
    segments = Segments(path.parent)
    segments.learn(ledger.state.segments)
    with pytest.raises(NewerFormat, match="task files"):
        segments.text(0)
