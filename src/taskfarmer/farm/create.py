"""Making a farm, or taking up the one that is there: the first to arrive creates it, atomically, with its tasks.

The tasks are written first; then one entry, number 1 of the log, says what the farm is and which file has its tasks.
Whoever loses that race uses the winner's farm, and its own file of tasks is removed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..core.entries import Entry, Farm
from ..core.ids import format_ids
from ..core.words import plural
from ..definitions import Definition
from ..errors import Damaged, InputError, WorkdirError
from . import edited
from .disk import Disk, fresh_id
from .ledger import CLI, Ledger
from .log import PATIENCE_S, VOID, Log
from .options import FarmConfig
from .segments import Look, Segments, write_segment
from .workdir import Workdir

Lines = Callable[[Definition], Iterable[bytes]]
"""Reads the list as the handler of a farm means it: encoded tasks (`core.model`), in order."""
OLD_TIMELINE = "timeline.pytaskfarmer.json"


@dataclass(slots=True)
class Opened:
    """A farm that is ready to be worked on; `notes` are worth a line each."""

    ledger: Ledger
    created: bool
    notes: list[str] = field(default_factory=list)


def open_or_create(
    path: Path,
    config: FarmConfig,
    digest: str,
    lines: Lines,
    disk: Disk,
    looking: Callable[[], Look | None] = lambda: None,
) -> Opened:
    """Return the farm in `path`, made from `lines` if there is none; `looking` gives what then looks at its tasks.

    Raises:
        InputError: the list cannot be used, or is another one than the farm's; nothing is left behind.
        WorkdirError: the workdir cannot be made, read or written.
        Damaged: farmers were at work here, and the log is gone.
    """
    workdir = Workdir(path)
    _refuse_lost_log(workdir, disk)
    number = _first_number(Log(workdir.log, workdir.new, disk)) if workdir.is_farm() else 1
    if not number:
        return _take_up(workdir, config, digest, lines, disk)
    look = looking()
    notes: list[str] = []
    old = _Old(workdir) if workdir.is_old() else None
    with _directories(workdir, disk) as files:
        tasks = lines(config.handler)
        segment = write_segment(workdir.tasks, tasks, disk, source=config.tasklist, digest=digest, look=look)
        files += [workdir.tasks / segment.file, (workdir.tasks / segment.file).with_suffix(".idx")]
        ok = bad = ""
        if old is not None:
            segments = Segments(workdir.tasks)
            segments.learn([(0, segment)])
            ok, bad = old.ended(segments, segment.count, notes)
            old.keep_timeline(disk, notes)
        body = Farm(
            config=config.to_json(), lease_s=config.lease_s, heartbeat_s=config.heartbeat_s, segment=segment, ok=ok,
            bad=bad,
        )  # fmt: skip
        entry = Entry(by=CLI, time=time.time(), nonce=fresh_id(), body=body)
        log = Log(workdir.log, workdir.new, disk)
        while not (won := log.publish(number, entry)) and _is_void(log, number):
            number += 1
        if not won:
            for file in files:
                disk.remove(str(file))
            deadline = time.monotonic() + PATIENCE_S
            while not log.numbers() and time.monotonic() < deadline:  # a listing may be older than the winner's entry
                time.sleep(0.05)
            return _take_up(workdir, config, digest, lines, disk)
    return Opened(Ledger.open(path, disk), created=True, notes=notes)


def _refuse_lost_log(workdir: Workdir, disk: Disk) -> None:
    """Journals without a log: a new farm there would do again what has finished.

    Who writes a journal has joined, so the log is older. It is waited for, since a cache may be older still.
    """
    try:
        worked = any(workdir.journals.iterdir())
    except OSError:  # no farm; or it says so itself where it is opened
        return
    log = Log(workdir.log, workdir.new, disk)
    deadline = time.monotonic() + PATIENCE_S
    while worked and not (workdir.is_farm() and _numbers(log)):
        if time.monotonic() > deadline:
            raise Damaged(
                f"{workdir.log}: the log of this farm is gone, and with it what has finished",
                hint="restore it, or remove the workdir to do all tasks again",
            )
        time.sleep(0.05)


def _first_number(log: Log) -> int:
    """Return which number the first entry of a farm is to have, 0 if it is there: who began to write it may have died.

    Raises:
        Unfinished: somebody may still be at it.
    """
    numbers = _numbers(log)
    if numbers and numbers[0] > 1:
        return 0
    return len(numbers) + 1 if all(_is_void(log, number) for number in numbers) else 0


def _is_void(log: Log, number: int) -> bool:
    """Whether an entry stands for one whose writer died; what cannot be read is said where the farm is opened."""
    with suppress(FileNotFoundError, PermissionError):
        return log.read(number).by == VOID
    return False


def _numbers(log: Log) -> list[int]:
    try:
        return log.numbers()
    except PermissionError as error:
        raise WorkdirError(f"{error.filename}: {error.strerror}", hint="ask its owner for the right to read") from error


def _take_up(workdir: Workdir, config: FarmConfig, digest: str, lines: Lines, disk: Disk) -> Opened:
    ledger = Ledger.open(workdir.path, disk)
    notes: list[str] = []
    first = ledger.state.segments[0][1]
    if digest != first.digest:
        kept = Definition.from_json(ledger.state.config["handler"])
        difference = edited.compare(ledger.segments.file(0).texts(), edited.texts(lines(kept)))
        if not config.tasklist and difference.added:
            raise InputError(
                f"{workdir.path} belongs to another sweep, or list: {difference.added} of these tasks are not in it",
                hint="give this sweep a workdir of its own with --workdir",
            )
        if not difference.related and config.tasklist != first.source:
            raise InputError(
                f"{workdir.path} belongs to another list ({first.source or 'no file'})",
                file=config.tasklist or None,
                hint="give this list a workdir of its own with --workdir",
            )
        notes += difference.notes(str(workdir.path))
    return Opened(ledger, created=False, notes=notes)


@contextmanager
def _directories(workdir: Workdir, disk: Disk) -> Iterator[list[Path]]:
    """Make the directories; if the farm does not come about, they and the files that the list names are removed.

    Not after an interrupt: another farmer, which was not told to stop, may be at work in them.
    """
    made: list[Path] = []
    files: list[Path] = []
    try:
        for directory in workdir.directories():
            if not directory.is_dir():
                _make(directory, disk)
                made.append(directory)
    except OSError as error:
        _unmake(workdir, made, files)
        hint = "its parent must exist" if isinstance(error, FileNotFoundError) else "choose another with --workdir"
        raise WorkdirError(f"{error.filename}: the workdir cannot be made: {error.strerror}", hint=hint) from error
    try:
        yield files
    except Exception:
        _unmake(workdir, made, files)
        raise


def _make(directory: Path, disk: Disk) -> None:
    """Make a directory. One that another host just made may be hidden here by a cache: it is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    disk.mkdir(str(directory))
    while not os.path.lexists(directory) and time.monotonic() < deadline:
        time.sleep(0.05)
        disk.mkdir(str(directory))  # who made it may have removed it again


