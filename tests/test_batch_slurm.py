"""Slurm: the contract over a real one, and what its commands may say that a small one never says."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks.polling import DIALECTS, Dialect, measured
from taskfarmer.batch import (
    Answer,
    Call,
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
    carry_out,
)
from taskfarmer.batch.calls import HUNG, MISSING, run_call
from taskfarmer.batch.script import UNSEEN
from taskfarmer.batch.slurm import Slurm
from taskfarmer.batch.slurm_answers import limits_of
from taskfarmer.batch.slurm_ids import condensed, numbers
from taskfarmer.batch.slurm_options import directive, minutes
from taskfarmer.batch.slurm_states import STATES, exit_status, state_of
from taskfarmer.errors import InputError
from tests.batch_contract import NAP, BatchSystemContract, Site
from tests.testbed.fixtures import slurm_with
from tests.testbed.slurm import Settings
from tests.testbed.slurm import Slurm as RealSlurm

NAME = "tf0123456789ab"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealSlurm]:
    """A Slurm with a partition whose jobs go first, and short arrays."""
    settings = Settings(
        max_array_size=1001,
        partitions={
            "main": "Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1",
            "first": "Nodes=ALL MaxTime=INFINITE PriorityTier=9",
        },
        conf={"PreemptType": "preempt/partition_prio", "PreemptMode": "CANCEL"},
    )
    with slurm_with(settings) as made:
        yield made


class SlurmSite(Site):
    """A real Slurm of two nodes."""

    cannot: ClassVar = {
        "forget": "it forgets once a minute, after MinJobAge: test_what_the_controller_forgot",
        "backslash": "in the name of an output file it turns all replacements off",
    }
    refused: ClassVar = {
        "partition": Needs(queue="nope"),
        "unrecognized option '--nope'": Needs(native=["--nope"]),
        "signal": Needs(warn_s=100_000),
    }
    too_many = 1001
    unknown = ("987654", "987653_1", "987653_7")
    limit_s = 150.0

    def __init__(self, slurm: RealSlurm, shared: Path) -> None:
        environ = {**os.environ, **slurm.env}
        super().__init__(Slurm(environ), shared, environ)
        self.slurm = slurm
        self.down: list[str] = []

    def hold(self, job: JobId) -> None:
        """Hold it."""
        self.slurm.call("scontrol", "hold", job)

    def release(self, job: JobId) -> None:
        """Release it."""
        self.slurm.call("scontrol", "release", job)

    def lose(self, job: JobId) -> None:
        """Declare its node dead."""
        self.down.append(self.poll([job])[job].host)
        self.slurm.node_down(self.down[-1])

    def requeue(self, job: JobId) -> None:
        """Requeue it."""
        self.slurm.preempt(job)

    def preempt(self, job: JobId) -> None:
        """Submit one that goes first, and wants the whole node."""
        host = self.poll([job])[job].host
        words = ("-p", "first", "-w", host, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
        self.made.append(JobId(self.slurm.submit(*words)))

    def close(self) -> None:
        """Leave it as it was."""
        super().close()
        for node in self.down:
            self.until(lambda node=node: self._is_up(node), f"{node} to be up again")  # type: ignore[misc]

    def _is_up(self, node: str) -> bool:
        with suppress(AssertionError):  # it may come back by itself while it is told to
            self.slurm.node_up(node)
            return True
        return False


@pytest.fixture
def real(cluster: RealSlurm, tmp_path: Path) -> Iterator[SlurmSite]:
    """Return the site, for tests that are not of the contract."""
    site = SlurmSite(cluster, tmp_path)
    yield site
    site.close()


class TestSlurm(BatchSystemContract):
    """The contract."""

    @pytest.fixture
    def site(self, cluster: RealSlurm, tmp_path: Path) -> Site:
        """Return the site."""
        return SlurmSite(cluster, tmp_path)


# -- over the real one, beyond the contract


def test_jobs_do_not_depend_on_the_submitters_environment(real: SlurmSite) -> None:
    more = {"SECRET": "x", "LD_LIBRARY_PATH": "/x", "MODULEPATH": "/their modules"}
    real.system = Slurm({**real.environ, **more, "PATH": f"{real.environ['PATH']}:/of theirs"})
    seen = 'echo "${SECRET-none} ${LD_LIBRARY_PATH-none} $MODULEPATH ${PATH##*:} $HOME"; command -v squeue >/dev/null'
    submission, _ = real.run(f"{seen} && echo found")
    assert real.said(submission) == f"none none /their modules /of theirs {os.environ['HOME']}\nfound\n"


def test_what_the_users_variables_say_hides_no_job_and_replaces_nothing(real: SlurmSite) -> None:
    """A site's profile may have set them."""
    theirs = {"SQUEUE_PARTITION": "first", "SQUEUE_STATES": "PD", "SQUEUE_FORMAT2": "Name", "SCANCEL_STATE": "PENDING"}
    real.system = Slurm({**real.environ, **theirs, "SBATCH_PARTITION": "first"})
    submission, (job,) = real.submit(NAP, needs=Needs(queue="main"))
    assert real.wait([job], JobState.RUNNING)[job].host
    assert real.find(submission.name) == {1: job}
    assert "Partition=main " in real.slurm.call("scontrol", "-o", "show", "job", job)
    real.cancel([job])
    assert real.wait([job])[job].state is JobState.LOST


def test_a_setting_gives_them_the_submitters_environment_after_all(real: SlurmSite) -> None:
    real.system = Slurm({**real.environ, "SECRET": "x"})
    submission, _ = real.run('echo "${SECRET-none}"', needs=Needs(settings={"export": "ALL"}))
    assert real.said(submission) == "x\n"


