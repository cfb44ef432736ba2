"""Files of tasks: read whole or by id, with an index that may be missing or lie."""

from __future__ import annotations

import copy
import errno
import gc
import os
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer.core.entries import Segment
from taskfarmer.core.model import Task, TaskId, encode_task, encode_text
from taskfarmer.errors import Damaged, InputError, NewerFormat, WorkdirError
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.segments import MOST_OPEN, STRIDE, OpenFiles, SegmentFile, Segments, write_segment


def texts(count: int) -> list[str]:
    """Return so many texts of different lengths."""
    return [f"run {n} " + "x" * (n % 70) for n in range(count)]


def written(directory: Path, count: int) -> Segment:
    """Write a segment of texts."""
    return write_segment(directory, map(encode_text, texts(count)), Disk())


def reader(directory: Path, *segments: Segment) -> Segments:
    """Return what reads these segments, one after the other."""
    found, first = Segments(directory), 0
    known = []
    for segment in segments:
        known.append((first, segment))
        first += segment.count
    found.learn(known)
    return found


def index_of(directory: Path, segment: Segment) -> Path:
    """Return the index beside."""
    return (directory / segment.file).with_suffix(".idx")


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 128, 1000])
def test_every_task_is_found_in_any_order(tmp_path: Path, count: int) -> None:
    segment = written(tmp_path, count)
    segments = reader(tmp_path, segment)
    assert segment.count == count
    for number in sorted(range(count), key=lambda n: n * 7919 % 1009):
        assert segments.text(number) == texts(count)[number]
    assert list(segments.file(0).texts()) == texts(count)
    assert list(segments.file(0).texts(start=count // 2)) == texts(count)[count // 2 :]


def test_ids_run_through_all_segments(tmp_path: Path) -> None:
    segments = reader(tmp_path, written(tmp_path, 65), written(tmp_path, 0), written(tmp_path, 3))
    assert [segments.text(n) for n in (0, 64, 65, 67)] == [texts(65)[0], texts(65)[64], texts(3)[0], texts(3)[2]]
    assert segments.holder(66).first == 65


def bad_index(data: bytes) -> Iterator[bytes]:
    """Yield what may have become of an index."""
    yield b""
    yield data[:-8]
    yield data[:-3]
    yield data + data[-8:]
    yield bytes(len(data))
    yield b"\xff" * len(data)
    yield data[:8] + bytes(len(data) - 8)
    yield bytes(8) + data[8:]
    shifted = array("Q", data)
    yield array("Q", [offset + 1 for offset in shifted]).tobytes()
    yield array("Q", [*shifted[:1], *(offset - 10 for offset in shifted[1:])]).tobytes()
    yield array("Q", reversed(shifted)).tobytes()


@pytest.mark.parametrize("which", range(11))
def test_an_index_that_lies_is_not_believed(tmp_path: Path, which: int) -> None:
    """It is not synced: after a loss of power it may be short, or zeros."""
    segment = written(tmp_path, 200)
    index = index_of(tmp_path, segment)
    index.write_bytes(list(bad_index(index.read_bytes()))[which])
    segments = reader(tmp_path, segment)
    assert [segments.text(n) for n in (199, 0, 64, 63, 128)] == [texts(200)[n] for n in (199, 0, 64, 63, 128)]


def test_without_an_index_the_file_is_scanned(tmp_path: Path) -> None:
    segment = written(tmp_path, 200)
    index_of(tmp_path, segment).unlink()
    segments = reader(tmp_path, segment)
    assert [segments.text(n) for n in range(200)] == texts(200)


odd_texts = st.text(st.characters(exclude_categories=()))


@given(st.lists(odd_texts | st.sampled_from(['"after":', '{"after":[1]}', "\n", "\r\n", "\udcff", "\0"]), max_size=70))
def test_odd_texts_come_back(tmp_path_factory: pytest.TempPathFactory, given_texts: list[str]) -> None:
    directory = tmp_path_factory.mktemp("tasks")
    segment = write_segment(directory, map(encode_text, given_texts), Disk())
    assert not segment.after
    assert not segment.special
    assert [reader(directory, segment).text(n) for n in range(len(given_texts))] == given_texts


def test_a_line_of_a_megabyte_is_a_task(tmp_path: Path) -> None:
    line = "x" * (1 << 20)
    segment = write_segment(tmp_path, map(encode_text, ["a", line, "b"]), Disk())
    segments = reader(tmp_path, segment)
    assert [segments.text(n) for n in range(3)] == ["a", line, "b"]


def waiting(text: str, *after: int) -> bytes:
    """Return an encoded task that waits for others."""
    return encode_task(Task(text=text, after=tuple(map(TaskId, after))))


@pytest.mark.parametrize("relative", [True, False])
def test_edges_are_counted_from_the_segment_or_from_the_farm(tmp_path: Path, relative: bool) -> None:
    first = written(tmp_path, 10)
    shift = 0 if relative else 10
    lines = [encode_text("a"), waiting("b", shift), waiting("c", shift, shift + 1)]
    segment = write_segment(tmp_path, lines, Disk(), relative=relative)
    assert (segment.after, segment.special) == (True, True)
    segments = reader(tmp_path, first, segment)
    assert list(segments.file(1).edges()) == [(11, (10,)), (12, (10, 11))]
    assert segments.task(12).after == (10, 11)
    assert list(segments.file(0).edges()) == []
    assert [segments.is_special(n) for n in (9, 10)] == [False, True]


def test_a_task_that_says_more_than_its_text_makes_a_segment_special(tmp_path: Path) -> None:
    segment = write_segment(tmp_path, [encode_task(Task(text="a", cpus=2, env={"after": "x"}))], Disk())
    assert segment.special
    assert list(reader(tmp_path, segment).file(0).edges()) == []
    assert reader(tmp_path, segment).task(0) == Task(text="a", cpus=2, env={"after": "x"})


# -- what is open ------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that `os.open` opens from here on."""
    names: list[str] = []
    really = os.open

    def watched(path: str | Path, *args: int) -> int:
        names.append(Path(path).name)
        return really(path, *args)

    monkeypatch.setattr(os, "open", watched)
    return names


def test_a_file_is_opened_once_however_many_blocks_are_read(tmp_path: Path, opened: list[str]) -> None:
    segment = written(tmp_path, 30 * STRIDE)
    segments = reader(tmp_path, segment)
    opened.clear()
    for number in range(0, segment.count, 7):
        assert segments.text(number) == texts(number + 1)[-1]
    assert opened == [segment.file]


def test_of_many_files_a_few_stay_open(tmp_path: Path, opened: list[str]) -> None:
    count = 3 * MOST_OPEN
    segments = reader(tmp_path, *[written(tmp_path, 2 * STRIDE) for _ in range(count)])
    before = len(os.listdir("/proc/self/fd"))
    opened.clear()
    for number in (0, STRIDE):  # another block each time
        for place in range(count):
            assert segments.text(place * 2 * STRIDE + number) == texts(number + 1)[-1]
    assert len(os.listdir("/proc/self/fd")) == before + MOST_OPEN
    assert len(opened) == 2 * count
    del segments
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_the_file_server_has_forgotten_is_opened_anew(tmp_path: Path, opened: list[str]) -> None:
    """ESTALE, after a server came back or a backup was restored."""
    segment = written(tmp_path, 3 * STRIDE)
    files = OpenFiles()
    file = SegmentFile(tmp_path, 0, segment, files)
    opened.clear()
    assert file.task(0).text == texts(1)[0]
    directory = os.open(tmp_path, os.O_RDONLY)
    os.dup2(directory, files.get(tmp_path / segment.file))  # EISDIR comes the same way
    os.close(directory)
    assert file.task(STRIDE).text == texts(STRIDE + 1)[-1]
    assert opened.count(segment.file) == 2


def test_a_file_that_was_mended_is_read_anew(tmp_path: Path) -> None:
    segment = written(tmp_path, 3 * STRIDE)
    path = tmp_path / segment.file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    file = reader(tmp_path, segment).file(0)
    assert file.task(0).text == texts(1)[0]
    for _ in range(2):
        with pytest.raises(Damaged):
            file.task(2 * STRIDE)
    beside = tmp_path / "mended"
    beside.write_bytes(whole)
    beside.rename(path)
    assert file.task(2 * STRIDE).text == texts(2 * STRIDE + 1)[-1]


def test_a_copy_of_a_reader_opens_its_own(tmp_path: Path) -> None:
    segments = reader(tmp_path, written(tmp_path, 3 * STRIDE))
    assert segments.text(0) == texts(1)[0]
    other = copy.deepcopy(segments)
    del other
    gc.collect()
    assert segments.text(STRIDE) == texts(STRIDE + 1)[-1]


# -- what cannot be read or written ------------------------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    """Damage a file of tasks."""
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "zeros":
        path.write_bytes(data[:100] + bytes(len(data) - 100))
    else:
        path.write_bytes(data.replace(b'"run 150', b"{run 150"))


@pytest.mark.parametrize("how", ["missing", "cut", "zeros", "edited"])
def test_a_task_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, how: str) -> None:
    segment = written(tmp_path, 200)
    spoil(tmp_path / segment.file, how)
    with pytest.raises(Damaged) as caught:
        reader(tmp_path, segment).task(150)
    assert str(caught.value).startswith(f"{tmp_path / segment.file}: task 150 cannot be read")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["missing", "zeros", "edited"])
