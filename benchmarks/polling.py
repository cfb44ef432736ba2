"""How long it takes to read what a scheduler says of 10,000 and 100,000 jobs, and how much memory.

    python benchmarks/polling.py

The answers are made up, in the form that the commands give them in: half of the jobs asked for run, the others wait,
are held or have ended, and for every ten there is one that was not asked for. They stand in a file, as a command's
output does. The time is the processor's. The targets: 10,000 jobs within 0.2 s, and at 100,000 no more than 1,000 bytes
a job besides that file.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import arguments, scratch, show, tell
from taskfarmer.batch import Answer, BatchSystem, Call, JobId, JobState, carry_out, system_class

TARGET_S = 0.2
TARGET_BYTES = 1000
FEW, MANY = 10_000, 100_000
ARRAY = 1000
"""Elements of a submission."""


@dataclass(frozen=True)
class Dialect:
    """A system, an id of its for element `n` of submission `array`, and the text that it has about `count` jobs."""

    system: str
    id: Callable[[int, int], str]
    text: Callable[[int], Iterator[str]]


def numbers(count: int) -> Iterator[tuple[int, int, int]]:
    """Yield (submission, element, number) of `count` jobs, and behind every tenth one that was not asked for."""
    for number in range(count):
        array, element = divmod(number, ARRAY)
        yield 500_000 + array, element + 1, number
        if number % 10 == 9:
            yield 100_000 + array, element + 1, number


def slurm(count: int) -> Iterator[str]:
    """Yield lines of `squeue`."""
    states = ("RUNNING|0|None|", "PENDING|0|Priority|", "RUNNING|0|None|", "FAILED|256|NonZeroExitCode|")
    for array, element, number in numbers(count):
        yield f"{array}_{element}|{states[number % 4]}nid{number % 3000:06}|\n"


def htcondor(count: int) -> Iterator[str]:
    """Yield lines of `condor_q -json`."""
    yield "["
    for position, (array, element, number) in enumerate(numbers(count)):
        ad: dict[str, object] = {"ClusterId": array, "JobStatus": (2, 1, 2, 5)[number % 4], "ProcId": element - 1}
        if number % 4 == 3:
            ad |= {"HoldReason": "The job exceeded its memory", "HoldReasonCode": 34, "HoldReasonSubCode": 0}
        elif number % 2 == 0:
            ad |= {"RemoteHost": f"slot1_{number % 64}@b7g{number % 3000:04}.example.org"}
        yield ("\n" if position == 0 else ",\n") + json.dumps(ad, indent=2) + "\n"
    yield "]\n"


def lsf(count: int) -> Iterator[str]:
    """Yield lines of `bjobs -json`."""
    yield f'{{\n  "COMMAND":"bjobs",\n  "JOBS":{count + count // 10},\n  "RECORDS":[\n'
    for position, (array, element, number) in enumerate(numbers(count)):
        stat = ("RUN", "PEND", "RUN", "EXIT")[number % 4]
        record = {
            "JOBID": str(array), "JOBINDEX": str(element), "STAT": stat, "EXIT_CODE": "3" if stat == "EXIT" else "",
            "EXIT_REASON": "", "EXEC_HOST": f"host{number % 3000}" if stat != "PEND" else "",
            "PEND_REASON": "New job is waiting for scheduling;" if stat == "PEND" else "",
        }  # fmt: skip
        yield ("" if position == 0 else ",\n") + json.dumps(record, indent=2)
    yield "\n  ]\n}\n"


DIALECTS = (
    Dialect("slurm", lambda array, element: f"{array}_{element}", slurm),
    Dialect("htcondor", lambda array, element: f"{array}.{element - 1}", htcondor),
    Dialect("lsf", lambda array, element: f"{array}[{element}]", lsf),
)


def main() -> int:
    """Run the benchmark; 1 if a target was missed."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args()
    with scratch(options.scratch) as place:
        rows = [measured(dialect, count, options.rounds, place) for dialect in DIALECTS for count in (FEW, MANY)]
    show(rows, as_json=options.json)
    return int(any(row["target"] not in ("yes", "-") for row in rows))


def measured(dialect: Dialect, count: int, rounds: int, place: Path) -> dict[str, object]:
    """Return the row of a system."""
    tell(f"{dialect.system}: {count} jobs")
    system = system_class(dialect.system)({})
    jobs = [JobId(dialect.id(500_000 + number // ARRAY, number % ARRAY + 1)) for number in range(count)]
    with tempfile.TemporaryFile(dir=place) as file:
        for line in dialect.text(count):
            file.write(line.encode())
        file.flush()
        seconds = statistics.median(poll(system, jobs, file) for _ in range(rounds))
        tracemalloc.start()
        poll(system, jobs, file)
        per_job = tracemalloc.get_traced_memory()[1] / count
        tracemalloc.stop()
        size = file.tell()
    good = seconds <= TARGET_S if count == FEW else per_job <= TARGET_BYTES
    aim = f"{TARGET_S:g} s" if count == FEW else f"{TARGET_BYTES} bytes"
    return {
        "system": system.title,
        "jobs": count,
        "answer, MB": round(size / 1e6, 1),
        "poll, CPU s": round(seconds, 3),
        "memory, bytes a job": round(per_job),
        "target": "yes" if good else f"missed: {aim}",
    }


def poll(system: BatchSystem, jobs: list[JobId], file: IO[bytes]) -> float:
    """Poll once; return the seconds of processor time.

    Raises:
        RuntimeError: the answer was not understood.
    """
    first = True

    def run(call: Call) -> Answer:
        nonlocal first
        if not first:
            raise RuntimeError(f"{call.program}: one call should have told everything")
        first = False
        return Answer(call, 0, os.fdopen(os.dup(file.fileno()), "rb"), "")  # which closes it

    start = time.process_time()
    said = carry_out(system.poll(jobs), {}, run)
    seconds = time.process_time() - start
    running = sum(status.state is JobState.RUNNING for status in said.values())
    if running != len(jobs) // 2 or any(status.state is JobState.UNKNOWN for status in said.values()):
        raise RuntimeError(f"{system.title}: {running} of {len(jobs)} run, it says")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
