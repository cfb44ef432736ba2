"""The conductor of a self-test: it finds workers, gives them orders, and tidies up."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, WorkdirError
from .meeting import PATIENCE_S, Ear, Line, Meeting, Words, names, remove_tree
from .probes import Answer

TICK_S = 1.0
GO_S = 10.0
"""How long workers have to go when they are told that it is enough."""
SSH = "ssh -o BatchMode=yes {host} {command}"


class NotOk(Exception):
    """A probe could not be carried out: a worker says why, or says nothing."""


class Worker:
    """A worker as the conductor knows it."""

    def __init__(self, id: str, hello: Line, ear: Ear) -> None:
        self.id = id
        self.label = str(hello["label"])
        self.host = str(hello["host"])
        self.boot = str(hello["boot"])
        self.answers: dict[int, Line] = {}
        self._ear = ear

    def listen(self) -> None:
        """Take in what it has answered."""
        with suppress(FileNotFoundError):
            for line in self._ear.hear():
                self.answers[line["n"]] = line


class Conductor:
    """Gives orders in a directory. Use it with `with`: what it made and started is gone afterwards, but for `keep`."""

    def __init__(self, directory: Path, *, keep: bool = False) -> None:
        try:
            self.meeting = Meeting.make(directory)
        except OSError as error:
            raise WorkdirError(
                f"{directory}: nothing can be made there: {error.strerror}",
                hint="name a directory on the file system to be tested, in which you may write",
            ) from error
        self.keep = keep
        self.left = ""
        self.workers: list[Worker] = []
        self._words = Words(self.meeting.orders, create=False)
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._number = 0
        self._ticked_s = 0.0

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):
            self._words.say({"end": True})
        deadline = time.monotonic() + GO_S
        for _, process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for _, process in self._started:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(GO_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._words.close()
        if self.keep or not remove_tree(self.meeting.path):
            self.left = str(self.meeting.path)

    # -- workers -------------------------------------------------------------------------------------------------------

    def start(self, label: str = "", launcher: str | None = None) -> None:
        """Start a worker here, or with a launcher on another host.

        Raises:
            InputError: the launcher cannot be started.
        """
        words = [sys.executable, "-m", "taskfarmer", "selftest", "--dir", str(self.meeting.path), "--join"]
        words += ["--label", label] if label else []
        argv = words if launcher is None else launched(launcher, label, words)
        errors = self.meeting.path / f"worker.{len(self._started)}.err"
        try:
            with open(errors, "wb") as stream:
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, process_group=0
                )
        except OSError as error:
            raise InputError(f"{argv[0]}: {error.strerror}", hint="give the command with --launcher") from error
        self._started.append((label or "this host", process))

    @property
    def started(self) -> int:
        """How many workers were started here."""
        return len(self._started)

    def gather(self, count: int, limit_s: float = PATIENCE_S) -> None:
        """Wait until so many workers have come.

        Raises:
            InputError: they do not.
        """
        deadline = time.monotonic() + limit_s
        ears: dict[str, Ear] = {}
        while len(self.workers) < count:
            self._tick(wants=count - len(self.workers))
            for id in names(self.meeting.workers):
                if id in {worker.id for worker in self.workers}:
                    continue
                ear = ears.setdefault(id, Ear(self.meeting.workers / id))
                if (lines := ear.hear()) and len(self.workers) < count:
                    self.workers.append(Worker(id, lines[0], ear))
            if len(self.workers) < count:
                self._look_after_started()
                if time.monotonic() > deadline:
                    raise InputError(
                        f"only {len(self.workers)} of {count} workers came to {self.meeting.path}"
                        f" within {limit_s:.0f} s",
                        hint="is it the same directory on all hosts, and is taskfarmer installed there?",
                    )
                time.sleep(0.02)
        self.workers.sort(key=lambda worker: worker.label)

    def _look_after_started(self) -> None:
        """See whether the workers that were started here are alive.

        Raises:
            InputError: one is not.
        """
        for place, (label, process) in enumerate(self._started):
            if (status := process.poll()) is not None:
                said = (self.meeting.path / f"worker.{place}.err").read_text(errors="replace").strip().splitlines()
                why = f": {said[-1]}" if said else ""
                raise InputError(f"the worker on {label} has gone, with status {status}{why}", hint="see --launcher")

    def _tick(self, **more: Any) -> None:
        """Say something, so that the workers know that somebody is there."""
        if time.monotonic() - self._ticked_s > TICK_S:
            self._ticked_s = time.monotonic()
            self._say({"tick": True, **more})

    # -- orders --------------------------------------------------------------------------------------------------------

    def order(self, *orders: tuple[Worker, str, dict[str, Any]]) -> list[int]:
        """Give orders, (worker, operation, arguments) each, all at once; return their numbers."""
        lines: list[Line] = []
        for worker, operation, arguments in orders:
            self._number += 1
            lines.append({"n": self._number, "to": worker.id, "op": operation, "with": arguments})
        self._say(*lines)
        return [line["n"] for line in lines]

    def next_number(self) -> int:
        """Return the number that the next order will have."""
        return self._number + 1

    def collect(self, numbers: Sequence[int], limit_s: float) -> list[Answer]:
        """Wait for the answers to orders.

        Raises:
            NotOk: one is an error, or does not come.
            InputError: a worker has gone.
        """
        deadline = time.monotonic() + limit_s
        pending = set(numbers)
        found: dict[int, Line] = {}
        while pending:
            self._tick()
            for worker in self.workers:
                worker.listen()
                found |= {number: worker.answers.pop(number) for number in pending & worker.answers.keys()}
            pending -= found.keys()
            if pending:
                self._look_after_started()
                if time.monotonic() > deadline:
                    raise NotOk(f"no answer came within {limit_s:.0f} s")
                time.sleep(0.005)
        for line in found.values():
            if "error" in line:
                raise NotOk(line["error"])
        return [found[number]["ok"] for number in numbers]

    def _say(self, *lines: Line) -> None:
        try:
            self._words.say(*lines)
        except OSError as error:
            raise WorkdirError(
                f"{self.meeting.path}: nothing can be written there any more: {error.strerror}",
                hint="free some space; the self-test needs a few megabytes",
            ) from error

    def ask(self, *orders: tuple[Worker, str, dict[str, Any]], limit_s: float = 3 * PATIENCE_S) -> list[Answer]:
        """Give orders, and wait for the answers."""
        return self.collect(self.order(*orders), limit_s)

    def ask_all(self, operation: str, limit_s: float = 3 * PATIENCE_S, **arguments: Any) -> list[Answer]:
        """Give all workers the same order, and wait for the answers."""
        return self.ask(*((worker, operation, arguments) for worker in self.workers), limit_s=limit_s)


def launched(launcher: str, label: str, words: Sequence[str]) -> list[str]:
    """Return the command that starts a worker on a host: `{host}` is the host, `{command}` the worker's line, quoted as
    one word for a remote shell. Without `{command}` the worker's words are appended.

    Raises:
        InputError: the launcher is no command.
    """
    try:
        argv = [word.replace("{host}", label) for word in shlex.split(launcher)]
    except ValueError as error:
        raise InputError(f"--launcher {launcher!r}: {error}") from error
    if not argv:
        raise InputError("--launcher is empty", hint="for example --launcher 'srun -w {host} -N1 -n1'")
    if any("{command}" in word for word in argv):
        return [word.replace("{command}", shlex.join(words)) for word in argv]
    return [*argv, *words]
