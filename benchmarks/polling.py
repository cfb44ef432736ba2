"""How long it takes to read what a scheduler says of 10,000 and 100,000 jobs, and how much memory.

    python benchmarks/polling.py

The answers are made up, in the form that the commands give them in: half of the jobs asked for run, a quarter waits, a
quarter is held or has ended, and for every ten there is one that was not asked for. They stand in a file, as a
command's output does. Grid Engine's queue does not know jobs that ended: a poll reads its accounting as well, so there
are two answers. The time is the processor's. The targets: 10,000 jobs within 0.2 s, and at 100,000 no more than 1,000
bytes a job besides that file.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
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
    """A system, an id of its for element `n` of submission `array`, and its answers to a poll of `count` jobs, each as
    the pieces of its text."""

    system: str
    id: Callable[[int, int], str]
    texts: tuple[Callable[[int], Iterator[str]], ...]


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


def pbs(count: int) -> Iterator[str]:
    """Yield records of `qstat -x -t -f`: all that PBS knows of a job, which is most of the text."""
    before = None
    for array, element, number in numbers(count):
        if array != before:
            yield PBS_ARRAY.format(array=array)
            before = array
        host = f"x1000c{number % 3000:04}"
        chunk = f"({host}:ncpus=1:mem=2097152kb)"
        run = f"Job run at Sat Nov 21 at 16:33 on {chunk}"
        place = f"    exec_host = {host}/0\n    exec_vnode = {chunk}\n"
        letter, where, substate, comment, end = (
            ("R", place, 42, run, ""),
            ("Q", "", 10, "Not Running: Not enough free nodes available", ""),
            ("R", place, 42, run, ""),
            ("X", place, 93, f"{run} and failed", "    Exit_status = 3\n"),
        )[number % 4]
        yield PBS_JOB.format(
            array=array, element=element, letter=letter, place=where, substate=substate, comment=comment, end=end
        )


PBS_ARRAY = """\
Job Id: {array}[].pbs1
    Job_Name = tf0123456789ab
    Job_Owner = me@login1.example.org
    job_state = B
    queue = workq
    server = pbs1
    array = True
    array_state_count = Queued:250 Running:500 Exiting:0 Expired:250
    array_indices_submitted = 1-1000

"""
PBS_JOB = """\
Job Id: {array}[{element}].pbs1
    Job_Name = tf0123456789ab
    Job_Owner = me@login1.example.org
    resources_used.cpupercent = 98
    resources_used.cput = 00:12:10
    resources_used.mem = 1287344kb
    resources_used.ncpus = 1
    resources_used.vmem = 1601392kb
    resources_used.walltime = 00:12:31
    job_state = {letter}
    queue = workq
    server = pbs1
    Checkpoint = u
    ctime = Sat Nov 21 16:30:07 2026
    Error_Path = login1.example.org:/home/me/analysis/tasks.farm/batch/0123456789ab/tf01
\t23456789ab.e{array}.{element}
{place}    Hold_Types = n
    Join_Path = oe
    Keep_Files = n
    Mail_Points = a
    mtime = Sat Nov 21 16:33:15 2026
    Output_Path = login1.example.org:/dev/null
    Priority = 0
    qtime = Sat Nov 21 16:30:08 2026
    Rerunable = True
    Resource_List.mem = 2gb
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = pack
    Resource_List.select = 1:ncpus=1:mem=2048mb
    Resource_List.walltime = 02:00:00
    stime = Sat Nov 21 16:33:15 2026
    session_id = 12345
    jobdir = /home/me
    substate = {substate}
    Variable_List = PBS_O_SYSTEM=Linux,PBS_O_SHELL=/bin/bash,PBS_O_HOME=/home/me,
\tPBS_O_LOGNAME=me,PBS_O_WORKDIR=/home/me/analysis/tasks.farm/batch/01234567
\t89ab,PBS_O_LANG=en_GB.UTF-8,
\tPBS_O_PATH=/home/me/.local/bin:/opt/pbs/bin:/usr/local/bin:/usr/bin:/usr/lo
\tcal/sbin:/usr/sbin,PBS_O_MAIL=/var/spool/mail/me,PBS_O_QUEUE=workq,
\tPBS_O_HOST=login1.example.org
    comment = {comment}
    etime = Sat Nov 21 16:30:08 2026
    run_count = 1
    eligible_time = 00:03:07
    array_id = {array}[].pbs1
    array_index = {element}
{end}    Submit_arguments = -S /bin/sh -j oe -o /dev/null -N tf0123456789ab -J 1-1000 -l
\tselect=1:ncpus=1:mem=2048mb -l walltime=2:00:00 job.sh
    project = _pbs_project_default

