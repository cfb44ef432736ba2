"""The log: compare-and-swap on real files, by many processes, and on disks that lie, refuse and fill up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from taskfarmer.core import records
from taskfarmer.core.entries import Bury, Cancel, Entry, Farm, Join, News, Report, Segment, Stop, Take
from taskfarmer.core.records import Ended
from taskfarmer.errors import Damaged, Hidden, NewerFormat, Replaced, Unfinished, WorkdirError
from taskfarmer.farm import framing
from taskfarmer.farm import ledger as ledger_module
from taskfarmer.farm import log as log_module
from taskfarmer.farm.clock import Clock
from taskfarmer.farm.disk import Disk, Hook
from taskfarmer.farm.joining import await_directories
from taskfarmer.farm.journal import Journal
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.log import Log
from taskfarmer.farm.workdir import Workdir
from tests.ledgers import HandMade


def entry(nonce: str = "n", size: int = 0) -> Entry:
    """Return an entry, of `size` bytes and more."""
    return Entry(by="w" + "x" * size, time=1.0, nonce=nonce, body=Report())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with room for a log."""
    for name in ("log", "new"):
        (tmp_path / name).mkdir()
    return tmp_path


def log_in(place: Path, disk: Disk | None = None) -> Log:
    """Return the log in there."""
    return Log(place / "log", place / "new", disk or Disk())


def rubbish(place: Path) -> list[str]:
    """Return what was left beside."""
    return os.listdir(place / "new")


# -- one winner --------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys
from pathlib import Path
from taskfarmer.core.entries import Entry, Report
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.log import Log

class NoLinks(Disk):
    def link(self, old, new):
        raise OSError(int(sys.argv[4]), "no links here")

place, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
log = Log(place / "log", place / "new", NoLinks() if sys.argv[4] != "0" else Disk())
number, won = 1, 0
while won < count:
    made = Entry(by=name * 2000, time=1.0, nonce=f"{name}{won}", body=Report(want=won + 1))
    if log.publish(number, made):
        won += 1
    else:
        log.read(number)  # whole, at once
    number += 1
