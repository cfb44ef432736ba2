"""Grid Engine: what its commands say, and the contract over a real one (tests/testbed/gridengine.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
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
from taskfarmer.batch.calls import Call
from taskfarmer.batch.gridengine import GridEngine, status_of
from taskfarmer.errors import InputError
from tests.batch_contract import NAP, BatchSystemContract, Site
from tests.farms import Farm, check_contract, counts_of, wait_for
from tests.testbed import gridengine
from tests.testbed.fixtures import running
from tests.testbed.service import NoService


@pytest.fixture(scope="session")
def grid_engine() -> Iterator[gridengine.GridEngine]:
    """A Grid Engine with eight slots."""
    with running(gridengine.GridEngine) as made:
        yield made


class GridEngineSite(Site):
    """A real Grid Engine."""

    cannot: ClassVar[Mapping[str, str]] = {
        "forget": "the accounting file forgets nothing",
        "lose": "the only host is this one; what runs on lost hosts is told as running",
        "preempt": "needs subordinate queues; they suspend, which is told as running",
    }
    refused: ClassVar[Mapping[str, Needs]] = {
        "unknown queue": Needs(queue="nope"),
        "invalid option": Needs(settings={"bogus": True}),
        "unknown resource": Needs(settings={"l": "bogus=1"}),
    }
    too_many: ClassVar[int | None] = 75_001
    unknown: ClassVar[tuple[str, ...]] = ("999999", "999999.3")
    walltime_s: ClassVar[float] = 3.0
    limit_s: ClassVar[float] = 120.0

    def __init__(self, service: gridengine.GridEngine, tmp_path: Path) -> None:
        self.service = service
        self._deleted: set[str] = set()
        self._look_at = 0.0
        environ = {**os.environ, **service.env}
        super().__init__(GridEngine(environ), tmp_path, environ)

    def hold(self, job: JobId) -> None:
        self.service.call("qhold", job)

    def release(self, job: JobId) -> None:
        self.service.call("qrls", job)

    def requeue(self, job: JobId) -> None:
        self.service.call("qmod", "-rj", job)

    def tick(self) -> None:
        """Force deletions that take long: a kill that met a job on its way to its host is repeated after minutes."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + 10
        listing = [line.split() for line in self.service.run("qstat", "-u", "*").stdout.splitlines()[2:]]
        deleted = {words[0] for words in listing if "d" in words[4]}
        for id in deleted & self._deleted:
            self.service.run("qdel", "-f", id)
        self._deleted = deleted

    def close(self) -> None:
        self.service.run("qdel", "-u", "*")
        try:
            self.service.await_(self._is_empty, "no jobs are left", 20)
        except NoService:  # see `tick`
            self.service.run("qdel", "-f", "-u", "*")
            self.service.await_(self._is_empty, "no jobs are left", 120)

    def _is_empty(self) -> bool:
        return not self.service.call("qstat", "-u", "*").strip()


class TestContract(BatchSystemContract):
    """spec: calibration 12.5, other batch systems"""

    @pytest.fixture
    def site(self, grid_engine: gridengine.GridEngine, tmp_path: Path) -> GridEngineSite:
        return GridEngineSite(grid_engine, tmp_path)


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
    found = list(GridEngine({}).command(submission(**more)))
    always = ["qsub", "-terse", "-S", "/bin/sh", "-j", "y", "-o", "/dev/null"]
    assert found[: len(always)] == always
    assert found[-1] == "job.sh"
    return found[len(always) : -1]


NAMED = ["-N", "tf0123456789ab"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, NAMED),
        ({"queue": "main"}, [*NAMED, "-q", "main"]),
        ({"queue": "main", "settings": {"queue": "short"}}, [*NAMED, "-q", "short"]),
        ({"account": "atlas"}, [*NAMED, "-P", "atlas"]),
        ({"requeue": True}, [*NAMED, "-r", "y"]),
        ({"requeue": False}, [*NAMED, "-r", "n"]),
        ({"cpus": 4}, [*NAMED, "-pe", "smp", "4"]),
        ({"cpus": 4, "settings": {"pe": "openmp"}}, [*NAMED, "-pe", "openmp", "4"]),
        ({"cpus": 2, "nodes": 8, "settings": {"pe": "mpi 16"}}, [*NAMED, "-pe", "mpi", "16"]),
        ({"time_s": 7200.5}, [*NAMED, "-l", "h_rt=7201"]),
        ({"time_s": 7200, "warn_s": 600}, [*NAMED, "-l", "h_rt=7200", "-l", "s_rt=6600"]),
        ({"time_s": 7200, "settings": {"l": "h_rt=60,os=el9"}}, [*NAMED, "-l", "h_rt=60,os=el9"]),
        ({"memory_bytes": 2**30, "cpus": 4}, [*NAMED, "-l", "h_vmem=256M", "-pe", "smp", "4"]),
        ({"gpus": 1}, [*NAMED, "-l", "gpu=1"]),
        ({"settings": {"p": "-10", "notify": True}}, [*NAMED, "-p", "-10", "-notify"]),
        ({"native": ("-soft", "-l", "x=1")}, [*NAMED, "-soft", "-l", "x=1"]),
        ({"job_name": "3 of mine"}, ["-N", "j3_of_mine.tf0123456789ab"]),
    ],
)
def test_what_is_asked_for_reaches_qsub(more: dict[str, Any], expected: list[str]) -> None:
    assert words(needs=Needs(**more)) == expected


