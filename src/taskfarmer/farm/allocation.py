"""When the batch job that a farmer lives in comes to its end, as its surroundings tell.

Nobody has to tell: then the farmer works until it is told to stop. Who is asked, the first that is there:

* the user: `--until`, or the variable TASKFARMER_END_TIME (seconds since the epoch), for any batch system;
* Slurm: in newer versions SLURM_JOB_END_TIME says it at once; `squeue` always, and again when the limit was
  changed (`scontrol update`);
* LSF: `bjobs`, which knows what is left of the run limit;
* HTCondor: the job's description, in the file that _CONDOR_JOB_AD names, has the limits that its owner set.

Commands are asked beside the loop: it looks whether an answer is there, and never waits for one. No program, no answer,
an answer that cannot be read: all of that only means that nothing new is known.
"""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import subprocess

UNKNOWN = math.inf
ANSWER_S = 30.0
"""How long an answer may take; schedulers under load take their time."""
AGAIN_S = 300.0
"""How often a scheduler that has answered is asked again: thousands of farmers may ask the same one."""
SOONER_S = 60.0
"""The same while nothing is known."""
CHANGED_S = 60.0
"""How much another end must differ to be said."""
SETTLE_S = 5.0
"""What a farmer needs, beyond the grace of its tasks, to write down how they ended and leave."""

_END_TIME = "TASKFARMER_END_TIME"
_CLOCK = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")
_MOST_READS = 4
"""Parts of an answer that are read at a time: what never ends must not hold the loop."""

Reading = Callable[[str], float | None]
"""Turns a command's answer into seconds left: infinity for no limit, None where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the end of a job can be learnt; by itself nowhere. `end` is in seconds since the epoch.

    `name` is for people. `argv` is a command and `reading` understands its answer. `job_ad` is a file of HTCondor.
    """

    name: str = ""
    end: float = UNKNOWN
    argv: tuple[str, ...] = ()
    reading: Reading | None = None
    job_ad: str = ""


NOWHERE = Source()


def moment(text: str, now: float) -> float:
    """Return a time to come, in seconds since the epoch: `18:00`, `2026-11-21T18:00` (ISO 8601), or `none` (infinity).

    It is local time, unless a zone is given. `now` is in seconds since the epoch.

    Raises:
        ValueError: it is none of these, or has passed.
    """
    if text == "none":
        return UNKNOWN
    from datetime import UTC, datetime, timedelta

    here = datetime.fromtimestamp(now, UTC).astimezone().replace(tzinfo=None)
    try:
        if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
            found = datetime.fromisoformat(f"{here:%Y-%m-%d}T{text}")
            found += timedelta(days=found <= here)
        else:
            found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a time such as 18:00 or 2026-11-21T18:00 nor none") from None
    if found.timestamp() <= now:
        raise ValueError(f"{text} has passed")
    return found.timestamp()


def source_of(environ: Mapping[str, str]) -> Source:
    """Return the source that an environment names.

    Raises:
        InputError: TASKFARMER_END_TIME is no number.
    """
    if said := environ.get(_END_TIME):
        if not re.fullmatch(r"\d{1,12}(\.\d*)?", said):
            hint = "give seconds since the epoch, as `date +%s` prints them, or unset it"
            raise InputError(f"{_END_TIME} is {said!r}, which is no time", hint=hint)
        return Source(name=_END_TIME, end=float(said))
    if (job := environ.get("SLURM_JOB_ID", "")).isdigit():
        return _slurm(job, environ)
    if (job := environ.get("LSB_JOBID", "")).isdigit():
        index = environ.get("LSB_JOBINDEX", "0")
        named = f"{job}[{index}]" if index.isdigit() and int(index) else job
        return Source(name=f"LSF job {named}", argv=("bjobs", "-noheader", "-o", "time_left", named), reading=lsf_left)
    if job_ad := environ.get("_CONDOR_JOB_AD"):
        return Source(name="HTCondor job", job_ad=job_ad)
    return NOWHERE


def _slurm(job: str, environ: Mapping[str, str]) -> Source:
    array, index = environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
    # The last element of an array has the id of the whole: that would be answered for all of them.
    named = f"{array}_{index}" if array.isdigit() and index.isdigit() else job
    end = environ.get("SLURM_JOB_END_TIME", "")
    return Source(
        name=f"Slurm job {named}",
        end=float(end) if end.isdigit() else UNKNOWN,
        argv=("squeue", "--noheader", "--format=%L", f"--jobs={named}"),
        reading=slurm_left,
    )


def slurm_left(answer: str) -> float | None:
    """Return the seconds that `squeue -o %L` says: `[days-][hours:]minutes:seconds`, or that there is no limit."""
    text = _last_line(answer)
    if text == "UNLIMITED":
        return math.inf
    if (found := _CLOCK.fullmatch(text)) is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 86400.0 * days + 3600 * hours + 60 * minutes + seconds