"""


@pytest.mark.parametrize("refusal", [0, errno.EPERM, errno.EOPNOTSUPP])
@pytest.mark.parametrize("writers", [2, 4])
def test_many_processes_win_each_number_once(place: Path, writers: int, refusal: int) -> None:
    """Design: appending is a compare-and-swap, also where `link` is not honoured."""
    each = 100 if writers == 2 else 50
    started = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(place), name, str(each), str(refusal)])
        for name in "abcd"[:writers]
    ]
    assert [process.wait(60) for process in started] == [0] * writers
    log = log_in(place)
    assert log.numbers() == list(range(1, writers * each + 1))
    entries = [log.read(number) for number in log.numbers()]
    nonces = [item.nonce for item in entries]
    assert len(set(nonces)) == writers * each
    for name in "abcd"[:writers]:
        own = [item for item in nonces if item.startswith(name)]
        assert own == [f"{name}{n}" for n in range(each)], "each writer's entries stand in its order"
    assert rubbish(place) == []


def test_who_loses_is_told_and_nothing_is_overwritten(place: Path) -> None:
    log = log_in(place)
    assert log.publish(1, entry("first"))
    assert not log_in(place).publish(1, entry("second"))
    assert log.read(1).nonce == "first"
    assert rubbish(place) == []


def test_entries_are_ordinary_text(place: Path) -> None:
    log = log_in(place)
    log.publish(1, entry())
    crc, text = Path(log.path(1)).read_text().rstrip("\n").split(" ", 1)
    assert len(crc) == 8
    assert json.loads(text) == {"v": 1, "kind": "report", "nonce": "n", "by": "w", "t": 1.0}


# -- disks that lie ----------------------------------------------------------------------------------------------------


class LostAnswer(Disk):
    """`link` is done, and answers with an error: what NFS does when the reply was lost and the call is repeated."""

    def link(self, old: str, new: str) -> None:
        super().link(old, new)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), new)


class OddRefusal(Disk):
    """A number that is taken is refused with EPERM, as by sshfs."""

    def link(self, old: str, new: str) -> None:
        try:
            super().link(old, new)
        except FileExistsError:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), new) from None


class NoLinks(Disk):
    """A file system without links."""

    def __init__(self, number: int = errno.EPERM) -> None:
        super().__init__()
        self.number = number
        self.asked = 0

    def link(self, old: str, new: str) -> None:
        self.asked += 1
        raise OSError(self.number, os.strerror(self.number), new)


def test_a_link_that_succeeded_in_spite_of_its_answer_counts(place: Path) -> None:
    log = log_in(place, LostAnswer())
    assert log.publish(1, entry("mine"))
    assert log.publish(2, entry("mine too"))
    assert log.numbers() == [1, 2]


def test_a_link_that_was_lost_to_another_does_not_count_whatever_the_answer(place: Path) -> None:
    log_in(place).publish(1, entry("other"))
    assert not log_in(place, LostAnswer()).publish(1, entry("mine"))
    odd = log_in(place, OddRefusal())
    assert not odd.publish(1, entry("mine"))
    assert odd.publish(2, entry("mine"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK])
def test_without_links_numbers_are_created(place: Path, number: int) -> None:
    disk = NoLinks(number)
    log = log_in(place, disk)
    assert log.publish(1, entry("a"))
    assert log.publish(2, entry("b"))
    assert disk.asked == 1, "it is not asked again"
    assert not log_in(place, disk).publish(2, entry("c"))
    assert [log.read(n).nonce for n in log.numbers()] == ["a", "b"]
    assert rubbish(place) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_link_that_failed_for_another_reason_is_no_lack_of_links(place: Path, number: int) -> None:
    log = log_in(place, NoLinks(number))
    with pytest.raises(WorkdirError, match="no entry can be written"):
        log.publish(1, entry())
    assert log.numbers() == []
    assert rubbish(place) == []
    log._disk = Disk()
    assert log.publish(1, entry())


class DiesBetween(NoLinks):
    """Its writer dies after it has created the number, and before the entry is in it."""

    def rename(self, old: str, new: str) -> None:
        raise KeyboardInterrupt


class Jumping(Clock):
    """A clock on which whoever waits has waited."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    def boottime(self) -> float:
        return super().boottime() + self.ahead_s

    def sleep(self, seconds: float) -> None:
        self.ahead_s += seconds


