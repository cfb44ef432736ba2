"""Farmers in batch jobs: what they know of the end, what they do about it, and the job scripts of the documentation.

Schedulers are stand-ins (`standins/batch`), which refuse what they would not understand.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer.core.entries import Report
from taskfarmer.core.ids import format_ids
from taskfarmer.core.model import Task, decode_task, encode_task
from taskfarmer.core.plan import Attempt
from taskfarmer.core.policy import Rules, typical_duration
from taskfarmer.core.records import EVICTED, STOPPED
from taskfarmer.core.resources import Resources, Share
from taskfarmer.core.search import NEAR_LOOK
from taskfarmer.errors import InputError
from taskfarmer.farm import allocation
from taskfarmer.farm.allocation import (
    AGAIN_S,
    ANSWER_S,
    NOWHERE,
    SETTLE_S,
    SOONER_S,
    UNKNOWN,
    Allocation,
    Source,
    condor_end,
    lsf_left,
    moment,
    slurm_left,
    source_of,
    span,
)  # fmt: skip
from taskfarmer.farm.doubt import DOUBT_S, Doubts
from taskfarmer.farm.executors import Exit
from taskfarmer.tasklists.jsonl import JsonLinesTaskList
from tests.farms import (
    SCRIPTS,
    TASKFARMER,
    Done,
    Farm,
    Farmer,
    check_contract,
    is_alive,
    kill,
    processes_with,
    wait_for,
)
from tests.test_core_plan import Loop

STANDINS = Path(__file__).parent / "standins/batch"
EXAMPLES = Path(__file__).parents[1] / "examples/slurm"
JOB = str(10_000 + os.getpid())
"""Another one for each process of pytest: what asks for it is looked for."""
NOW = 1_800_000_000.0
GRACE_S = Rules().stop_grace_s


# -- who says when the job ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("4:56\n", 296), ("0:00", 0), ("1:00:00", 3600), ("2-03:04:05", 183845), ("UNLIMITED", math.inf),
        ("NOT_SET", None), ("INVALID", None), ("", None), ("1:00\n2:00\n", 120),
        ("squeue: error: Unable to contact slurm controller", None),
    ],
)  # fmt: skip
def test_what_squeue_says(said: str, seconds: float | None) -> None:
    assert slurm_left(said) == seconds


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("0:45 L\n", 2700), ("11:59 L", 43140), ("00:45:30 L", 2730), ("0:45 E", None), ("0:00 X", None), ("-", None),
        ("", None), ("Cannot connect to LSF. Please wait ...\n0:10 L\n", 600), ("Job <7> is not found", None),
    ],
)  # fmt: skip
def test_what_bjobs_says(said: str, seconds: float | None) -> None:
    assert lsf_left(said) == seconds


@pytest.mark.parametrize(
    ("job_ad", "end"),
    [
        ("JobCurrentStartDate = 1000\nAllowedJobDuration = 600\n", 1600),
        ("JobCurrentStartDate = 1000\nAllowedJobDuration = 600\nAllowedExecuteDuration = 60\n", 1060),
        ('Cmd = "AllowedJobDuration = 1"\nJobCurrentStartDate = 1000\n', UNKNOWN),
        ("AllowedJobDuration = 600\n", UNKNOWN),
        ("JobCurrentStartDate = 1000\nAllowedJobDuration = ifThenElse(true, 1, 2)\n", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_what_a_job_ad_of_htcondor_says(job_ad: str, end: float) -> None:
    assert condor_end(job_ad) == end


@given(st.text())
def test_no_answer_is_too_odd(said: str) -> None:
    for seconds in (slurm_left(said), lsf_left(said)):
        assert seconds is None or seconds >= 0
    assert condor_end(said) >= 0


def test_who_is_asked() -> None:
    slurm = {"SLURM_JOB_ID": "7"}
    assert source_of({}) is NOWHERE
    assert source_of({"TASKFARMER_END_TIME": "1800000000.5", **slurm}).end == 1_800_000_000.5
    assert source_of(slurm).argv == ("squeue", "--noheader", "--format=%L", "--jobs=7")
    assert source_of(slurm).end == UNKNOWN
    assert source_of({**slurm, "SLURM_JOB_END_TIME": "1800000000"}).end == 1_800_000_000
    element = {**slurm, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert source_of(element).argv[-1] == "--jobs=7_3", "the last element of an array has the id of the whole"
    assert source_of({"LSB_JOBID": "8", "LSB_JOBINDEX": "0"}).argv == ("bjobs", "-noheader", "-o", "time_left", "8")
    assert source_of({"LSB_JOBID": "8", "LSB_JOBINDEX": "2"}).argv[-1] == "8[2]"
    assert source_of({"_CONDOR_JOB_AD": "/scratch/.job.ad"}).job_ad == "/scratch/.job.ad"
    assert source_of({"SLURM_JOB_ID": "", "LSB_JOBID": "; rm -rf /"}) is NOWHERE


@pytest.mark.parametrize("said", ["18:00", "soon", "-1", "1e9", "17999999999999999"])
def test_a_variable_that_says_no_time_is_refused(said: str) -> None:
    with pytest.raises(InputError, match="TASKFARMER_END_TIME"):
        source_of({"TASKFARMER_END_TIME": said})


def test_a_time_on_the_command_line() -> None:
    assert moment("none", NOW) == UNKNOWN
    assert moment("2027-01-15T09:00:00Z", NOW) == NOW + 3600
    soon = time.localtime(NOW + 600)
    assert moment(time.strftime("%Y-%m-%dT%H:%M:%S", soon), NOW) == NOW + 600
    assert moment(time.strftime("%H:%M:%S", soon), NOW) == NOW + 600
    before = time.localtime(NOW - 600)
    assert moment(time.strftime("%H:%M:%S", before), NOW) == pytest.approx(NOW - 600 + 86400, abs=3600)
    with pytest.raises(ValueError, match="has passed"):
        moment(time.strftime("%Y-%m-%dT%H:%M:%S", before), NOW)
    for nonsense in ("", "25:00", "noon", "18", "T18:00"):
        with pytest.raises(ValueError, match="neither"):
            moment(nonsense, NOW)


def test_spans_of_time_in_words() -> None:
    assert [span(seconds) for seconds in (-1, 7.4, 99, 240, 5400, 9000)] == [
        "0 s", "7 s", "99 s", "4 min", "90 min", "2.5 h",
    ]  # fmt: skip


# -- asking, beside the loop -------------------------------------------------------------------------------------------


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    """The file with the stand-ins' answer."""
    return tmp_path / "answer"


