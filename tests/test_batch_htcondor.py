"""HTCondor: the contract over a real pool, by its commands and by its bindings; descriptions and answers.

spec: workflow 4.5, 6.12
"""

from __future__ import annotations

import json
import os
import re
import signal
import tracemalloc
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfarmer.batch import (
    Answer,
    BatchSystem,
    Call,
    JobId,
    JobState,
    JobStatus,
    Needs,
    NoAnswer,
    Refused,
    Submission,
    Submitted,
    Unsure,
    carry_out,
    choose,
)
from taskfarmer.batch import htcondor as module
from taskfarmer.batch.calls import HUNG, run_call
from taskfarmer.batch.condor_answers import Objects, outcome
from taskfarmer.batch.condor_description import description, environment
from taskfarmer.batch.condor_ranges import constraint
from taskfarmer.batch.htcondor import HTCondorBindings, HTCondorCommands
from taskfarmer.errors import InputError
from tests.batch_contract import NAP, BatchSystemContract, Site
from tests.testbed.htcondor import HTCondor
from tests.testbed.needs import lacking
from tests.testbed.service import processes_of

pytestmark = pytest.mark.timeout(300)

NEVER = {"requirements": "false"}
"""What no machine fulfils, so that a job waits."""


class CondorSite(Site):
    """A pool of our own."""

    cannot: ClassVar = {}
    refused: ClassVar = {"RequestMemory = two of them": Needs(settings={"request_memory": "two of them"})}
    too_many = 1001
    unknown = ("99999999.0", "99999999.7", "99999998.0", "0.0", "no id")
    walltime_s = 3.0

    def __init__(self, pool: HTCondor, kind: type[BatchSystem], shared: Path) -> None:
        environ = {**os.environ, **pool.env}
        super().__init__(kind(environ), shared, environ)
        self.pool = pool

    def hold(self, job: JobId) -> None:
        """Hold it."""
        self.pool.hold(job)

    def release(self, job: JobId) -> None:
        """Release it."""
        self.pool.release(job)

    def lose(self, job: JobId) -> None:
        """Kill what runs the job on its machine, and with it the job."""
        for pid in starters(self.pool, job):
            os.kill(pid, signal.SIGKILL)

    def requeue(self, job: JobId) -> None:
        """Evict it."""
        self.pool.preempt(job)

    def preempt(self, job: JobId) -> None:
        """Evict it."""
        self.pool.preempt(job)

    def forget(self, jobs: Collection[JobId]) -> None:
        """Empty the history."""
        (self.pool.state / "spool" / "history").write_bytes(b"")

    def close(self) -> None:
        """Remove all jobs."""
        self.pool.cancel_all()


def starters(pool: HTCondor, job: str) -> list[int]:
    """Return the processes that run a job on its machine."""
    found = []
    for pid in processes_of(pool.state):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            slot = f"{pool.details(job)['RemoteHost'].partition('@')[0]}".encode()
            if words[0].endswith(b"condor_starter") and slot in words:
                found.append(pid)
    return found


class CondorContract(BatchSystemContract):
    """The contract. Elements that wait for others of their cluster do not exist yet and cannot be held: others are."""

    def test_a_held_job_is_held_until_it_is_released(self, site: Site) -> None:
        submission, jobs = site.submit("echo ran", 2, needs=Needs(settings={"hold": True}))
        said = site.wait(jobs, JobState.HELD)
        assert "submitted on hold" in said[jobs[0]].reason
        site.release(jobs[0])
        assert site.wait(jobs[:1], through=(JobState.QUEUED, JobState.RUNNING))[jobs[0]].exit_status == 0
        assert site.poll(jobs)[jobs[1]].state is JobState.HELD
        assert site.said(submission, 1) == "ran\n"

    def test_a_held_job_can_be_cancelled(self, site: Site) -> None:
        _, jobs = site.submit(NAP, 2, needs=Needs(settings=NEVER))
        site.hold(jobs[1])
        assert site.wait(jobs[1:], JobState.HELD)[jobs[1]].reason.startswith("via condor_hold")
        site.cancel(jobs)
        assert {status.state for status in site.wait(jobs).values()} == {JobState.LOST}


class TestCommands(CondorContract):
    """The contract, by HTCondor's commands."""

    @pytest.fixture
    def site(self, condor: HTCondor, tmp_path: Path) -> Site:
        """Return the site."""
        return CondorSite(condor, HTCondorCommands, tmp_path)


class TestBindings(CondorContract):
    """The contract, by HTCondor's bindings."""

    @pytest.fixture
    def site(self, condor: HTCondor, tmp_path: Path) -> Site:
        """Return the site."""
        if find_spec("htcondor2") is None:
            lacking("the bindings of HTCondor are not installed")
        return CondorSite(condor, HTCondorBindings, tmp_path)


WAYS = {"commands": HTCondorCommands, "bindings": HTCondorBindings}