def test_needs_and_settings_reach_the_job(real: SlurmSite) -> None:
    needs = Needs(
        cpus=3, memory_bytes=2**29, time_s=3601, time_min_s=60, queue="first", job_name="for people, 3%",
        settings={"comment": "it's \"so\" #1", "nice": 5, "hold": None, "dependency": False},
    )  # fmt: skip
    submission, (job,) = real.submit(NAP, needs=needs)
    said = real.slurm.call("scontrol", "-o", "show", "job", job)
    for word in (
        "JobName=for people, 3% ", "Partition=first ", "CPUs/Task=3 ", "TimeLimit=01:01:00 ", "TimeMin=00:01:00 ",
        f"Comment={submission.name} it's \"so\" #1 ", "Nice=5 ", "MinMemoryNode=512M ", "Reason=JobHeldUser ",
        "Dependency=(null)",
    ):  # fmt: skip
        assert word in said
    assert real.poll([job])[job] == JobStatus(JobState.HELD, None, "JobHeldUser")
    assert real.find(submission.name) == {1: job}


def test_output_that_the_node_cannot_write_is_told_as_a_directory_that_it_does_not_see(real: SlurmSite) -> None:
    _, (end,) = real.run("true", output="/nowhere/at all/{element}")
    assert (end.state, end.exit_status) == (JobState.ENDED, UNSEEN)
    assert "output" in end.reason


def test_a_job_that_goes_back_to_the_queue_when_its_node_is_lost(real: SlurmSite) -> None:
    submission, (job,) = real.submit(f"echo x >> starts; {NAP}", needs=Needs(requeue=True))
    real.wait([job], JobState.RUNNING)
    real.until((submission.directory / "starts").exists, "its start")
    real.lose(job)
    real.wait([job], JobState.QUEUED, through=(JobState.RUNNING, JobState.QUEUED))
    real.wait([job], JobState.RUNNING, through=(JobState.QUEUED,))
    assert real.find(submission.name) == {1: job}


def test_jobs_that_are_suspended_or_requeued_and_held(real: SlurmSite) -> None:
    _, (job,) = real.submit(NAP, needs=Needs(requeue=True))
    real.wait([job], JobState.RUNNING)
    real.slurm.call("scontrol", "suspend", job)
    assert real.poll([job])[job].reason == "SUSPENDED"
    assert real.poll([job])[job].state is JobState.RUNNING
    real.slurm.call("scontrol", "resume", job)
    real.slurm.call("scontrol", "requeuehold", job)
    assert real.wait([job], JobState.HELD, through=(JobState.RUNNING, JobState.QUEUED))[job].reason


def test_a_pilot_of_several_nodes_can_use_srun(real: SlurmSite) -> None:
    submission, (end,) = real.run(
        'srun sh -c "echo $((SLURM_CPUS_PER_TASK)) on \\$SLURMD_NODENAME"', needs=Needs(nodes=2, cpus=2, time_s=60)
    )
    assert end.exit_status == 0
    assert sorted(real.said(submission).splitlines()) == ["2 on n1", "2 on n2"]


def test_a_warning_signal_reaches_the_script(real: SlurmSite) -> None:
    """Slurm looks at its times every half a minute, so the signal is sent by hand, as Slurm would."""
    body = "trap 'echo warned; exit 5' USR1; echo ready; while :; do sleep 0.1; done"
    submission, (job,) = real.submit(body, needs=Needs(time_s=600, warn_s=60))
    assert "--signal=B:USR1@60" in real.calls[-1].argv
    real.wait([job], JobState.RUNNING)
    real.until(lambda: "ready" in real.said(submission), "the trap")
    real.slurm.call("scancel", "--batch", "--signal=USR1", job)
    assert real.wait([job])[job].exit_status == 5
    assert real.said(submission) == "ready\nwarned\n"


def test_jobs_of_arrays_and_other_kinds_of_the_same_user_do_not_disturb(real: SlurmSite) -> None:
    """spec: workflow 6.13.150, P06"""
    held = ("--hold", "-o", "/dev/null")
    for words in ((*held, "--array=1-9%3"), held):
        real.made.append(JobId(real.slurm.submit(*words, "--wrap", "true")))
    het = real.slurm.submit(*held, "-n1", "--wrap", "true")
    real.made.append(JobId(het))
    script = real.shared / "het.sh"
    script.write_text("#!/bin/sh\n#SBATCH --hold -n1\n#SBATCH hetjob\n#SBATCH -n1\ntrue\n")
    real.made.append(JobId(real.slurm.submit("-o", "/dev/null", script)))
    _, (job,) = real.submit("exit 3")
    many = [JobId(str(number)) for number in range(700_000, 700_300)]  # so that all of the user's jobs are asked for
    end = real.wait([job])[job]
    assert end == JobStatus(JobState.ENDED, 3, "NonZeroExitCode", end.host)
    said = real.poll([job, *many])
    assert said.pop(job) == end
    assert {status.state for status in said.values()} == {JobState.GONE}
    assert "-j" not in real.calls[-2].argv
    assert real.calls[-2].program == "squeue"


def test_a_controller_that_is_away_is_no_answer_and_no_end(real: SlurmSite) -> None:
    submission, jobs = real.submit(NAP, 2)
    real.wait(jobs, JobState.RUNNING)
    with real.slurm.controller_away():
        for steps in (real.system.poll(jobs), real.system.find(submission.name)):
            with pytest.raises(NoAnswer):
                real.carry_out(steps)
        outcome = real.carry_out(real.system.submit(other := real.submission("true")))
        assert not isinstance(outcome, Submitted)
    assert {status.state for status in real.poll(jobs).values()} == {JobState.RUNNING}
    if isinstance(outcome, Refused):
        assert outcome.again
        assert real.find(other.name) == {}