def _unmake(workdir: Workdir, made: list[Path], files: list[Path]) -> None:
    with suppress(OSError):
        for file in files if not any(workdir.log.iterdir()) else ():  # interrupted just after it was published
            file.unlink(missing_ok=True)
    if workdir.path in made:
        made.append(workdir.path / "output")  # handlers of ATLAS make it
    for directory in sorted(made, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            directory.rmdir()


class _Old:
    """What PyTaskFarmer left: `finished` and `failed` count; all other ids remain, also those that no file names."""

    def __init__(self, workdir: Workdir) -> None:
        self._workdir = workdir

    def ended(self, segments: Segments, count: int, notes: list[str]) -> tuple[str, str]:
        """Return (finished, failed) as ranges of ids, and add what is worth saying to `notes`."""
        ok = set(self._read("finished", segments, count, notes) or ())
        bad = set(self._read("failed", segments, count, notes) or ()) - ok
        remaining = self._read("toprocess", segments, count, notes)
        lost = set() if remaining is None else set(range(count)) - ok - bad - set(remaining)
        done = plural(len(ok), "task")
        notes.insert(0, f"a workdir of PyTaskFarmer is taken over: {done} finished, {len(bad)} failed")
        if lost:
            were, they = ("was", "it") if len(lost) == 1 else ("were", "they")
            tasks = plural(len(lost), "task")
            notes.append(f"{tasks} {were} in none of its files; {they} will be run ({_some(lost)})")
        return format_ids(ok), format_ids(bad)

    def keep_timeline(self, disk: Disk, notes: list[str]) -> None:
        """Give the old timeline another name, since ours takes its place. A link never takes one that is there."""
        old, new = self._workdir.path / "timeline.json", self._workdir.path / OLD_TIMELINE
        if not old.exists() or new.exists():
            return
        with suppress(FileExistsError, FileNotFoundError):  # another farmer was faster
            disk.link(str(old), str(new))
            disk.remove(str(old))
            notes.append(f"its timeline is now {new}")

    def _read(self, name: str, segments: Segments, count: int, notes: list[str]) -> list[int] | None:
        path = self._workdir.path / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WorkdirError(f"{path}: {error.strerror}") from error
        found = []
        lines = data.split(b"\n")
        if lines.pop():
            notes.append(f"{path}: the last line was cut; it is not counted")
        for number, line in enumerate(lines, 1):
            head, _, text = line.partition(b" ")
            if not head.isdigit() or len(head) > 18 or int(head) >= count:
                notes.append(f"{path}:{number}: no task of the list has the id {head[:20].decode(errors='replace')!r}")
            elif text.decode(errors="surrogateescape") != segments.text(int(head)):
                notes.append(f"{path}:{number}: task {int(head)} has another text than in the list; it is run again")
            else:
                found.append(int(head))
        return found


def _some(ids: Iterable[int]) -> str:
    text = format_ids(ids)
    return text if len(text) < 60 else text[: text.rfind(",", 0, 60)] + ",..."


def require_writable(workdir: Workdir) -> None:
    """See to it, before anything is said or done, that a farmer can write everywhere in a farm.

    Raises:
        WorkdirError: it cannot.
    """
    for directory in workdir.directories():
        if directory.is_dir() and not os.access(directory, os.W_OK | os.X_OK):
            if os.statvfs(directory).f_flag & os.ST_RDONLY:
                why, hint = "its file system is read-only here", "run this on a host where it is not"
            else:
                why, hint = "permission denied", "have its owner give you the right to write"
            raise WorkdirError(f"{directory}: the farm cannot be written: {why}", hint=hint)


def working_directory(config: FarmConfig) -> None:
    """Go where the tasks run.

    Raises:
        WorkdirError: it is not there.
    """
    try:
        os.chdir(config.cwd)
    except OSError as error:
        raise WorkdirError(
            f"{config.cwd}: the tasks' working directory cannot be entered: {error.strerror}",
            hint="run this on a host that has it, or name another with `taskfarmer resume --cwd DIR`",
        ) from error