def test_arrays() -> None:
    assert words(count=10) == [*NAMED, "-t", "1-10"]
    assert words(count=10, at_most=3) == [*NAMED, "-t", "1-10", "-tc", "3"]


def test_several_hosts_need_a_name_that_only_the_site_knows() -> None:
    with pytest.raises(InputError, match="parallel environment"):
        GridEngine({}).files(submission(needs=Needs(nodes=2)))


@pytest.mark.parametrize(
    "more",
    [{"settings": {"sync": "y"}}, {"native": ("-N", "x")}, {"native": ("-t", "1-3")}, {"native": ("-help",)}],
)
def test_what_would_take_jobs_out_of_sight_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be given"):
        GridEngine({}).files(submission(needs=Needs(**more)))


@pytest.mark.parametrize("settings", [{"-N": "mine"}, {"N": "mine"}, {"job_name": "mine", "N": "other"}])
def test_no_setting_takes_the_place_of_the_name_by_which_jobs_are_found(settings: dict[str, Any]) -> None:
    assert words(needs=Needs(settings=settings)) == ["-N", "mine.tf0123456789ab"]


# -- what is answered


def submitted(status: int, out: str, err: str = "", count: int = 1) -> Outcome:
    """Return what a submission comes to."""
    steps = GridEngine({}).submit(submission(count=count))
    return carry_out(steps, {}, lambda call: Answer.of(call, status, out, err))


def test_ids() -> None:
    assert submitted(0, "7\n") == Submitted((JobId("7"),))
    assert submitted(0, "7.1-2:1\n", count=2) == Submitted((JobId("7.1"), JobId("7.2")))
    assert isinstance(submitted(0, "7\n", count=2), Unsure)


@pytest.mark.parametrize(
    ("status", "err", "again"),
    [
        (1, 'Unable to run job: Job was rejected because job requests unknown queue "nope"\nExiting.\n', False),
        (2, 'qsub: invalid option argument "-bogus"\n', False),
        (1, "Unable to run job: job rejected: Only 100 jobs are allowed per user (current job count: 100).\n", True),
    ],
)
def test_refusals(status: int, err: str, again: bool) -> None:
    outcome = submitted(status, "", err)
    assert isinstance(outcome, Refused)
    assert outcome.again == again


@pytest.mark.parametrize(
    "err",
    [
        'commlib error: got select error\nUnable to run job: unable to contact qmaster using port "1".\n',
        "error: Unable to run job: unable to send message to qmaster\n",
        "",
    ],
)
def test_nobody_knows(err: str) -> None:
    assert isinstance(submitted(1, "", err), Unsure)


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("qw", "QUEUED"), ("hqw", "HELD"), ("Eqw", "HELD"), ("r", "RUNNING"), ("t", "RUNNING"), ("Rr", "RUNNING"),
        ("dr", "RUNNING"), ("hr", "RUNNING"), ("s", "RUNNING"), ("S", "RUNNING"), ("T", "RUNNING"), ("Rq", "QUEUED"),
        ("hRwq", "HELD"), ("dEqw", "HELD"), ("P", "RUNNING"), ("z", "UNKNOWN"), ("", "UNKNOWN"), ("X", "UNKNOWN"),
    ],
)  # fmt: skip
def test_states(letters: str, state: str) -> None:
    status = status_of(letters, "main@n1")
    assert status.state is JobState[state]
    assert status.host == ("n1" if status.state is JobState.RUNNING else "")
    assert status.reason or status.state is not JobState.HELD


def job_list(id: int, state: str, tasks: str = "", name: str = "n") -> str:
    """Return what `qstat -xml` says of a job."""
    said = {"JB_job_number": id, "JB_name": name, "state": state, "queue_name": ""} | (
        {"tasks": tasks} if tasks else {}
    )
    lines = "".join(f"      <{tag}>{value}</{tag}>\n" for tag, value in said.items())
    return f'    <job_list state="any">\n{lines}    </job_list>\n'


