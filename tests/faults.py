"""Fault injection in front of a scheduler's real commands: a directory of wrappers to put first on the PATH.

Each call is written down, and then either goes through to the real command or meets the next fault that the test has
laid out for that command. What goes wrong is what was seen of schedulers under load:

| fault | what happens |
| --- | --- |
| `hang` | nothing, and no end: the caller has to give up |
| `exit N WORDS` | WORDS on stderr, status N; the real command never runs |
| `garbage` | bytes that are no answer, status 0; the real command never runs |
| `empty` | no answer, status 0; the real command never runs |
| `slow S` | the real answer, S seconds late |
| `partial` | the first half of the real answer, status 0 |
| `lost` | the real command does what it does, but its answer is lost: status 1, and a word about a socket |
| `lost-hang` | the same, and the command hangs |
| `held` | nothing, until the test says `release`; then the real command runs |
| `done-held` | the real command does what it does, but its answer waits for `release` |
"""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from taskfarmer.batch import JobId, JobStatus, Limits, Outcome, Steps, Submission
from taskfarmer.batch.slurm import Slurm

HASTE_S = 5.0
HASTY_SLURM = "tests.faults.HastySlurm"
"""What to give to `--batch` where commands are to hang."""
ROOT = Path(__file__).parent.parent
"""What must be on the PYTHONPATH of a farmer for that."""
_T = TypeVar("_T")

_WRAPPER = """\
#!/bin/bash
# In front of {real}: see tests/faults.py.
here={here}
exec 9>>"$here/lock"
flock 9
printf '%s\\n' "{name} $*" | head -n 1 >>"$here/calls"
fault=$(head -n 1 "$here/{name}.faults" 2>/dev/null)
if [ -n "$fault" ]; then sed -i 1d "$here/{name}.faults"; echo "{name} $fault" >>"$here/met"; fi
flock -u 9
exec 9>&-
held() {{
    for _ in {{1..3000}}; do
        case $(cat "$here/released" 2>/dev/null) in run) return ;; drop) exit 1 ;; esac
        sleep 0.05
    done
    exit 99
}}
case $fault in
'') exec {real} "$@" ;;
hang) exec sleep 100000 ;;
exit*) set -- $fault; shift; status=$1; shift; echo "$*" >&2; exit "$status" ;;
garbage) head -c 3000 /dev/urandom; exit 0 ;;
empty) exit 0 ;;
slow*) sleep "${{fault#slow }}"; exec {real} "$@" ;;
partial) answer=$({real} "$@"; echo x); answer=${{answer%x}}; printf '%s' "${{answer:0:${{#answer}}/2}}"; exit 0 ;;
lost) {real} "$@" >/dev/null 2>&1; echo "{name}: error: Socket timed out on send/recv operation" >&2; exit 1 ;;
lost-hang) {real} "$@" >/dev/null 2>&1; exec sleep 100000 ;;
held) held; exec {real} "$@" ;;
done-held) answer=$({real} "$@"); held; printf '%s\n' "$answer"; exit 0 ;;
*) echo "no fault: $fault" >&2; exit 99 ;;
esac
"""


class Faults:
    """Wrappers for `programs`, found on `path`, in a directory that is made; put it before the rest of the PATH."""

    def __init__(self, directory: Path, programs: Iterable[str], path: str) -> None:
        self.directory = directory
        directory.mkdir()
        for name in programs:
            real = shutil.which(name, path=path)
            assert real is not None, f"{name} is not on {path}"
            wrapper = directory / name
            here = shlex.quote(str(directory))
            wrapper.write_text(_WRAPPER.format(real=shlex.quote(real), here=here, name=name))
            wrapper.chmod(0o755)

    def lay(self, program: str, *faults: str) -> None:
        """The next calls of a command meet these, one each."""
        with open(self.directory / f"{program}.faults", "a") as file:
            file.write("".join(f"{fault}\n" for fault in faults))

    def lift(self) -> None:
        """From now on all is well."""
        for path in self.directory.glob("*.faults"):
            path.write_text("")

    def release(self, *, drop: bool = False) -> None:
        """Let go of what is held; `drop`: it does nothing more, as if it had died."""
        (self.directory / "released").write_text("drop" if drop else "run")

    def calls(self) -> Counter[str]:
        """Return how often each command was called."""
        return Counter(line.split()[0] for line in self._lines("calls"))

    def met(self) -> Counter[str]:
        """Return which faults were met, as `command fault`."""
        return Counter(self._lines("met"))

    def _lines(self, name: str) -> list[str]:
        path = self.directory / name
        return [line for line in path.read_text(errors="replace").splitlines() if line] if path.exists() else []


class HastySlurm(Slurm):
    """Slurm whose commands are given up after some seconds, not a minute."""

    def submit(self, submission: Submission) -> Steps[Outcome]:
        """Submit."""
        return _in_haste(super().submit(submission))

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Ask how jobs are."""
        return _in_haste(super().poll(jobs))

    def cancel(self, jobs: Collection[JobId]) -> Steps[None]:
        """End jobs."""
        return _in_haste(super().cancel(jobs))

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        """Look for a submission."""
        return _in_haste(super().find(name))

    def limits(self) -> Steps[Limits]:
        """Ask what is allowed."""
        return _in_haste(super().limits())

    def instance(self) -> Steps[str]:
        """Ask for the cluster's name."""
        return _in_haste(super().instance())


def _in_haste(steps: Steps[_T]) -> Steps[_T]:
    call = next(steps, None)
    try:
        while call is not None:
            call = steps.send((yield replace(call, limit_s=HASTE_S)))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it asks nothing")
