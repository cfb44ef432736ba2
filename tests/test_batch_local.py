"""Jobs on this machine: the contract, and that they outlive who submitted them but never their supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import pytest

from taskfarmer.batch import JobId, JobState, Needs, Refused, choose
from taskfarmer.batch.local import Local
from taskfarmer.batch.local_jobs import KEPT_S
from taskfarmer.batch.script import UNSEEN
from taskfarmer.errors import InputError
from tests.batch_contract import NAP, BatchSystemContract, Site, outcome_of
from tests.executor_contract import is_alive

pytestmark = pytest.mark.timeout(300)


class LocalSite(Site):
    """`local`, with a spool of its own."""

    cannot: ClassVar = {
        "hold": "nothing is ever held",
        "requeue": "a job is started once",
        "preempt": "jobs do not compete with others",
        "refuse": "queues and accounts mean nothing",
    }
    too_many = 10_001
    unknown = ("tfffffffffffff.1", "tfffffffffffff.7", "tfeeeeeeeeeeee.1")
    walltime_s = 1.0

    def __init__(self, shared: Path, slots: int = 8) -> None:
        environ = {**os.environ, "TASKFARMER_LOCAL_JOBS": str(shared / "spool"), "TASKFARMER_LOCAL_SLOTS": str(slots)}
        super().__init__(Local(environ), shared, environ)

    def record(self, job: JobId) -> Path:
        """Return the directory of a job's submission."""
        return self.shared / "spool" / job.partition(".")[0]

    def supervisor(self, job: JobId) -> int:
        """Return the pid of a job's supervisor."""
        return int((self.record(job) / "supervisor").read_text().split()[0])

    def lose(self, job: JobId) -> None:
        """Kill the supervisor."""
        os.kill(self.supervisor(job), signal.SIGKILL)

    def forget(self, jobs: Collection[JobId]) -> None:
        """Let the records be too old, and submit something."""
        for job in jobs:
            os.utime(self.record(job) / "events", (1, time.time() - KEPT_S - 1))
            self.until(lambda job=job: not is_alive(self.supervisor(job)), "the end of the supervisor")  # type: ignore[misc]
        self.submit("true")


class TestLocal(BatchSystemContract):
    """The contract."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        """Return the site."""
        return LocalSite(tmp_path)


def pids(site: LocalSite, jobs: Collection[JobId]) -> list[int]:
    """Return the pids of jobs that began."""
    events = (site.record(next(iter(jobs))) / "events").read_text().splitlines()
    return [int(line.split()[2]) for line in events if line.split()[1] == "started"]


def test_jobs_outlive_who_submitted_them(tmp_path: Path) -> None:
    """Also if its whole session is killed, as by a shell that is closed."""
    site = LocalSite(tmp_path)
    submission = site.submission("sleep 1; echo survived")
    program = (
        "import os, signal, sys\n"
        "from taskfarmer.batch import carry_out\n"
        "from taskfarmer.batch.base import Submission\n"
        "from taskfarmer.batch.local import Local\n"
        "from pathlib import Path\n"
        f"it = Submission(name={submission.name!r}, directory=Path({str(submission.directory)!r}), body='', cwd='/',"
        f" output={submission.output!r})\n"
        "print(carry_out(Local(os.environ).submit(it), os.environ), flush=True)\n"
        "os.killpg(0, signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=site.environ, start_new_session=True, capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert b"Submitted" in ended.stdout
    site.made = list(site.find(submission.name).values())
    assert site.wait(site.made)[site.made[0]].state is JobState.ENDED
    assert site.said(submission) == "survived\n"


def test_what_is_told_to_be_lost_does_not_go_on(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    _, jobs = site.submit("sleep 600 & sleep 600", 2)
    site.wait(jobs, JobState.RUNNING)
    processes = pids(site, jobs)
    site.lose(jobs[0])
    site.until(lambda: not is_alive(site.supervisor(jobs[0])), "the end of the supervisor")
    assert any(map(is_alive, processes))
    assert {status.state for status in site.poll(jobs).values()} == {JobState.LOST}
    site.until(lambda: not any(map(is_alive, processes)), "the end of the jobs")


def test_after_a_reboot_all_that_ran_is_lost_and_nobody_is_killed(tmp_path: Path) -> None:
    """The pids of the record may be anybody's by now."""
    site = LocalSite(tmp_path)
    _, ended = site.submit("exit 3")
    site.wait(ended)
    _, jobs = site.submit(NAP, 2)
    site.wait(jobs, JobState.RUNNING)
    path = site.record(jobs[0]) / "supervisor"
    pid, start, _ = path.read_text().split()
    path.write_text(f"{pid} {start} another-boot\n")
    assert {status.state for status in site.poll(jobs).values()} == {JobState.LOST}
    assert site.poll(ended)[ended[0]].exit_status == 3
    assert all(map(is_alive, pids(site, jobs)))
    os.kill(int(pid), signal.SIGTERM)  # which ends its jobs
    site.until(lambda: not any(map(is_alive, pids(site, jobs))), "the end of the jobs")