def test_a_submission_whose_answer_is_lost_is_found(real: SlurmSite) -> None:
    submission = real.submission(NAP, 3)

    def deaf(call: Call) -> Answer:
        run_call(call, real.system.environ)
        return Answer.of(call, HUNG)

    assert isinstance(carry_out(real.system.submit(submission), real.environ, deaf), Unsure)
    found = real.find(submission.name)
    real.made.extend(found.values())
    assert list(found) == [1, 2, 3]
    assert {status.state for status in real.poll(found.values()).values()} <= {JobState.QUEUED, JobState.RUNNING}


@pytest.mark.parametrize("memory_bytes", [1 << 40, 1 << 50])
def test_what_no_node_can_have_is_refused(real: SlurmSite, memory_bytes: int) -> None:
    """Slurm has a job of it all the same, which failed at once."""
    submission = real.submission("true", count=2, needs=Needs(memory_bytes=memory_bytes))
    outcome = real.carry_out(real.system.submit(submission))
    assert isinstance(outcome, Refused)
    assert "not available" in outcome.why
    assert not outcome.again
    assert real.find(submission.name) == {}


def test_a_job_whose_name_has_a_line_break_does_no_harm(real: SlurmSite) -> None:
    """It may be the user's own, submitted by hand."""
    real.made.append(JobId(real.slurm.submit("-J", "a b\nc|d", "-o", "/dev/null", "--wrap", "true")))
    assert real.find(NAME) == {}
    submission, (end,) = real.run("true", needs=Needs(job_name="for people"))
    assert end.exit_status == 0
    assert list(real.find(submission.name)) == [1]


def test_what_the_controller_forgot(tmp_path: Path) -> None:
    """Then accounting tells, or nobody; one forgotten id alone is an error. spec: workflow 6.13.148, 6.13.152, P08"""
    with slurm_with(Settings(accounting=True, conf={"MinJobAge": "2"})) as slurm:
        site = SlurmSite(slurm, tmp_path)
        submission, jobs = site.submit("exit $TASKFARMER_ELEMENT", 2)
        people, (single,) = site.submit("exit 4", needs=Needs(job_name="for people"))
        _, (cancelled,) = site.submit(NAP)
        site.wait([cancelled], JobState.RUNNING)
        site.cancel([cancelled])
        site.wait([*jobs, single, cancelled])
        _, (running,) = site.submit(NAP)
        site.until(lambda: single not in slurm.jobs() and jobs[0] not in slurm.jobs(), "the controller to forget")
        site.until(lambda: site.poll([single])[single].state is JobState.ENDED, "accounting")
        said = site.wait([*jobs, single, cancelled])
        assert [said[job].exit_status for job in (*jobs, single)] == [1, 2, 4]
        assert said[cancelled].state is JobState.LOST
        assert said[cancelled].reason.startswith("CANCELLED by ")
        assert site.find(submission.name) == dict(enumerate(jobs, 1))
        assert site.find(people.name) == {1: single}

        for status in (HUNG, MISSING, 1):

            def without_sacct(call: Call, status: int = status) -> Answer:
                return Answer.of(call, status) if call.program == "sacct" else run_call(call, site.system.environ)

            said = carry_out(site.system.poll([single, *jobs, running]), site.environ, without_sacct)
            assert [said[job].state for job in (single, *jobs)] == [JobState.GONE] * 3
            assert said[running].state in (JobState.QUEUED, JobState.RUNNING)
        site.close()


# -- what its commands may say


def submission(
    count: int = 1, at_most: int | None = None, output: str = "/d/{element}.out", **needs: Any
) -> Submission:
    """Return a submission that no file belongs to."""
    return Submission(
        name=NAME, directory=Path("/d"), body="exec /d/task", cwd="/d", output=output, count=count, at_most=at_most,
        needs=Needs(**needs),
    )  # fmt: skip


def script(**needs: Any) -> list[str]:
    """Return the `#SBATCH` lines of a job with such needs."""
    return [line for line in Slurm({}).files(submission(**needs))["job.sh"].splitlines() if line.startswith("#SBATCH")]


def options(**needs: Any) -> list[str]:
    """Return the options on the command line for what is needed."""
    words = Slurm({}).command(submission(**needs))
    return list(words[4:-1])


def test_variables_that_would_hide_jobs_are_kept_from_the_commands() -> None:
    """All others are the user's affair."""
    hiding = {"SQUEUE_PARTITION": "x", "SCANCEL_NAME": "x", "SACCT_FORMAT": "x", "SBATCH_WAIT": "1"}
    kept = {"SLURM_CONF": "/c", "SBATCH_ACCOUNT": "m1", "PATH": "/bin"}
    assert Slurm({**hiding, **kept}).environ == {**kept, "SLURM_BITSTR_LEN": "0"}


THEIRS = {
    "HOME": "/home/me", "PATH": "/bin", "LC_TIME": "C", "SLURM_CONF": "/c", "SBATCH_ACCOUNT": "m1", "LMOD_PKG": "/lmod",
}  # fmt: skip


def sbatch(environ: Mapping[str, str], **needs: Any) -> Call:
    """Return the call that submits."""
    return next(Slurm(environ).submit(submission(**needs)))


def test_sbatch_hands_on_little_of_the_environment() -> None:
    """By `--export=NONE` each element would wait for a login environment of its own."""
    shells = {"SECRET": "x", "LD_LIBRARY_PATH": "/x", "PYTHONPATH": "/y", "SLURM_GET_USER_ENV": "1", "PATHS": "z"}
    assert sbatch({**THEIRS, **shells}).environ == THEIRS


