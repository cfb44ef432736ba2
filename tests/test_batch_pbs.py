"""PBS Professional: what its commands say, and the contract over a stand-in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer.batch import (
    GONE,
    Answer,
    JobId,
    JobState,
    JobStatus,
    Limits,
    Needs,
    NoAnswer,
    Outcome,
    Refused,
    Submission,
    Submitted,
    Unsure,
    calls,
    carry_out,
)
from taskfarmer.batch.calls import Call, run_call
from taskfarmer.batch.pbs import Pbs
from taskfarmer.batch.words import user_name
from taskfarmer.errors import InputError
from tests.batch_contract import BatchSystemContract, Site
from tests.farms import Farm, check_contract, counts_of, wait_for

STANDIN = Path(__file__).parent / "standins/pbs"


class PbsSite(Site):
    """The stand-in, with a daemon of its own."""

    cannot: ClassVar[Mapping[str, str]] = {
        "hold": "elements of arrays cannot be held, see test_a_held_job",
        "preempt": "needs queues of different priority, which the stand-in has not",
    }
    refused: ClassVar[Mapping[str, Needs]] = {
        "Unknown queue": Needs(queue="nope"),
        "invalid option": Needs(settings={"Y": "1"}),
        "Unknown resource": Needs(settings={"bogus": "1"}),
    }
    too_many: ClassVar[int | None] = 1001
    unknown: ClassVar[tuple[str, ...]] = ("999999.pbs1", "999999[3].pbs1", "1.elsewhere")
    limit_s: ClassVar[float] = 120.0

    def __init__(self, tmp_path: Path) -> None:
        self.state = tmp_path / "pbs"
        shared = tmp_path / "shared"
        shared.mkdir()
        path = f"{STANDIN}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        self._knobs: dict[str, Any] = {}
        self.turn(minute_s=2.0, grace_s=0.3, most_elements=1000)
        environ = {**os.environ, "PATH": path, "PBS_STANDIN": str(self.state), "USER": user_name()}
        super().__init__(Pbs(environ), shared, environ)

    def turn(self, **knobs: Any) -> None:
        """Turn knobs of the stand-in."""
        self.state.mkdir(exist_ok=True)
        self._knobs.update(knobs)
        new = self.state / "knobs.new"
        new.write_text(json.dumps(self._knobs))
        new.rename(self.state / "knobs.json")

    def call(self, *words: str) -> None:
        """Run a command of the administrator's."""
        answer = run_call(Call(argv=words), self.environ)
        assert answer.ok, answer.trouble

    def requeue(self, job: JobId) -> None:
        self.call("qrerun", job)

    def lose(self, job: JobId) -> None:
        """Silence its host; PBS gives it up after a while."""
        self.turn(lost=[self.poll([job])[job].host], hung_s=1.0)

    def forget(self, jobs: Collection[JobId]) -> None:
        self.turn(keep_s=0.0)

    def close(self) -> None:
        self.call("pbs-stop")


class TestContract(BatchSystemContract):
    """spec: calibration 12.5"""

    @pytest.fixture
    def site(self, tmp_path: Path) -> PbsSite:
        return PbsSite(tmp_path)


# -- what is submitted


def submission(**more: Any) -> Submission:
    """Return a submission of one element, unless `more` says otherwise."""
    given: dict[str, Any] = {
        "name": "tf0123456789ab", "directory": Path("/shared/tf"), "body": "true", "cwd": "/shared",
        "output": "/shared/tf/{element}.out", **more,
    }  # fmt: skip
    return Submission(**given)


def words(**more: Any) -> list[str]:
    """Return what stands in `qsub`'s command behind what is always there."""
    found = list(Pbs({}).command(submission(**more)))
    always = ["qsub", "-S", "/bin/sh", "-j", "oe", "-o", "/dev/null"]
    assert found[: len(always)] == always
    assert found[-1] == "job.sh"
    return found[len(always) : -1]


