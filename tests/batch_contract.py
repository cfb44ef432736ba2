"""What every batch system keeps (`taskfarmer.batch.BatchSystem`), as tests: derive, and say at which `Site` it is.

    class TestMine(BatchSystemContract):
        @pytest.fixture
        def site(self, tmp_path): return MySite(tmp_path)

A site is the system with all that the suite must do beside it: hold a job, take a node away. What a site cannot do it
says in `cannot`, with the reason, and the test is skipped with it.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from taskfarmer.batch import (
    Answer,
    BatchSystem,
    Call,
    JobId,
    JobState,
    JobStatus,
    Needs,
    NoAnswer,
    Outcome,
    Refused,
    Steps,
    Submission,
    Submitted,
    Unsure,
    carry_out,
)
from taskfarmer.batch.calls import HUNG, MISSING, run_call
from taskfarmer.batch.script import REVOKED, UNSEEN
from taskfarmer.errors import InputError

Q, R, H, E, L, G, U = (
    JobState.QUEUED, JobState.RUNNING, JobState.HELD, JobState.ENDED, JobState.LOST, JobState.GONE, JobState.UNKNOWN,
)  # fmt: skip
NOT_YET = (Q, R, H, U)
CUT_SHORT = (L, G)
"""What a job is that did not end by itself."""
ODD_NAMES = {
    "spaces": "a  b c",
    "quotes": """it's "so" `x`""",
    "unicode": "größe-日本",
    "signs": "50% $HOME & [a];(b)#d",
    "backslash": "a\\b",
}


