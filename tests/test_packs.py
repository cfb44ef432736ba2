"""Packed output: what goes in comes out, however the file was cut, damaged, or refused by the disk."""

from __future__ import annotations

import errno
import os
import selectors
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskfarmer.core.model import Task
from taskfarmer.core.resources import Share
from taskfarmer.errors import NewerFormat
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.executors import Launch
from taskfarmer.farm.output import packfile
from taskfarmer.farm.output.packfile import PackWriter
from taskfarmer.farm.output.packs import Packs, read_attempt
from taskfarmer.farm.workdir import Workdir

A, B = "a" * 16, "b" * 16


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    """Return a workdir with its directories."""
    return make_workdir(tmp_path)


def make_workdir(path: Path) -> Workdir:
    """Return a workdir with its directories."""
    workdir = Workdir(path)
    for directory in workdir.directories():
        directory.mkdir(exist_ok=True)
    return workdir


def read(workdir: Workdir, id: int, attempt: int = 1, *, farmers: tuple[str, ...] = (A,), skip: int = 0) -> bytes:
    """Return the output of an attempt."""
    return b"".join(read_attempt(workdir, farmers, id, attempt, skip))


def pack(workdir: Workdir, number: int = 1, kind: str = "pack") -> Path:
    """Return a file of the first farmer."""
    return workdir.packs / f"{A}.{number:04d}.{kind}"


# reading what was written

ODD = {
    (1, 1): b"",
    (2, 1): b"\n",
    (3, 1): b"no newline",
    (4, 1): bytes(range(256)) * 3,
    (5, 1): b"\n@1 1 0 3 1.000\nabc\n@9 9 9 9 9.000\n",
    (5, 2): b"second",
    (5, 12): b"twelfth",
    (15, 2): b"another task",
    (6, 1): b"@",
    (7, 1): b"x" * 1000,
}


def write_odd(workdir: Workdir) -> None:
    """Write all of `ODD`, every output in two pieces, mixed."""
    writer = PackWriter(workdir.packs, A, Disk())
    for half in (0, 1):
        for (id, attempt), data in ODD.items():
            middle = len(data) // 2
            piece = data[middle:] if half else data[:middle]
            if piece:
                writer.add(id, attempt, middle * half, piece)
    assert writer.close()


def test_what_goes_in_comes_out(workdir: Workdir) -> None:
    write_odd(workdir)
    for (id, attempt), data in ODD.items():
        assert read(workdir, id, attempt) == data
    assert read(workdir, 99) == b""
    assert read(workdir, 3, farmers=(B,)) == b""


def test_the_format_is_as_described(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1234.5678)
    writer = PackWriter(workdir.packs, A, Disk())
    writer.add(7, 2, 0, b"abc\n")
    writer.add(7, 2, 4, b"d")
    writer.close()
    head = f"#taskfarmer pack 1 {A}\n".encode()
    assert pack(workdir).read_bytes() == head + b"@7 2 0 4 1234.568\nabc\n\n@7 2 4 1 1234.568\nd\n"
    first = len(head)
    assert (
        pack(workdir, kind="idx").read_text() == f"#taskfarmer packindex 1 {A}\n7 2 0 {first} 4\n7 2 4 {first + 23} 1\n"
    )


@pytest.mark.parametrize("skip", [0, 1, 499, 500, 501, 999, 1000, 5000])
def test_a_reader_may_go_on_where_it_stopped(workdir: Workdir, skip: int) -> None:
    write_odd(workdir)
    assert read(workdir, 7, skip=skip) == ODD[7, 1][skip:]


def test_packs_of_all_farmers_are_read_in_the_order_given(workdir: Workdir) -> None:
    for farmer in (B, A):
        writer = PackWriter(workdir.packs, farmer, Disk())
        writer.add(1, 1, 0, farmer.encode())
        writer.close()
    assert read(workdir, 1, farmers=(B, A)) == B.encode() + A.encode()


def test_a_pack_that_has_grown_is_followed_by_another(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packfile, "LIMIT", 2000)
    writer = PackWriter(workdir.packs, A, Disk())
    for number in range(10):
        for id in (1, 2):
            writer.add(id, 1, number * 400, b"%d" % number * 400)
            assert writer.flush()
    writer.close()
    assert len(list(workdir.packs.glob("*.pack"))) == len(list(workdir.packs.glob("*.idx"))) == 4
    assert max(path.stat().st_size for path in workdir.packs.iterdir()) < 3000
    assert read(workdir, 2) == b"".join(b"%d" % number * 400 for number in range(10))