@pytest.fixture
def environ(tmp_path: Path, answer: Path) -> dict[str, str]:
    """An environment in which the stand-ins are found, and know the job."""
    return {
        "PATH": f"{STANDINS}:{os.environ['PATH']}", "STANDIN_JOB": JOB, "STANDIN_LEFT": str(answer),
        "STANDIN_CALLS": str(tmp_path / "calls"), "SLURM_JOB_ID": JOB,
    }  # fmt: skip


def calls(environ: dict[str, str]) -> list[str]:
    """Return the calls that stand-ins have written down."""
    path = Path(environ["STANDIN_CALLS"])
    return path.read_text().splitlines() if path.exists() else []


def ask(asked: Allocation, now: float = 0.0) -> float:
    """Return what is left when the question that is under way at `now` has been answered."""
    asked.left_s(now, NOW)
    wait_for(lambda: asked.left_s(now, NOW) < UNKNOWN, "an answer")
    return asked.left_s(now, NOW)


@pytest.fixture
def asked(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Allocation]:
    """What a farmer in a job of the stand-in Slurm knows."""
    monkeypatch.setenv("PATH", environ["PATH"])
    made = Allocation(source_of(environ), environ)
    yield made
    made.close()


def test_slurm_is_asked_at_once_and_now_and_then(asked: Allocation, answer: Path, environ: dict[str, str]) -> None:
    answer.write_text("10:00\n")
    assert ask(asked) == 600
    assert f"(Slurm job {JOB})" in asked.news()
    assert asked.news() == "", "it is said once"
    answer.write_text("1:10:00\n")
    assert asked.left_s(AGAIN_S - 1, NOW + 10) == 590
    assert len(calls(environ)) == 1
    asked.left_s(AGAIN_S, NOW + 10)
    wait_for(lambda: asked.left_s(AGAIN_S, NOW + 10) == 4200, "the new limit")
    assert "ends at" in asked.news(), "it is another end"


def test_a_limit_that_was_taken_away(asked: Allocation, answer: Path) -> None:
    answer.write_text("10:00\n")
    ask(asked)
    asked.news()
    answer.write_text("UNLIMITED\n")
    asked.left_s(AGAIN_S, NOW)
    wait_for(lambda: asked.left_s(AGAIN_S, NOW) == UNKNOWN, "the new answer")
    assert "no end" in asked.news()


def test_an_answer_that_says_nothing_is_asked_for_again(
    asked: Allocation, answer: Path, environ: dict[str, str]
) -> None:
    answer.write_text("NOT_SET\n")
    asked.left_s(0.0, NOW)
    wait_for(lambda: calls(environ) and not _alive_with(f"--jobs={JOB}"), "the first answer")
    assert asked.left_s(0.0, NOW) == UNKNOWN
    answer.write_text("5:00\n")
    asked.left_s(SOONER_S - 1, NOW)
    assert len(calls(environ)) == 1
    assert ask(asked, SOONER_S) == 300
    assert len(calls(environ)) == 2


def test_what_slurm_said_beforehand_holds_until_it_says_more(environ: dict[str, str], answer: Path) -> None:
    known = Allocation(source_of({**environ, "SLURM_JOB_END_TIME": f"{NOW + 900:.0f}"}), environ)
    assert known.left_s(0.0, NOW) == 900
    assert known.left_s(AGAIN_S / 2, NOW + 1) == 899
    assert calls(environ) == [], "nobody is asked before it is time"