def test_a_writer_that_died_between_creation_and_content_is_named_in_one_line(place: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        log_in(place, DiesBetween()).publish(1, entry())
    changes: list[str] = []
    clock = Jumping()
    log = Log(place / "log", place / "new", Disk(lambda operation, _what: changes.append(operation)), clock)
    assert log.numbers() == [1]
    began = clock.monotonic()
    said = [said_of(log, 1) for _ in range(50)]
    assert log_module.WRITING_S <= clock.monotonic() - began < 20, "it may still be at it; it is waited for once"
    assert set(said) == {f"{log.path(1)}: the writer of this entry may be dead; it lapses within 300 s"}
    assert changes == ["create", "remove"], "what there is to know is asked for once"
    clock.ahead_s += 100
    assert said_of(log, 1).endswith("within 210 s")


def said_of(log: Log, number: int) -> str:
    """Return what is said of an entry without text."""
    with pytest.raises(Unfinished) as caught:
        log.read(number)
    return str(caught.value)


def test_who_does_not_know_the_lease_lets_no_entry_lapse(place: Path) -> None:
    log = Log(place / "log", place / "new", Disk(), Jumping())
    age(log, 2, 9_990)
    assert said_of(log, 2).endswith("it lapses within a lease")
    log.lease_s = 20_000
    assert said_of(log, 2).endswith("it lapses within 10020 s")
    log.lease_s = 1.0
    age(log, 2, 80)
    assert said_of(log, 2).endswith("it lapses within 30 s")
    age(log, 2, 100)
    assert log.read(2).by == "void"


def age(log: Log, number: int, by_s: float) -> None:
    """Make an entry without text, of that age."""
    Path(log.path(number)).touch()
    then = time.time() - by_s
    os.utime(log.path(number), (then, then))


@pytest.mark.parametrize("slept_s", [40, 50])
def test_a_writer_that_slept_between_creation_and_content_gives_up(place: Path, slept_s: int) -> None:
    """Others may have taken it for dead, and gone on behind an entry that says nothing."""
    clock = Jumping()

    class Sleepy(NoLinks):
        def create(self, path: str, flags: int = 0) -> int:
            fd = super().create(path, flags)
            clock.ahead_s += slept_s if path.endswith("00000002") else 0
            return fd

    log = Log(place / "log", place / "new", Sleepy(), clock)
    assert log.publish(1, entry())
    log.lease_s = 20.0
    if slept_s < log_module.PATIENCE_S:
        assert log.publish(2, entry("late"))
        return
    with pytest.raises(WorkdirError, match="00000002: this process slept too long to write it"):
        log.publish(2, entry("late"))
    assert Path(log.path(2)).read_bytes() == b""
    age(log, 2, 100)
    assert log.read(2).by == "void"
    assert log.publish(3, entry("again"))


@pytest.mark.parametrize(("lease_s", "most_s"), [(None, 46), (300.0, 38), (40.0, 6)])
def test_a_name_that_stays_hidden_is_waited_for_no_longer_than_a_heart_may_stop(
    place: Path, lease_s: float | None, most_s: float
) -> None:
    """A farmer with a lease of a minute would have been taken for dead, and ended by its guardian."""

    class Hiding(Disk):
        def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    clock = Jumping()
    assert log_in(place).publish(1, entry("another"))
    log = Log(place / "log", place / "new", Hiding(), clock)
    log.lease_s = lease_s
    began = clock.monotonic()
    with pytest.raises(WorkdirError):
        log.publish(1, entry())
    assert most_s - 3 <= clock.monotonic() - began <= most_s
    assert rubbish(place) == []


class NoRenames(NoLinks):
    """A disk whose server does not answer when something is renamed; `does`: it does so all the same."""

    def __init__(self, *, does: bool) -> None:
        super().__init__()
        self.does = does

    def rename(self, old: str, new: str) -> None:
        if self.does:
            super().rename(old, new)
        raise OSError(errno.EIO, os.strerror(errno.EIO), new)


def test_a_number_whose_entry_cannot_be_put_there_is_given_back(place: Path) -> None:
    """All others waited for its text until it had lapsed: for a lease, and 90 s at least."""
    log = log_in(place, NoRenames(does=False))
    with pytest.raises(WorkdirError, match="Input/output error"):
        log.publish(1, entry())
    assert log.numbers() == []
    assert rubbish(place) == []
    assert log_in(place).publish(1, entry("another"))


def test_an_entry_of_which_only_the_answer_was_lost_stays(place: Path) -> None:
    assert log_in(place, NoRenames(does=True)).publish(1, entry("mine"))
    assert log_in(place).read(1).nonce == "mine"
    assert rubbish(place) == []


def test_a_number_that_others_may_have_seen_to_by_now_is_not_given_back(place: Path) -> None:
    clock = Jumping()

    class Slow(NoRenames):
        def rename(self, old: str, new: str) -> None:
            clock.ahead_s += 46
            super().rename(old, new)

    log = Log(place / "log", place / "new", NoLinks(), clock)
    assert log.publish(1, entry())
    log.lease_s = 20.0
    log._disk = Slow(does=False)
    with pytest.raises(WorkdirError, match="Input/output error"):
        log.publish(2, entry("late"))
    assert log.numbers() == [1, 2]


def test_a_reader_waits_for_a_writer_that_is_still_at_it(place: Path) -> None:
    log = log_in(place)
    data = framing.frame(json.dumps(entry("late").to_json()))
    with open(log.path(1), "wb") as file:
        file.write(data[:20])
        file.flush()

        def go_on() -> None:
            file.write(data[20:])
            file.flush()

        timer = threading.Timer(0.2, go_on)
        timer.start()
        assert log.read(1).nonce == "late"
        timer.join()


# -- full disks --------------------------------------------------------------------------------------------------------


class Full(Disk):
    """A disk without space from the `after`-th operation of that kind on."""

    def __init__(self, operation: str, *, links: bool = True) -> None:
        super().__init__(self._hook_for(operation))
        self.links = links

    @staticmethod
    def _hook_for(wanted: str) -> Hook:
        def hook(operation: str, what: str) -> None:
            if operation == wanted:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)

        return hook

    def link(self, old: str, new: str) -> None:
        if not self.links:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), new)
        super().link(old, new)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("operation", ["create", "write", "sync"])