NAMED = ["-N", "tf0123456789ab"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, NAMED),
        ({"queue": "short"}, [*NAMED, "-q", "short"]),
        ({"queue": "short", "settings": {"q": "long"}}, [*NAMED, "-q", "long"]),
        ({"account": "UBLN0001"}, [*NAMED, "-A", "UBLN0001"]),
        ({"settings": {"P": "project"}}, [*NAMED, "-P", "project"]),
        ({"requeue": True}, [*NAMED, "-r", "y"]),
        ({"requeue": False}, [*NAMED, "-r", "n"]),
        ({"cpus": 4}, [*NAMED, "-l", "select=1:ncpus=4"]),
        ({"cpus": 4, "nodes": 2}, [*NAMED, "-l", "select=2:ncpus=4", "-l", "place=scatter"]),
        ({"memory_bytes": 2**31, "gpus": 1}, [*NAMED, "-l", "select=1:ncpus=1:mem=2048mb:ngpus=1"]),
        ({"time_s": 3599.2}, [*NAMED, "-l", "walltime=1:00:00"]),
        ({"time_s": 7200, "time_min_s": 600}, [*NAMED, "-l", "min_walltime=0:10:00", "-l", "max_walltime=2:00:00"]),
        ({"time_s": 60, "settings": {"walltime": "2:00:00"}}, [*NAMED, "-l", "walltime=2:00:00"]),
        ({"cpus": 4, "settings": {"l": ["select=3", "x=1"]}}, [*NAMED, "-l", "select=3", "-l", "x=1"]),
        ({"settings": {"h": True, "m": "n"}}, [*NAMED, "-h", "-m", "n"]),
        ({"native": ("-W", "group_list=x")}, [*NAMED, "-W", "group_list=x"]),
        ({"job_name": "my run, 3%"}, ["-N", "my_run_3_.tf0123456789ab"]),
    ],
)
def test_what_is_asked_for_reaches_qsub(more: dict[str, Any], expected: list[str]) -> None:
    """spec: calibration 12.5, 17.147"""
    assert words(needs=Needs(**more)) == expected


def test_arrays() -> None:
    assert words(count=10) == [*NAMED, "-J", "1-10"]
    assert words(count=10, at_most=3) == [*NAMED, "-J", "1-10%3"]


@pytest.mark.parametrize(
    "more",
    [{"settings": {"J": "1-3"}}, {"native": ("-N", "x")}, {"native": ("-I",)}, {"native": ("-Nx",)},
     {"native": ("--version",)}],
)  # fmt: skip
def test_what_would_take_jobs_out_of_sight_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be given"):
        Pbs({}).files(submission(needs=Needs(**more)))


@pytest.mark.parametrize("settings", [{"-N": "mine"}, {"N": "mine"}, {"job_name": "mine", "N": "other"}])
def test_no_setting_takes_the_place_of_the_name_by_which_jobs_are_found(settings: dict[str, Any]) -> None:
    assert words(needs=Needs(settings=settings)) == ["-N", "mine.tf0123456789ab"]


# -- what is answered


def submitted(status: int, out: str, err: str = "", count: int = 1) -> Outcome:
    """Return what a submission comes to."""
    steps = Pbs({}).submit(submission(count=count))
    return carry_out(steps, {}, lambda call: Answer.of(call, status, out, err))


def test_ids() -> None:
    """spec: calibration 12.5, 17.147"""
    assert submitted(0, "7.pbs1\n") == Submitted((JobId("7.pbs1"),))
    assert submitted(0, "7[].pbs1.example.org\n", count=2) == Submitted(
        (JobId("7[1].pbs1.example.org"), JobId("7[2].pbs1.example.org"))
    )
    assert isinstance(submitted(0, "7.pbs1\n", count=2), Unsure)


@pytest.mark.parametrize(
    ("status", "err", "again"),
    [
        (170, "qsub: Unknown queue\n", False),
        (2, "qsub: invalid option -- 'Y'\nusage: qsub [-a date_time]\n", False),
        (1, "qsub: would exceed queue generic's per-user limit of jobs in 'Q' state\n", True),
    ],
)
def test_refusals(status: int, err: str, again: bool) -> None:
    outcome = submitted(status, "", err)
    assert isinstance(outcome, Refused)
    assert outcome.again == again


@pytest.mark.parametrize("err", ["qsub: cannot connect to server pbs1 (errno=15010)\n", "qsub: End of File\n", ""])
def test_nobody_knows(err: str) -> None:
    assert isinstance(submitted(162, "", err), Unsure)


def record(id: str, **attributes: object) -> str:
    """Return what `qstat -f` says of a job."""
    return f"Job Id: {id}\n" + "".join(f"    {name} = {value}\n" for name, value in attributes.items()) + "\n"


ASKED = [JobId(id) for id in ("7.pbs1", "8[1].pbs1", "8[2].pbs1", "9.pbs1")]


def polled(status: int, out: str, err: str = "") -> dict[JobId, JobStatus]:
    """Return what a poll comes to."""
    return carry_out(Pbs({}).poll(ASKED), {}, lambda call: Answer.of(call, status, out, err))