def queue(*jobs: str) -> str:
    """Return what `qstat -xml` prints about these."""
    head = "<?xml version='1.0'?>\n<job_info>\n<queue_info>\n"
    return f"{head}{''.join(jobs)}</queue_info>\n<job_info></job_info>\n</job_info>\n"


def account(id: int, task: str, failed: str, status: str, faults: int = 632) -> str:
    """Return a record of `qacct`, of a job that had so many page faults."""
    lines = {
        "qname": "main",
        "hostname": "n1",
        "jobname": "n",
        "jobnumber": id,
        "taskid": task,
        "failed": failed,
        "exit_status": status,
        "ru_minflt": faults,
    }
    return "=" * 62 + "\n" + "".join(f"{name:<12} {value}      \n" for name, value in lines.items())


ASKED = [JobId(id) for id in ("7", "8.1", "8.2", "8.9")]


def polled(*answers: tuple[int, str | bytes]) -> tuple[dict[JobId, JobStatus], list[tuple[str, ...]]]:
    """Return what a poll comes to, and the commands that it asked for."""
    asked: list[tuple[str, ...]] = []

    def run(call: Call) -> Answer:
        status, out = answers[len(asked)]
        asked.append(call.argv)
        return Answer.of(call, status, out)

    return carry_out(GridEngine({}).poll(ASKED), {}, run), asked


def test_ranges_of_waiting_elements() -> None:
    said, asked = polled((0, queue(job_list(7, "r"), job_list(8, "qw", "1-9:8,2"), job_list(9, "r", "1"))))
    assert [said[job].state for job in ASKED] == [JobState.RUNNING] + [JobState.QUEUED] * 3
    assert len(asked) == 1


def test_what_left_the_queue_is_looked_up_together() -> None:
    records = [
        account(7, "undefined", "0", "3"),
        account(8, "1", "25  : rescheduling", "0"),
        account(8, "1", "0", "0"),
        account(8, "2", "100 : assumedly after job", "137                  (Killed)"),
        account(80, "9", "0", "0"),
    ]
    said, asked = polled((0, queue()), (0, "".join(records)))
    assert [said[job].state for job in ASKED] == [JobState.ENDED, JobState.ENDED, JobState.LOST, JobState.GONE]
    assert (said[JobId("7")].exit_status, said[JobId("8.1")].exit_status) == (3, 0)
    assert said[JobId("8.2")].reason == "100 : assumedly after job"
    assert len(asked) == 2
    assert asked[1][:3] == ("qacct", "-j", "*tf????????????")


def test_a_record_of_nothing_that_ran_is_no_end() -> None:
    said, _ = polled((0, queue(job_list(8, "r", "1,2,9"))), (0, account(7, "undefined", "0", "0", faults=0)))
    assert said[JobId("7")] == JobStatus(JobState.LOST, reason="removed from the queue by force", host="n1")


@pytest.mark.parametrize("status", [1, 124, 127])
def test_without_accounting_what_left_the_queue_is_gone(status: int) -> None:
    said, _ = polled((0, queue(job_list(8, "r", "1"))), (status, ""))
    assert said[JobId("8.1")].state is JobState.RUNNING
    assert said[JobId("7")] == GONE


@given(st.text())
def test_no_answer_is_too_odd(text: str) -> None:
    for out in (text, queue(text), queue(job_list(8, "qw", text))):
        try:
            said, _ = polled((0, out), (0, text))
        except NoAnswer:
            continue
        assert set(said) == set(ASKED)


@pytest.mark.parametrize(
    "name",
    [
        "&lt;/JB_name&gt;&lt;state&gt;Eqw&lt;/state&gt;&lt;/job_list&gt;", "a%lt;b&amp;&#10;", "a\n\tb", "\x01\x08\x1b",
        "<![CDATA[</job_list>]]>", "<!-- <state>Eqw</state> -->", "x" * 100_000, "",
    ],
)  # fmt: skip
def test_a_name_is_no_more_than_a_name(name: str) -> None:
    said, _ = polled((0, queue(job_list(7, "r", name=name), job_list(8, "qw", "1-2,9", name=name))))
    assert [said[job].state for job in ASKED] == [JobState.RUNNING] + [JobState.QUEUED] * 3


def test_an_answer_that_is_no_utf_8() -> None:
    out = queue(job_list(7, "r", name="NAME"), job_list(8, "qw", "1,2,9")).encode().replace(b"NAME", b"caf\xe9")
    said, _ = polled((0, out))
    assert said[JobId("7")].state is JobState.RUNNING


def test_half_an_answer_is_none() -> None:
    whole = queue(job_list(7, "r"), job_list(8, "qw", "1,2,9")).rstrip()
    for length in range(len(whole)):
        with pytest.raises(NoAnswer):
            polled((0, whole[:length]))