def test_a_reader_sees_what_the_index_does_not_have_yet(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packfile, "_INDEX_STEP", 100)
    writer = PackWriter(workdir.packs, A, Disk())
    for number in range(20):
        writer.add(1, 1, number, b"%d" % (number % 10))
        writer.flush()
    index = pack(workdir, kind="idx").read_bytes()
    assert 2 < index.count(b"\n") < 20
    assert read(workdir, 1) == b"0123456789" * 2
    writer.close()


# damage


@pytest.mark.parametrize("with_index", [True, False])
def test_a_pack_cut_at_every_length_keeps_what_is_there(workdir: Workdir, with_index: bool) -> None:
    write_odd(workdir)
    whole = pack(workdir).read_bytes()
    if not with_index:
        pack(workdir, kind="idx").unlink()
    ends = {key: whole.rfind(b"@%d %d " % key) for key in ODD}
    for cut in [*range(400), *range(400, len(whole), 7)]:
        pack(workdir).write_bytes(whole[:cut])
        for key in [(3, 1), (4, 1), (5, 2), (7, 1)]:
            got = read(workdir, *key)
            assert ODD[key].startswith(got)
            if cut > ends[key] + 30 + len(ODD[key]):
                assert got == ODD[key]


def test_an_index_cut_at_every_length_changes_nothing(workdir: Workdir) -> None:
    write_odd(workdir)
    whole = pack(workdir, kind="idx").read_bytes()
    for cut in range(len(whole)):
        pack(workdir, kind="idx").write_bytes(whole[:cut])
        assert [read(workdir, *key) for key in ODD] == list(ODD.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), length=st.integers(1, 60), filler=st.sampled_from([b"\0", b"7", b" ", b"\n"]))
def test_a_damaged_index_changes_nothing(workdir: Workdir, place: float, length: int, filler: bytes) -> None:
    for path in workdir.packs.iterdir():
        path.unlink()
    write_odd(workdir)
    whole = pack(workdir, kind="idx").read_bytes()
    first = whole.index(b"\n") + 1
    at = first + int(place * (len(whole) - first - 1))
    length = min(length, len(whole) - at)
    pack(workdir, kind="idx").write_bytes(whole[:at] + filler * length + whole[at + length :])
    got = [read(workdir, *key) for key in ODD]  # whatever it says, nothing is raised
    if filler in {b"\0", b"\n"}:  # what a crash leaves is seen
        assert got == list(ODD.values())