def test_nothing_of_a_job_that_submits_reaches_those_that_it_submits() -> None:
    """They would take its end for their own, and what they do to themselves would be done to it."""
    ours = {
        "SLURM_JOB_ID": "79", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3", "SLURM_MEM_PER_NODE": "256",
        "SLURM_RESTART_COUNT": "7", "SLURM_JOB_END_TIME": "1", "SLURM_UMASK": "0077", "SLURM_HINT": "nomultithread",
        "SBATCH_MEM_BIND": "local", "SBATCH_MEM_BIND_TYPE": "local", "SLURM_CONF_OUT": "x",
    }  # fmt: skip
    clients = {**THEIRS, "SLURM_CONF_SERVER": "c1", "SLURM_JWT": "x", "SLURM_CLUSTERS": "c", "SBATCH_HINT": "x"}
    assert sbatch({**clients, **ours}).environ == clients
    assert sbatch({**clients, **ours, "SECRET": "x"}, native=["--export=ALL"]).environ == {**clients, "SECRET": "x"}


@pytest.mark.parametrize(
    ("environ", "needs"),
    [({}, {"settings": {"export": "NONE"}}), ({}, {"native": ["--export=ALL"]}), ({}, {"native": ["--exp", "A"]}),
     ({"SBATCH_EXPORT": "NONE"}, {})],
)  # fmt: skip
def test_who_says_what_is_to_be_handed_on_has_all_of_it(environ: dict[str, str], needs: dict[str, Any]) -> None:
    """Or a name in `--export` would have no value."""
    assert sbatch({**THEIRS, **environ}, **needs).environ is None
    assert sbatch(THEIRS, native=["--export-file=f", "--exclusive"]).environ is not None


def test_the_cluster_tells_schedulers_apart() -> None:
    call = next(steps := Slurm({}).instance())
    config = "Configuration data\nClusterName             = alpha\nSlurmctldHost[0]        = c1\n"
    with pytest.raises(StopIteration) as end:
        steps.send(Answer.of(call, out=config))
    assert end.value.value == "alpha"
    next(steps := Slurm({}).instance())
    with pytest.raises(NoAnswer):
        steps.send(Answer.of(call, status=1, err="slurm_load_ctl_conf error: Unable to contact slurm controller"))


def test_the_command_has_what_tells_a_submission_from_others() -> None:
    assert Slurm({}).command(submission()) == (
        "sbatch", "--parsable", f"--job-name={NAME}", "--output=/d/1.out", "job.sh",
    )  # fmt: skip
    assert Slurm({}).command(submission(7, 2, job_name="x", native=["--gres=a", "-v"])) == (
        "sbatch", "--parsable", "--job-name=x", f"--comment={NAME}", "--output=/d/%a.out", "--array=1-7%2",
        "--gres=a", "-v", "job.sh",
    )  # fmt: skip


def test_a_name_for_people_comes_from_needs_or_settings_and_the_settings_win() -> None:
    """spec: workflow 6.13.144"""
    named: dict[str, Any] = {"job_name": "needs", "settings": {"job-name": "settings", "comment": "theirs"}}
    words = Slurm({}).command(submission(**named))
    assert words[2:4] == ("--job-name=settings", f"--comment={NAME} theirs")
    assert Slurm({}).command(submission(settings={"J": "short"}))[2:4] == ("--job-name=short", f"--comment={NAME}")
    assert not any("job-name" in line for line in script(**named))


def test_a_percent_sign_in_a_path_is_no_pattern() -> None:
    assert "--output=/d/50%%a/%a.out" in Slurm({}).command(submission(2, output="/d/50%a/{element}.out"))


def test_a_minimal_script_asks_for_next_to_nothing() -> None:
    """spec: workflow 6.13.143"""
    assert script() == ["#SBATCH --export=ALL", "#SBATCH --open-mode=append"]
    text = Slurm({}).files(submission())["job.sh"]
    assert text.startswith("#!/bin/sh\n#SBATCH ")
    assert text.endswith("\nexec /d/task\n")


def test_everything_that_is_needed_is_asked_for() -> None:
    """On the command line: `SBATCH_ACCOUNT` and the like go above lines of the script."""
    words = options(
        cpus=4, nodes=2, gpus=1, memory_bytes=2**30 + 1, time_s=90.5, time_min_s=60, queue="debug", account="m1",
        warn_s=120, requeue=True,
    )  # fmt: skip
    assert set(words) == {
        "--partition=debug", "--account=m1", "--time=0:01:31", "--time-min=0:01:00", "--mem=1025M",
        "--cpus-per-task=4", "--gpus-per-node=1", "--signal=B:USR1@120", "--nodes=2", "--ntasks-per-node=1",
        "--requeue",
    }  # fmt: skip
    assert options(requeue=False) == ["--no-requeue"]
    assert options() == []


def test_settings_become_lines_and_win() -> None:
    """spec: workflow 6.13.145, calibration 17.151"""
    settings = {
        "p": "long", "mem-per-cpu": "2G", "ntasks": 64, "no-requeue": True, "exclusive": None,
        "oversubscribe": False, "constraint": "a&b", "Q": True,
    }  # fmt: skip
    needs = {"queue": "debug", "memory_bytes": 2**30, "nodes": 2, "requeue": True, "cpus": 2, "settings": settings}
    assert options(**needs) == ["--cpus-per-task=2"]
    assert script(**needs) == [
        "#SBATCH --export=ALL", "#SBATCH --open-mode=append", "#SBATCH --partition=long",
        "#SBATCH --mem-per-cpu=2G", "#SBATCH --ntasks=64", "#SBATCH --no-requeue", "#SBATCH --exclusive",
        "#SBATCH --constraint=a&b", "#SBATCH -Q",
    ]  # fmt: skip