@pytest.fixture(params=list(WAYS))
def site(request: pytest.FixtureRequest, condor: HTCondor, tmp_path: Path) -> Any:
    """Return a site, by each of the two ways."""
    if request.param == "bindings" and find_spec("htcondor2") is None:
        lacking("the bindings of HTCondor are not installed")
    made = CondorSite(condor, WAYS[request.param], tmp_path)
    yield made
    made.close()


@pytest.fixture
def by_commands(condor: HTCondor, tmp_path: Path) -> Any:
    """Return a site for what does not differ between the two ways."""
    made = CondorSite(condor, HTCondorCommands, tmp_path)
    yield made
    made.close()


# -- over a real pool


def test_what_is_asked_for_reaches_the_job(by_commands: CondorSite) -> None:
    needs = Needs(
        cpus=2, gpus=1, memory_bytes=100 * 2**20 + 1, time_s=3600.5, queue='long "lunch"', account="group_u_ATLAS.me",
        job_name="my jobs, 3% of $HOME", settings={**NEVER, "+Wish": '"a b"', "priority": 7, "max_retries": None},
    )  # fmt: skip
    submission, jobs = by_commands.submit("true", needs=needs)
    ad = by_commands.pool.details(jobs[0])
    assert (ad["RequestCpus"], ad["RequestGPUs"], ad["RequestMemory"]) == (2, 1, 101)
    assert (ad["AllowedJobDuration"], ad["MaxRuntime"], ad["JobFlavour"]) == (3601, 3601, 'long "lunch"')
    assert (ad["AccountingGroup"].startswith("group_u_ATLAS.me"), ad["JobBatchName"]) == (True, "my jobs, 3% of $HOME")
    assert (ad["Wish"], ad["JobPrio"], ad["TaskfarmerSubmission"]) == ("a b", 7, submission.name)
    assert ad["UserLog"] == f"{submission.directory}/job.log"


def test_files_are_carried_where_there_is_no_shared_file_system(site: CondorSite) -> None:
    """The node sees neither the submission's directory nor the script's. spec: workflow 6.12.135"""
    (site.shared / "data 1").mkdir()
    (site.shared / "data 1" / "inner").write_text("of a directory\n")
    (site.shared / "it's $1;x.txt").write_text("of a file\n")
    (site.shared / "set up.sh").write_text("export SOURCED=$(ls -d 'data 1')\n")
    needs = Needs(
        transfer_files=[str(site.shared / "data 1"), str(site.shared / "it's $1;x.txt"), str(site.shared / "data 1")],
        env_script=str(site.shared / "set up.sh"), env={"ODD": "a'b"},
    )  # fmt: skip
    body = """[ "$PWD" = "$_CONDOR_SCRATCH_DIR" ] && cat 'data 1/inner' "it's "*; echo "$SOURCED $ODD" """
    submission, ends = site.run(body, 2, needs=needs, cwd="/nowhere")
    assert [end.exit_status for end in ends] == [0, 0]
    for element in (1, 2):
        assert site.said(submission, element) == "of a directory\nof a file\ndata 1 a'b\n"


def test_a_job_whose_files_are_missing_is_held_with_the_reason(site: CondorSite) -> None:
    """spec: workflow 6.12.140"""
    _, jobs = site.submit("true", needs=Needs(transfer_files=[str(site.shared / "nothing.dat")]))
    held = site.wait(jobs, JobState.HELD)[jobs[0]]
    assert "nothing.dat" in held.reason
    assert "(code 13, 2)" in held.reason
    site.cancel(jobs)
    assert site.wait(jobs)[jobs[0]].state is JobState.LOST


def test_output_comes_back_from_the_schedulers_spool(site: CondorSite) -> None:
    submission, (end,) = site.run("echo of a spooled job; exit 3", needs=Needs(native=["-spool"]))
    assert (end.state, end.exit_status) == (JobState.ENDED, 3)
    assert Path(submission.output.replace("{element}", "1")).read_text() == "of a spooled job\n"
    assert site.find(submission.name) == {1: site.made[0]}


def test_a_warning_comes_before_the_end_of_the_walltime(site: CondorSite) -> None:
    body = "trap 'echo warned; exit 0' USR1; while :; do sleep 0.2; done"
    submission, (end,) = site.run(body, needs=Needs(time_s=68, warn_s=60))
    assert end.state is JobState.LOST
    assert "exceeded allowed job duration" in end.reason
    assert site.said(submission) == "warned\n"
    site.until(lambda: not site.pool.queue(), "the removal of the job that was held")
    assert "exceeded allowed job duration" in site.poll(site.made)[site.made[0]].reason


def test_a_job_that_does_not_heed_its_removal_still_runs(by_commands: CondorSite) -> None:
    submission, jobs = by_commands.submit(
        "trap 'touch told' TERM; touch began; while [ ! -e leave ]; do sleep 0.2; done"
    )
    by_commands.until((submission.directory / "began").exists, "its start")
    by_commands.cancel(jobs)
    by_commands.until((submission.directory / "told").exists, "the signal")
    status = by_commands.poll(jobs)[jobs[0]]
    assert (status.state, status.reason[:16]) == (JobState.RUNNING, "is being removed")
    (submission.directory / "leave").touch()
    assert by_commands.wait(jobs)[jobs[0]].state is JobState.LOST