def test_a_damaged_chunk_hides_no_other(workdir: Workdir) -> None:
    write_odd(workdir)
    whole = pack(workdir).read_bytes()
    for _ in ("with the index", "without"):
        for wounded in [(3, 1), (7, 1), (5, 2)]:
            at = whole.index(b"@%d %d 0 " % wounded)
            pack(workdir).write_bytes(whole[:at] + bytes(12) + whole[at + 12 :])
            for key in [(4, 1), (5, 12), (15, 2), (6, 1)]:
                assert read(workdir, *key) == ODD[key]
            assert read(workdir, *wounded) == ODD[wounded][len(ODD[wounded]) // 2 :]
        pack(workdir, kind="idx").unlink(missing_ok=True)


def test_output_that_looks_like_a_chunk_is_not_taken_for_one(workdir: Workdir) -> None:
    writer = PackWriter(workdir.packs, A, Disk())
    writer.add(5, 1, 0, b"\n@1 1 0 3 1.000\nabc\nand more\n")
    writer.add(6, 1, 0, b"real")
    writer.close()
    pack(workdir, kind="idx").unlink()
    assert read(workdir, 1) == b""
    whole = pack(workdir).read_bytes()
    pack(workdir).write_bytes(whole.replace(b"@5 1 0", b"\0" * 6))
    assert (read(workdir, 1), read(workdir, 5), read(workdir, 6)) == (b"", b"", b"real")


def test_damage_of_megabytes_is_passed(workdir: Workdir) -> None:
    writer = PackWriter(workdir.packs, A, Disk())
    writer.add(1, 1, 0, b"first")
    writer.add(2, 1, 0, b"lost" * 700_000)
    writer.add(3, 1, 0, b"last")
    writer.close()
    pack(workdir, kind="idx").unlink()
    blob = bytearray(pack(workdir).read_bytes())
    at = blob.index(b"@2 1 ")
    blob[at : at + 2_500_000] = bytes(2_500_000)
    pack(workdir).write_bytes(blob)
    assert (read(workdir, 1), read(workdir, 2), read(workdir, 3)) == (b"first", b"", b"last")


def test_a_pack_of_a_later_version_is_refused_by_name(workdir: Workdir) -> None:
    pack(workdir).write_bytes(b"#taskfarmer pack 2 x\n")
    with pytest.raises(NewerFormat, match=f"{A}.0001.pack"):
        read(workdir, 1)


def test_no_packs_are_no_output(tmp_path: Path) -> None:
    assert read(Workdir(tmp_path / "none"), 1) == b""


def test_a_million_tasks_are_searched_at_once(workdir: Workdir) -> None:
    """Within half a second; here a tenth of them, in a tenth of the time and some more for a busy machine."""
    writer = PackWriter(workdir.packs, A, Disk())
    for id in range(100_000):
        writer.add(id, 1, 0, b"hello from the task\n")
    writer.close()
    start = time.process_time()
    assert read(workdir, 99_999) == b"hello from the task\n"
    assert time.process_time() - start < 0.2


# the disk


class Full:
    """A disk hook: after `room` writes and creations there is no space left, until `room` is raised."""

    def __init__(self, room: int = 0) -> None:
        self.room = room

    def __call__(self, operation: str, what: str) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Small(Disk):
    """A disk that takes a few bytes at a time, and then none, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = 0

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._turn += 1
        if self._turn % 3 == 0:
            raise OSError(errno.ENOSPC, "full")
        return super().write(fd, data[:11])


def test_a_disk_that_fills_up_leaves_no_damage(workdir: Workdir) -> None:
    writer = PackWriter(workdir.packs, A, Small())
    for id in range(5):
        writer.add(id, 1, 0, b"some output of task %d\n" % id)
        writer.flush()
    assert writer.problem == "output of tasks cannot be written: full"
    for _ in range(200):
        writer.flush()
    assert writer.problem == ""
    writer.close()
    assert [read(workdir, id) for id in range(5)] == [b"some output of task %d\n" % id for id in range(5)]
    pack(workdir, kind="idx").unlink(missing_ok=True)
    assert read(workdir, 4) == b"some output of task 4\n"


def test_an_index_that_cannot_be_written_is_done_without(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packfile, "_INDEX_STEP", 1)

    def no_index(operation: str, what: str) -> None:
        if what.endswith(".idx"):
            raise OSError(errno.EDQUOT, "quota")

    writer = PackWriter(workdir.packs, A, Disk(no_index))
    for id in range(3):
        writer.add(id, 1, 0, b"x")
        assert writer.flush()
    assert writer.close()
    assert [path.suffix for path in workdir.packs.iterdir()] == [".pack"]
    assert read(workdir, 2) == b"x"


# the output


class Farm:
    """Packs with a selector, and attempts whose processes the test plays itself."""

    def __init__(self, workdir: Workdir, hook: Callable[[str, str], None] | None = None) -> None:
        self.workdir = workdir
        self.packs = Packs(workdir, A, Disk(hook))
        self.selector = selectors.DefaultSelector()
        self.packs.attach(self.selector)

    def begin(self, id: int, attempt: int = 1) -> int:
        """Begin an attempt and return its stream."""
        launch = Launch(id, attempt, Task(text="t"), Share((0,)))
        stream = os.dup(self.packs.begin(launch)[1][1])
        self.packs.begun(launch)
        return stream

    def turn(self) -> int:
        """Do one turn of the loop, and return how many events there were."""
        events = self.selector.select(0)
        for key, _ in events:
            key.data()
        self.packs.flush()
        return len(events)


@pytest.fixture
def farm(workdir: Workdir) -> Iterator[Farm]:
    """Return packs on a disk that works."""
    made = Farm(workdir)
    yield made
    made.packs.close()
    made.selector.close()


def test_attempts_may_write_in_any_order(farm: Farm) -> None:
    streams = {key: farm.begin(*key) for key in [(1, 1), (2, 1), (3, 1)]}
    for word in (b"one ", b"two ", b"three"):
        for (id, _), stream in streams.items():
            os.write(stream, b"%d:" % id + word)
        farm.turn()
    assert [read(farm.workdir, id) for id in (1, 2, 3)] == [
        b"%d:one %d:two %d:three" % (id, id, id) for id in (1, 2, 3)
    ]


def test_an_end_takes_what_is_there_and_lets_go(farm: Farm) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for id in range(3):
        stream = farm.begin(id)
        os.write(stream, b"last words")
        os.close(stream)
        farm.packs.end(id)
    farm.packs.flush()
    assert read(farm.workdir, 2) == b"last words"
    assert len(os.listdir("/proc/self/fd")) == before + 1  # the pack
    assert farm.turn() == 0


def test_what_is_written_after_the_end_comes_too(farm: Farm) -> None:
    stream = farm.begin(1)
    os.write(stream, b"before ")
    farm.packs.end(1)
    second = farm.begin(1, 2)
    os.write(stream, b"after")
    os.write(second, b"again")
    farm.turn()
    assert (read(farm.workdir, 1), read(farm.workdir, 1, 2)) == (b"before after", b"again")
    os.close(stream)
    farm.turn()
    os.write(second, b" and again")
    os.close(second)
    farm.packs.end(1)
    farm.turn()
    assert read(farm.workdir, 1, 2) == b"again and again"


def test_one_that_could_not_be_started_leaves_its_note(farm: Farm) -> None:
    launch = Launch(1, 1, Task(text="t"), Share((0,)))
    farm.packs.begin(launch)
    farm.packs.note(launch, "not found")
    farm.packs.begun(launch)
    assert read(farm.workdir, 1) == b"taskfarmer: not found\n"
    farm.turn()
    assert farm.turn() == 0


def test_one_that_writes_much_waits_for_its_turn(farm: Farm) -> None:
    stream = farm.begin(1)
    actions = [(os.POSIX_SPAWN_DUP2, stream, 1)]
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "yes | head -c 30000000"], os.environ, file_actions=actions)
    os.close(stream)
    longest = 0
    size = 0
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        farm.turn()
        now = sum(path.stat().st_size for path in farm.workdir.packs.glob("*.pack"))
        longest, size = max(longest, now - size), now
    farm.packs.end(1)
    farm.turn()
    assert read(farm.workdir, 1) == b"y\n" * 15_000_000
    assert longest < 3_000_000  # two readings of a mebibyte a turn


def test_a_full_disk_loses_nothing(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packfile, "_MOST", 100_000)
    full = Full()
    farm = Farm(workdir, full)
    streams = [farm.begin(id) for id in range(4)]
    for stream in streams:
        os.write(stream, b"first ")
    farm.turn()
    for id, stream in enumerate(streams):
        os.write(stream, b"%d" % id * 60_000)
    for _ in range(3):
        farm.turn()
    assert farm.packs.problem == "output of tasks cannot be written: No space left on device"
    assert farm.turn() == 0  # the loop is not kept awake by what it must not read
    for id, stream in enumerate(streams):
        os.close(stream)
        farm.packs.end(id)
    with pytest.raises(OSError, match="No space left"):
        farm.begin(9)
    assert list(workdir.packs.iterdir()) == []
    full.room = 1000
    for _ in range(3):
        farm.turn()
    assert farm.packs.problem == ""
    assert [read(workdir, id) for id in range(4)] == [b"first " + b"%d" % id * 60_000 for id in range(4)]
    os.close(farm.begin(9))
    farm.packs.close()


def test_what_is_lost_at_the_end_is_said(workdir: Workdir) -> None:
    farm = Farm(workdir, Full())
    stream = farm.begin(1)
    os.write(stream, b"lost")
    farm.packs.end(1)
    farm.packs.close()
    os.close(stream)
    assert "No space left on device" in farm.packs.problem


def test_closing_takes_what_is_there(workdir: Workdir) -> None:
    farm = Farm(workdir)
    stream = farm.begin(1)
    os.write(stream, b"still running")
    farm.packs.close()
    assert read(workdir, 1) == b"still running"
    with pytest.raises(BrokenPipeError):
        os.write(stream, b"x")
    os.close(stream)


def test_a_task_costs_no_name_and_little_time(farm: Farm) -> None:
    farm.begin(0)
    farm.turn()
    start = time.process_time()
    for id in range(1, 2001):
        stream = farm.begin(id)
        os.write(stream, b"hello\n")
        os.close(stream)
        farm.packs.end(id)
        farm.packs.flush()
    assert (time.process_time() - start) / 2000 < 150e-6
    assert len(list(farm.workdir.packs.iterdir())) == 1