class Site:
    """A system, and the hands of its administrator. Derive, and replace what raises NotImplementedError.

    `shared`: a directory of this test alone that jobs see and may write into. `cannot`: reasons, by the names of the
    methods below, and: "array", "at_most", "exit status", "commands" (it has none that could fail), "run" (scripts do
    not run), "find ended", "hold", "walltime", "spaces", "quotes", "unicode", "signs", "backslash" (in names of
    directories).
    """

    cannot: ClassVar[Mapping[str, str]] = {}
    limit_s: ClassVar[float] = 90.0
    """How long the suite waits for what should come at once or in seconds."""
    refused: ClassVar[Mapping[str, Needs]] = {}
    """What the system refuses when it is submitted, by the word that it should say why."""
    too_many: ClassVar[int | None] = None
    """Elements that are more than a submission may have; None: there is no such number within reason."""
    unknown: ClassVar[tuple[str, ...]] = ()
    """Ids of jobs that were never submitted, in all the forms that the system has."""
    walltime_s: ClassVar[float] = 60.0
    """The shortest walltime that it takes, and enforces within `limit_s`."""

    def __init__(self, system: BatchSystem, shared: Path, environ: Mapping[str, str]) -> None:
        self.system = system
        self.shared = shared
        self.environ = environ
        self.calls: list[Call] = []
        """The commands that were called so far."""
        self.made: list[JobId] = []

    # -- what a site does

    def tick(self) -> None:
        """Called again and again while the suite waits: for systems that must be pushed on."""

    def pause(self) -> None:
        """Wait a little between two polls."""
        time.sleep(0.25)

    def hold(self, job: JobId) -> None:
        """Hold a job that waits."""
        raise NotImplementedError

    def release(self, job: JobId) -> None:
        """Let a held job start."""
        raise NotImplementedError

    def lose(self, job: JobId) -> None:
        """Take away what runs the job: its node, for good, without requeueing."""
        raise NotImplementedError

    def requeue(self, job: JobId) -> None:
        """Have a running job started anew, under the same id."""
        raise NotImplementedError

    def preempt(self, job: JobId) -> None:
        """Have a running job ended for the sake of another's, without requeueing."""
        raise NotImplementedError

    def forget(self, jobs: Collection[JobId]) -> None:
        """Make the system forget jobs that ended."""
        raise NotImplementedError

    def close(self) -> None:
        """End what is left of the test's jobs."""
        self.cancel(self.made)

    # -- what the suite does with it

    def need(self, *abilities: str) -> None:
        """Skip the test if the site cannot do something that it needs."""
        for ability in abilities:
            if ability in self.cannot:
                pytest.skip(f"{self.system.title}: {ability}: {self.cannot[ability]}")

    def carry_out(self, steps: Steps[Any]) -> Any:
        """Run steps with the real commands, and count these."""

        def run(call: Call) -> Answer:
            self.calls.append(call)
            return run_call(call, self.system.environ)

        return carry_out(steps, self.environ, run)

    def submission(self, body: str, count: int = 1, **more: Any) -> Submission:
        """Return a submission, with its files written as `taskfarmer` does."""
        name = f"tf{uuid.uuid4().hex[:12]}"
        more.setdefault("directory", self.shared / name)
        more.setdefault("cwd", str(more["directory"]))
        more.setdefault("output", f"{more['directory']}/{{element}}.out")
        submission = Submission(name=name, body=body, count=count, **more)
        submission.directory.mkdir(parents=True)
        for file, text in self.system.files(submission).items():
            (submission.directory / file).write_text(text)
        (submission.directory / "job.sh").chmod(0o755)
        return submission

    def hand_over(self, submission: Submission) -> tuple[JobId, ...]:
        """Submit it, and return its jobs."""
        outcome = self.carry_out(self.system.submit(submission))
        assert isinstance(outcome, Submitted), outcome
        assert len(outcome.jobs) == len(set(outcome.jobs)) == submission.count
        self.made.extend(outcome.jobs)
        return outcome.jobs

    def submit(self, body: str, count: int = 1, **more: Any) -> tuple[Submission, tuple[JobId, ...]]:
        """Submit what can be submitted."""
        submission = self.submission(body, count, **more)
        return submission, self.hand_over(submission)

    def poll(self, jobs: Collection[JobId]) -> dict[JobId, JobStatus]:
        """Ask how jobs are; a system may be silent for a moment."""
        deadline = time.monotonic() + self.limit_s
        while True:
            try:
                said = self.carry_out(self.system.poll(jobs))
            except NoAnswer:
                assert time.monotonic() < deadline, "it does not answer any more"
                self.pause()
                continue
            assert set(said) == set(jobs), "an answer for each that was asked for, and for no other"
            assert isinstance(said, dict)
            return said

    def cancel(self, jobs: Collection[JobId]) -> None:
        """End jobs."""
        self.carry_out(self.system.cancel(jobs))

    def find(self, name: str) -> dict[int, JobId]:
        """Ask for the jobs of a submission."""
        found = self.carry_out(self.system.find(name))
        assert isinstance(found, dict)
        return found

    def wait(
        self, jobs: Collection[JobId], *states: JobState, through: Collection[JobState] | None = None
    ) -> dict[JobId, JobStatus]:
        """Poll until all are in one of `states` (none given: over), and return how they are.

        `through`: where they may be before; any other is an error at once.
        """
        states = states or (E, L, G)
        deadline = time.monotonic() + self.limit_s
        while True:
            self.tick()
            said = self.poll(jobs)
            if all(status.state in states for status in said.values()):
                return said
            late = {job: status for job, status in said.items() if status.state not in states}
            if through is not None:
                assert all(status.state in through for status in late.values()), late
            over = {job: status for job, status in late.items() if status.state.is_over}
            assert not over or R in states or Q in states, f"over, and not {states}: {over}"
            assert time.monotonic() < deadline, f"not {states} after {self.limit_s} s: {dict(list(late.items())[:5])}"
            self.pause()

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until something is true that a job does."""
        deadline = time.monotonic() + self.limit_s
        while not true():
            assert time.monotonic() < deadline, f"waited {self.limit_s} s for {what}"
            self.tick()
            self.pause()

    def run(self, body: str, count: int = 1, **more: Any) -> tuple[Submission, list[JobStatus]]:
        """Submit, wait for the end, and say how each element ended."""
        submission, jobs = self.submit(body, count, **more)
        said = self.wait(jobs)
        return submission, [said[job] for job in jobs]

    def said(self, submission: Submission, element: int = 1) -> str:
        """Return an element's output; file systems and schedulers may bring it after the end."""
        path = Path(submission.output.replace("{element}", str(element)))
        self.until(path.exists, f"the output {path}")
        return path.read_text()

    def answered(self, steps: Steps[Any], *answers: tuple[int, bytes, str]) -> Any:
        """Run steps whose calls get made-up answers (status, output, error), the last one again and again."""
        left = list(answers)

        def run(call: Call) -> Answer:
            status, out, err = left.pop(0) if len(left) > 1 else left[0]
            return Answer.of(call, status, out, err)

        return carry_out(steps, self.environ, run)


