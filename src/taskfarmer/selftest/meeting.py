"""How the processes of a self-test meet: through files in the directory under test, and nothing else.

    taskfarmer-selftest.ID/orders        lines of the conductor, for all
    taskfarmer-selftest.ID/workers/ID    lines of one worker: who it is, then its answers
    taskfarmer-selftest.ID/probe/        what they try out

Each file has one writer, which only appends; a reader opens it anew for each look. More than that the ledger does not
ask of a file system either. Names that another host makes are never looked up before they are known to be there,
since NFS would hide them for 30 seconds: directories are listed.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..farm.disk import fresh_id

PREFIX = "taskfarmer-selftest."
PATIENCE_S = 90.0
"""How long one waits for what another host has written; the longest delay measured on any file system was 30 s."""

Line = dict[str, Any]


class Meeting:
    """The names in the directory of one self-test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.orders = path / "orders"
        self.workers = path / "workers"
        self.probe = path / "probe"

    @classmethod
    def make(cls, directory: Path) -> Meeting:
        """Make a new one in `directory`; it appears whole, so that nobody looks in vain for what is in it.

        Raises:
            OSError: nothing can be made there.
        """
        beside = directory / f".{PREFIX}{fresh_id()}"
        made = cls(beside)
        os.mkdir(beside)
        try:
            os.mkdir(made.workers)
            os.mkdir(made.probe)
            os.close(os.open(made.orders, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            os.rename(beside, directory / beside.name[1:])
        except OSError:
            remove_tree(beside)
            raise
        return cls(directory / beside.name[1:])


class Words:
    """A file of lines that this process alone writes."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | (os.O_CREAT | os.O_EXCL if create else 0), 0o666)

    def say(self, *lines: Line) -> None:
        """Append lines, in one write. NFS keeps what is not synced to itself while the file is open."""
        os.write(self._fd, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Ear:
    """Reads what another process says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._heard = 0
        self.changed_s = time.monotonic()

    def hear(self) -> list[Line]:
        """Return the whole lines that are new.

        Raises:
            OSError: the file cannot be read.
        """
        with open(self._path, "rb") as file:
            file.seek(self._heard)
            data = file.read()
        lines: list[Line] = []
        for text in data.split(b"\n")[:-1]:
            try:
                lines.append(json.loads(text))
            except ValueError:  # seen before its bytes are: the next look will tell
                break
            self._heard += len(text) + 1
            self.changed_s = time.monotonic()
        return lines


def names(directory: Path) -> list[str]:
    """Return the names in a directory as they are now.

    A client that itself changes a directory must look at it anew; otherwise NFS would show an old listing for a while.
    """
    own = directory / f".{fresh_id()}"
    with suppress(OSError):
        os.close(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.unlink(own)
    return sorted(name for name in os.listdir(directory) if not name.startswith("."))


def find(directory: Path, limit_s: float) -> Meeting | None:
    """Return the self-test in `directory` that wants more workers, waiting for it up to `limit_s`; None: there is none.

    What a dead conductor left does not grow any more.
    """
    if directory.name.startswith(PREFIX):
        return Meeting(directory)
    deadline = time.monotonic() + limit_s
    ears: dict[str, Ear] = {}
    looked: set[str] = set()
    while time.monotonic() < deadline:
        for name in names(directory):
            if not name.startswith(PREFIX):
                continue
            ear = ears.setdefault(name, Ear(directory / name / "orders"))
            with suppress(OSError):
                new = ear.hear()
                if name in looked and any(line.get("wants") for line in new):
                    return Meeting(directory / name)
                looked.add(name)
        time.sleep(0.2)
    return None


def remove_tree(path: Path, patience_s: float = 5.0) -> bool:
    """Remove a directory and all in it; False if something stays. NFS keeps files for a while that others have open."""
    import shutil

    deadline = time.monotonic() + patience_s
    while path.exists() and time.monotonic() < deadline:
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            time.sleep(0.1)
    return not path.exists()