@pytest.mark.parametrize(
    ("letter", "state"),
    [
        ("Q", "QUEUED"), ("W", "QUEUED"), ("T", "QUEUED"), ("H", "HELD"), ("R", "RUNNING"), ("E", "RUNNING"),
        ("S", "RUNNING"), ("U", "RUNNING"), ("B", "RUNNING"), ("M", "UNKNOWN"), ("?", "UNKNOWN"),
    ],
)  # fmt: skip
def test_states(letter: str, state: str) -> None:
    """spec: calibration 12.5, 17.148"""
    status = polled(0, record("7.pbs1", job_state=letter))[ASKED[0]]
    assert status.state is JobState[state]
    assert status.reason or status.state is JobState.RUNNING


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"Exit_status": 0, "substate": 92}, (JobState.ENDED, 0)),
        ({"Exit_status": 3, "substate": 93}, (JobState.ENDED, 3)),
        ({"Exit_status": 265, "substate": 93}, (JobState.ENDED, -9)),
        ({"Exit_status": 271, "substate": 91}, (JobState.LOST, None)),
        ({"Exit_status": 271, "comment": "Job run at Sat on (n1:ncpus=1) and terminated"}, (JobState.LOST, None)),
        ({"Exit_status": 271, "comment": "Job run at Sat and exceeded resource walltime"}, (JobState.LOST, None)),
        ({"Exit_status": -29, "substate": 93}, (JobState.LOST, None)),
        ({"Exit_status": -27, "substate": 93}, (JobState.ENDED, None)),
        ({"Exit_status": 265, "comment": "Job run at Sat and exceeded resource mem"}, (JobState.ENDED, None)),
        ({"Exit_status": -3}, (JobState.LOST, None)),
        ({"substate": 91}, (JobState.LOST, None)),
    ],
)
@pytest.mark.parametrize("letter", ["F", "X"])
def test_ends(letter: str, attributes: dict[str, Any], expected: tuple[JobState, int | None]) -> None:
    """256 and the signal; below 0 what PBS did itself. spec: calibration 12.5, 17.148"""
    status = polled(0, record("7.pbs1", job_state=letter, **attributes))[ASKED[0]]
    assert (status.state, status.exit_status) == expected
    assert status.remedy == ("ask for more" if expected == (JobState.ENDED, None) else "")


def test_folded_lines() -> None:
    text = record("7.pbs1", job_state="F", Exit_status=265, comment="Job run at Sat and exceeded resource walltime")
    folded = text.replace("exceeded", "exce\n\teded")
    assert polled(0, folded) == polled(0, text)
    assert polled(0, folded)[ASKED[0]].state is JobState.LOST


def test_a_line_may_be_folded_anywhere() -> None:
    comment = "Not Running: Not enough free nodes available"
    for at in range(1, len(comment)):
        text = record("7.pbs1", job_state="Q", comment=f"{comment[:at]}\n\t{comment[at:]}")
        assert polled(0, text)[ASKED[0]] == JobStatus(JobState.QUEUED, reason=comment)