def test_half_an_accounting_tells_no_other_end() -> None:
    whole = account(7, "undefined", "0", "137") + account(8, "2", "100 : assumedly after job", "137")
    for length in range(len(whole)):
        said, _ = polled((0, queue(job_list(8, "r", "1,9"))), (0, whole[:length]))
        assert said[JobId("7")] in (GONE, JobStatus(JobState.ENDED, 137, host="n1"))
        assert said[JobId("8.2")] in (GONE, JobStatus(JobState.LOST, reason="100 : assumedly after job", host="n1"))
    assert GONE not in polled((0, queue(job_list(8, "r", "1,9"))), (0, whole))[0].values()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_it_does_not_matter_where_blocks_end(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = queue(job_list(7, "r", name="\u00e9" * 5), job_list(8, "qw", "1", name="&lt;&amp;"))
    accounts = account(8, "2", "0", "3") + account(8, "9", "0", "4")
    whole, _ = polled((0, listing), (0, accounts))
    assert [status.exit_status for status in whole.values()] == [None, None, 3, 4]
    monkeypatch.setattr(calls, "_BLOCK", size)
    assert polled((0, listing), (0, accounts))[0] == whole


def test_limits() -> None:
    def limits_of(text: str) -> Limits:
        return carry_out(GridEngine({}).limits(), {}, lambda call: Answer.of(call, 0, text))

    said = "max_aj_tasks                 75000\nmax_u_jobs                   0\n"
    assert limits_of(said) == Limits(elements=75000)
    assert limits_of(said.replace(" 0\n", " 500\n")) == Limits(elements=75000, jobs=500)
    assert limits_of("") == Limits()


# -- the real one


@pytest.fixture
def site(grid_engine: gridengine.GridEngine, tmp_path: Path) -> Iterator[GridEngineSite]:
    made = GridEngineSite(grid_engine, tmp_path)
    yield made
    made.close()


def test_exit_statuses_that_mean_something_to_grid_engine(site: GridEngineSite) -> None:
    """99 would start the job anew for ever, 100 leave it in the queue in error."""
    _, ends = site.run("[ $TASKFARMER_ELEMENT = 1 ] && exit 99; exit 100", 2)
    assert [end.exit_status for end in ends] == [1, 1]


def test_a_job_that_may_run_again_asks_for_it(site: GridEngineSite) -> None:
    """With 99, as pilots do with work left; the first start is in the accounting as well, and is no end."""
    submitted, jobs = site.submit(
        "echo start >> starts; [ $(wc -l < starts) -gt 1 ] || exit 99", needs=Needs(requeue=True)
    )
    status = site.wait(jobs)[jobs[0]]
    assert (status.state, status.exit_status) == (JobState.ENDED, 0)
    assert (submitted.directory / "starts").read_text() == "start\n" * 2


def test_what_is_removed_by_force_did_not_end_well(site: GridEngineSite) -> None:
    """The record of it says 0, twice."""
    _, jobs = site.submit(NAP)
    site.wait(jobs, JobState.RUNNING)
    site.service.call("qdel", "-f", jobs[0])
    assert site.wait(jobs)[jobs[0]].reason == "removed from the queue by force"


def test_a_warning_before_the_walltime(site: GridEngineSite) -> None:
    body = "trap 'echo warned; exit 5' USR1; while :; do sleep 0.2; done"
    submitted, (end,) = site.run(body, needs=Needs(time_s=100, warn_s=98))
    assert end.exit_status == 5
    assert "warned" in site.said(submitted)


def test_a_job_in_error_is_held_and_says_so(site: GridEngineSite) -> None:
    _, jobs = site.submit("true", needs=Needs(settings={"o": "/nowhere/at/all"}))
    status = site.wait(jobs, JobState.HELD)[jobs[0]]
    assert "Eqw" in status.reason
    site.cancel(jobs)
    assert site.wait(jobs, through=(JobState.HELD,))[jobs[0]].state.is_over


def test_a_farm_on_grid_engine(site: GridEngineSite, lone: Farm) -> None:
    """Pilots, and one job a task."""
    lone.env |= site.service.env
    lone.write(*["sleep 0.1"] * 10)
    assert lone.once("submit", lone.list, "--batch", "sge", "--jobs", "2", "--slots", "2", "--time", "1h").status == 0
    wait_for(lambda: lone.counts() == {"finished": 10}, "all tasks", 90)
    wait_for(lambda: not site.service.call("qstat").strip(), "the pilots to leave", 90)
    check_contract(lone, 10)
    lone.list.write_text("true\nexit 3\n")
    words = ("--workdir", lone.path / "other", "--batch", "sge", "--one-job-per-task", "--retries", "0")
    assert lone.once("run", lone.list, *words).status == 1
    assert counts_of(lone.path / "other") == {"finished": 1, "failed": 1}