def test_who_never_answers_is_not_waited_for(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", environ["PATH"])
    waiting = f"{1000 + os.getpid()}.25"
    hanging = {**environ, "STANDIN_LEFT": "", "STANDIN_HANGS": waiting}
    asked = Allocation(source_of(hanging), hanging)
    began = time.monotonic()
    assert asked.left_s(0.0, NOW) == UNKNOWN
    assert asked.left_s(1.0, NOW) == UNKNOWN
    assert time.monotonic() - began < 5
    wait_for(lambda: calls(hanging), "the question")
    wait_for(lambda: _alive_with(waiting), "the program")
    assert asked.left_s(ANSWER_S, NOW) == UNKNOWN
    wait_for(lambda: not _alive_with(waiting), "its end")


def _alive_with(text: str) -> list[int]:
    """Return the living processes whose command line has a text."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if text.encode() in Path(f"/proc/{name}/cmdline").read_bytes() and is_alive(int(name)):
                found.append(int(name))
    return found


@pytest.mark.parametrize(
    "body", ["#!/bin/sh\nyes", "#!/bin/sh\nexit 1", "#!/bin/sh\nexec >&-; sleep 1000", "no program"]
)
def test_odd_programs_do_no_harm(tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "squeue"
    program.write_text(body)
    program.chmod(0o755)
    source = Source(name="odd", argv=(str(program),), reading=slurm_left)
    asked = Allocation(source, dict(os.environ))
    began = time.monotonic()
    for second in range(5):
        assert asked.left_s(float(second), NOW) == UNKNOWN
        time.sleep(0.05)
    asked.close()
    assert time.monotonic() - began < 10
    wait_for(lambda: not _alive_with(str(program)), "its end")


def test_no_program_is_no_error_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def none(*_arguments: object) -> None:
        tried.append(1)
        raise FileNotFoundError

    monkeypatch.setattr(allocation, "_Question", none)
    asked = Allocation(source_of({"SLURM_JOB_ID": "1"}), {})
    for now in (0.0, 1.0, 1000.0, 100000.0):
        assert asked.left_s(now, NOW) == UNKNOWN
    assert len(tried) == 1


def test_lsf_is_asked(environ: dict[str, str], answer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", environ["PATH"])
    answer.write_text("0:10 L\n")
    lsf = {**environ, "LSB_JOBID": "12", "LSB_JOBINDEX": "3", "STANDIN_JOB": "12[3]", "SLURM_JOB_ID": ""}
    asked = Allocation(source_of(lsf), lsf)
    assert ask(asked) == 600
    assert "LSF job 12[3]" in asked.news()


def test_a_job_ad_is_read(tmp_path: Path) -> None:
    job_ad = tmp_path / ".job.ad"
    job_ad.write_text(f"AllowedJobDuration = 3600\nJobCurrentStartDate = {NOW - 600:.0f}\n")
    assert Allocation(Source(name="HTCondor job", job_ad=str(job_ad))).left_s(0.0, NOW) == 3000
    assert Allocation(Source(name="HTCondor job", job_ad=str(tmp_path / "none"))).left_s(0.0, NOW) == UNKNOWN


def test_an_end_that_has_passed_is_not_ours() -> None:
    old = Allocation(Source(name="TASKFARMER_END_TIME", end=NOW - 1))
    assert old.left_s(0.0, NOW) == UNKNOWN
    assert old.news() == "the end that TASKFARMER_END_TIME names has passed; it is not minded"
    assert old.news() == ""


# -- what the plan does about it ---------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 1e6), min_size=1))
def test_nine_in_ten_take_no_longer_than_is_typical(recent: list[float]) -> None:
    typical = typical_duration(recent)
    assert typical in recent
    assert sum(seconds <= typical for seconds in recent) >= 0.9 * len(recent)
    assert sum(seconds < typical for seconds in recent) < 0.9 * len(recent), "no longer than need be"


def test_nothing_is_typical_before_the_first() -> None:
    assert typical_duration([]) == 0.0


def until(loop: Loop, end: float, now: float = 0.0) -> list[int]:
    """Tell the plan of the end, and return what it gives back."""
    loop.plan.until = end
    return loop.plan.set_aside(now)


def give_back(loop: Loop, ids: list[int]) -> None:
    """Say in the log that others may have these."""
    if ids:
        (news,) = loop.fold.news(loop.id)
        loop.fold.append(Report(), replace(news, back=format_ids(ids)), by=loop.id)


def ended(loop: Loop, task: int, now: float, status: int = 0) -> None:
    """An attempt ends, and the state is told."""
    loop.end(task, now=now, status=status)


def test_a_task_is_not_started_that_cannot_end_by_what_was_measured() -> None:
    loop = Loop(8)
    until(loop, 25.0)
    loop.take()
    assert loop.start(0.0) == [0, 1], "nothing is known yet"
    ended(loop, 0, 10.0)
    loop.take()
    assert loop.start(10.0) == [2], "of the 15 s that are left it needs 10"
    ended(loop, 1, 15.1)
    assert loop.take() == [3]
    assert loop.start(15.1) == []
    assert loop.plan.set_aside(15.1) == [3]
    assert not loop.plan.queue
    assert not loop.plan.finished(), "something runs"


def test_who_can_start_nothing_any_more_leaves_when_nothing_runs() -> None:
    loop = Loop(3, resources=Resources(1))
    until(loop, 15.0)
    loop.take()
    loop.start(0.0)
    ended(loop, 0, 10.0)
    give_back(loop, loop.plan.set_aside(10.0))
    assert loop.plan.wants() == []
    assert loop.plan.finished()
    assert loop.plan.too_late_s == 10.0
    assert loop.plan.mode == "work"


def test_more_time_is_used() -> None:
    loop = Loop(3, resources=Resources(1))
    until(loop, 15.0)
    loop.take()
    loop.start(0.0)
    ended(loop, 0, 10.0)
    give_back(loop, loop.plan.set_aside(10.0))
    assert loop.plan.wants() == []
    assert until(loop, 1000.0, 11.0) == []
    assert loop.take()
    assert loop.start(11.0) == [1]


def test_shorter_tasks_by_their_declared_durations_still_start() -> None:
    durations = [3600.0, None, 5.0, 600.0, 1.0]
    loop = Loop([Task(text=str(n), duration_s=d) for n, d in enumerate(durations)], resources=Resources(1))
    until(loop, 60.0)
    assert loop.take() == [1]
    assert loop.start(0.0) == [1]
    ended(loop, 1, 20.0)
    loop.plan.set_aside(20.0)
    started = []
    now = 20.0
    while loop.take() or loop.plan.queue:
        started += loop.start(now)
        now += 5.0
        ended(loop, started[-1], now)
    assert started == [2, 4], "20 s are typical, but these have said what they take"
    loop.plan.set_aside(now)
    loop.take()
    assert loop.plan.finished()
    assert loop.plan.too_late_s == 600.0


def test_what_says_no_duration_takes_what_is_typical_beside_those_that_do() -> None:
    loop = Loop([Task(text="0"), Task(text="1"), Task(text="2", duration_s=1.0)], resources=Resources(1))
    until(loop, 15.0)
    loop.take()
    assert loop.start(0.0) == [0]
    ended(loop, 0, 10.0)
    loop.plan.set_aside(10.0)
    loop.take()
    assert loop.start(10.0) == [2]


def test_failures_and_stops_do_not_say_how_long_tasks_take() -> None:
    loop = Loop(4, resources=Resources(1), rules=Rules(retries=1))
    loop.take()
    loop.start(0.0)
    ended(loop, 0, 0.1, status=1)
    assert loop.plan.pace.typical_s == 0.0
    loop.take()
    loop.start(0.25)
    ended(loop, 1, 7.25)
    assert loop.plan.pace.typical_s == 7.0


def test_a_retry_that_would_come_too_late_is_given_back() -> None:
    loop = Loop(1, rules=Rules(retries=1, retry_delay_s=100.0))
    loop.take()
    loop.start(0.0)
    ended(loop, 0, 1.0, status=1)
    assert loop.plan.delayed
    assert until(loop, 500.0, 2.0) == []
    assert until(loop, 40.0, 2.0) == [0]
    assert loop.plan.idle


def test_a_long_row_of_long_tasks_is_not_looked_through_for_ever() -> None:
    tasks = [Task(text=str(n), duration_s=1000.0) for n in range(NEAR_LOOK)]
    loop = Loop([*tasks, Task(text="short", duration_s=1.0)])
    until(loop, 60.0)
    assert loop.plan.wants() == []
    assert loop.plan.finished()


@given(
    durations=st.lists(st.one_of(st.none(), st.floats(1.0, 100.0)), min_size=1, max_size=12),
    really=st.data(),
    end=st.floats(0.0, 200.0),
)
def test_nothing_is_started_that_is_expected_to_be_caught(
    durations: list[float | None], really: st.DataObject, end: float
) -> None:
    loop = Loop([Task(text=str(n), duration_s=d) for n, d in enumerate(durations)], resources=Resources(1))
    now = 0.0
    while True:
        give_back(loop, until(loop, end, now))
        loop.take()
        typical = loop.plan.pace.typical_s
        started = loop.start(now)
        if not started:
            break
        declared = durations[started[0]]
        assert now + (typical if declared is None else declared) <= end
        now += really.draw(st.floats(0.5, 50.0))
        ended(loop, started[0], now)
    assert loop.plan.idle
    assert loop.plan.finished() or now > end


def test_the_declared_duration_of_a_task(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"command": "true", "duration": 90}\n{"command": "true"}\n')
    first, second = JsonLinesTaskList(str(tasks), str(tmp_path)).records()
    assert (first.duration_s, second.duration_s) == (90.0, None)
    assert decode_task(encode_task(first)) == first
    assert decode_task(b'{"text":"as it was written before","cpus":2}').duration_s is None
    for wrong in ("0", "-1", '"1h"', "true", "Infinity"):
        tasks.write_text(f'{{"command": "true", "duration": {wrong}}}\n')
        with pytest.raises(InputError, match="'duration' is"):
            list(JsonLinesTaskList(str(tasks), str(tmp_path)).records())


# -- farms -------------------------------------------------------------------------------------------------------------


def in_s(seconds: float, grace_s: float = GRACE_S) -> dict[str, str]:
    """Return the variable that says that the allocation ends when so many seconds of work are over."""
    return {"TASKFARMER_END_TIME": f"{time.time() + seconds + grace_s + SETTLE_S:.3f}"}


def test_short_tasks_run_long_ones_stay_and_the_farmer_leaves(farm: Farm) -> None:
    farm.write_jsonl(*[{"duration": 3600.0}] * 5, *[{"duration": 0.1}] * 3, {})
    end = farm.run("-n", "2", "--tasklist", "jsonl", env=in_s(60))
    assert end.status == 3, end
    assert re.search(r"of the allocation are left to work in; 5 tasks remain, of 60 min or more", end.out), end.out
    assert sorted(farm.attempts()) == [5, 6, 7, 8]
    assert farm.counts() == {"toprocess": 5, "finished": 4}
    check_contract(farm, 9)


def test_what_was_measured_keeps_the_next_from_being_started(lone: Farm) -> None:
    lone.write(*["sleep 8"] * 6)
    end = lone.run("-n", "2", env=in_s(15))  # may begin up to 7 s late
    assert end.status == 3, end
    assert "4 tasks remain, of 8 s or more; resume later" in end.out
    assert len(lone.runs()) == 2, "none was started that had to be stopped"
    assert lone.counts() == {"toprocess": 4, "finished": 2}
    check_contract(lone, 6)


@pytest.fixture
def in_slurm(lone: Farm, environ: dict[str, str]) -> Farm:
    """A farm in a job of the stand-in Slurm."""
    lone.env |= environ | {"PATH": f"{STANDINS}:{SCRIPTS}:{os.environ['PATH']}"}
    return lone


def test_what_the_end_catches_is_stopped_and_costs_no_retry(in_slurm: Farm, answer: Path) -> None:
    in_slurm.write(*["sleep 600"] * 3)
    farmer = in_slurm.start("-n", "2")
    in_slurm.wait_for_runs(2)
    answer.write_text("0:08\n")
    end = farmer.wait(30)
    assert end.status == 3, end
    assert f"(Slurm job {JOB})" in end.out
    assert "what runs is stopped, to be done again; nothing could finish in it, ask for more time" in end.out
    assert in_slurm.counts() == {"toprocess": 3}
    check_contract(in_slurm, 3)


def test_a_scheduler_that_hangs_delays_nothing(in_slurm: Farm) -> None:
    in_slurm.write(*["true"] * 20)
    end = in_slurm.run("-n", "2")  # nobody writes the answer
    assert end.status == 0, end
    check_contract(in_slurm, 20)


def test_an_end_far_away_changes_nothing(farm: Farm) -> None:
    farm.write(*["true"] * 50)
    assert farm.run("-n", "2", env=in_s(3600)).status == 0
    check_contract(farm, 50)


def test_the_user_knows_better(in_slurm: Farm, answer: Path, environ: dict[str, str]) -> None:
    answer.write_text("0:01\n")
    in_slurm.write_jsonl({"duration": 100.0})
    assert in_slurm.run("--tasklist", "jsonl", "--until", "none").status == 0
    assert calls(environ) == []


@pytest.mark.parametrize("words", [("--until", "2001-01-01T00:00"), ("--until", "soon")])
def test_a_time_that_is_none_is_bad_usage(lone: Farm, words: tuple[str, str]) -> None:
    lone.write("true")
    end = lone.run(*words)
    assert end.status == 2
    assert "--until" in end.err
    assert not lone.workdir.exists()


def test_a_variable_that_is_no_time_is_bad_input(lone: Farm) -> None:
    lone.write("true")
    end = lone.run(env={"TASKFARMER_END_TIME": "tomorrow"})
    assert end.status == 2
    assert len(end.err.splitlines()) <= 2
    assert "TASKFARMER_END_TIME" in end.err
    assert not lone.workdir.exists()


# -- signals to a whole job --------------------------------------------------------------------------------------------


def attempt(id: int) -> Attempt:
    """An attempt that runs."""
    return Attempt(id, 1, Task(text=""), Share((0,)), 0.0, None)


def judged(doubts: Doubts, end: Exit, running: dict[int, Attempt], now: float, *, stopping: str = "") -> list[int]:
    """Return what is recorded of one end."""
    return [done.id for done in doubts.judged([end], running, now, stopping=stopping)]


@pytest.mark.parametrize("status", [-signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGUSR2, -signal.SIGKILL])
def test_a_death_is_judged_when_one_knows_who_was_told(status: int) -> None:
    running = {1: attempt(1)}
    before, alone, after = Doubts(), Doubts(), Doubts()
    assert judged(before, Exit(1, status), running, 10.0) == []
    before.told(running, 10.0 + DOUBT_S / 2, EVICTED)
    assert before.next <= 10.0 + DOUBT_S / 2
    assert [end.id for end in before.judged([], running, 10.0 + DOUBT_S / 2, stopping="")] == [1]
    assert running[1].reason == EVICTED

    running = {1: attempt(1)}
    assert judged(alone, Exit(1, status), running, 10.0) == []
    assert alone.next == 10.0 + DOUBT_S
    assert alone.judged([], running, 10.0 + DOUBT_S / 2, stopping="") == []
    assert [end.id for end in alone.judged([], running, 10.0 + DOUBT_S, stopping="")] == [1]
    assert running[1].reason == ""
    assert alone.next == math.inf

    after.told(running, 10.0, STOPPED)
    assert judged(after, Exit(1, status), running, 10.1) == [1]
    assert running[1].reason == "stopped"


@pytest.mark.parametrize("status", [0, 1, 255, -signal.SIGXCPU, -signal.SIGSEGV])
def test_other_ends_are_judged_at_once(status: int) -> None:
    running = {1: attempt(1), 2: attempt(2)}
    assert judged(Doubts(), Exit(1, status), running, 10.0) == [1]
    assert running[1].reason == ""
    assert judged(Doubts(), Exit(2, status), running, 10.0, stopping=STOPPED) == [2]
    assert running[2].reason == ("stopped" if status else "")


def tell_all(farm: Farm, farmer: Farmer, number: int) -> None:
    """Signal all processes of a farmer as Slurm does for a whole job; the tasks first, which is the worst case."""
    tasks = farmer.started()
    assert tasks
    for pid in [*tasks, *farmer.loops(), farmer.pid]:
        kill(pid, number)


@pytest.mark.parametrize("name", ["TERM", "USR2", "INT", "USR1"])
def test_preemption_costs_no_retry(lone: Farm, name: str) -> None:
    (lone.path / "handles").write_text("trap 'exit 7' TERM INT USR1 USR2\nsleep 600 & wait\n")
    lone.write("sleep 600", "sleep 600 | cat", "bash handles", "true")
    farmer = lone.start("-n", "4", "--retries", "0")
    lone.wait_for_runs(4)
    wait_for(lambda: lone.counts().get("finished") == 1, "the one that ends by itself")
    tell_all(lone, farmer, getattr(signal, f"SIG{name}"))
    if name == "USR2":  # who handles it, and ends with a status of its own, has ended by itself
        assert farmer.wait(30).status == 3
        assert lone.counts()["toprocess"] >= 2
    else:
        assert farmer.wait(30).status == 3
        assert lone.counts() == {"toprocess": 3, "finished": 1}
    check_contract(lone, 4)


def endings(farm: Farm, task: int) -> list[tuple[str, str]]:
    """How the attempts at a task ended, and why."""
    (shown,) = farm.once("show", farm.workdir, str(task), "--json").json()["tasks"]
    return [(attempt["ending"], attempt["reason"]) for attempt in shown["attempts"]]


@pytest.mark.parametrize("inside", [True, False], ids=["in a job", "on its own"])
@pytest.mark.parametrize("all_told", [True, False], ids=["all told", "farmer told"])
def test_what_the_batch_system_tells_to_end_is_lost(lone: Farm, inside: bool, all_told: bool) -> None:
    """It is no loss that counts: it was told, and did not take its host along."""
    job = {"_CONDOR_SCRATCH_DIR": str(lone.path)} if inside else {}
    lone.write("[ -e go ] || sleep 600")
    for life in range(2):
        farmer = lone.start("-n", "1", "--retries", "0", "--max-losses", "0", env=job)
        lone.wait_for_runs(life + 1)
        if all_told:
            tell_all(lone, farmer, signal.SIGTERM)
        else:
            kill(farmer.pid, signal.SIGTERM)
        assert farmer.wait(30).status == 3
    expected = ("lost", "evicted") if inside else ("stopped", "stopped")
    assert endings(lone, 0) == [expected] * 2
    said = lone.once("show", lone.workdir, "0").out
    assert said.count("attempt 1: lost, its batch job was told to end, SIGTERM, after ") == inside
    (lone.path / "go").touch()
    assert lone.run("-n", "1").status == 0
    assert [ending for ending, _ in endings(lone, 0)] == [expected[0]] * 2 + ["finished"]
    why = lone.once("why", lone.workdir, "0").out
    assert why.count("its farmer's batch job was told to end") == 2 * inside
    check_contract(lone, 1)


def test_who_is_interrupted_with_all_of_its_job_has_its_grace(lone: Farm) -> None:
    """LSF (`bkill`) sends INT to each process: the loop hears it twice, which at a terminal means: at once."""
    lone.write("trap 'sleep 1; echo saved' INT TERM; echo ready; sleep 600 & wait; wait")
    farmer = lone.start("-n", "1", "--stop-grace", "30", env={"LSB_JOBID": JOB})
    wait_for(lambda: lone.runs() and lone.log(0) == "ready\n", "the trap")
    kill(farmer.loop(), signal.SIGINT)
    wait_for(lambda: "stopped by SIGINT" in farmer.said(), "it to be heard")
    farmer.signal(signal.SIGINT)
    assert farmer.wait(30).status == 3
    assert "saved" in lone.log(0)
    assert endings(lone, 0) == [("lost", "evicted")]


AT_A_TERMINAL = """
import os, pty, sys, time
pid, terminal = pty.fork()
if not pid:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execv(sys.argv[1], sys.argv[1:])
while not os.path.exists("type"):
    time.sleep(0.02)
os.write(terminal, b"\\x03")
try:
    while os.read(terminal, 4096):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_ctrl_c_in_an_interactive_job_is_no_word_of_the_batch_system(lone: Farm) -> None:
    """Also where the list or nothing is the farmer's standard input."""
    lone.write("sleep 600")
    farmer = lone.start_command(
        sys.executable, "-c", AT_A_TERMINAL, *TASKFARMER, "run", lone.list, env={"SLURM_JOB_ID": JOB}
    )
    lone.wait_for_runs(1)
    (lone.path / "type").touch()
    assert farmer.wait(30).status == 3
    assert endings(lone, 0) == [("stopped", "stopped")]


def test_what_the_end_of_the_allocation_stops_is_lost_only_with_its_job(lone: Farm) -> None:
    """Not where no batch system ends anything (`--until`), nor where the task has a job of its own."""
    lone.write("sleep 600")
    end = {"TASKFARMER_END_TIME": str(time.time() + SETTLE_S + 8)}
    job = {"_CONDOR_SCRATCH_DIR": str(lone.path)}
    ways: list[tuple[dict[str, str], tuple[str, ...], tuple[str, str]]] = [
        ({}, (), ("stopped", "stopped")),
        (job, (), ("lost", "evicted")),
        (job, ("--batch", "local", "--one-job-per-task"), ("stopped", "stopped")),
    ]
    farmers = [
        lone.start("-n", "1", "-w", f"farm{number}", *words, env=end | environ)
        for number, (environ, words, _) in enumerate(ways)
    ]
    assert [farmer.wait(30).status for farmer in farmers] == [3, 3, 3]
    for number, (_, _, expected) in enumerate(ways):
        (shown,) = lone.once("show", f"farm{number}", "0", "--json").json()["tasks"]
        assert [(attempt["ending"], attempt["reason"]) for attempt in shown["attempts"]] == [expected]


def test_a_task_that_ends_itself_by_a_signal_has_failed(farm: Farm) -> None:
    farm.write("kill -TERM $$", "exit 143", "true")
    assert farm.run("-n", "3").status == 1
    assert farm.counts() == {"failed": 2, "finished": 1}
    check_contract(farm, 3)


def test_a_farmer_that_is_killed_with_its_job_costs_no_retry(lone: Farm) -> None:
    lone.write("[ -e go ] || sleep 600", "true")
    farmer = lone.start("-n", "2", "--retries", "0")
    lone.wait_for_runs(2)
    wait_for(lambda: lone.counts().get("finished") == 1, "the one that ends by itself")
    tell_all(lone, farmer, signal.SIGKILL)
    farmer.wait()
    (lone.path / "go").touch()
    assert lone.run("-n", "2").status == 0
    shown = lone.once("show", lone.workdir, "0", "--json").json()
    assert [attempt["ending"] for attempt in shown["tasks"][0]["attempts"]] == ["lost", "finished"]
    check_contract(lone, 2)


# -- the job scripts of the documentation ------------------------------------------------------------------------------

SCRIPT_NAMES = ["single.sh", "array.sh", "multinode.sh", "requeue.sh", "drain.sh"]
SIGNALS = {"array.sh": "USR1", "multinode.sh": "USR1", "requeue.sh": "USR1", "drain.sh": "USR2"}


def submit(farm: Farm, name: str, *words: str | Path, env: dict[str, str] | None = None) -> Farmer:
    """Start a job script as Slurm does: a copy of it, with the variables of a job."""
    spool = farm.path / "slurm_script"
    shutil.copy(EXAMPLES / name, spool)
    nodes = {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "4"}
    return farm.start_command("bash", spool, *words, env=nodes | (env or {}))


def run_script(farm: Farm, name: str, *words: str | Path, env: dict[str, str] | None = None) -> Done:
    """Run a job script to its end."""
    return submit(farm, name, *words, env=env).wait()


def test_all_job_scripts_are_known_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.sh")) == sorted(SCRIPT_NAMES)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_job_script_is_well_formed(name: str) -> None:
    path = EXAMPLES / name
    subprocess.run(["bash", "-n", path], check=True)
    head, _, body = path.read_text().partition("\nif ")
    assert head.startswith("#!/bin/bash\n# "), "the first line says what it does"
    assert f"sbatch {name} tasks.txt" in head
    assert all(line.startswith("#") or not line or re.fullmatch(r"\w+=\d+ # .*", line) for line in head.splitlines())
    assert "#SBATCH" in head
    assert "#SBATCH" not in body, "sbatch reads no further than the first command"
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_job_script_without_a_list_says_how_it_is_used(in_slurm: Farm, name: str) -> None:
    end = run_script(in_slurm, name)
    assert end.status == 2
    assert f"usage: sbatch {name} TASKLIST" in end.err


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_job_script_works_its_list_through(in_slurm: Farm, name: str, environ: dict[str, str]) -> None:
    in_slurm.write(*["true"] * 10)
    assert run_script(in_slurm, name, in_slurm.list, "-n", "2").status == 0
    assert in_slurm.counts() == {"finished": 10}
    assert not any(call.startswith("scontrol") for call in calls(environ))
    check_contract(in_slurm, 10)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_job_script_hands_the_warning_on(in_slurm: Farm, name: str) -> None:
    farmers = 2 if name == "multinode.sh" else 1
    draining = name == "drain.sh"
    in_slurm.write(*["until [ -e go ]; do sleep 0.02; done"] * (2 * farmers), *["true"] * 5)
    job = submit(in_slurm, name, in_slurm.list, "-n", "2", "--retries", "0")
    in_slurm.wait_for_farmers(farmers)
    in_slurm.wait_for_runs(2 * farmers)
    job.signal(getattr(signal, f"SIG{SIGNALS[name]}"))  # to the script alone, as `--signal=B:` says
    if draining:
        wait_for(lambda: "nothing new is started" in job.said(), "that it drains")
        (in_slurm.path / "go").touch()
    end = job.wait(30)
    assert end.status == 3, end
    finished = {"finished": 2} if draining else {}
    assert in_slurm.counts() == {**finished, "toprocess": 2 * farmers + 5 - len(finished) * 2}
    check_contract(in_slurm, 2 * farmers + 5)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_job_script_that_is_cancelled_waits_for_its_farmer(
    in_slurm: Farm, name: str, environ: dict[str, str]
) -> None:
    farmers = 2 if name == "multinode.sh" else 1
    in_slurm.write(*["trap '' TERM; until [ -e go ]; do sleep 0.02; done"] * farmers)
    job = submit(in_slurm, name, in_slurm.list, "-n", "1", "--stop-grace", "1", "--retries", "0")
    in_slurm.wait_for_farmers(farmers)
    in_slurm.wait_for_runs(farmers)
    for pid in all_of(job):
        kill(pid, signal.SIGTERM)
    end = job.wait(30)
    assert end.status == 3, end
    assert in_slurm.counts() == {"toprocess": farmers}
    assert not any(call.startswith("scontrol") for call in calls(environ)), "what was cancelled is not requeued"
    check_contract(in_slurm, farmers)


def all_of(job: Farmer) -> list[int]:
    """Return all processes of a job."""
    return processes_with(job.mark)


def test_a_job_requeues_itself_until_its_list_is_done(in_slurm: Farm, environ: dict[str, str]) -> None:
    in_slurm.write(*["[ -e go ] || sleep 600"] * 3)
    job = submit(in_slurm, "requeue.sh", in_slurm.list, "-n", "2")
    in_slurm.wait_for_farmers(1)
    in_slurm.wait_for_runs(2)
    job.signal(signal.SIGUSR1)
    assert job.wait(30).status == 3
    assert [call for call in calls(environ) if "scontrol" in call] == [f"scontrol requeue {JOB}"]
    (in_slurm.path / "go").touch()
    end = run_script(in_slurm, "requeue.sh", in_slurm.list, "-n", "2", env={"SLURM_RESTART_COUNT": "1"})
    assert end.status == 0, end
    assert len([call for call in calls(environ) if "scontrol" in call]) == 1
    assert in_slurm.counts() == {"finished": 3}
    check_contract(in_slurm, 3)


def test_a_job_does_not_requeue_itself_for_ever(in_slurm: Farm, environ: dict[str, str], answer: Path) -> None:
    answer.write_text("1:00\n")
    in_slurm.write_jsonl({"duration": 3600.0})
    words = ("requeue.sh", in_slurm.list, "-n", "1", "--tasklist", "jsonl")
    end = run_script(in_slurm, *words, env=in_s(30) | {"SLURM_RESTART_COUNT": "19"})
    assert end.status == 3, end
    assert "resume with more time" in end.out
    assert len([call for call in calls(environ) if "scontrol" in call]) == 1
    end = run_script(in_slurm, *words, env=in_s(30) | {"SLURM_RESTART_COUNT": "20"})
    assert end.status == 3
    assert "after 20 requeues" in end.out
    assert len([call for call in calls(environ) if "scontrol" in call]) == 1


def test_the_stand_ins_refuse_what_they_do_not_know(environ: dict[str, str]) -> None:
    for name, *words in (["squeue", "-j", JOB], ["srun", "--nodes", "2", "true"], ["scontrol", "requeue"], ["bjobs"]):
        assert subprocess.run([STANDINS / name, *words], env=environ, capture_output=True, check=False).returncode