def test_a_suspended_job_runs(by_commands: CondorSite) -> None:
    _, jobs = by_commands.submit(NAP)
    by_commands.wait(jobs, JobState.RUNNING)
    by_commands.pool.call("condor_suspend", jobs[0])
    by_commands.until(lambda: by_commands.poll(jobs)[jobs[0]].reason == "suspended", "its suspension")
    assert by_commands.poll(jobs)[jobs[0]].state is JobState.RUNNING
    by_commands.pool.call("condor_continue", jobs[0])


def test_cancelling_an_array_ends_what_would_still_come(site: CondorSite) -> None:
    submission, jobs = site.submit(NAP, 5, at_most=2)
    site.wait(jobs[:2], JobState.RUNNING)
    assert {site.poll(jobs)[job].state for job in jobs[2:]} == {JobState.QUEUED}
    site.cancel(jobs[1:])
    said = site.wait(jobs[1:])
    assert {status.state for status in said.values()} == {JobState.LOST}
    assert site.poll(jobs)[jobs[0]].state is JobState.RUNNING
    site.cancel(jobs)
    assert {status.state for status in site.wait(jobs).values()} <= {JobState.LOST, JobState.GONE}
    assert sorted(path.name for path in submission.directory.glob("began.*")) == ["began.1", "began.2"]


def test_all_elements_run_a_few_at_a_time(site: CondorSite) -> None:
    submission, ends = site.run("echo $TASKFARMER_ELEMENT", 9, at_most=2)
    assert [end.exit_status for end in ends] == [0] * 9
    assert [site.said(submission, element) for element in range(1, 10)] == [f"{n}\n" for n in range(1, 10)]


def test_the_environment_of_the_settings_survives_quoting(by_commands: CondorSite) -> None:
    nasty = ["", " ", "a b", "  two  ", "'", "''", '"', '""', "a'b\"c d", "$HOME", "$(Process)", "$", "$a$", "100%",
             "a;b|c&d", "back\\slash", "\\n", "ends\\", "tab\there", "größe", "{[(", "#x", "a=b", "`id`",
             "*"]  # fmt: skip
    values = {f"V{number}": value for number, value in enumerate(nasty)}
    submission, _ = by_commands.run("env -0", needs=Needs(settings={"environment": values}))
    found = dict(entry.split("=", 1) for entry in by_commands.said(submission).split("\0") if "=" in entry)
    assert {name: found.get(name) for name in values} == values


def test_a_job_has_of_its_submitters_environment_what_a_login_sets(by_commands: CondorSite) -> None:
    # Of HOME later versions have an opinion of their own.
    by_commands.system.environ = {**by_commands.environ, "TZ": "a 'zone'", "USER": "me", "SECRET": "x"}
    submission, _ = by_commands.run('echo "${HOME+home} $TZ $USER ${SECRET-none}"')
    assert by_commands.said(submission) == "home a 'zone' me none\n"
    assert "environment" not in description(submission_of(Needs(transfer_files=["/x"])), {"HOME": "/h"})
    assert "HOME" not in description(submission_of(Needs(settings={"environment": '"A=1"'})), {"HOME": "/h"})


def test_without_its_script_a_job_is_refused(by_commands: CondorSite) -> None:
    submission = by_commands.submission("true")
    (submission.directory / "job.sh").unlink()
    said = by_commands.carry_out(by_commands.system.submit(submission))
    assert isinstance(said, Refused)
    assert said.why.startswith("ERROR: ")
    assert "xecutable file" in said.why
    assert not said.again


def test_while_the_scheduler_is_away_nothing_is_known_and_nothing_submitted(site: CondorSite) -> None:
    _, jobs = site.submit(NAP)
    site.wait(jobs, JobState.RUNNING)
    late = site.submission("true")
    with site.pool.controller_away():
        for steps in (site.system.poll(jobs), site.system.find(late.name), site.system.cancel(jobs)):
            with pytest.raises(NoAnswer):
                site.carry_out(steps)
        said = site.carry_out(site.system.submit(late))
        assert isinstance(said, Refused)
        assert said.again
    assert site.find(late.name) == {}
    assert site.poll(jobs)[jobs[0]].state is JobState.RUNNING
    site.hand_over(late)


def test_a_scheduler_that_hangs_leaves_a_submission_in_doubt_which_its_name_ends(site: CondorSite) -> None:
    submission = site.submission("true")
    site.pool.freeze_controller()
    try:
        said = carry_out(
            site.system.submit(submission),
            site.environ,
            lambda call: run_call(replace(call, limit_s=2.0), site.environ),
        )
        assert isinstance(said, Unsure)
    finally:
        site.pool.thaw_controller()
    assert site.find(submission.name) == {}
    site.hand_over(submission)
    assert site.find(submission.name) == {1: site.made[0]}