def test_settings_are_not_changed() -> None:
    """spec: workflow 6.7.85, P15"""
    settings = {"p": "x", "job-name": "y"}
    for _ in range(2):
        assert "#SBATCH --partition=x" in script(settings=settings)
    assert settings == {"p": "x", "job-name": "y"}


@pytest.mark.parametrize(
    ("needs", "word"),
    [
        ({"settings": {"array": "1-3"}}, "'array'"),
        ({"settings": {"a": "1-3"}}, "'array'"),
        ({"settings": {"comment": "two\nlines"}}, "control characters"),
        ({"settings": {"J": "two\nlines"}}, "control characters"),
        ({"job_name": "two\nlines"}, "control characters"),
        ({"native": ["--array=1-3"]}, "--array"),
        ({"native": ["--arr", "1-3"]}, "--arr"),
        ({"native": ["-a1-3"]}, "-a1-3"),
        ({"native": ["-J", "x"]}, "--job-name in front"),
        ({"native": ["--job-name=x"]}, "job-name"),
        ({"native": ["--comment=x"]}, "comment"),
        ({"native": ["-Mother"]}, "-Mother"),
        ({"native": ["--version"]}, "--version"),
        ({"native": ["--usage"]}, "--usage"),
        ({"native": ["-h"]}, "-h"),
        ({"native": [":", "-n1"]}, "several jobs"),
    ],
)
def test_what_would_take_jobs_out_of_sight_is_refused(needs: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as caught:
        Slurm({}).files(submission(**needs))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_much_like_these_are_not() -> None:
    assert script(native=["--account=x", "-A", "x", "--constraint=y", "--wckey=z", "--mem=1G", "-w", "n1", "x"])


def outcome(status: int, out: str = "", err: str = "", count: int = 1) -> Outcome:
    """Return what a submission comes to if `sbatch` answers so."""
    return carry_out(Slurm({}).submit(submission(count)), {}, lambda call: Answer.of(call, status, out, err))


@pytest.mark.parametrize(
    "said", ["12345\n", "12345;cluster\n", "Submitted batch job 12345\n", "a word of the site's\n12345\n"]
)
def test_the_id_is_read_from_all_that_sbatch_says(said: str) -> None:
    """spec: workflow 6.13.146"""
    assert outcome(0, said) == Submitted((JobId("12345"),))
    assert outcome(0, said, count=2) == Submitted((JobId("12345_1"), JobId("12345_2")))


@pytest.mark.parametrize("said", ["", "12345", "Submitted batch job\n", "12 345\n", "-1\n"])
def test_an_answer_without_an_id_leaves_it_open(said: str) -> None:
    """spec: workflow 6.13.146"""
    assert isinstance(outcome(0, said), Unsure)


FAILED = "Batch job submission failed"
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    ("said", "kind", "again"),
    [
        ("Batch job submission failed: Invalid partition name specified", Refused, False),
        ("Batch job submission failed: Invalid job array specification", Refused, False),
        (f"{FAILED}: Requested time limit is invalid (missing or exceeds some limit)", Refused, False),
        (f"{FAILED}: Time limit specification required, but not provided", Refused, False),
        (f"{FAILED}: Invalid time-min specification (exceeds job's time or other limits)", Refused, False),
        (f"QOSMaxWallDurationPerJobLimit\nsbatch: error: {FAILED}: {POLICY}", Refused, False),
        (f"QOSMaxCpuPerJobLimit\nsbatch: error: {FAILED}: {POLICY}", Refused, False),
        (f"QOSMaxCpuMinutesPerJobLimit\nsbatch: error: {FAILED}: {POLICY}", Refused, False),
        (f"QOSMaxMemoryPerNode\nsbatch: error: {FAILED}: {POLICY}", Refused, False),
        (f"AssocMaxNodePerJobLimit\nsbatch: error: {FAILED}: {POLICY}", Refused, False),
        (f"AssocMaxGRESPerJob\nsbatch: error: {FAILED}: {POLICY}", Refused, False),
        (f"QOSMinCpuNotSatisfied\nsbatch: error: {FAILED}: {POLICY}", Refused, False),
        (f"{FAILED}: {POLICY}", Refused, True),
        (f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {FAILED}: {POLICY}", Refused, True),
        (f"QOSGrpSubmitJobsLimit\nsbatch: error: {FAILED}: {POLICY}", Refused, True),
        (f"AssocMaxSubmitJobLimit\nsbatch: error: {FAILED}: {POLICY}", Refused, True),
        (f"AssocGrpCpuLimit\nsbatch: error: {FAILED}: {POLICY}", Refused, True),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", Refused, True),
        ("Batch job submission failed: Slurm temporarily unable to accept job, sleeping and retrying", Refused, True),
        ("Batch job submission failed: Socket timed out on send/recv operation", Unsure, False),
        ("Batch job submission failed: Zero Bytes were transmitted or received", Unsure, False),
        ("", Unsure, False),
    ],
)
def test_refusals_and_doubts(said: str, kind: type, again: bool) -> None:
    result = outcome(1, err=f"sbatch: error: {said}\n" if said else "")
    assert isinstance(result, kind)
    if isinstance(result, Refused):
        assert result.again is again
        assert result.why == " ".join(said.replace("sbatch: error: ", "").split())


def poll(jobs: Collection[str], squeue: str, sacct: str = "", *, squeue_err: str = "") -> dict[str, JobStatus]:
    """Return what a poll makes of such answers."""

    def run(call: Call) -> Answer:
        if call.program == "squeue":
            return Answer.of(call, 1 if squeue_err else 0, squeue, squeue_err)
        return Answer.of(call, 0, sacct)

    said = carry_out(Slurm({}).poll([JobId(job) for job in jobs]), {}, run)
    return {str(job): status for job, status in said.items()}


def one(squeue: str = "", sacct: str = "") -> JobStatus:
    """Return what is made of a line about job 7."""
    return poll(["7"], f"7|{squeue}|\n" if squeue else "", f"7|{sacct}\n" if sacct else "")["7"]


EXPECTED = {
    JobState.QUEUED: "PENDING REQUEUED REQUEUE_FED",
    JobState.HELD: "REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    JobState.RUNNING: "RUNNING SUSPENDED COMPLETING CONFIGURING RESIZING SIGNALING STAGE_OUT STOPPED",
    JobState.ENDED: "COMPLETED FAILED OUT_OF_MEMORY",
    JobState.LOST: "BOOT_FAIL CANCELLED DEADLINE NODE_FAIL TIMEOUT PREEMPTED REVOKED LAUNCH_FAILED RECONFIG_FAIL",
    JobState.UNKNOWN: "PURPLE C COM+ completed 7 +",
}


@pytest.mark.parametrize(
    ("state", "word"), [(state, word) for state, words in EXPECTED.items() for word in words.split()]
)
def test_every_state(state: JobState, word: str) -> None:
    """spec: workflow 6.13.147, P09"""
    assert one(f"{word}|0|None|n1").state is state


def test_every_state_is_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "slurm.md").read_text()
    assert [name for name in STATES if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("COMPLETED,COMPLETING", JobState.RUNNING),
        ("FAILED,REQUEUED", JobState.QUEUED),
        ("NODE_FAIL,REQUEUED", JobState.QUEUED),
        ("PENDING,REQUEUE_HOLD", JobState.HELD),
        ("RUNNING,PURPLE", JobState.RUNNING),
        ("CANCELLED,UPDATE_DB", JobState.RUNNING),
    ],
)
def test_states_with_flags_as_newer_versions_have_them(said: str, state: JobState) -> None:
    assert one(f"{said}|0|None|n1").state is state


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("OUT_OF_ME+|0:125", JobState.ENDED),
        ("CANCELLED+|0:0", JobState.LOST),
        ("CANCELLED by 1000|0:15", JobState.LOST),
        ("CANCELLED by 0|0:0", JobState.LOST),
        ("NODE_FAIL|1:0", JobState.LOST),
        ("PREEMPTED|0:15", JobState.LOST),
        ("TIMEOUT|0:0", JobState.LOST),
        ("COMPLETED|0:0", JobState.ENDED),
    ],
)
def test_states_as_sacct_has_them(said: str, state: JobState) -> None:
    """spec: workflow 6.13.149, P05"""
    status = one("", f"{said}|n1")
    assert status.state is state
    assert status.exit_status == ({"COMPLETED": 0, "OUT_OF_ME+": -9}.get(said.partition("|")[0]))