def _last_line(answer: str) -> str:
    """Return what is said behind remarks such as `Cannot connect to LSF. Please wait ...`."""
    return answer.strip().rpartition("\n")[2].strip()


def lsf_left(answer: str) -> float | None:
    """Return the seconds that `bjobs -o time_left` says: `hours:minutes L`, where `L` stands for the run limit.

    With `E` or `X` in its place it is an estimate that is told, which LSF does not end a job for.
    """
    found = re.fullmatch(r"(\d+):(\d+)(?::(\d+))? *L", _last_line(answer))
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def condor_end(job_ad: str) -> float:
    """Return the end, in seconds since the epoch, of the job that a text describes: when it will be put on hold.

    AllowedExecuteDuration counts from the start of its program, a moment after JobCurrentStartDate; so what is returned
    may be that much early.
    """
    numbers = dict(re.findall(r"^(\w+) *= *(\d+)\s*$", job_ad, re.MULTILINE))
    limits = [int(numbers[key]) for key in ("AllowedJobDuration", "AllowedExecuteDuration") if key in numbers]
    if not limits or "JobCurrentStartDate" not in numbers:
        return UNKNOWN
    return float(int(numbers["JobCurrentStartDate"]) + min(limits))


def span(seconds: float) -> str:
    """Return a time span in a word or two: `40 s`, `4 min`, `2.5 h`."""
    if seconds < 100:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Allocation:
    """Keeps knowing when the job ends. Times on the loop's clock are in seconds; `wall` is since the epoch.

    `chance` in [0, 1) spreads the questions of farmers that started together.
    """

    def __init__(
        self, source: Source = NOWHERE, environ: Mapping[str, str] | None = None, *, chance: float = 0.5
    ) -> None:
        self.source = source
        self.end = source.end
        """In seconds since the epoch; infinity: unknown, or no end."""
        self._environ = {name: value for name, value in (environ or {}).items() if not name.startswith("SQUEUE_")}
        self._spread = 0.75 + chance / 2
        self._question: _Question | None = None
        self._next = math.inf
        self._fresh = True
        self._told = math.inf
        self._remark = ""

    def left_s(self, now: float, wall: float) -> float:
        """Return how many seconds are left, infinity if nobody says. Quick; to be called every second or so."""
        if self._fresh:
            self._begin(now, wall)
        self._listen(now, wall)
        if self._question is None and self._next <= now:
            self._ask(now)
        return self.end - wall

    def news(self) -> str:
        """Return what is to be said of the end, if that is not what was said last; else the empty text."""
        if self._remark:
            remark, self._remark = self._remark, ""
            return remark
        if self._told == self.end or abs(self._told - self.end) < CHANGED_S:
            return ""
        self._told = self.end
        if self.end == UNKNOWN:
            return f"the allocation has no end any more ({self.source.name})"
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.end))
        return f"the allocation ends at {at} ({self.source.name})"

    def close(self) -> None:
        """Ask no more."""
        self._next = math.inf
        if self._question is not None:
            self._question.end()

    def _begin(self, now: float, wall: float) -> None:
        self._fresh = False
        if self.source.job_ad:
            with suppress(OSError):
                self.end = condor_end(Path(self.source.job_ad).read_text(errors="replace"))
        if self.end <= wall:
            self.end = UNKNOWN  # we live: what is said does not hold, or is another job's
            self._remark = f"the end that {self.source.name} names has passed; it is not minded"
        if self.source.argv:
            self._next = now if self.end == UNKNOWN else now + AGAIN_S * self._spread

    def _ask(self, now: float) -> None:
        try:
            self._question = _Question(self.source.argv, self._environ, now + ANSWER_S)
        except OSError:
            self._next = math.inf  # there is no such program here

    def _listen(self, now: float, wall: float) -> None:
        if self._question is None or (answer := self._question.answer(now)) is None:
            return
        self._question = None
        left = self.source.reading(answer) if self.source.reading is not None else None
        if left is not None:
            self.end = wall + left
        self._next = now + (SOONER_S if self.end == UNKNOWN else AGAIN_S) * self._spread


class _Question:
    """A command that was asked. `until`: when its time is over, on the loop's clock."""

    def __init__(self, argv: tuple[str, ...], environ: Mapping[str, str], until: float) -> None:
        import subprocess

        self._until = until
        self._said = b""
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._stream = self._process.stdout
        os.set_blocking(self._stream.fileno(), False)

    def answer(self, now: float) -> str | None:
        """Return what it said, the empty text if it did not say it in time; None while it may still."""
        if now >= self._until:
            self.end()
            return ""
        with suppress(BlockingIOError):
            for _ in range(_MOST_READS):
                part = os.read(self._stream.fileno(), 4096)
                if not part:
                    self.end()
                    return self._said.decode(errors="replace")
                self._said += part
        return None

    def end(self) -> None:
        """See to it that nothing of it is left. Its exit status may have gone to the executor, and is nobody's."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.returncode = -signal.SIGKILL  # the loop buries it some time
        self._stream.close()