def test_the_bindings_are_used_where_they_are_installed(condor: HTCondor, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"PATH": os.environ["PATH"], "CONDOR_CONFIG": condor.env["CONDOR_CONFIG"]}
    submission = submission_of()
    monkeypatch.setattr(module, "find_spec", lambda _: object())
    monkeypatch.setattr(module, "_CONFIGURATIONS", ())
    assert "taskfarmer.batch.condor_calls" in choose("htcondor", environ).command(submission)
    native = replace(submission, needs=Needs(native=["-maxjobs", "3"]))
    assert choose("htcondor", environ).command(native) == ("condor_submit", "-terse", "-maxjobs", "3", "job.submit")
    null, without = ({**condor.env, "CONDOR_CONFIG": nothing} for nothing in ("/dev/null", ""))
    for none in (null, without):  # the former is what the bindings set in a process that imports them
        assert choose("htcondor", none).command(submission)[0] == "condor_submit"
    with pytest.raises(InputError, match="CONDOR_CONFIG"):
        HTCondorBindings(without)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert choose("htcondor", condor.env).command(submission)[0] == "condor_submit"
    for name, message in (("htcondor", "condor_submit"), ("taskfarmer.batch.htcondor.HTCondorBindings", "pip install")):
        with pytest.raises(InputError, match=message):
            choose(name, environ)


# -- descriptions


def submission_of(needs: Needs | None = None, **more: Any) -> Submission:
    """Return a submission, of nothing in particular."""
    values: dict[str, Any] = {"name": "tf0123456789ab", "directory": Path("/dir"), "body": "true", "cwd": "/cwd"}
    values["output"] = "/dir/{element}.out"
    return Submission(**values | more, needs=needs or Needs())


def lines_of(needs: Needs | None = None, **more: Any) -> dict[str, str]:
    """Return what a description says, by key."""
    *lines, queue = description(submission_of(needs, **more), {}).splitlines()
    said = dict(line.split(" = ", 1) for line in lines)
    assert len(said) == len(lines), "a key twice"
    return {**said, "queue": queue.removeprefix("queue ")}


def test_the_least_that_a_description_says() -> None:
    """In the order of the specification, with what is ours between. spec: workflow 6.12.132, calibration 17.147"""
    assert description(submission_of(output="/dir/out"), {"PATH": "/bin"}).splitlines() == [
        "output = /dir/out", "error = /dir/out", "log = /dir/job.log", "executable = /dir/job.sh",
        "arguments = $(Process)", 'My.TaskfarmerSubmission = "tf0123456789ab"', "queue 1",
    ]  # fmt: skip
    assert lines_of(count=7, at_most=3)["queue"] == "7"
    assert lines_of(count=7, at_most=3)["max_materialize"] == "3"


def test_a_name_for_people_unless_the_settings_have_one() -> None:
    """spec: workflow 6.12.133"""
    assert "JobBatchName" not in lines_of()
    assert lines_of(Needs(job_name="mine"))["JobBatchName"] == "mine"
    for key in ("JobBatchName", "batch_name", "+JobBatchName"):
        said = lines_of(Needs(job_name="mine", settings={key: "theirs"}))
        assert [said.get(name) for name in ("JobBatchName", "batch_name", "+JobBatchName") if name in said] == [
            "theirs"
        ]


def test_settings_win_however_they_are_spelt() -> None:
    """spec: workflow 6.12.134, calibration 17.151"""
    needs = Needs(cpus=4, memory_bytes=2**30, time_s=60, queue="espresso")
    for theirs, ours in (
        ({"RequestCpus": 8}, "request_cpus"), ({"REQUEST_MEMORY": "3 GB"}, "request_memory"),
        ({"MY.JobFlavour": '"workday"'}, "+JobFlavour"), ({"allowed_job_duration": 5}, "allowed_job_duration"),
    ):  # fmt: skip
        said = lines_of(replace(needs, settings=theirs))
        [(key, value)] = theirs.items()
        assert said[key] == str(value)
        assert key == ours or ours not in said