@pytest.mark.parametrize("said", ["RUNNING|0:0|n1", "PENDING|0:0|None assigned", "PURPLE|0:0|n1"])
def test_what_the_controller_does_not_know_is_gone_even_if_accounting_is_late(said: str) -> None:
    assert one("", said).state is JobState.GONE


def test_every_prefix_that_sacct_may_cut_to_is_understood() -> None:
    for name, state in STATES.items():
        if len(name) > 10:
            assert state_of(f"{name[:9]}+") is state


@pytest.mark.parametrize(
    ("code", "status"),
    [("3:0", 3), ("0:9", -9), ("0:0", 0), ("768", 3), ("9", -9), ("137", -9), ("65280", 255), ("0", 0), ("0:125", -9),
     ("", None), ("x", None), ("1:", None)],
)  # fmt: skip
def test_exit_codes(code: str, status: int | None) -> None:
    assert exit_status(code, failed=False) == status


@pytest.mark.parametrize("code", ["4021", "0:53", "15:53"])
def test_a_script_whose_output_file_could_not_be_opened_was_never_started(code: str) -> None:
    status = one(f"FAILED|{code}|JobLaunchFailure|n1")
    assert (status.state, status.exit_status, status.host) == (JobState.ENDED, UNSEEN, "n1")


def test_other_launches_that_failed_are_no_end_of_the_script() -> None:
    """An error number of slurmd, with an exit status and a signal in it, which no process ends with."""
    assert one("FAILED|4005|JobLaunchFailure|n1") == JobStatus(JobState.LOST, None, "JobLaunchFailure", "n1")
    assert one("", "FAILED|15:37|n1") == JobStatus(JobState.LOST, None, "FAILED", "n1")


def test_a_failure_is_never_taken_for_a_success() -> None:
    for code in ("0", "0:0", "", "x"):
        assert one(f"FAILED|{code}|None|n1") == JobStatus(JobState.ENDED, None, "", "n1")
        assert one(f"OUT_OF_MEMORY|{code}|OutOfMemory|n1").exit_status is None


@pytest.mark.parametrize(
    "reason",
    ["JobHeldUser", "(JobHeldAdmin)", "JobHoldMaxRequeue", "launch failed requeued held", "job requeued in held state"],
)
def test_held_jobs(reason: str) -> None:
    """spec: calibration 17.148"""
    assert one(f"PENDING|0|{reason}|n/a") == JobStatus(JobState.HELD, None, reason.strip("()"))


@pytest.mark.parametrize("reason", ["PartitionConfig", "PartitionNodeLimit", "(PartitionTimeLimit)", "BadConstraints"])
def test_what_nobody_can_release_is_told_apart(reason: str) -> None:
    status = one(f"PENDING|0|{reason}|n/a")
    assert (status.state, status.reason) == (JobState.HELD, reason.strip("()"))
    assert status.remedy.startswith("ask for less (CPUs")


