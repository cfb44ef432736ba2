"""Journals: what a cut, a zeroed block, a short write or a full disk leaves is a prefix, or is said to be damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfarmer.core import records
from taskfarmer.core.entries import Bury, Farm, Join, Leave, Retry, Segment, Take
from taskfarmer.core.records import Ended, Record, Started
from taskfarmer.errors import NewerFormat
from taskfarmer.farm import framing
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.journal import Journal, read_tail
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.workdir import Workdir


def some_records(count: int) -> list[Record]:
    """Return the records of that many attempts."""
    made: list[Record] = []
    for n in range(count):
        made.append(Started(n, 1, n % 4, 1.5e9 + n))
        made.append(Ended(n, 1, "ok", 0, 1.6e9 + n, 0.5, 0.25, 2048))
    return made


def text_of(record: Record) -> str:
    """Return a record as a journal has it."""
    assert isinstance(record, Started | Ended)
    if isinstance(record, Started):
        return records.started(record.id, record.attempt, record.slot, record.time)
    return records.ended(record)


def write(path: Path, given_records: list[Record], disk: Disk | None = None) -> Journal:
    """Write a journal, a turn a record."""
    journal = Journal(path, "f", disk or Disk())
    for record in given_records:
        journal.append(text_of(record))
        journal.flush()
    return journal


# -- reading -----------------------------------------------------------------------------------------------------------


def test_what_was_written_comes_back_from_any_line_on(tmp_path: Path) -> None:
    made = some_records(5)
    path = tmp_path / "j"
    journal = write(path, made)
    journal.close()
    data = path.read_bytes()
    assert read_tail(path).records == made
    assert read_tail(path).length == journal.length == len(data)
    starts = [0, *(place + 1 for place, byte in enumerate(data) if byte == 10)]
    for line, start in enumerate(starts):
        tail = read_tail(path, start)
        assert tail.records == made[max(0, line - 1) :]
        assert (tail.length, tail.damaged) == (len(data), 0)
        assert read_tail(path, 0, start).records == made[: max(0, line - 1)]


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    tail = read_tail(tmp_path / "none", 70)
    assert (tail.records, tail.length, tail.damaged) == ([], 70, 0)


def test_a_journal_is_text_for_people(tmp_path: Path) -> None:
    write(tmp_path / "j", some_records(1)).close()
    head, start, end = (tmp_path / "j").read_text().splitlines()
    assert head == "#taskfarmer journal 1 f"
    assert start[9:] == "S 0 1 0 1500000000.000000"
    assert end[9:] == "E 0 1 ok 0 1600000000.000000 0.500 0.250 2048 -"


def test_a_journal_cut_at_any_length_is_a_prefix(tmp_path: Path) -> None:
    """Design: a torn tail is ignored."""
    made = some_records(6)
    path = tmp_path / "j"
    write(path, made).close()
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        tail = read_tail(path)
        whole = max(0, data[:cut].count(b"\n") - 1)
        assert tail.records == made[:whole]
        assert tail.damaged == 0
        assert tail.length == data[:cut].rfind(b"\n") + 1


@settings(max_examples=200)
@given(st.data())
def test_of_a_journal_with_a_zeroed_block_nothing_is_invented(data: st.DataObject) -> None:
    made = some_records(8)
    lines = [framing.header("journal", "f"), *(framing.frame(text_of(record)) for record in made)]
    whole = b"".join(lines)
    begin = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(begin + 1, len(whole)))
    texts = framing.unframe(framing.whole_lines(whole[:begin] + bytes(end - begin) + whole[end:]))
    found = [records.parse(text) for text in texts if isinstance(text, str)]
    hit = [
        begin < sum(map(len, lines[: place + 1])) and end > sum(map(len, lines[:place])) for place in range(len(lines))
    ]
    spared = [record for record, is_hit in zip(made, hit[1:], strict=True) if not is_hit]
    later = [place for place, is_hit in enumerate(hit) if not is_hit and place > hit.index(True)]
    swallowed = whole[end - 1 : end] == b"\n" and bool(later)  # the line behind has lost its beginning
    assert found == (spared if not swallowed else [r for r in spared if r != made[later[0] - 1]])
    if any(hit[1:]) and (later[1:] or (later and not swallowed)):
        assert any(isinstance(text, framing.Damaged) for text in texts), "and it is said"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), max_size=5), st.binary(max_size=50))
def test_rubbish_between_lines_is_damage_and_hides_nothing(texts: list[str], rubbish: bytes) -> None:
    data = b"".join(map(framing.frame, texts)) + rubbish.replace(b"\n", b"") + b"\n" + framing.frame("last")
    found = framing.unframe(data)
    assert [text for text in found if isinstance(text, str)] == [*texts, "last"]
    assert len(found) == len(texts) + 2 or rubbish.startswith(b"#taskfarmer ")


def test_damage_says_where_it_is() -> None:
    first, second = framing.frame("one"), framing.frame("two")
    assert framing.unframe(first + b"x\n" + second) == ["one", framing.Damaged(len(first)), "two"]


def test_a_record_of_a_later_kind_is_damage(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(framing.header("journal", "f") + framing.frame("Z 1 2 3"))
    assert read_tail(tmp_path / "j").damaged == 1


def test_a_journal_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"#taskfarmer journal 2 f\n" + framing.frame("S 1 1 0 1.0"))
    with pytest.raises(NewerFormat) as caught:
        read_tail(tmp_path / "j")
    assert str(caught.value).startswith(f"{tmp_path}/j: format 2 of journals is newer")
    assert "\n" not in str(caught.value)


# -- writing -----------------------------------------------------------------------------------------------------------


class Slow(Disk):
    """A disk that takes so many bytes at once, and none when `room` is used up."""

    def __init__(self, at_once: int, room: int = 1 << 30) -> None:
        super().__init__()
        self.at_once = at_once
        self.room = room
        self.writes = 0

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.writes += 1
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = super().write(fd, data[: min(self.at_once, self.room)])
        self.room -= done
        return done


@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_short_writes_leave_no_damage(tmp_path: Path, at_once: int) -> None:
    made = some_records(4)
    journal = write(tmp_path / "j", made, Slow(at_once))
    tail = read_tail(tmp_path / "j")
    assert (tail.records, tail.damaged, tail.length) == (made, 0, journal.length)
    journal.close()


def test_a_turn_of_the_loop_is_one_write(tmp_path: Path) -> None:
    disk = Slow(1 << 20)
    journal = Journal(tmp_path / "j", "f", disk)
    for record in some_records(100):
        journal.append(text_of(record))
    assert journal.flush()
    assert disk.writes == 2, "the header, and all of it"
    journal.close()


@pytest.mark.parametrize("room", range(0, 200, 3))
def test_a_full_disk_loses_nothing_that_the_farmer_keeps_in_memory(tmp_path: Path, room: int) -> None:
    made = some_records(3)
    disk = Slow(50, room)
    journal = write(tmp_path / "j", made, disk)
    assert journal.stuck == bool(journal.problem)
    if journal.stuck:
        assert journal.problem == "No space left on device"
    tail = read_tail(tmp_path / "j")
    assert tail.records == made[: len(tail.records)], "what is there is whole"
    assert tail.damaged == 0
    disk.room = 1 << 20
    assert journal.flush()
    assert (journal.stuck, journal.problem) == (False, "")
    assert read_tail(tmp_path / "j").records == made
    assert journal.length == os.path.getsize(tmp_path / "j")
    journal.close()


def test_a_journal_is_synced_only_when_something_is_new(tmp_path: Path) -> None:
    synced: list[str] = []
    journal = Journal(tmp_path / "j", "f", Disk(lambda operation, _what: synced.append(operation)))
    for _ in range(2):
        journal.sync()
        journal.sync()
        journal.append("S 1 1 0 1.0")
        journal.flush()
    journal.sync()
    assert synced.count("sync") == 3
    journal.close()


def test_a_life_has_one_journal(tmp_path: Path) -> None:
    write(tmp_path / "j", []).close()
    with pytest.raises(FileExistsError):
        Journal(tmp_path / "j", "f", Disk())


# -- damage, as the farm sees it ---------------------------------------------------------------------------------------


@pytest.fixture
def farm(tmp_path: Path) -> Ledger:
    """A farm in which farmer `a` has taken tasks 0 to 4, of which it ends 0, 1, 2 and has started 3."""
    workdir = Workdir(tmp_path / "farm")
    for directory in workdir.directories():
        directory.mkdir()
    (workdir.tasks / "texts.jsonl").touch()
    ledger = Ledger(workdir)
    body = Farm(config={}, lease_s=300.0, heartbeat_s=15.0, segment=Segment(file="texts.jsonl", count=6))
    ledger.append(lambda _state: (body, ()))
    write(workdir.journals / "a", [*some_records(3), Started(3, 1, 0, 1.0)]).close()
    ledger.append(lambda _state: (Join(host={}, slots=1), ()), "a")
    ledger.append(lambda _state: (Take(ids="0-4"), ()), "a")
    return ledger


def zero_line(path: Path, line: int) -> None:
    """Make zeros of a line, but for its end."""
    lines = path.read_bytes().split(b"\n")
    lines[line] = bytes(len(lines[line]))
    path.write_bytes(b"\n".join(lines))


def bury(ledger: Ledger) -> None:
    """Bury the farmer `a`."""
    ledger.append(lambda _state: (Bury(farmer="a", why="silent"), (ledger.news_of("a", final=True),)))


def names(ledger: Ledger) -> list[str]:
    """Return the states of the tasks, for who reads them now."""
    fresh = Ledger.open(ledger.workdir.path)
    fresh.read_tails()
    assert [fresh.state.name_of(n) for n in range(6)] == [ledger.state.name_of(n) for n in range(6)]
    return [fresh.state.name_of(n) for n in range(6)]


def test_what_damage_may_concern_becomes_unknown_at_the_burial(farm: Ledger) -> None:
    """Design: started, no end, not in the log: unknown, never run again by itself, and `retry` names it."""
    zero_line(farm.workdir.journals / "a", 4)  # the end of task 1
    bury(farm)
    assert names(farm) == ["finished", "unknown", "finished", "unknown", "unknown", "toprocess"]
    farm.append(lambda _state: (Retry(ids="1,3-4"), ()))
    assert names(farm).count("unknown") == 0
    attempts = [farm.state.tries_of(task).attempts for task in (1, 3, 4)]
    assert attempts == [1, 1, 1], "numbers that may have been used are not used again"


def test_a_torn_tail_makes_nothing_unknown(farm: Ledger) -> None:
    path = farm.workdir.journals / "a"
    path.write_bytes(path.read_bytes()[:-10])
    bury(farm)
    assert names(farm) == ["finished"] * 3 + ["toprocess"] * 3


def test_damage_that_a_snapshot_went_past_is_not_forgotten(farm: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    zero_line(farm.workdir.journals / "a", 4)
    monkeypatch.setattr("taskfarmer.farm.ledger.SNAPSHOT_EVERY", 1)
    other = Ledger.open(farm.workdir.path)
    other.snapshot("cli")
    third = Ledger.open(farm.workdir.path)
    assert third.snapshot_at == 4
    bury(third)
    assert names(third) == ["finished", "unknown", "finished", "unknown", "unknown", "toprocess"]


def test_a_finish_that_others_cannot_read_is_still_told_by_its_farmer(
    farm: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Ledger.open(farm.workdir.path)
    mine.read_tail("a")
    zero_line(farm.workdir.journals / "a", 4)
    monkeypatch.setattr("taskfarmer.farm.ledger.SNAPSHOT_EVERY", 1)
    other = Ledger.open(farm.workdir.path)
    other.snapshot("cli")
    assert other.state.name_of(1) != "finished"
    mine.refresh()
    mine.append(lambda _state: (Leave(why="done"), mine.news("a")), "a")
    assert names(mine) == ["finished"] * 3 + ["toprocess"] * 3


def test_a_tail_read_before_its_take_loses_no_completion(farm: Ledger) -> None:
    """Contract, line 3. The observer read the journal beyond what it knew of the log, then the farmer died."""
    observer = Ledger.open(farm.workdir.path)
    farm.append(lambda _state: (Take(ids="5"), farm.news("a")), "a")
    path = farm.workdir.journals / "a"
    for record in (Started(5, 1, 0, 1.0), Ended(5, 1, "ok", 0, 2.0, 0.0, 0.0, 0)):
        with open(path, "ab") as file:
            file.write(framing.frame(text_of(record)))
    observer.read_tails()
    observer.refresh()
    bury(observer)
    assert observer.state.name_of(5) == "finished"
    assert Ledger.open(farm.workdir.path).state.name_of(5) == "finished"