@pytest.mark.parametrize("given_settings", [
    {"executable": "/x"}, {"Arguments": "x"}, {"queue": "3"}, {"+TaskfarmerSubmission": '"x"'}, {"a b": "c"},
    {"": "c"}, {"key": "two\nlines"}, {"key": "goes on\\"}, {"environment": {"a-b": "x"}},
    {"environment": {"A": "x\ny"}},
])  # fmt: skip
def test_settings_that_cannot_be(given_settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        description(submission_of(Needs(settings=given_settings)), {})


@pytest.mark.parametrize("needs", [
    Needs(nodes=2), Needs(transfer_files=["relative"]), Needs(transfer_files=["/a/../b"]),
    Needs(transfer_files=["/a/"]), Needs(transfer_files=["/a,b"]),
    Needs(transfer_files=["/x"], env_script="relative.sh"),
    Needs(job_name="two\nlines"),
])  # fmt: skip
def test_needs_that_cannot_be(needs: Needs) -> None:
    """spec: workflow 6.12.135"""
    with pytest.raises(InputError) as error:
        description(submission_of(needs), {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("output", ["/two\nlines", "/ends with a space ", "/ends with\\", "/$$(Arch)", "/a$$b"])
def test_names_that_a_description_cannot_say(output: str) -> None:
    with pytest.raises(InputError):
        description(submission_of(output=output), {})


def test_files_to_transfer_once_each_in_their_order() -> None:
    """spec: workflow 6.12.135, P50"""
    said = lines_of(Needs(transfer_files=["/b", "/a b", "/b", "/$c"], env_script="/z.sh"))
    assert said["should_transfer_files"] == "YES"
    assert said["when_to_transfer_output"] == "ON_EXIT"
    assert said["transfer_input_files"] == "/b, /a b, /$(DOLLAR)c, /z.sh"
    theirs = lines_of(Needs(transfer_files=["/b"], settings={"when_to_transfer_output": "ON_EXIT_OR_EVICT"}))
    assert theirs["when_to_transfer_output"] == "ON_EXIT_OR_EVICT"


@pytest.mark.parametrize(
    "words",
    [["-name", "other"], ["-remote", "x"], ["-rem", "x"], ["-pool", "x"], ["-dry-run", "f"], ["-help"], ["-version"]],
)
def test_options_that_would_lose_the_jobs(words: list[str]) -> None:
    """Before anything is written, too."""
    for refuses in (HTCondorCommands({}).command, HTCondorCommands({}).files):
        with pytest.raises(InputError, match=r"condor_submit -.*; "):
            refuses(submission_of(Needs(native=words)))


@pytest.mark.parametrize(
    ("words", "key"),
    [(["-append", "executable = /bin/true"], "executable"), (["-a", " Arguments=99"], "arguments"),
     (["-append", "queue 7"], "queue"), (["Executable=/bin/true"], "executable"),
     (["-app", "+TaskfarmerSubmission = 1"], "TaskfarmerSubmission")],
)  # fmt: skip
def test_what_is_taskfarmer_s_own_is_refused_also_on_the_command_line(words: list[str], key: str) -> None:
    with pytest.raises(InputError, match=rf"the setting {key} is taskfarmer's own"):
        HTCondorCommands({}).files(submission_of(Needs(native=words)))
    allowed = ["-append", "rank = executable", "-maxjobs", "3", "request_memory=5", "-batch-name", "queue"]
    assert HTCondorCommands({}).files(submission_of(Needs(native=allowed)))


def test_an_option_that_it_does_not_know_is_a_refusal_in_one_line(by_commands: CondorSite) -> None:
    """It prints two kilobytes of usage then."""
    submission = by_commands.submission("true", needs=Needs(native=["-nosuch"]))
    outcome = by_commands.carry_out(by_commands.system.submit(submission))
    assert isinstance(outcome, Refused)
    assert outcome.why == "it does not know one of its options: condor_submit -terse -nosuch job.submit"
    assert not outcome.again


def unquoted(text: str) -> dict[str, str]:
    """Return the variables of an `environment` as the manual of HTCondor says it is read."""
    assert text.startswith('"')
    assert text.endswith('"')
    inner = text[1:-1].replace("$(DOLLAR)", "$")
    assert '"' not in inner.replace('""', "")
    words = re.findall(r"(?:[^ ']|'(?:[^']|'')*')+", inner.replace('""', '"'))
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        parts = re.findall(r"'((?:[^']|'')*)'|([^']+)", value)
        found[name] = "".join(quoted.replace("''", "'") or bare for quoted, bare in parts)
    return found


@settings(deadline=None)
@given(st.dictionaries(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\n\r")).filter(lambda x: "$$" not in x),
))  # fmt: skip
def test_an_environment_is_read_as_it_was_meant(variables: dict[str, str]) -> None:
    assert unquoted(environment(variables)) == variables


# -- answers


def ads(*values: Mapping[str, Any]) -> str:
    """Return the answer of `condor_q -json`: nothing for nothing."""
    return "[\n" + "\n,\n".join(json.dumps(value, indent=2) for value in values) + "\n]\n" if values else ""


def polled(jobs: Collection[str], *answers: str | tuple[int, str, str]) -> tuple[dict[JobId, JobStatus], list[Call]]:
    """Return what a poll says if its calls get those answers, and the calls."""
    calls: list[Call] = []
    left = list(answers)

    def run(call: Call) -> Answer:
        calls.append(call)
        answer = left.pop(0)
        return Answer.of(call, 0, answer) if isinstance(answer, str) else Answer.of(call, *answer)

    said = carry_out(HTCondorCommands({}).poll([JobId(job) for job in jobs]), {}, run)
    assert not left, "a call that was not made"
    return said, calls


@pytest.mark.parametrize(("ad", "state", "reason"), [
    ({"JobStatus": 1}, JobState.QUEUED, ""),
    ({"JobStatus": 1, "LastRejMatchReason": "no match found ", "LastRejMatchTime": 9}, JobState.QUEUED,
     "no match found, never so far"),
    ({"JobStatus": 1, "LastRejMatchReason": "no match found", "LastRejMatchTime": 9, "LastMatchTime": 8,
      "NumJobMatches": 1}, JobState.QUEUED, "no match found"),
    ({"JobStatus": 1, "LastRejMatchReason": "no match found", "LastRejMatchTime": 8, "LastMatchTime": 9,
      "NumJobMatches": 1}, JobState.QUEUED, ""),
    ({"JobStatus": 1, "LastRejMatchTime": 9}, JobState.QUEUED, "no match, never so far"),
    ({"JobStatus": 1, "LastRejMatchReason": "no match found", "LastRejMatchTime": "x"}, JobState.QUEUED, ""),
    ({"JobStatus": 2, "RemoteHost": "slot1_1@node"}, JobState.RUNNING, ""),
    ({"JobStatus": 3, "RemoveReason": "via condor_rm (by user me)"}, JobState.LOST, "via condor_rm (by user me)"),
    ({"JobStatus": 3, "RemoteHost": "slot1@node", "RemoveReason": "x"}, JobState.RUNNING, "is being removed: x"),
    ({"JobStatus": 5, "HoldReason": "no\nfile", "HoldReasonCode": 13, "HoldReasonSubCode": 2}, JobState.HELD,
     "no file (code 13, 2)"),
    ({"JobStatus": 5, "HoldReason": "me", "HoldReasonCode": 1, "HoldReasonSubCode": 0}, JobState.HELD, "me (code 1)"),
    ({"JobStatus": 5, "HoldReason": "too long", "HoldReasonCode": 46}, JobState.LOST, "too long"),
    ({"JobStatus": 5, "HoldReason": "too long", "HoldReasonCode": 47}, JobState.LOST, "too long"),
    ({"JobStatus": 5, "HoldReason": "Spooling input data files", "HoldReasonCode": 16}, JobState.QUEUED,
     "Spooling input data files"),
    ({"JobStatus": 6}, JobState.RUNNING, "transfers its output"),
    ({"JobStatus": 7}, JobState.RUNNING, "suspended"),
    ({"JobStatus": 8}, JobState.UNKNOWN, "JobStatus 8"),
    ({"JobStatus": "2"}, JobState.UNKNOWN, "JobStatus 2"),
    ({}, JobState.UNKNOWN, "JobStatus None"),
])  # fmt: skip
def test_states_of_jobs_in_the_queue(ad: dict[str, Any], state: JobState, reason: str) -> None:
    """spec: workflow 4.5, 6.12.137, calibration 17.148"""
    said, _ = polled(["7.0"], ads({"ClusterId": 7, "ProcId": 0, **ad}))
    assert (said[JobId("7.0")].state, said[JobId("7.0")].reason) == (state, reason)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (1, ""), (6, "mend the program and release it"), (12, "see to the file and release it"),
        (13, "see to the file and release it"), (21, "ask for more"), (26, "ask for more"), (34, "ask for more"),
    ],
)  # fmt: skip
def test_what_to_do_about_a_held_job(code: int, remedy: str) -> None:
    ad = {"ClusterId": 7, "ProcId": 0, "JobStatus": 5, "HoldReason": "why", "HoldReasonCode": code}
    said, _ = polled(["7.0"], ads(ad))
    assert said[JobId("7.0")].remedy == remedy


@pytest.mark.parametrize(("ad", "status"), [
    ({"ExitCode": 0, "ExitBySignal": False}, 0),
    ({"ExitCode": 3, "ExitBySignal": False}, 3),
    ({"ExitStatus": 4}, 4),
    ({"ExitBySignal": True, "ExitSignal": 9, "ExitStatus": 0}, -9),
    ({}, 1),
])  # fmt: skip
def test_how_jobs_ended(ad: dict[str, Any], status: int) -> None:
    """What has no exit status did not end well. spec: workflow 6.12.137, calibration 17.148"""
    ended = {"ClusterId": 7, "ProcId": 0, "JobStatus": 4, "LastRemoteHost": "slot1@node", **ad}
    said, calls = polled(["7.0"], "", ads(ended))
    assert (said[JobId("7.0")].state, said[JobId("7.0")].exit_status) == (JobState.ENDED, status)
    assert said[JobId("7.0")].host == "node"
    assert [call.program for call in calls] == ["condor_q", "condor_history"]


def test_what_was_removed_for_its_walltime_says_so() -> None:
    ad = {"JobStatus": 3, "RemoveReason": "PeriodicRemove", "LastHoldReason": "too long", "LastHoldReasonCode": 46}
    said, _ = polled(["7.0"], "", ads({"ClusterId": 7, "ProcId": 0, **ad}))
    assert said[JobId("7.0")] == JobStatus(JobState.LOST, reason="too long")
    said, _ = polled(["7.0"], ads({"ClusterId": 7, "ProcId": 0, **ad}))  # on its way out of the queue
    assert said[JobId("7.0")] == JobStatus(JobState.LOST, reason="too long")


def test_all_that_left_the_queue_are_looked_up_at_once() -> None:
    """Others' jobs change nothing, and what nobody knows is gone. spec: workflow 6.12.138, 6.12.141"""
    queue = ads(
        {"ClusterId": 1, "ProcId": 0, "JobStatus": 2}, {"ClusterId": 9, "ProcId": 0, "JobStatus": 5},
        {"ClusterId": "x"}, {"ProcId": 3},
    )  # fmt: skip
    history = ads(*({"ClusterId": n, "ProcId": 0, "JobStatus": 4, "ExitCode": n} for n in (2, 4, 8)))
    said, calls = polled(["1.0", "2.0", "3.0", "4.0"], queue, history, "")
    assert [(status.state.value, status.exit_status) for status in said.values()] == [
        ("running", None), ("ended", 2), ("gone", None), ("ended", 4),
    ]  # fmt: skip
    assert len(calls) == 3
    assert calls[1].argv[calls[1].argv.index("-match") + 1] == "3"
    assert calls[1].argv[-1] == "(ClusterId >= 2 && ClusterId <= 4 && ProcId == 0)"


def test_the_compact_form_is_read_as_well() -> None:
    """As older versions write it. spec: workflow 4.5"""
    both = '{ "ClusterId": 42, "ProcId": 0, "JobStatus": 2 }', '{ "ClusterId": 43, "ProcId": 0, "JobStatus": 1 }'
    text = "\n".join(["[", both[0], ",", both[1], "]", ""])
    for said in (text, json.dumps(json.loads(text)) + "\n"):
        found, _ = polled(["42.0", "43.0"], said)
        assert [status.state for status in found.values()] == [JobState.RUNNING, JobState.QUEUED]


def test_one_bad_object_does_not_hide_the_others() -> None:
    good = '{ "ClusterId": 1, "ProcId": 0, "JobStatus": 2 }', '{ "ClusterId": 3, "ProcId": 0, "JobStatus": 1 }'
    text = "\n".join(["[", good[0], ",", '{ "ClusterId": 2, "Pr\x00', ",", good[1], "]", ""])
    said, _ = polled(["1.0", "2.0", "3.0"], text, "", "")
    assert [status.state for status in said.values()] == [JobState.RUNNING, JobState.UNKNOWN, JobState.QUEUED]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 50) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)