def test_reasons_to_wait_are_told() -> None:
    assert "dependency" in one("PENDING|0|DependencyNeverSatisfied|n/a").remedy
    assert one("RUNNING|0|None|n1") == JobStatus(JobState.RUNNING, None, "", "n1")
    assert one("PENDING|0|(Resources)|n/a") == JobStatus(JobState.QUEUED, None, "Resources")
    assert one("PENDING|0|None|n/a").reason == "PENDING"
    assert one("COMPLETING|0|None|n1") == JobStatus(JobState.RUNNING, None, "COMPLETING", "n1")


def test_the_rest_of_an_array_that_is_not_split() -> None:
    lines = "77_4|RUNNING|0|None|n1|\n77_[1-3,5-9:2%3]|PENDING|0|Priority|n/a|\n78_[1-9%3]|PENDING|0|Priority|n/a|\n"
    said = poll([f"77_{n}" for n in range(1, 10)], lines)
    assert [job for job, status in said.items() if status.state is JobState.QUEUED] == [
        f"77_{n}" for n in (1, 2, 3, 5, 7, 9)
    ]
    assert said["77_4"].state is JobState.RUNNING
    assert said["77_6"].state is JobState.GONE
    assert numbers("1-3,9,...") == {1, 2, 3, 9}


def test_what_waited_of_an_array_and_was_cancelled_is_one_line_without_elements() -> None:
    jobs, cancelled = ["77_1", "77_2", "77_3"], "CANCELLED by 0"
    left = "77|CANCELLED|0|Priority|n/a|\n"
    assert [s.reason for s in poll(jobs, f"{left}77_1|RUNNING|0|None|n1|\n").values()] == ["", *["CANCELLED"] * 2]
    ended = poll(jobs, left, f"77_2|COMPLETED|0:0|n1\n77|{cancelled}|0:0|None assigned\n")
    assert [s.reason for s in ended.values()] == [cancelled, "", cancelled]
    assert {s.state for s in poll(jobs, "77|PENDING|0|Priority|n/a|\n").values()} == {JobState.GONE}
    assert {s.state for s in poll(jobs, "78|CANCELLED|0|Priority|n/a|\n").values()} == {JobState.GONE}


def test_an_array_that_is_cancelled_while_it_waits_is_lost_and_not_unknown(real: SlurmSite) -> None:
    """spec: workflow 6.9.112"""
    _, jobs = real.submit("true", count=3, needs=Needs(settings={"hold": True}))
    real.cancel(jobs)
    assert {(status.state, status.reason.split()[0]) for status in real.poll(jobs).values()} == {
        (JobState.LOST, "CANCELLED")
    }


def test_lines_of_others_are_no_news() -> None:
    """spec: workflow 6.13.150"""
    lines = (
        "CLUSTER: tb\n77+0|RUNNING|0|None|n1|\n77+1|FAILED|256|None|n1|\n8_7|FAILED|256|None|n1|\n"
        "\n7|RUNNING|0|None|n2|\n17|COMPLETED|0|None|n1|\n"
    )
    said = poll(["7", "8"], lines)
    assert said == {"7": JobStatus(JobState.RUNNING, None, "", "n2"), "8": JobStatus(JobState.GONE)}


def test_a_line_that_cannot_be_read_leaves_open_what_is_absent() -> None:
    said = poll(["7", "8", "9"], "7|RUNNING|0|None|n2|\n8|RUNNING\nslurm_load_jobs: warning\n")
    assert [said[job].state for job in ("7", "8", "9")] == [JobState.RUNNING, JobState.UNKNOWN, JobState.UNKNOWN]


def test_one_forgotten_id_is_asked_of_accounting() -> None:
    """spec: workflow 6.13.148, 6.13.152, P08"""
    error = "slurm_load_jobs error: Invalid job id specified\n"
    assert poll(["7"], "", "7|COMPLETED|0:0|n1\n", squeue_err=error)["7"].exit_status == 0
    assert poll(["7"], "", squeue_err=error)["7"].state is JobState.GONE
    with pytest.raises(NoAnswer, match="Socket timed out"):
        poll(["7"], "", squeue_err="slurm_load_jobs error: Socket timed out on send/recv operation\n")


def test_a_job_in_the_queue_is_never_asked_of_accounting() -> None:
    """spec: workflow 6.13.151, P07"""
    assert poll(["7"], "7|RUNNING|0|None|n1|\n", "7|FAILED|1:0|n1\n")["7"].state is JobState.RUNNING


def test_a_thousand_ids_are_one_argument_less() -> None:
    calls: list[Call] = []

    def run(call: Call) -> Answer:
        calls.append(call)
        return Answer.of(call)

    carry_out(Slurm({}).poll([JobId(f"{n}_1") for n in range(100)]), {}, run)
    carry_out(Slurm({}).poll([JobId(f"{n}_{m}") for n in range(6000) for m in (1, 2)]), {}, run)
    assert ["-j" in call.argv for call in calls] == [True, True, False, True]
    assert max(len(word) for call in calls for word in call.argv) < 100_000


def test_departed_jobs_beyond_what_one_question_holds_are_left_open() -> None:
    said = poll([str(n) for n in range(1, 7001)], "")
    assert sum(status.state is JobState.GONE for status in said.values()) == 5000
    assert sum(status.state is JobState.UNKNOWN for status in said.values()) == 2000


def test_elements_are_cancelled_by_ranges() -> None:
    jobs = ["5", "77_3", "77_1", "77_2", "77_9", "no id", "6_[1-3]", "7+1", "8_1"]
    assert condensed([JobId(job) for job in jobs]) == ["5", "77_[1-3,9]", "8_[1]"]


def cancel(status: int, err: str) -> None:
    """Cancel a job, with such an answer of `scancel`."""
    carry_out(Slurm({}).cancel([JobId("7")]), {}, lambda call: Answer.of(call, status, "", err))


