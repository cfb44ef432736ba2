"""A scheduler's commands: what is to be run, what it answered, and the plain way to run it.

A batch system does not run anything by itself. Its methods are generators: they yield a `Call` and are sent the
`Answer`, as often as they need to, and return their result. So the same dialect serves the loop of a farmer, which
must not wait for a scheduler that hangs (`farm.executors.batch`), and a command that may (`carry_out`), and a test can
answer whatever it likes.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TypeVar

_T = TypeVar("_T")

LIMIT_S = 60.0
"""How long a command may take; schedulers under load take their time, and some retry for a minute by themselves."""
MOST_BYTES = 16 << 20
"""What a command may print: some print without end. That is far more than one says that submits or cancels."""
QUEUE_BYTES = 1 << 30
"""The same where it tells of jobs; PBS has 2 KB to say of each, and there may be 100,000. It stands in a file."""
HUNG = 124
MISSING = 127
_BLOCK = 1 << 18
_WORDS = 300
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A command to run: `argv[0]` is looked for on the PATH. `cwd` None: anywhere. `limit_s` seconds at most,
    in which it may print `most_bytes` on both streams together.

    `environ`: all that it gets of the environment; None: all that there is.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    cwd: str | None = None
    limit_s: float = LIMIT_S
    environ: Mapping[str, str] | None = None
    most_bytes: int = MOST_BYTES

    @property
    def program(self) -> str:
        """Its name, for messages."""
        return os.path.basename(self.argv[0])


def about_jobs(*argv: str) -> Call:
    """Return a call of a command that tells of jobs, of which there may be many."""
    return Call(argv=argv, most_bytes=QUEUE_BYTES)


class Answer:
    """What a command said: its exit status (124: it hung and was killed; 127: it is not there) and both streams.

    What printed too much was killed as well, and nothing of it is kept.

    Output is kept in a file, so that an answer about 100,000 jobs can be read line by line.
    """

    def __init__(self, call: Call, status: int, out: IO[bytes], err: str) -> None:
        self.call = call
        self.status = status
        self.err = err
        self._out = out
        weakref.finalize(self, out.close)

    @classmethod
    def of(cls, call: Call, status: int = 0, out: str | bytes = b"", err: str = "") -> Answer:
        """Return an answer made by hand."""
        output = out if isinstance(out, bytes) else out.encode(errors="surrogateescape")
        return cls(call, status, io.BytesIO(output), err)

    @property
    def text(self) -> str:
        """All of the output; what is no UTF-8 in it is replaced."""
        self._out.seek(0)
        return self._out.read().decode(errors="replace")

    def lines(self) -> Iterator[str]:
        """Yield the lines of the output without their ends."""
        self._out.seek(0)
        for line in self._out:
            yield line.decode(errors="replace").rstrip("\r\n")

    def blocks(self) -> Iterator[bytes]:
        """Yield the output in pieces of no meaning, for what takes it apart faster than line by line."""
        self._out.seek(0)
        while block := self._out.read(_BLOCK):
            yield block

    def parts(self, mark: bytes) -> Iterator[bytes]:
        """Yield what stands behind each `mark` at the start of a line, up to the next, or to the end."""
        between, rest, begun = b"\n" + mark, b"\n", False
        for block in self.blocks():
            *whole, rest = (rest + block).split(between)
            for part in whole:
                if begun:
                    yield part + b"\n"
                begun = True
        if begun:
            yield rest

    @property
    def is_whole(self) -> bool:
        """Whether the output is empty or ends with a line's end; else it was cut, and lines may be missing."""
        if self._out.seek(0, os.SEEK_END) == 0:
            return True
        self._out.seek(-1, os.SEEK_END)
        return self._out.read(1) == b"\n"

    @property
    def ok(self) -> bool:
        """Whether the command ended with status 0."""
        return self.status == 0

    @property
    def never_ran(self) -> bool:
        """Whether nothing can have happened: there is no such program."""
        return self.status == MISSING and not self.err

    @property
    def trouble(self) -> str:
        """What went wrong, in one line: the command's own words where it had any."""
        if self.status == HUNG:
            limit_s = self.call.limit_s
            return f"{self.call.program} did not answer " + (f"within {limit_s:.0f} s" if limit_s >= 1 else "in time")
        if self.never_ran:
            return f"{self.call.program} is not on the PATH"
        said = " ".join((self.err.strip() or self.text.strip()).split())[:500]
        how = f"was killed by signal {-self.status}" if self.status < 0 else f"ended with status {self.status}"
        return f"{self.call.program} {how}: {said}" if said else f"{self.call.program} {how}"

    @property
    def last_words(self) -> str:
        """The end of all that it said, in one line; empty if it said nothing."""
        words = " ".join(f"{self.text} {self.err}".split())
        plain = "".join(letter if letter.isprintable() else "?" for letter in words)
        return plain if len(plain) <= _WORDS else f"... {plain[-_WORDS:]}"


Steps = Generator[Call, Answer, _T]
"""What a method of a batch system returns: it asks for calls, and ends with a value."""


def at_once(value: _T) -> Steps[_T]:
    """Return steps that need no command."""
    yield from ()  # which makes this a generator
    return value


def carry_out(steps: Steps[_T], environ: Mapping[str, str], run: Callable[[Call], Answer] | None = None) -> _T:
    """Run all calls of the steps, one after the other, and return their value; waits for each."""
    try:
        call = next(steps)
        while True:
            call = steps.send(run(call) if run else run_call(call, environ))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


class Running:
    """A call on its way. `pid` tells of its end (SIGCHLD, pidfd); it is killed with all it started by `kill`."""

    def __init__(self, call: Call, environ: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            FileNotFoundError: there is no such program.
            OSError: the machine cannot start a process now.
        """
        program = shutil.which(call.argv[0], path=environ.get("PATH", os.defpath))
        if program is None:
            raise FileNotFoundError(call.argv[0])
        self.call = call
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the answer
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as stdin:
            stdin.write(call.stdin)
            stdin.seek(0)
            self._process = subprocess.Popen(
                [program, *call.argv[1:]], stdin=stdin, stdout=self._out, stderr=self._err, cwd=call.cwd,
                env=dict(environ if call.environ is None else call.environ), start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def answer(self, timeout_s: float = 0.0) -> Answer | None:
        """Return the answer if the command ends within so many seconds, else None. One that has printed too much by
        then is ended.
        """
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self._flooded() if self._floods() else None
        return self._flooded() if self._floods() else self._answer(status)

    def kill(self) -> Answer:
        """End it; return that it hung."""
        self._end()
        return self._answer(HUNG)

    def _floods(self) -> bool:
        return sum(os.fstat(file.fileno()).st_size for file in (self._out, self._err)) > self.call.most_bytes

    def _flooded(self) -> Answer:
        self._end()
        self._out.close()
        self._err.close()
        return Answer.of(self.call, -signal.SIGKILL, err=f"it printed more than {self.call.most_bytes >> 20} MB")

    def _end(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _answer(self, status: int) -> Answer:
        with self._err as file:
            file.seek(0)
            err = file.read(65536).decode(errors="replace")
        return Answer(self.call, status, self._out, err)


def run_call(call: Call, environ: Mapping[str, str]) -> Answer:
    """Run a command and wait for it, at most for its limit, or until it has printed too much."""
    try:
        running = Running(call, environ)
    except FileNotFoundError:
        return Answer.of(call, MISSING)
    until = time.monotonic() + call.limit_s
    while (left_s := until - time.monotonic()) > 0:
        if (answer := running.answer(min(left_s, _LOOK_S))) is not None:
            return answer
    return running.answer() or running.kill()