"""


def gridengine(count: int) -> Iterator[str]:
    """Yield elements of `qstat -xml`; one that waits alone is told alone, as those with other priorities are."""
    yield "<?xml version='1.0'?>\n<job_info  xmlns:xsd=\"http://example.org/qstat.xsd\">\n  <queue_info>\n"
    for array, element, number in numbers(count):
        if number % 4 in (0, 2):
            yield QSTAT_JOB.format(
                told="running",
                array=array,
                state="r",
                time="JAT_start",
                queue=f"main@n{number % 3000}",
                element=element,
            )
    yield "  </queue_info>\n  <job_info>\n"
    for array, element, number in numbers(count):
        if number % 4 == 1:
            yield QSTAT_JOB.format(
                told="pending", array=array, state="qw", time="JB_submission", queue="", element=element
            )
    yield "  </job_info>\n</job_info>\n"


QSTAT_JOB = """\
    <job_list state="{told}">
      <JB_job_number>{array}</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>tf0123456789ab</JB_name>
      <JB_owner>me</JB_owner>
      <state>{state}</state>
      <{time}_time>2026-11-21T16:33:46</{time}_time>
      <queue_name>{queue}</queue_name>
      <slots>1</slots>
      <tasks>{element}</tasks>
    </job_list>
"""


def accounting(count: int) -> Iterator[str]:
    """Yield records of `qacct -j` of the jobs that ended."""
    for array, element, number in numbers(count):
        if number % 4 == 3:
            yield QACCT_JOB.format(array=array, element=element, host=f"n{number % 3000}")


QACCT_JOB = (
    "==============================================================\n"
    "qname        main\nhostname     {host}\ngroup        users\nowner        me\nproject      NONE\n"
    "department   defaultdepartment\njobname      tf0123456789ab\njobnumber    {array}\ntaskid       {element}\n"
    "account      sge\npriority     0\nqsub_time    Sat Nov 21 16:33:46 2026\n"
    "start_time   Sat Nov 21 16:33:46 2026\nend_time     Sat Nov 21 16:33:49 2026\ngranted_pe   NONE\nslots        1\n"
    "failed       0    \nexit_status  3\nru_wallclock 3s\nru_utime     0.010s\nru_stime     0.000s\n"
    "ru_maxrss    4.535KB\nru_ixrss     0.000B\nru_ismrss    0.000B\nru_idrss     0.000B\nru_isrss     0.000B\n"
    "ru_minflt    637\nru_majflt    0\nru_nswap     0\nru_inblock   0\nru_oublock   8\nru_msgsnd    0\n"
    "ru_msgrcv    0\nru_nsignals  0\nru_nvcsw     15\nru_nivcsw    7\ncpu          0.010s\nmem          0.000Bs\n"
    "io           46.137KB\niow          0.000s\nmaxvmem      3.504MB\narid         undefined\n"
    "ar_sub_time  undefined\ncategory     NONE\n"
)


DIALECTS = (
    Dialect("slurm", lambda array, element: f"{array}_{element}", (slurm,)),
    Dialect("htcondor", lambda array, element: f"{array}.{element - 1}", (htcondor,)),
    Dialect("lsf", lambda array, element: f"{array}[{element}]", (lsf,)),
    Dialect("pbs", lambda array, element: f"{array}[{element}].pbs1", (pbs,)),
    Dialect("sge", lambda array, element: f"{array}.{element}", (gridengine, accounting)),
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
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(dir=place)) for _ in dialect.texts]
        for file, text in zip(files, dialect.texts, strict=True):
            file.writelines(piece.encode() for piece in text(count))
            file.flush()
        size = sum(file.tell() for file in files)
        seconds = statistics.median(poll(system, jobs, files) for _ in range(rounds))
        tracemalloc.start()
        poll(system, jobs, files)
        per_job = tracemalloc.get_traced_memory()[1] / count
        tracemalloc.stop()
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


def poll(system: BatchSystem, jobs: list[JobId], files: Sequence[IO[bytes]]) -> float:
    """Poll once, with a file for each answer; return the seconds of processor time.

    Raises:
        RuntimeError: the answer was not understood.
    """
    answers = iter(files)

    def run(call: Call) -> Answer:
        file = next(answers, None)
        if file is None:
            raise RuntimeError(f"{call.program}: {len(files)} calls should have told everything")
        return Answer(call, 0, os.fdopen(os.dup(file.fileno()), "rb"), "")  # which closes it

    start = time.process_time()
    said = carry_out(system.poll(jobs), {}, run)
    seconds = time.process_time() - start
    running = sum(status.state is JobState.RUNNING for status in said.values())
    if running != len(jobs) // 2 or any(status.state in (JobState.UNKNOWN, JobState.GONE) for status in said.values()):
        raise RuntimeError(f"{system.title}: {running} of {len(jobs)} run, it says")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