def test_cancelling_forgives_what_is_over_and_nothing_else() -> None:
    cancel(1, "scancel: error: Kill job error on job id 7: Invalid job id specified\n")
    cancel(1, "scancel: error: Kill job error on job id 7: Job/step already completing or completed\n")
    for status, said in ((1, "scancel: error: Unable to contact slurm controller"), (1, ""), (HUNG, ""), (-9, "")):
        with pytest.raises(NoAnswer):
            cancel(status, said)


def find(squeue: str, sacct: tuple[int, str, str] = (0, "", "")) -> dict[int, JobId]:
    """Return what is found in such answers."""

    def run(call: Call) -> Answer:
        return Answer.of(call, 0, squeue) if call.program == "squeue" else Answer.of(call, *sacct)

    return carry_out(Slurm({}).find(NAME), {}, run)


def test_a_name_is_found_wherever_it_stands() -> None:
    at = "RUNNING|n1"
    assert find(f"7|{at}|{NAME}|(null)|/d|\n8|{at}|other|(null)|/d|\n") == {1: "7"}
    assert find(f"7_1|{at}|a|b|{NAME} and more|/d|\n7_2|{at}|x|{NAME}|/d|\n") == {1: "7_1", 2: "7_2"}
    assert find(f"7|{at}|x|(null)|/d/{NAME}|\n") == {1: "7"}
    lines = f"7_1|{at}|{NAME}||/d\n7_[2-4%2]|{at}|{NAME}||/d\n"
    assert find("", (0, lines, "")) == {1: "7_1", 2: "7_2", 3: "7_3", 4: "7_4"}


def test_names_with_line_breaks_hide_nothing() -> None:
    """Anybody may give jobs such names, and accounting has them for ever."""
    others = "6|FAILED|n1|a b\nc||d\n\n9|(null)|/d\n8|"
    assert find(f"{others}RUNNING|n1|x|(null)|/d\n7|PENDING|n/a|{NAME}|(null)|/d|\n") == {1: "7"}
    assert find(f"{others}RUNNING|n1|two\nlines|{NAME}|/d|\n") == {1: "8"}
    assert find(f"{others}RUNNING|n1|x||/d|\n", (0, f"{others}RUNNING|n1|x||/d\n", "")) == {}
    with pytest.raises(NoAnswer, match="a warning"):
        find(f"a warning\n{others}RUNNING|n1|x||/d|\n")


def test_what_no_node_can_have_was_never_in_the_queue() -> None:
    """Slurm refuses it, and yet has a job of it that failed."""
    assert find(f"7|FAILED|n/a|{NAME}|(null)|/d|\n") == {}
    assert find("", (0, f"7_1|FAILED|None assigned|{NAME}||/d\n", "")) == {}
    assert find(f"7|FAILED|n1|{NAME}|(null)|/d|\n") == {1: "7"}
    assert find(f"7|CANCELLED|n/a|{NAME}|(null)|/d|\n") == {1: "7"}
    less = "ask for less (CPUs, nodes, memory, GPUs, time), or for another partition"
    assert one("FAILED|1|BadConstraints|n/a") == JobStatus(JobState.LOST, None, "BadConstraints", remedy=less)
    said = poll(["7"], "", "7|FAILED|1:0|None assigned\n")
    assert said["7"] == JobStatus(JobState.LOST, None, "FAILED before it began", remedy=less)


def test_another_name_that_holds_it_is_another() -> None:
    assert find(f"7|RUNNING|n1|{NAME}0|(null)|/d|\n8|RUNNING|n1|x{NAME}|(null)|/d|\n") == {}


def test_without_accounting_what_squeue_does_not_know_is_not_there() -> None:
    assert find("", (1, "", "Slurm accounting storage is disabled\n")) == {}
    assert find("", (MISSING, "", "")) == {}
    for answer in ((HUNG, "", ""), (1, "", "sacct: error: slurmdbd: Unable to connect"), (0, "x", ""), (0, "x\n", "")):
        with pytest.raises(NoAnswer):
            find("", answer)


def test_limits_are_the_controllers() -> None:
    config = "MaxArraySize            = 1001\nMaxJobCount             = 10000\nSchedulerParameters     = {}\n"
    assert limits_of(config.format("(null)")) == Limits(elements=1000, jobs=10000, of_all=True)
    assert limits_of(config.format("a=1,max_array_tasks=200,b")) == Limits(elements=200, jobs=10000, of_all=True)
    assert limits_of("MaxArraySize = 0\n") == Limits(elements=1)
    assert limits_of("") == Limits(elements=1000)


def test_times_are_rounded_up() -> None:
    assert [minutes(s) for s in (None, 0.2, 59.1, 3600, 90061)] == [None, "0:00:01", "0:01:00", "1:00:00", "25:01:01"]


def test_values_with_blanks_and_quotes_are_one_word() -> None:
    assert directive("comment", "a 'b' \"c\" #d \\e") == """#SBATCH --comment=a\\ \\'b\\'\\ \\"c\\"\\ \\#d\\ \\\\e"""


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.system)
def test_answers_about_many_jobs_are_read_piece_by_piece(dialect: Dialect, tmp_path: Path) -> None:
    """Of all systems of the benchmark; it raises if an answer is not understood."""
    row = measured(dialect, 20_000, 1, tmp_path)
    assert int(str(row["memory, bytes a job"])) < 1000


def test_other_versions_of_sbatch_name_themselves() -> None:
    for said, version in (
        ("slurm-wlm 22.05.8\n", "slurm-wlm 22.05.8"),
        ("slurm 24.05.1\n", "slurm 24.05.1"),
        ("?\n", ""),
    ):
        assert carry_out(Slurm({}).version(), {}, lambda call, said=said: Answer.of(call, 0, said)) == version  # type: ignore[misc]