def test_texts_that_cannot_be_read_are_damage_too(tmp_path: Path, how: str) -> None:
    segment = written(tmp_path, 200)
    spoil(tmp_path / segment.file, how)
    with pytest.raises(Damaged, match="cannot be read"):
        list(reader(tmp_path, segment).file(0).texts())


def test_a_file_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    segment = written(tmp_path, 3)
    path = tmp_path / segment.file
    path.write_bytes(path.read_bytes().replace(b"tasks 1", b"tasks 2", 1))
    for read in (lambda: reader(tmp_path, segment).task(0), lambda: list(reader(tmp_path, segment).file(0).texts())):
        with pytest.raises(NewerFormat, match="format 2 of task files"):
            read()


def test_a_list_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def lines() -> Iterator[bytes]:
        yield encode_text("good")
        raise InputError("bad", file="list", line=2)

    with pytest.raises(InputError, match="list:2: bad"):
        write_segment(tmp_path, lines(), Disk())
    assert list(tmp_path.iterdir()) == []


class Full(Disk):
    """A disk without space for the n-th write."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.left = when

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(fd, data)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorkdirError, match="the tasks cannot be written: No space left on device"):
        write_segment(tmp_path, map(encode_text, texts(100)), Full(0))
    assert list(tmp_path.iterdir()) == []


# -- size --------------------------------------------------------------------------------------------------------------


def test_200_000_tasks_are_written_and_read_quickly(tmp_path: Path) -> None:
    """Design: 1,000,000 are added in 5 s; here with much room for slow machines."""
    count = 200_000
    began = time.process_time()
    segment = write_segment(tmp_path, (encode_text(f"echo {n}") for n in range(count)), Disk())
    segments = reader(tmp_path, segment)
    assert all(segments.text(n) == f"echo {n}" for n in range(count))
    assert time.process_time() - began < 8.0
    assert index_of(tmp_path, segment).stat().st_size == 8 * -(-count // STRIDE)


def test_what_cannot_be_reached_now_is_not_damaged(tmp_path: Path) -> None:
    """A file server that is away for a moment is no reason to give up the farm."""
    ledger, away = tmp_path / "workdir/ledger", tmp_path / "workdir/away"
    tasks = ledger / "tasks"
    tasks.mkdir(parents=True)
    segment = write_segment(tasks, [b'"x"'] * 200, Disk())
    files = OpenFiles()
    file = SegmentFile(tasks, 0, segment, files)
    assert file.task(0).text == "x"
    ledger.rename(away)
    assert file.task(1).text == "x", "what is in memory"
    assert file.task(64).text == "x", "what is open"
    files.forget(tasks / segment.file)
    with pytest.raises(WorkdirError, match="task 150 cannot be reached"):
        file.task(150)
    with pytest.raises(WorkdirError, match="the tasks cannot be reached"):
        list(file.texts())
    away.rename(ledger)
    tasks.rename(tmp_path / "lost")
    with pytest.raises(Damaged, match="task 150 cannot be read"):
        file.task(150)