NAMES = sorted({*module._QUEUE, *module._HISTORY, *module._FACTORY})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.dictionaries(st.sampled_from(NAMES), JSON_VALUES)), min_size=4, max_size=4))
def test_no_answer_is_too_odd(answers: list[list[dict[str, Any]]]) -> None:
    """Whatever the values are: an answer for each job that was asked for."""
    left = list(answers)

    def run(call: Call) -> Answer:
        return Answer.of(call, 0, ads(*left.pop(0)))

    jobs = [JobId(f"{cluster}.{proc}") for cluster in (0, 1) for proc in (0, 1, 7)]
    said = carry_out(HTCondorCommands({}).poll(jobs), {}, run)
    assert list(said) == jobs
    with suppress(NoAnswer):
        left = list(answers)
        found = carry_out(HTCondorCommands({}).find("tf0"), {}, run)
        assert all(isinstance(element, int) for element in found)


def test_an_empty_answer_with_an_error_is_none() -> None:
    for err in ("-- Failed to fetch ads from: <127.0.0.1:1> : localhost", "Error: communication error"):
        with pytest.raises(NoAnswer):
            polled(["1.0"], (0, "", err))


@pytest.mark.parametrize("trouble", [(1, "[\n", "Unable to locate remote schedd"), (0, "[\n{", ""), (HUNG, "", "")])
def test_without_an_answer_from_the_history_nothing_is_gone(trouble: tuple[int, str, str]) -> None:
    said, _ = polled(["1.0", "2.0"], ads({"ClusterId": 1, "ProcId": 0, "JobStatus": 2}), trouble, "")
    assert [status.state for status in said.values()] == [JobState.RUNNING, JobState.UNKNOWN]
    assert said[JobId("2.0")].reason