@pytest.mark.parametrize("fold", ["\n\t", "\n"])
def test_variables_say_nothing_about_a_job(fold: str) -> None:
    """Functions of a shell have lines, too."""
    lines = fold.join(["f=() {", "    job_state = F", "    exec_host = n9/0", "  Job Id: 9.pbs1", "}"])
    said = polled(0, record("7.pbs1", Job_Name="n", job_state="R", exec_host="n1/0", Variable_List=lines))
    assert said[ASKED[0]] == JobStatus(JobState.RUNNING, host="n1")
    assert said[JobId("9.pbs1")].state is JobState.UNKNOWN


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_it_does_not_matter_where_blocks_end(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Something first\n" + record("7.pbs1", job_state="R", exec_host="n1/0\n\t+n2/0", Variable_List="A=\u00e9")
    text += record("8[1].pbs1", job_state="X", Exit_status=3) + record("8[2].pbs1", job_state="Q", comment="later")
    whole = polled(0, text)
    assert [whole[job].state.name for job in ASKED] == ["RUNNING", "ENDED", "QUEUED", "UNKNOWN"]
    assert whole[ASKED[0]].host == "n1,n2"
    monkeypatch.setattr(calls, "_BLOCK", size)
    assert polled(0, text) == whole


def test_half_a_line_is_no_answer() -> None:
    whole = record("7.pbs1", job_state="F", Exit_status=137)
    for length in range(1, len(whole)):
        if whole[length - 1] != "\n":
            with pytest.raises(NoAnswer):
                polled(0, whole[:length])


def test_what_is_not_told_is_gone_only_if_pbs_says_so() -> None:
    text = record("8[].pbs1", job_state="B", array="True") + record("8[1].pbs1", job_state="R")
    said = polled(0, text)
    assert [said[job].state for job in ASKED] == [JobState.UNKNOWN, JobState.RUNNING, JobState.GONE, JobState.UNKNOWN]
    said = polled(153, text, "qstat: Unknown Job Id 7.pbs1\nqstat: Unknown Job Id 9.pbs1\n")
    assert said[JobId("7.pbs1")] == said[JobId("9.pbs1")] == GONE


def test_no_connection_is_no_answer() -> None:
    with pytest.raises(NoAnswer):
        polled(1, "", "Connection refused\nqstat: cannot connect to server pbs1 (errno=111)\n")


@given(st.text())
def test_no_answer_is_too_odd(text: str) -> None:
    for out in (text, record("7.pbs1", job_state=text), record("7.pbs1", job_state="F", Exit_status=text)):
        try:
            said = polled(0, out)
        except NoAnswer:
            continue
        assert set(said) == set(ASKED)


def test_arrays_are_asked_for_and_ended_together() -> None:
    assert next(Pbs({}).poll(ASKED)).argv == ("qstat", "-x", "-t", "-f", "7.pbs1", "8[].pbs1", "9.pbs1")
    jobs = [JobId(f"8[{index}].pbs1") for index in (1, 2, 3, 7)]
    assert next(Pbs({}).cancel([*jobs, JobId("7.pbs1")])).argv == ("qdel", "8[1-3].pbs1", "8[7].pbs1", "7.pbs1")


def test_limits() -> None:
    def limits_of(text: str) -> Limits:
        return carry_out(Pbs({}).limits(), {}, lambda call: Answer.of(call, 0, text))

    text = "Server: pbs1\n    server_state = Active\n    max_array_size = 500\n    max_queued = [u:PBS_GENERIC=40]\n"
    assert limits_of(text) == Limits(elements=500, jobs=40)
    assert limits_of("    server_state = Active\n") == Limits(elements=10000)
    assert limits_of("") == Limits()


# -- the stand-in itself


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PbsSite]:
    made = PbsSite(tmp_path)
    yield made
    made.close()


def test_a_held_job(site: PbsSite) -> None:
    submitted, jobs = site.submit("echo ran", needs=Needs(settings={"h": True}))
    assert site.wait(jobs, JobState.HELD)[jobs[0]].reason
    site.call("qrls", jobs[0])
    assert site.wait(jobs)[jobs[0]].exit_status == 0
    assert site.said(submitted) == "ran\n"


def test_without_a_history_what_ended_is_gone(site: PbsSite) -> None:
    site.turn(history=False)
    _, jobs = site.submit("exit 0")
    assert site.wait(jobs)[jobs[0]] == GONE


def test_a_full_queue_may_be_tried_again_later(site: PbsSite) -> None:
    site.turn(max_queued=3)
    outcome = site.carry_out(site.system.submit(site.submission("true", 4)))
    assert isinstance(outcome, Refused)
    assert outcome.again
    assert site.carry_out(site.system.limits()).jobs == 3


def test_programs_tell_it_from_grid_engine(site: PbsSite) -> None:
    from taskfarmer.batch.gridengine import GridEngine

    here = {"PATH": str(STANDIN)}
    assert Pbs.missing(here) == []
    assert GridEngine.missing(here) == ["qconf"]


def test_a_farm_on_pbs(site: PbsSite, lone: Farm) -> None:
    """Pilots, and one job a task."""
    lone.env |= {"PATH": site.environ["PATH"], "PBS_STANDIN": str(site.state)}
    said_by(site, "qselect")  # starts its daemon, which is not to be a farmer's child: farmers end those
    lone.write(*["sleep 0.1"] * 10)
    assert lone.once("submit", lone.list, "--batch", "pbs", "--jobs", "2", "--slots", "2", "--time", "1h").status == 0
    wait_for(lambda: lone.counts() == {"finished": 10}, "all tasks", 90)
    wait_for(lambda: "job_state = R" not in said_by(site, "qstat", "-x", "-t", "-f"), "the pilots to leave", 90)
    check_contract(lone, 10)
    lone.list.write_text("true\nexit 3\n")
    words = ("--workdir", lone.path / "other", "--batch", "pbs", "--one-job-per-task", "--retries", "0")
    assert lone.once("run", lone.list, *words).status == 1
    assert counts_of(lone.path / "other") == {"finished": 1, "failed": 1}


def said_by(site: PbsSite, *words: str) -> str:
    """Return what a command prints."""
    return run_call(Call(argv=words), site.environ).text