def test_without_space_nothing_is_published(place: Path, operation: str, links: bool) -> None:
    log = log_in(place, Full(operation, links=links))
    with pytest.raises(WorkdirError) as caught:
        log.publish(1, entry())
    assert str(caught.value).endswith("No space left on device; free some space")
    assert log.numbers() == []
    assert rubbish(place) == []
    assert log_in(place).publish(1, entry()), "and the number is still to be had"


# -- what cannot be read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"garbage\n", b"\0" * 100 + b"\n", b"00000000 {}\n", framing.frame("no json"), framing.frame("[1]"),
     framing.frame("{}") * 2, framing.frame('{"v":1,"kind":"take"}')],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_is_one_line_that_names_it(place: Path, content: bytes) -> None:
    log = log_in(place)
    Path(log.path(3)).write_bytes(content)
    with pytest.raises(Damaged) as caught:
        log.read(3)
    assert str(caught.value).startswith(f"{place}/log/00000003: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_an_entry_of_a_later_version_is_refused_by_name(place: Path) -> None:
    log = log_in(place)
    Path(log.path(1)).write_bytes(framing.frame('{"v":2,"kind":"take","nonce":"n","by":"f","t":1}'))
    with pytest.raises(NewerFormat, match="format 2; this version reads up to 1"):
        log.read(1)


# -- ledgers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def farm(tmp_path: Path) -> Ledger:
    """A farm of ten tasks without texts."""
    workdir = Workdir(tmp_path / "farm")
    for directory in workdir.directories():
        directory.mkdir()
    ledger = Ledger(workdir)
    (workdir.tasks / "texts.jsonl").touch()
    body = Farm(config={}, lease_s=300.0, heartbeat_s=15.0, segment=Segment(file="texts.jsonl", count=10))
    ledger.append(lambda _state: (body, ()))
    return ledger


def another_in_its_place(farm: Ledger, entries: int) -> Ledger:
    """Remove the farm, make another of that name, and add so many entries to it."""
    shutil.rmtree(farm.workdir.path)
    for directory in (farm.workdir.path, *farm.workdir.directories()):
        directory.mkdir(exist_ok=True)
    (farm.workdir.tasks / "others.jsonl").touch()
    other = Ledger(farm.workdir)
    segment = Segment(file="others.jsonl", count=3)
    other.append(lambda _state: (Farm(config={}, lease_s=300.0, heartbeat_s=15.0, segment=segment), ()))
    for _ in range(entries - 1):
        other.append(lambda _state: (Stop(mode="drain", farmers=["x"]), ()))
    return other


@pytest.mark.parametrize("entries", [1, 2, 3, 30])
@pytest.mark.parametrize("copies", [0, 3000])
def test_a_farm_in_the_place_of_another_is_left_alone(
    farm: Ledger, monkeypatch: pytest.MonkeyPatch, entries: int, copies: int
) -> None:
    """Somebody removed the workdir and ran the list again, while a farmer of old lives on another host."""
    monkeypatch.setattr(log_module, "BEFORE_BYTES", copies)
    farm.append(lambda _state: (Join(host={}, slots=1), ()), "a")
    other = another_in_its_place(farm, entries)
    with pytest.raises(Replaced, match="not the farm any more"):
        farm.append(lambda _state: (Report(), ()), "a")
    assert other.log.numbers() == [*range(1, entries + 1)]
    if entries != 2:  # of the same length: only who adds would notice
        with pytest.raises(Replaced):
            farm.refresh()
    assert len(farm.state) == 10
    assert len(Ledger.open(farm.workdir.path).state) == 3


class Dozing(Clock):
    """A clock of a machine that may sleep."""

    slept_s = 0.0

    def boottime(self) -> float:
        return super().boottime() + self.slept_s


def test_who_slept_while_entries_were_removed_does_not_believe_in_a_number_that_was_free(
    farm: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have a log of its own from there on, and never read that it was taken for dead."""
    monkeypatch.setattr(ledger_module, "SNAPSHOT_EVERY", 1)
    clock = Dozing()
    asleep = False

    def sleep(operation: str, _what: str) -> None:
        nonlocal asleep
        if operation == "link" and asleep:
            asleep = False
            news = farm.news_of("a", final=True)
            farm.append(lambda _state: (Bury(farmer="a", why="silent"), (news,)), "b")
            farm.snapshot("b")
            farm.log.forget_before(farm.snapshot_at)
            clock.slept_s += 601

    sleeper = Ledger(farm.workdir, Disk(sleep), clock)
    sleeper.refresh()
    sleeper.append(lambda _state: (Join(host={}, slots=1), ()), "a")
    farm.append(lambda _state: (Join(host={}, slots=1), ()), "b")
    asleep = True
    with pytest.raises(WorkdirError, match="this process slept"):
        sleeper.append(lambda _state: (Report(), ()), "a")
    assert sleeper.state.farmer("a").ended == "buried"
    assert sleeper.append(lambda _state: (Report(), ()), "a") is None
    farm.refresh()
    assert Ledger.open(farm.workdir.path).state.to_json() == farm.state.to_json() == sleeper.state.to_json()


def test_an_entry_of_an_unknown_farmer_is_damage(farm: Ledger) -> None:
    farm.log.publish(2, Entry(by="nobody", time=0.0, nonce="n", body=Take(ids="1")))
    with pytest.raises(Damaged, match="00000002: the entry does not go with those before it"):
        farm.refresh()


def test_a_missing_number_is_damage(farm: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "BEFORE_BYTES", 0)
    for _ in range(3):
        farm.append(lambda _state: (Report(), ()))
    os.unlink(farm.log.path(3))
    monkeypatch.setattr(log_module, "PATIENCE_S", 0.2)
    with pytest.raises(Damaged, match="00000003: an entry of the log is missing"):
        Ledger.open(farm.workdir.path)


def test_who_knows_a_farm_does_not_wait_for_a_missing_number_nor_writes_beside_it(
    farm: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for 45 s at each look, in which no heart beats; and then it was told of damage, which ends a farmer."""
    monkeypatch.setattr(log_module, "BEFORE_BYTES", 0)
    clock = Jumping()
    other = Ledger.open(farm.workdir.path, clock=clock)
    for _ in range(3):
        farm.append(lambda _state: (Report(), ()))
    away = farm.log.path(3) + ".away"
    os.rename(farm.log.path(3), away)
    began = clock.monotonic()
    other.refresh()
    for _ in range(10):
        assert other.refresh() == 0
        assert other.state.number == 2
        assert str(other.awaited).startswith(f"{farm.log.path(3)}: an entry of the log is missing; a cache may hide it")
        with pytest.raises(Hidden):
            other.append(lambda _state: (Report(), ()))
    assert clock.monotonic() - began < 5.0
    assert farm.log.numbers() == [1, 2, 4]
    os.rename(away, farm.log.path(3))
    other.refresh()
    assert other.awaited is None
    assert other.state.to_json() == farm.state.to_json()
    assert other.append(lambda _state: (Report(), ())) is not None


def test_a_log_without_its_beginning_is_damage(farm: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "BEFORE_BYTES", 0)
    farm.append(lambda _state: (Report(), ()))
    os.unlink(farm.log.path(1))
    monkeypatch.setattr(log_module, "PATIENCE_S", 0.2)
    with pytest.raises(Damaged, match="00000001: an entry of the log is missing"):
        Ledger.open(farm.workdir.path)


def test_a_listing_with_a_gap_is_no_damage(farm: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """POSIX does not promise that a listing shows an older name before a newer one."""
    other = Ledger.open(farm.workdir.path)
    for _ in range(3):
        farm.append(lambda _state: (Report(), ()))
    monkeypatch.setattr(log_module.Log, "numbers", lambda _self: [1, 2, 4])
    assert other.refresh() == 3
    assert Ledger.open(farm.workdir.path).state.number == 4


class Counting(Disk):
    """A disk that knows which entries were read."""

    def __init__(self) -> None:
        self.read_names: list[str] = []
        super().__init__(looks=lambda kind, path: self.read_names.append(Path(path).name) if kind == "read" else None)


def _asks(want: int, _state: object) -> tuple[Report, tuple[()]]:
    return Report(want=want), ()


def test_who_is_behind_opens_few_entries(farm: Ledger) -> None:
    """Each entry has those before it with it; what they say is what their own files say."""
    disk = Counting()
    behind, one_by_one = Ledger.open(farm.workdir.path, disk), Ledger.open(farm.workdir.path)
    other = Ledger.open(farm.workdir.path)
    for number in range(40):
        writer = (farm, other)[number % 2]
        writer.refresh()
        writer.append(partial(_asks, number))
        one_by_one.refresh()
    disk.read_names.clear()
    assert behind.refresh() == 40
    assert len(disk.read_names) <= 4
    assert disk.read_names[0] == "00000041"
    assert behind.state.to_json() == one_by_one.state.to_json()
    fresh = Log(farm.workdir.log, farm.workdir.new, Disk())
    assert fresh.since(0, 41) == [fresh.read(number) for number in range(1, 42)]
    disk.read_names.clear()
    assert Ledger.open(farm.workdir.path, disk).state.to_json() == behind.state.to_json()
    assert len(disk.read_names) <= 4


def test_what_an_entry_has_with_it_fits_into_a_block(farm: Ledger) -> None:
    for _ in range(70):
        farm.append(lambda _state: (Report(), ()))
    sizes = [os.path.getsize(farm.log.path(number)) for number in farm.log.numbers()]
    assert max(sizes) <= 4096
    farm.append(lambda _state: (Cancel(ids=",".join(map(str, range(0, 5000, 2)))), ()))
    farm.append(lambda _state: (Report(), ()))
    assert os.path.getsize(farm.log.path(73)) < 200, "a large one is not told again, nor what was before it"
    other = Ledger.open(farm.workdir.path)
    assert other.state.number == 73


def test_who_lost_a_number_tells_of_its_holder_too(farm: Ledger) -> None:
    """A draft that was made before serves again: it lacks the winner's entry, which is read by its name."""
    other = Ledger.open(farm.workdir.path)
    other.append(lambda _state: (Report(want=1), ()))
    farm.append(lambda _state: (Report(want=2), ()))
    reader = Ledger.open(farm.workdir.path)
    assert reader.state.number == 3
    log = Log(farm.workdir.log, farm.workdir.new, Disk())
    assert [entry.body for entry in log.since(1, 3)] == [Report(want=1), Report(want=2)]


def test_what_is_older_than_a_snapshot_is_not_told_again(farm: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "SNAPSHOT_EVERY", 3)
    for _ in range(4):
        farm.append(lambda _state: (Report(), ()))
    farm.snapshot("cli")
    for _ in range(3):
        farm.append(lambda _state: (Report(), ()))
    farm.log.forget_before(farm.snapshot_at)
    disk = Counting()
    fresh = Ledger.open(farm.workdir.path, disk)
    assert fresh.state.to_json() == farm.state.to_json()
    assert disk.read_names == ["00000009", "00000006"]


def test_an_entry_without_text_lapses(farm: Ledger) -> None:
    """Without links, a writer may die between taking a number and filling it."""
    farm.append(lambda _state: (Report(), ()))
    age(farm.log, 3, 301)
    other = Ledger.open(farm.workdir.path)
    assert other.state.number == 3
    assert farm.refresh() == 1
    assert farm.append(lambda _state: (Report(), ())) is not None
    assert farm.log.numbers() == [1, 2, 3, 4]
    assert os.listdir(farm.workdir.new) == []


@pytest.mark.parametrize("entries", [0, 1, 40])
def test_what_stands_before_an_entry_without_text_is_read(farm: Ledger, entries: int) -> None:
    behind = Ledger.open(farm.workdir.path)
    for _ in range(entries):
        farm.append(lambda _state: (Report(), ()))
    age(farm.log, entries + 2, 200)
    changes: list[str] = []
    reader = Ledger.open(farm.workdir.path, Disk(lambda operation, _what: changes.append(operation)), Jumping())
    assert reader.awaited is not None
    assert behind.refresh() == entries
    for ledger in (reader, behind):
        assert ledger.state.number == entries + 1
        assert str(ledger.awaited) == (
            f"{ledger.log.path(entries + 2)}: the writer of this entry may be dead; it lapses within 120 s"
        )
        with pytest.raises(Unfinished, match="may be dead"):
            ledger.append(lambda _state: (Report(), ()))
    looked = reader.looked
    assert reader.refresh() == 0
    assert reader.looked == looked, "who waits cannot know what is agreed"
    assert changes == ["create", "remove"], "nothing is written beside for a number that is not to be had"
    age(farm.log, entries + 2, 310)
    for ledger in (reader, behind):
        assert ledger.refresh() >= 1
        assert ledger.awaited is None
        assert ledger.append(lambda _state: (Report(), ())) is not None


def test_who_lost_the_race_thinks_again(farm: Ledger) -> None:
    other = Ledger.open(farm.workdir.path)
    for id in ("a", "b"):
        farm.append(lambda _state: (Join(host={}, slots=1), ()), id)
    farm.append(lambda _state: (Take(ids="0-4"), ()), "a")
    seen: list[list[int]] = []

    def make(state: object) -> tuple[Take, tuple[()]]:
        seen.append(list(other.state.ready(3)))
        return Take(ids=",".join(map(str, seen[-1]))), ()

    other.append(make, "b")
    assert seen[0] == [0, 1, 2]
    assert seen[-1] == [5, 6, 7]
    assert list(other.state.held_by(2)) == [5, 6, 7]


def test_second_thoughts_write_nothing(farm: Ledger) -> None:
    assert farm.append(lambda _state: None) is None
    assert farm.log.numbers() == [1]


def test_a_reader_reads_on_while_snapshots_replace_what_it_has_not_read(
    farm: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SNAPSHOT_EVERY", 10)
    reader = Ledger.open(farm.workdir.path)
    farm.append(lambda _state: (Join(host={}, slots=1), ()), "a")
    state = reader.state
    stop = threading.Event()
    errors: list[Exception] = []

    def read() -> None:
        while not stop.is_set():
            try:
                reader.refresh()
                assert len(reader.state) == 10
                assert len(Ledger.open(farm.workdir.path).state) == 10
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(200):
        farm.append(lambda _state: (Report(), ()), "a")
        farm.snapshot("a")
        farm.log.forget_before(farm.snapshot_at)
    stop.set()
    thread.join()
    assert errors == []
    reader.refresh()
    assert reader.state is state, "whoever holds it keeps it"
    assert reader.state.number == farm.state.number
    assert len(farm.log.numbers()) <= 12


def test_a_writer_that_slept_does_not_take_a_number_that_was_used(
    farm: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spec: a name is never removed and used again. What it writes there nobody would ever read."""
    monkeypatch.setattr(ledger_module, "SNAPSHOT_EVERY", 5)
    sleeper = Ledger.open(farm.workdir.path)
    for _ in range(10):
        farm.append(lambda _state: (Report(), ()))
        farm.snapshot("cli")
    farm.log.forget_before(farm.snapshot_at)
    awake = sleeper.clock.boottime() + 1000.0
    monkeypatch.setattr(sleeper.clock, "boottime", lambda: awake)
    sleeper.append(lambda _state: (Join(host={}, slots=1), ()), "late")
    assert "late" in Ledger.open(farm.workdir.path).state.index
    assert min(farm.log.numbers()) == farm.snapshot_at


def test_the_buried_have_no_say(farm: Ledger) -> None:
    mine = Ledger.open(farm.workdir.path)
    mine.append(lambda _state: (Join(host={}, slots=1), ()), "me")
    farm.refresh()
    farm.append(lambda _state: (Bury(farmer="me", why="silent"), ()))
    assert mine.append(lambda _state: (Take(ids="0-9"), ()), "me") is None
    assert list(mine.state.ready(99)) == list(range(10))
    assert Ledger.open(farm.workdir.path).state.number == 3


def test_a_reader_far_beyond_a_cut_reads_anew_and_keeps_its_state_object(farm: Ledger) -> None:
    journal = Journal(farm.workdir.journals / "a", "a", Disk())
    farm.append(lambda _state: (Join(host={}, slots=1), ()), "a")
    farm.append(lambda _state: (Take(ids="0-1"), ()), "a")
    cut = journal.length
    journal.append(records.ended(Ended(0, 1, "ok", 0, 1.0, 0.0, 0.0, 0)))
    journal.flush()
    reader = Ledger.open(farm.workdir.path)
    reader.read_tails()
    state = reader.state
    assert state.counts()["finished"] == 1
    farm.append(lambda _state: (Bury(farmer="a", why="silent"), (News(of="a", length=cut),)))
    reader.refresh()
    assert reader.state is state
    assert state.counts()["finished"] == 0
    assert not state.stale
    journal.close()


def test_a_copy_without_empty_directories_can_be_written(farm: Ledger) -> None:
    farm.workdir.new.rmdir()
    assert farm.append(lambda _state: (Report(), ())) is not None


class Passing(Clock):
    """Sleeps take no time; `now` is a time that is handed out."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("visible_s", "waited_s"), [(0.0, 0.0), (10.0, 10.0), (1000.0, log_module.PATIENCE_S)])
def test_directories_that_a_cache_hides_are_awaited_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible_s: float, waited_s: float
) -> None:
    """Somebody on this host looked for one just before it was made elsewhere; and the log was seen at once."""
    farm, clock, lexists = HandMade(tmp_path, ["task"]), Passing(), os.path.lexists

    def seen(path: Path) -> bool:
        return lexists(path) and (path != farm.ledger.workdir.journals or clock.now >= visible_s)

    monkeypatch.setattr(os.path, "lexists", seen)
    await_directories(farm.ledger.workdir, clock, lambda: False)
    assert clock.now == pytest.approx(waited_s, abs=0.1)


def test_who_is_told_to_end_awaits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    farm, clock = HandMade(tmp_path, ["task"]), Passing()
    monkeypatch.setattr(os.path, "lexists", lambda _path: False)
    await_directories(farm.ledger.workdir, clock, lambda: clock.now >= 1.0)
    assert clock.now == pytest.approx(1.0, abs=0.1)


def test_directories_of_what_is_no_farm_are_not_awaited(tmp_path: Path) -> None:
    clock = Passing()
    await_directories(Workdir(tmp_path / "gone"), clock, lambda: False)
    assert clock.now == 0.0