def test_where_no_history_is_kept_what_left_the_queue_is_gone() -> None:
    none = (1, "[\n", "Error: No passed search file and configuration key HISTORY is unset.\n\nExtra Info: ...\n")
    said, _ = polled(["2.0"], "", none, "")
    assert said[JobId("2.0")].state is JobState.GONE
    left = [(0, "", ""), none, (0, "", "")]
    found = carry_out(HTCondorCommands({}).find("tf0"), {}, lambda call: Answer.of(call, *left.pop(0)))
    assert found == {}


@pytest.mark.parametrize(("factory", "state"), [
    ({"TotalSubmitProcs": 9, "JobFactoryPaused": 0}, JobState.QUEUED),
    ({"TotalSubmitProcs": 9, "JobFactoryPaused": 1}, JobState.HELD),
    ({"TotalSubmitProcs": 9, "JobFactoryPaused": 3}, JobState.LOST),
    ({"TotalSubmitProcs": 5, "JobFactoryPaused": 0}, JobState.GONE),
    (None, JobState.GONE),
])  # fmt: skip
def test_elements_that_do_not_exist_yet(factory: dict[str, Any] | None, state: JobState) -> None:
    queue = ads({"ClusterId": 1, "ProcId": 3, "JobStatus": 2, "JobMaterializeNextProcId": 4})
    answer = ads({"ClusterId": 1, "JobMaterializeNextProcId": 4, **factory}) if factory else ""
    said, calls = polled(["1.3", "1.6"], queue, answer)
    assert said[JobId("1.6")].state is state
    assert "-factory" in calls[1].argv