NAP = "touch began.$TASKFARMER_ELEMENT; i=0; while [ $i -lt 600 ]; do sleep 0.5; i=$((i + 1)); done"
"""A job that runs until it is ended, a minute or five at most; it leaves a mark when it has begun."""
GARBAGE = (b"", b"\n", b"\x00\xff\xfe\x01" * 300 + b"\n", b"<html><body>502 Bad Gateway</body></html>\n", b"[{\n")


@pytest.mark.timeout(300)
class BatchSystemContract:
    """The contract. A class for a system adds the fixture `site`."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        """Return the site."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _leave_nothing(self, site: Site) -> Iterator[None]:
        yield
        site.close()

    # -- running

    def test_a_job_runs_and_its_end_is_told(self, site: Site) -> None:
        site.need("run")
        submission, jobs = site.submit('echo "one"; echo two >&2; echo "$TASKFARMER_SUBMISSION"; pwd')
        end = site.wait(jobs, E, through=NOT_YET)[jobs[0]]
        assert end.exit_status == 0 or "exit status" in site.cannot
        place = str(submission.directory)
        assert sorted(site.said(submission).splitlines()) == sorted(["one", "two", place, place])

    @pytest.mark.parametrize("count", [1, 2, 7, 100])
    def test_each_element_runs_once(self, site: Site, count: int) -> None:
        site.need("run", *(["array"] if count > 1 else []))
        body = "echo $TASKFARMER_ELEMENT >> ran.$TASKFARMER_ELEMENT; echo this is $TASKFARMER_ELEMENT"
        submission, ends = site.run(body, count)
        assert {end.state for end in ends} == {E}
        assert {end.exit_status for end in ends} == {0} or "exit status" in site.cannot
        numbers = range(1, count + 1)
        assert {path.name for path in submission.directory.glob("ran.*")} == {f"ran.{n}" for n in numbers}
        assert all((submission.directory / f"ran.{n}").read_text() == f"{n}\n" for n in numbers)
        assert all(site.said(submission, n) == f"this is {n}\n" for n in numbers)

    def test_exit_statuses_are_each_elements_own(self, site: Site) -> None:
        site.need("run", "array", "exit status")
        body = "case $TASKFARMER_ELEMENT in 1) exit 0;; 2) exit 3;; 3) exit 255;; 4) kill -9 $$;; esac"
        _, ends = site.run(body, 4)
        assert [end.state for end in ends] == [E] * 4
        assert [end.exit_status for end in ends[:3]] == [0, 3, 255]
        assert ends[3].exit_status in (-9, 137)

    def test_a_job_that_fails_is_told_as_failed(self, site: Site) -> None:
        """Alone, it may be told in another way than in an array. spec: calibration 17.143"""
        site.need("run", "exit status")
        _, (end,) = site.run("exit 7")
        assert (end.state, end.exit_status) == (E, 7)

    def test_the_environment_is_what_was_asked_for(self, site: Site) -> None:
        """spec: workflow 6.6.65, 6.6.66, 6.6.72"""
        site.need("run")
        script = site.shared / "set up.sh"
        script.write_text("export FROM_SCRIPT='of the script' BOTH=script; [[ -n $BASH_VERSION ]]\n")
        env = {"BOTH": "env", "ODD": "a 'b' \"c\" $HOME `x` %j \\n ü", "EMPTY": ""}
        needs = Needs(env=env, env_script=str(script))
        body = 'printf "%s\\n" "$FROM_SCRIPT" "$BOTH" "$ODD" "${EMPTY-unset}"'
        submission, _ = site.run(body, needs=needs)
        assert site.said(submission).splitlines() == ["of the script", "env", env["ODD"], ""]

    def test_what_a_script_sets_for_its_shell_does_not_end_what_comes_next(self, site: Site) -> None:
        site.need("run", "exit status")
        script = site.shared / "set up.sh"
        script.write_text("set -eu\nexport A=1\n")
        _, (end,) = site.run('false; [ "${A}${NOT_SET}" = 1 ] && exit 4', needs=Needs(env_script=str(script)))
        assert (end.state, end.exit_status) == (E, 4)

    def test_a_script_that_fails_ends_the_job(self, site: Site) -> None:
        """Also if it is not there on the node. spec: workflow 6.6.67"""
        site.need("run", "exit status")
        script = site.shared / "set up.sh"
        script.write_text("echo no licence >&2\nreturn 3\n")
        submission, (end,) = site.run("touch ran", needs=Needs(env_script=str(script)))
        assert (end.state, end.exit_status) == (E, 3)
        said = site.said(submission)
        assert "no licence" in said
        assert "set up.sh ended the job with status 3" in said
        assert not (submission.directory / "ran").exists()
        script.write_text("set -e\nfalse\nexport A=1\n")
        submission, (end,) = site.run("touch ran", needs=Needs(env_script=str(script)))
        assert (end.state, end.exit_status) == (E, 1)
        assert not (submission.directory / "ran").exists()
        script.write_text("exit 0\n")
        submission, (end,) = site.run("touch ran", needs=Needs(env_script=str(script)))
        assert "set up.sh ended the job with status 0" in site.said(submission)
        assert not (submission.directory / "ran").exists()
        script.write_text("trap 'echo the end' EXIT\ntrue\n")
        submission, (end,) = site.run("echo ran", needs=Needs(env_script=str(script)))
        assert site.said(submission) == "ran\nthe end\n"
        script.write_text("true\n")
        submission, (end,) = site.run("exit 4", needs=Needs(env_script=str(script)))
        assert (end.exit_status, site.said(submission)) == (4, "")
        submission, (end,) = site.run("touch ran", needs=Needs(env_script="/nowhere/set up.sh"))
        assert end.state is E
        assert end.exit_status not in (0, None)
        assert not (submission.directory / "ran").exists()

    def test_names_have_no_control_characters(self, site: Site) -> None:
        """They would tear the lists of jobs apart, in which others are looked for."""
        for name in ("two\nlines", "a\ttab", "a\rreturn"):
            with pytest.raises(InputError, match="control characters"):
                site.submission("true", needs=Needs(job_name=name))

    def test_ordinary_programs_are_found(self, site: Site) -> None:
        """A job must not depend on the shell that submitted it, and yet find `ls`."""
        site.need("run")
        submission, _ = site.run("ls / | grep -x usr; command -v sed >/dev/null && echo found")
        assert site.said(submission).split() == ["usr", "found"]

    def test_the_body_is_taken_as_it_is(self, site: Site) -> None:
        site.need("run")
        body = "x='a  $b \"c\" \\ %j %% {element} #d'\nprintf '%s\\n' \"$x\"\ncat <<'END'\n$(Process) ü {}\nEND"
        submission, _ = site.run(body)
        assert site.said(submission) == 'a  $b "c" \\ %j %% {element} #d\n$(Process) ü {}\n'

    @pytest.mark.parametrize("kind", list(ODD_NAMES))
    def test_odd_names_of_directories(self, site: Site, kind: str) -> None:
        """They work, or are refused before anything is submitted. spec: workflow 6.6.72"""
        site.need("run")
        place = site.shared / ODD_NAMES[kind]
        (place / "cwd").mkdir(parents=True)
        paths = {"directory": place / "submission", "cwd": f"{place}/cwd", "output": f"{place}/out {{element}} of it"}
        body, count = 'pwd; ls "$TASKFARMER_SUBMISSION"/job.sh', 2 if "array" not in site.cannot else 1
        if kind in site.cannot:
            with pytest.raises(InputError):
                site.submission(body, count, **paths)
            site.need(kind)
        submission, ends = site.run(body, count, **paths)
        assert {end.state for end in ends} == {E}
        for element in range(1, submission.count + 1):
            assert site.said(submission, element) == f"{place}/cwd\n{place}/submission/job.sh\n"

    def test_at_most_so_many_at_once(self, site: Site) -> None:
        site.need("run", "array", "at_most")
        body = "mkdir on.$TASKFARMER_ELEMENT; ls -d on.* 2>/dev/null | wc -l; sleep 1; rmdir on.$TASKFARMER_ELEMENT"
        submission, ends = site.run(body, 5, at_most=2)
        assert {end.state for end in ends} == {E}
        assert {int(site.said(submission, element)) for element in range(1, 6)} <= {1, 2}

    def test_what_was_revoked_does_nothing(self, site: Site) -> None:
        site.need("run")
        submission = site.submission("touch ran")
        (submission.directory / REVOKED).touch()
        (job,) = site.hand_over(submission)
        assert site.wait([job])[job].state is E
        assert not (submission.directory / "ran").exists()

    def test_a_directory_that_the_node_does_not_see(self, site: Site) -> None:
        site.need("run", "exit status")
        submission, (end,) = site.run("touch ran", cwd="/nowhere/at all")
        assert (end.state, end.exit_status) == (E, UNSEEN)
        assert "does not see" in site.said(submission)
        assert not (submission.directory / "ran").exists()

    # -- polling

    def test_ids_that_nobody_knows_are_gone(self, site: Site) -> None:
        jobs = [JobId(id) for id in site.unknown]
        assert jobs
        assert {status.state for status in site.poll(jobs).values()} == {G}
        for job in jobs:
            assert site.poll([job])[job].state is G

    def test_a_poll_of_nothing_asks_nobody(self, site: Site) -> None:
        """spec: workflow 6.11.131"""
        assert site.carry_out(site.system.poll([])) == {}
        site.cancel([])
        assert site.calls == []

    def test_a_poll_of_all_kinds_together(self, site: Site) -> None:
        site.need("run", "array", "at_most")
        _, ended = site.submit("exit 0", 2)
        site.wait(ended)
        _, others = site.submit(NAP)  # which are not asked for
        _, some = site.submit(NAP, 3, at_most=1)
        site.wait(some[:1], R)
        unknown = [JobId(id) for id in site.unknown]
        asked = [ended[1], *some[:2], *unknown]
        said = site.poll(asked)
        assert said[ended[1]].state is E
        assert said[some[0]].state is R
        assert said[some[1]].state is Q
        assert {said[job].state for job in unknown} == {G}
        assert site.poll(others)[others[0]].state in (Q, R)

    def test_one_command_whatever_the_number(self, site: Site) -> None:
        """spec: workflow 6.10.121, 6.10.122"""
        site.need("run", "array")
        jobs: list[JobId] = []
        for count in (30, 1, 1, 5):
            jobs += site.submit(NAP, count)[1]
        del site.calls[:]
        said = site.poll(jobs)
        assert not any(status.state.is_over for status in said.values())
        assert len(site.calls) <= 1
        gone = [*jobs, *(JobId(id) for id in site.unknown)]
        del site.calls[:]
        site.poll(gone)
        assert len(site.calls) <= 3

    def test_the_host_of_a_running_job(self, site: Site) -> None:
        site.need("run")
        _, jobs = site.submit(NAP)
        status = site.wait(jobs, R)[jobs[0]]
        assert status.exit_status is None

    def test_what_was_forgotten_is_gone(self, site: Site) -> None:
        site.need("run", "forget")
        _, jobs = site.submit("exit 0", 2 if "array" not in site.cannot else 1)
        site.wait(jobs, E)
        site.forget(jobs)
        assert {status.state for status in site.wait(jobs, G).values()} == {G}

    # -- ends that are not the job's own

    def test_cancel_one_that_runs(self, site: Site) -> None:
        site.need("run")
        submission, jobs = site.submit(NAP + "; touch over")
        site.wait(jobs, R)
        site.cancel(jobs)
        assert site.wait(jobs, through=(R, Q, U))[jobs[0]].state in CUT_SHORT
        assert not (submission.directory / "over").exists()

    def test_cancel_one_that_waits(self, site: Site) -> None:
        site.need("run", "array", "at_most")
        submission, jobs = site.submit(NAP, 2, at_most=1)
        site.wait(jobs[:1], R)
        site.cancel(jobs[1:])
        assert site.wait(jobs[1:])[jobs[1]].state in CUT_SHORT
        assert site.poll(jobs)[jobs[0]].state is R
        assert not (submission.directory / "began.2").exists()

    def test_cancel_some_of_an_array(self, site: Site) -> None:
        site.need("run", "array")
        _, jobs = site.submit("[ $TASKFARMER_ELEMENT = 2 ] || exit 0; " + NAP, 3)
        site.wait([jobs[1]], R)
        site.cancel([jobs[1]])
        said = site.wait(jobs)
        assert [said[job].state for job in (jobs[0], jobs[2])] == [E, E]
        assert said[jobs[1]].state in CUT_SHORT

    def test_cancel_many_with_few_commands(self, site: Site) -> None:
        site.need("run", "array")
        jobs = [job for count in (20, 1, 3) for job in site.submit(NAP, count)[1]]
        del site.calls[:]
        site.cancel(jobs)
        assert len(site.calls) <= 1
        assert {status.state for status in site.wait(jobs).values()} <= set(CUT_SHORT)

    def test_cancel_right_after_submitting(self, site: Site) -> None:
        site.need("run")
        _, jobs = site.submit(NAP)
        site.cancel(jobs)
        assert site.wait(jobs)[jobs[0]].state in CUT_SHORT

    def test_cancelling_what_is_over_or_never_was_is_forgiven(self, site: Site) -> None:
        """spec: workflow 6.9.111"""
        site.need("run")
        _, ended = site.submit("exit 0")
        _, running = site.submit(NAP)
        before = site.wait(ended, E)
        site.wait(running, R)
        site.cancel([*ended, *(JobId(id) for id in site.unknown), *running])
        assert site.poll(ended) == before
        assert site.wait(running)[running[0]].state in CUT_SHORT
        site.cancel([JobId(id) for id in site.unknown])

    def test_a_job_that_takes_its_time_to_end_can_be_cancelled_again(self, site: Site) -> None:
        site.need("run")
        submission, jobs = site.submit(f"trap 'sleep 3; exit 1' TERM; {NAP}; touch over")
        site.wait(jobs, R)
        for pause_s in (0.0, 0.0, 1.0):
            time.sleep(pause_s)
            site.cancel(jobs)
        assert site.wait(jobs, through=(R, Q, U))[jobs[0]].state in CUT_SHORT
        assert not (submission.directory / "over").exists()

    def test_a_held_job_is_held_until_it_is_released(self, site: Site) -> None:
        site.need("run", "hold", "array", "at_most")
        submission, jobs = site.submit(f'[ "$TASKFARMER_ELEMENT" = 2 ] || {{ {NAP}; }}', 2, at_most=1)
        site.wait(jobs[:1], R)
        site.hold(jobs[1])
        assert site.wait(jobs[1:], H)[jobs[1]].reason
        site.release(jobs[1])
        site.cancel(jobs[:1])
        assert site.wait(jobs[1:], through=(Q, R, H))[jobs[1]].state is E
        assert site.said(submission, 2) == ""

    def test_a_held_job_can_be_cancelled(self, site: Site) -> None:
        """spec: workflow 6.12.140"""
        site.need("run", "hold", "array", "at_most")
        _, jobs = site.submit(NAP, 2, at_most=1)
        site.wait(jobs[:1], R)
        site.hold(jobs[1])
        site.wait(jobs[1:], H)
        site.cancel(jobs)
        assert {status.state for status in site.wait(jobs).values()} <= set(CUT_SHORT)

    def test_a_requeued_job_is_not_over(self, site: Site) -> None:
        site.need("run", "requeue")
        submission, jobs = site.submit(
            f"echo start >> starts; [ $(wc -l < starts) -gt 1 ] && exit 0; {NAP}", needs=Needs(requeue=True)
        )
        site.wait(jobs, R)
        starts = submission.directory / "starts"
        site.until(lambda: starts.exists() and starts.read_text(), "its start")  # it is there before it is written
        site.requeue(jobs[0])
        assert site.wait(jobs, through=(Q, R, H, U))[jobs[0]].state is E
        assert starts.read_text() == "start\n" * 2

    @pytest.mark.parametrize("how", ["lose", "preempt"])
    def test_what_the_system_ends_is_lost(self, site: Site, how: str) -> None:
        site.need("run", how)
        _, jobs = site.submit(NAP, needs=Needs(requeue=False))
        site.wait(jobs, R)
        getattr(site, how)(jobs[0])
        status = site.wait(jobs, through=(R, Q, U))[jobs[0]]
        assert status.state in CUT_SHORT
        assert status.reason or status.state is G

    def test_what_hits_its_walltime_is_lost(self, site: Site) -> None:
        site.need("run", "walltime")
        _, jobs = site.submit(NAP, needs=Needs(time_s=site.walltime_s))
        assert site.wait(jobs, through=(Q, R, U))[jobs[0]].state in CUT_SHORT

    # -- finding

    def test_find_by_name_at_any_time(self, site: Site) -> None:
        site.need("run", "array")
        submission, jobs = site.submit(NAP, 3)
        other, others = site.submit("exit 0")
        by_element = dict(enumerate(jobs, 1))
        assert site.find(submission.name) == by_element
        assert site.carry_out(site.system.find_recent(submission.name)) == by_element
        site.wait(jobs[:1], R)
        site.wait(others, E)
        assert site.find(submission.name) == by_element
        if "find ended" not in site.cannot:
            assert site.find(other.name) == {1: others[0]}
        site.cancel(jobs)
        site.wait(jobs)
        assert site.find(submission.name) in ([by_element] if "find ended" not in site.cannot else [by_element, {}])

    def test_what_was_never_submitted_is_not_found(self, site: Site) -> None:
        site.submit(NAP)
        assert site.find("tf0123456789ab") == {}

    def test_a_name_for_people_does_not_hide_ours(self, site: Site) -> None:
        site.need("run")
        submission, jobs = site.submit(NAP, needs=Needs(job_name="my analysis, 3%"))
        assert site.find(submission.name) == {1: jobs[0]}
        site.wait(jobs, R)
        assert site.find(submission.name) == {1: jobs[0]}

    # -- submitting

    def test_files_and_command_are_pure(self, site: Site) -> None:
        submission = site.submission("true", 1)
        assert site.system.files(submission) == site.system.files(submission)
        assert site.system.command(submission) == site.system.command(submission)
        script = submission.directory / "job.sh"
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
        assert site.calls == []

    def test_the_command_shown_is_the_one_that_is_run(self, site: Site) -> None:
        """spec: workflow 6.12.136, 6.13.146"""
        site.need("commands")
        submission, _ = site.submit("true")
        assert site.calls[0].argv == site.system.command(submission)
        assert site.calls[0].cwd == str(submission.directory)
        fed = (submission.directory / site.system.reads).read_bytes() if site.system.reads else b""
        assert site.calls[0].stdin == fed

    def test_what_is_refused_is_told_in_the_systems_own_words(self, site: Site) -> None:
        site.need("refuse")
        assert site.refused
        for word, needs in site.refused.items():
            submission = site.submission("true", needs=needs)
            outcome = site.carry_out(site.system.submit(submission))
            assert isinstance(outcome, Refused)
            assert word in outcome.why
            assert "\n" not in outcome.why.strip()
            assert site.find(submission.name) == {}

    def test_arrays_that_are_too_long_are_refused(self, site: Site) -> None:
        site.need("array", "too_many")
        assert site.too_many is not None
        assert site.carry_out(site.system.limits()).elements < site.too_many
        submission = site.submission("true", site.too_many)
        outcome = site.carry_out(site.system.submit(submission))
        assert isinstance(outcome, Refused)
        assert outcome.why
        assert site.find(submission.name) == {}

    def test_limits_and_version(self, site: Site) -> None:
        limits = site.carry_out(site.system.limits())
        assert limits.elements >= 1
        assert limits.jobs is None or limits.jobs >= 1
        version = site.carry_out(site.system.version())
        assert any(character.isdigit() for character in version)
        assert "\n" not in version
        at = site.carry_out(site.system.instance())
        assert at == at.strip() == site.carry_out(site.system.instance())
        assert at or site.system.name not in ("slurm", "htcondor", "lsf", "pbs", "local"), "which scheduler it is"

    # -- when the system misbehaves

    def test_a_submission_that_hangs_or_is_killed_is_unsure(self, site: Site) -> None:
        site.need("commands")
        for status in (HUNG, -9, -15):
            assert isinstance(site.answered(site.system.submit(site.submission("true")), (status, b"", "")), Unsure)

    def test_a_submission_without_the_command_is_refused(self, site: Site) -> None:
        site.need("commands")
        outcome = site.answered(site.system.submit(site.submission("true")), (MISSING, b"", ""))
        assert isinstance(outcome, Refused)
        assert "PATH" in outcome.why

    @pytest.mark.parametrize("garbage", GARBAGE)
    def test_a_submission_with_an_answer_that_cannot_be_read_is_unsure(self, site: Site, garbage: bytes) -> None:
        site.need("commands")
        for count in (1, 3) if "array" not in site.cannot else (1,):
            outcome = site.answered(site.system.submit(site.submission("true", count)), (0, garbage, ""))
            assert isinstance(outcome, Unsure)

    @pytest.mark.parametrize("status", [HUNG, MISSING, -9, 1, 255])
    def test_who_does_not_answer_knows_nothing(self, site: Site, status: int) -> None:
        site.need("commands")
        jobs = [JobId(id) for id in site.unknown]
        answer = (status, b"", "" if status in (HUNG, MISSING) else "error: Unable to contact the controller")
        with pytest.raises(NoAnswer):
            site.answered(site.system.poll(jobs), answer)
        with pytest.raises(NoAnswer):
            site.answered(site.system.find("tf0123456789ab"), answer)
        with pytest.raises(NoAnswer):
            site.answered(site.system.find_recent("tf0123456789ab"), answer)
        if status in (HUNG, MISSING):
            with pytest.raises(NoAnswer):
                site.answered(site.system.cancel(jobs), answer)
        assert site.answered(site.system.limits(), answer).elements >= 1
        assert site.answered(site.system.version(), answer) in ("", site.carry_out(site.system.version()))

    @pytest.mark.parametrize("garbage", GARBAGE[1:])
    def test_garbage_is_no_news(self, site: Site, garbage: bytes) -> None:
        """Neither an end nor an absence, and no exception but that there was no answer. spec: workflow 4.3, P03"""
        site.need("commands")
        jobs = [JobId(id) for id in site.unknown]
        try:
            said = site.answered(site.system.poll(jobs), (0, garbage, ""))
        except NoAnswer:
            pass
        else:
            assert {status.state for status in said.values()} <= ({U, G} if not garbage.strip() else {U})
        try:
            found = site.answered(site.system.find("tf0123456789ab"), (0, garbage, ""))
        except NoAnswer:
            pass
        else:
            assert found == {}
            assert not garbage.strip(), "an answer that cannot be read was taken for: there is none"
        assert site.answered(site.system.limits(), (0, garbage, "")).elements >= 1
        assert "\n" not in site.answered(site.system.version(), (0, garbage, ""))

    def test_an_answer_that_was_cut_is_not_taken_for_the_whole(self, site: Site) -> None:
        site.need("run", "array", "commands")
        submission, jobs = site.submit(NAP, 3)
        site.wait(jobs, R)
        whole = {job: status.state for job, status in site.poll(jobs).items()}
        for part in (0.2, 0.5, 0.8, 0.95):
            with suppress(NoAnswer):
                said = self._cut(site, site.system.poll(jobs), part)
                assert all(said[job].state in (state, U) for job, state in whole.items())
            with suppress(NoAnswer):
                assert self._cut(site, site.system.find(submission.name), part) == dict(enumerate(jobs, 1))

    @staticmethod
    def _cut(site: Site, steps: Steps[Any], part: float) -> Any:
        def run(call: Call) -> Answer:
            answer = run_call(call, site.system.environ)
            text = answer.text.encode()
            cut = text[: int(len(text) * part)].rstrip(b"\n")
            if not cut:
                raise NoAnswer("of nothing at all nobody can see that something is missing")
            return Answer.of(call, answer.status, cut, answer.err)

        return carry_out(steps, site.environ, run)


def outcome_of(site: Site, submission: Submission, *answers: tuple[int, bytes, str]) -> Outcome:
    """Return what a submission comes to if its commands answer so."""
    outcome: Outcome = site.answered(site.system.submit(submission), *answers)
    return outcome