@pytest.mark.parametrize("file", ["supervisor", "events", "spec"])
def test_a_record_that_a_power_cut_has_emptied_is_no_success(tmp_path: Path, file: str) -> None:
    site = LocalSite(tmp_path)
    submission, jobs = site.submit("exit 0", 2)
    site.wait(jobs)
    site.until(lambda: not is_alive(site.supervisor(jobs[0])), "the end of the supervisor")
    (site.record(jobs[0]) / file).write_text("")
    states = {status.state for status in site.poll(jobs).values()}
    assert states == {{"supervisor": JobState.ENDED, "events": JobState.LOST, "spec": JobState.GONE}[file]}
    site.cancel(jobs)
    assert set(site.find(submission.name)) == (set() if file == "spec" else {1, 2})


def test_a_pid_that_is_another_process_by_now_is_no_supervisor(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    _, jobs = site.submit(NAP)
    site.wait(jobs, JobState.RUNNING)
    path = site.record(jobs[0]) / "supervisor"
    pid, start, boot = path.read_text().split()
    path.write_text(f"{os.getpid()} {start} {boot}\n")
    assert site.poll(jobs)[jobs[0]].state is JobState.LOST
    os.kill(int(pid), signal.SIGTERM)


def test_jobs_that_ignore_term_are_killed_with_all_they_started(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    submission, jobs = site.submit("trap '' TERM; sleep 600 & echo $!; while :; do wait; sleep 0.1; done")
    site.wait(jobs, JobState.RUNNING)
    site.until(lambda: site.said(submission), "its words")
    child = int(site.said(submission))
    site.cancel(jobs)
    status = site.wait(jobs)[jobs[0]]
    assert (status.state, status.reason) == (JobState.LOST, "cancelled")
    site.until(lambda: not is_alive(child), "the end of its child")


def test_what_a_job_leaves_running_ends_with_it(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    submission, _ = site.run("sleep 600 >/dev/null 2>&1 & echo $!")
    child = int(site.said(submission))
    site.until(lambda: not is_alive(child), "the end of its child")


def test_slots_are_the_machines_not_a_submissions(tmp_path: Path) -> None:
    """spec: calibration 17.145"""
    site = LocalSite(tmp_path, slots=3)
    _, first = site.submit(NAP, 2)
    _, wide = site.submit(NAP, needs=Needs(cpus=2))
    site.wait(first, JobState.RUNNING)
    _, third = site.submit(NAP)
    site.wait(third, JobState.RUNNING)
    assert site.poll(wide)[wide[0]].state is JobState.QUEUED
    site.cancel(first)
    site.wait(wide, JobState.RUNNING)


def test_a_warning_comes_before_the_walltime_ends_a_job(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    submission, (end,) = site.run(
        "trap 'echo warned' USR1; while :; do sleep 0.1; done", needs=Needs(time_s=2.5, warn_s=2.0)
    )
    assert end.state is JobState.LOST
    assert "time" in end.reason
    assert site.said(submission) == "warned\n"


def test_submitting_twice_under_one_name_runs_once(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    submission = site.submission("echo x >> ran")
    jobs = site.hand_over(submission)
    assert site.hand_over(submission) == jobs
    site.wait(jobs)
    assert (submission.directory / "ran").read_text() == "x\n"


def test_the_submitters_environment_stays_with_it(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    site.system.environ = {**site.environ, "SECRET": "x", "LANG": "C.UTF-8"}
    submission, _ = site.run('echo "${SECRET-none} $LANG $HOME"')
    assert site.said(submission) == f"none C.UTF-8 {os.environ['HOME']}\n"


def test_output_that_cannot_be_written_is_told_as_a_directory_that_is_not_seen(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    _, (end,) = site.run("true", output="/nowhere/at all/{element}")
    assert (end.state, end.exit_status) == (JobState.ENDED, UNSEEN)
    assert "No such file" in end.reason
    assert "/nowhere/at all/1" in end.reason


def test_a_spool_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    (tmp_path / "spool").write_text("a file")
    outcome = outcome_of(site, it := site.submission("true"), (1, b"", "x")), site.carry_out(site.system.submit(it))
    assert isinstance(outcome[1], Refused)
    assert str(tmp_path / "spool") in outcome[1].why
    site.made.clear()


def test_native_options_and_bad_settings_are_refused_in_one_line(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    with pytest.raises(InputError, match="native"):
        site.submission("true", needs=Needs(native=["--gres=x"]))
    for wrong in ("0", "-1", "many"):
        with pytest.raises(InputError, match="TASKFARMER_LOCAL_SLOTS"):
            _ = Local({"TASKFARMER_LOCAL_SLOTS": wrong}).slots


def test_it_is_here_wherever_there_is_a_shell(tmp_path: Path) -> None:
    assert isinstance(choose("local", {"PATH": os.environ["PATH"]}), Local)
    assert Local({"HOME": str(tmp_path)}).spool.startswith(str(tmp_path))