@pytest.mark.parametrize(("status", "out", "err", "expected"), [
    (0, "42.0 - 42.2\n", "", Submitted((JobId("42.0"), JobId("42.1"), JobId("42.2")))),
    (0, "42.0 - 42.2\n", "WARNING: the line 'x 1.0 - 2' was unused by condor_submit. Is it a typo?\n",
     Submitted((JobId("42.0"), JobId("42.1"), JobId("42.2")))),
    (0, "42.0 - 42.1\n", "", Unsure), (0, "42.0 - 42.2\n43.0 - 43.2\n", "", Unsure), (0, "1 job(s)", "", Unsure),
    (1, "", "\nERROR: Executable file /x does not exist\n", Refused("ERROR: Executable file /x does not exist")),
    (1, "", "ERROR: Executable file /spool/connect does not exist", Refused),
    (1, "", "\nERROR: Can't find address of local schedd\n", Refused),
    (1, "", "ERROR: Failed to commit job submission into the queue.", Unsure),
    (1, "42.0 - 42.2\n", "ERROR: Failed to spool job files.", Unsure), (44, "", "ERROR: x", Unsure),
    (1, "", "ERROR: Failed to create proc\nNumber of submitted jobs would exceed MAX_JOBS_PER_OWNER\n", Refused),
])  # fmt: skip
def test_what_becomes_of_a_submission(status: int, out: str, err: str, expected: Any) -> None:
    """spec: workflow 6.12.136, calibration 17.147, 17.153"""
    said = outcome(Answer.of(Call(argv=("condor_submit",)), status, out, err), 3)
    assert said == expected if not isinstance(expected, type) else isinstance(said, expected)
    if isinstance(said, Refused):
        assert said.again == ("schedd" in err or "PER_OWNER" in err)


def test_removal_forgives_what_is_not_there_and_nothing_else() -> None:
    system, jobs = HTCondorCommands({}), [JobId("1.0")]

    def answered(status: int, err: str) -> None:
        carry_out(system.cancel(jobs), {}, lambda call: Answer.of(call, status, "", err))

    answered(1, "\nCouldn't find/remove all jobs matching constraint (ClusterId == 1)\n")
    for err in ("SECMAN:2007:Read failure.\nCouldn't find/remove all jobs in cluster 12\n", "Permission denied", ""):
        with pytest.raises(NoAnswer):
            answered(1, err)


def test_a_history_without_the_number_of_jobs_is_no_answer() -> None:
    with pytest.raises(NoAnswer):
        carry_out(
            HTCondorCommands({}).find("tf0"), {}, lambda call: Answer.of(call, 0, ads({"ClusterId": 1, "ProcId": 0}))
        )


def meant(text: str, cluster: int, proc: int) -> bool:
    """Whether a constraint holds for a job, which Python reads alike."""
    words = (
        text.replace("&&", "and").replace("||", "or").replace("ClusterId", str(cluster)).replace("ProcId", str(proc))
    )
    return bool(eval(words))


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1))
def test_a_constraint_holds_for_these_jobs_and_no_others(pairs: set[tuple[int, int]]) -> None:
    text, count = constraint([JobId(f"{cluster}.{proc}") for cluster, proc in pairs])
    assert count == len(pairs)
    assert {(c, p) for c in range(8) for p in range(8) if meant(text, c, p)} == pairs


def test_a_constraint_stays_short_whatever_the_number() -> None:
    for jobs in (
        [f"{n}.0" for n in range(100_000)], [f"7.{n}" for n in range(100_000)],
        [f"{n}.0" for n in range(0, 200_000, 2)],
    ):  # fmt: skip
        assert len(constraint(map(JobId, jobs))[0]) < 100
    scattered = [f"{n}.0" for n in range(0, 10_000, 2)]
    calls: list[Call] = []

    def run(call: Call) -> Answer:
        calls.append(call)
        return Answer.of(call)

    carry_out(HTCondorCommands({}).cancel(map(JobId, scattered)), {}, run)  # type: ignore[arg-type]
    assert len(calls) == 7
    assert all(len(call.argv[-1]) < 128 * 1024 for call in calls)
    assert all("TaskfarmerSubmission" not in call.argv[-1] for call in calls)


def test_long_answers_are_read_piece_by_piece() -> None:
    """The memory for an answer does not grow with it."""

    def answer_of(count: int) -> Answer:
        queue = ads(*({"ClusterId": 1, "ProcId": n, "JobStatus": 1, "HoldReason": "x" * 500} for n in range(count)))
        return Answer.of(Call(argv=("condor_q",)), 0, queue)

    def peak(answer: Answer) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in Objects(answer))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(answer_of(10))
    assert peak(answer_of(20_000)) < 200_000
