"""LSF: what its commands say, and the contract over a stand-in."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import tracemalloc
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
    carry_out,
)
from taskfarmer.batch.calls import Call, run_call
from taskfarmer.batch.lsf import Lsf
from taskfarmer.errors import InputError
from tests.batch_contract import BatchSystemContract, Site

STANDIN = Path(__file__).parent / "standins/lsf"


class LsfSite(Site):
    """The stand-in, with a daemon of its own."""

    refused: ClassVar[Mapping[str, Needs]] = {
        "No such queue": Needs(queue="nope"),
        "illegal option": Needs(settings={"bogus": "1"}),
        "resource requirement": Needs(settings={"R": "rusage[mem=4GB"}),
    }
    too_many: ClassVar[int | None] = 1001
    unknown: ClassVar[tuple[str, ...]] = ("999999", "999999[3]")
    limit_s: ClassVar[float] = 120.0

    def __init__(self, tmp_path: Path) -> None:
        self.state = tmp_path / "lsf"
        shared = tmp_path / "shared"
        shared.mkdir()
        path = f"{STANDIN}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        self._knobs: dict[str, Any] = {}
        self.turn(minute_s=2.0, grace_s=0.3)
        environ = {**os.environ, "PATH": path, "LSF_STANDIN": str(self.state)}
        super().__init__(Lsf(environ), shared, environ)

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

    def hold(self, job: JobId) -> None:
        self.call("bstop", job)

    def release(self, job: JobId) -> None:
        self.call("bresume", job)

    def requeue(self, job: JobId) -> None:
        self.call("brequeue", job)

    def lose(self, job: JobId) -> None:
        """Silence its host; LSF gives it up after a while."""
        self.turn(lost=[self.poll([job])[job].host], hung_s=1.0)

    def forget(self, jobs: Collection[JobId]) -> None:
        self.turn(keep_s=0.0)

    def preempt(self, job: JobId) -> None:
        self.call("lsf-preempt", job)

    def close(self) -> None:
        self.call("lsf-stop")


class TestContract(BatchSystemContract):
    """spec: workflow 6.10, 6.11"""

    @pytest.fixture
    def site(self, tmp_path: Path) -> LsfSite:
        return LsfSite(tmp_path)


# -- what is submitted


def submission(**more: Any) -> Submission:
    """Return a submission of one element, unless `more` says otherwise."""
    given: dict[str, Any] = {
        "name": "tf0123456789ab", "directory": Path("/shared/tf"), "body": "true", "cwd": "/shared",
        "output": "/shared/tf/{element}.out", **more,
    }  # fmt: skip
    return Submission(**given)


def options(**more: Any) -> dict[str, str]:
    """Return the options of `bsub`, those without a value as empty ones."""
    program, *words = Lsf({}).command(submission(**more))
    assert program == "bsub"
    found: dict[str, str] = {}
    last = ""
    for word in words:
        if word.startswith("-"):
            found[word] = ""
            last = word
        else:
            found[last] = word
    return found


PLAIN = {"-env": "all", "-o": "/dev/null", "-J": "tf0123456789ab"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, PLAIN),
        ({"settings": {"queue": "short"}}, {**PLAIN, "-q": "short"}),
        ({"settings": {"job_slots": 4}}, {**PLAIN, "-n": "4"}),
        ({"settings": {"job_slots": False}}, PLAIN),
        ({"settings": {"job_name": "mine"}}, {**PLAIN, "-J": "mine", "-Jd": "tf0123456789ab"}),
        (
            {"settings": {"queue": "s", "job_slots": "2", "job_name": "mine"}},
            {**PLAIN, "-q": "s", "-n": "2", "-J": "mine", "-Jd": "tf0123456789ab"},
        ),
        ({"settings": {"env": "none"}}, {**PLAIN, "-env": "none"}),
        ({"queue": "long", "settings": {"queue": "short"}}, {**PLAIN, "-q": "short"}),
        ({"queue": "long", "settings": {"q": "short"}}, {**PLAIN, "-q": "short"}),
        ({"settings": {"H": True, "x": None, "P": False}}, {**PLAIN, "-H": "", "-x": ""}),
        ({"native": ("-sp", "10")}, {**PLAIN, "-sp": "10"}),
        ({"cpus": 4}, {**PLAIN, "-n": "4", "-R": "span[hosts=1]"}),
        ({"cpus": 4, "nodes": 3}, {**PLAIN, "-n": "12", "-R": "span[ptile=4]"}),
        ({"memory_bytes": 4 * 2**30}, {**PLAIN, "-M": "4096MB", "-R": "rusage[mem=4096MB]"}),
        ({"memory_bytes": 1, "cpus": 2}, {**PLAIN, "-n": "2", "-M": "1MB", "-R": "span[hosts=1] rusage[mem=1MB]"}),
        ({"time_s": 7201}, {**PLAIN, "-W": "2:01"}),
        ({"time_s": 1}, {**PLAIN, "-W": "0:01"}),
        ({"time_s": 7200, "warn_s": 600}, {**PLAIN, "-W": "2:00", "-wa": "USR1", "-wt": "0:10"}),
        ({"warn_s": 600}, PLAIN),
        ({"time_s": 60, "warn_s": 600}, {**PLAIN, "-W": "0:01"}),
        ({"gpus": 2}, {**PLAIN, "-gpu": "num=2"}),
        ({"account": "atlas"}, {**PLAIN, "-P": "atlas"}),
        ({"requeue": True}, {**PLAIN, "-r": ""}),
        ({"requeue": False}, {**PLAIN, "-rn": ""}),
        ({"job_name": "a b[3]%"}, {**PLAIN, "-J": "a_b_3_", "-Jd": "tf0123456789ab"}),
    ],
)
def test_what_is_asked_for_reaches_bsub(more: dict[str, Any], expected: dict[str, str]) -> None:
    """No `-n` unless slots were asked for (P01). spec: workflow 6.11.127, 6.11.128"""
    assert options(needs=Needs(**more)) == expected


def test_an_option_that_is_given_several_times() -> None:
    words = Lsf({}).command(submission(needs=Needs(settings={"R": ["select[mem>1]", "span[hosts=1]"]})))
    assert [words[at + 1] for at, word in enumerate(words) if word == "-R"] == ["select[mem>1]", "span[hosts=1]"]


def test_variables_that_would_hide_the_job() -> None:
    assert Lsf({"BSUB_QUIET": "1", "BSUB_BLOCK": "Y", "LSF_ENVDIR": "/etc/lsf"}).environ == {"LSF_ENVDIR": "/etc/lsf"}


def test_arrays() -> None:
    assert options(count=10)["-J"] == "tf0123456789ab[1-10]"
    assert options(count=10, at_most=3)["-J"] == "tf0123456789ab[1-10]%3"
    assert options(count=10, needs=Needs(job_name="mine"))["-J"] == "mine[1-10]"


@pytest.mark.parametrize(
    "more",
    [{"settings": {"K": True}}, {"native": ("-Jd", "x")}, {"native": ("-J", "x[1-3]")}, {"native": ("-V",)}],
)
def test_what_would_take_jobs_out_of_sight_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be given"):
        Lsf({}).files(submission(needs=Needs(**more)))


def test_the_script_goes_through_standard_input() -> None:
    """spec: calibration 12.5, 17.147"""
    lsf = Lsf({})
    call = next(lsf.submit(submission()))
    assert call.stdin.decode() == lsf.files(submission())[lsf.reads]
    assert "<" not in call.argv


# -- what bsub says


def submitted(status: int, out: str, err: str = "", count: int = 1) -> Outcome:
    """Return what a submission comes to."""
    return carry_out(Lsf({}).submit(submission(count=count)), {}, lambda call: Answer.of(call, status, out, err))


def test_the_id_is_read() -> None:
    """spec: workflow 6.11.129, calibration 17.147"""
    said = "Job <72065926> is submitted to default queue <s>.\n"
    assert submitted(0, said) == Submitted((JobId("72065926"),))
    assert submitted(0, f"Cannot connect to LSF. Please wait ...\n{said}") == Submitted((JobId("72065926"),))
    assert submitted(0, said, count=2) == Submitted((JobId("72065926[1]"), JobId("72065926[2]")))
    assert submitted(255, said) == Submitted((JobId("72065926"),))


@pytest.mark.parametrize(
    ("err", "again"),
    [
        ("nope: No such queue. Job not submitted.\n", False),
        ("bsub: illegal option -- bogus\n", False),
        ("User's pending job threshold is reached. Job not submitted.\n", True),
        ("Request aborted by esub. Job not submitted.\n", False),
    ],
)
def test_refusals(err: str, again: bool) -> None:
    outcome = submitted(255, "", err)
    assert isinstance(outcome, Refused)
    assert outcome.again == again
    assert err.strip() in outcome.why


@pytest.mark.parametrize(
    ("status", "out", "err"),
    [
        (0, "", ""), (0, "Job <> is submitted", ""), (255, "", "Failed in an LSF library call: timeout\n"),
        (124, "", "Cannot connect to LSF. Please wait ...\n"), (1, "", ""), (-9, "", "Job not submitted"),
    ],
)  # fmt: skip
def test_nobody_knows(status: int, out: str, err: str) -> None:
    """spec: workflow 6.11.129, calibration 12.5, 17.147"""
    assert isinstance(submitted(status, out, err), Unsure)


# -- what bjobs says

ASKED = [JobId(id) for id in ("7", "8[1]", "8[2]", "9", "99999")]


def answer_of(*said: Mapping[str, str], jobs: int | None = None) -> str:
    """Return what `bjobs -json` prints about these."""
    head = {"COMMAND": "bjobs", "JOBS": len(said) if jobs is None else jobs}
    return json.dumps({**head, "RECORDS": list(said)}, indent=2) + "\n"


def polled(out: str, err: str = "", status: int = 0, asked: Collection[JobId] = ASKED) -> dict[JobId, JobStatus]:
    """Return what a poll comes to."""
    return carry_out(Lsf({}).poll(asked), {}, lambda call: Answer.of(call, status, out, err))


SAMPLE = """\
{
  "COMMAND":"bjobs",
  "JOBS":2,
  "RECORDS":[
    { "JOBID":"7", "STAT":"RUN" },
    { "JOBID":"99999", "ERROR":"Job <99999> is not found" }
  ]
}
"""


def test_the_sample_of_the_specification() -> None:
    """spec: workflow 4.4"""
    said = polled(SAMPLE, status=255)
    assert said[ASKED[0]].state is JobState.RUNNING
    assert {said[job] for job in ASKED[1:]} == {GONE}


@pytest.mark.parametrize(
    "text",
    [
        f"Cannot connect to LSF. Please wait ...\nLSF is processing your request. Please wait ...\n{SAMPLE}",
        " ".join(SAMPLE.split()) + "\n",
        SAMPLE.replace(" }", " } ").replace("{ ", "{\n").replace(",\n    {", ",{"),
    ],
)
def test_ways_to_print_the_same(text: str) -> None:
    assert polled(text) == polled(SAMPLE)


@pytest.mark.parametrize(
    ("stat", "state"),
    [
        ("PEND", "QUEUED"), ("PROV", "QUEUED"), ("WAIT", "QUEUED"), ("PSUSP", "HELD"), ("RUN", "RUNNING"),
        ("USUSP", "RUNNING"), ("SSUSP", "RUNNING"), ("DONE", "ENDED"), ("UNKWN", "UNKNOWN"), ("ZOMBI", "UNKNOWN"),
        ("FWD_PEND", "UNKNOWN"), ("", "UNKNOWN"),
    ],
)  # fmt: skip
def test_states(stat: str, state: str) -> None:
    """What is silent or never heard of is no end. spec: workflow 6.11.130, calibration 17.148"""
    status = polled(answer_of({"JOBID": "7", "STAT": stat}))[ASKED[0]]
    assert status.state is JobState[state]
    assert (status.exit_status == 0) == (stat == "DONE")


@pytest.mark.parametrize(
    ("code", "why", "expected"),
    [
        ("3", "", (JobState.ENDED, 3)), ("255", "", (JobState.ENDED, 255)), ("137", "", (JobState.ENDED, 137)),
        ("137", "TERM_EXTERNAL_SIGNAL: job killed by a signal external to LSF", (JobState.ENDED, -9)),
        ("137", "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", (JobState.ENDED, -9)),
        ("130", "TERM_OWNER: job killed by owner", (JobState.LOST, None)),
        ("", "TERM_OWNER: job killed by owner", (JobState.LOST, None)),
        ("140", "TERM_RUNLIMIT: job killed after reaching LSF run time limit", (JobState.LOST, None)),
        ("143", "TERM_PREEMPT: job killed after preemption", (JobState.LOST, None)),
        ("9", "TERM_ADMIN: job killed by root or LSF administrator", (JobState.LOST, None)),
        ("255", "TERM_REMOVE_HUNG_JOB: job removed", (JobState.LOST, None)),
        ("1", "TERM_NEVER_HEARD_OF", (JobState.LOST, None)),
        ("", "", (JobState.LOST, None)), ("0", "", (JobState.LOST, None)),
    ],
)  # fmt: skip
def test_ends(code: str, why: str, expected: tuple[JobState, int | None]) -> None:
    """spec: workflow 6.11.130, calibration 17.148"""
    status = polled(answer_of({"JOBID": "7", "STAT": "EXIT", "EXIT_CODE": code, "EXIT_REASON": why}))[ASKED[0]]
    assert (status.state, status.exit_status) == expected
    assert why in status.reason
    assert status.remedy == ("ask for more" if "MEMLIMIT" in why else "")


def test_elements_in_both_ways() -> None:
    ours = polled(
        answer_of({"JOBID": "8", "JOBINDEX": "2", "STAT": "RUN"}, {"JOBID": "7", "JOBINDEX": "0", "STAT": "RUN"})
    )
    theirs = polled(answer_of({"JOBID": "8[2]", "STAT": "RUN"}, {"JOBID": "7", "STAT": "RUN"}))
    assert ours == theirs
    assert {job for job, status in ours.items() if status.state is JobState.RUNNING} == {"7", "8[2]"}


def test_others_jobs_are_passed_over() -> None:
    """spec: workflow 6.13, P06 for Slurm; here alike"""
    said = polled(answer_of(*({"JOBID": str(id), "JOBINDEX": "5", "STAT": "EXIT"} for id in (7, 8, 700))))
    assert set(said.values()) == {GONE}


def test_hosts_and_reasons() -> None:
    running = {"JOBID": "7", "STAT": "RUN", "EXEC_HOST": "4*a:2*b"}
    waiting = {"JOBID": "9", "STAT": "PEND", "PEND_REASON": " New job is waiting\n for scheduling;  "}
    held = {"JOBID": "8[1]", "STAT": "PSUSP", "EXEC_HOST": ""}
    said = polled(answer_of(running, waiting, held))
    assert said[JobId("7")].host == "a,b"
    assert said[JobId("9")].reason == "New job is waiting for scheduling;"
    assert said[JobId("8[1]")].reason == "PSUSP"


@pytest.mark.parametrize("status", [0, 255, 254])
@pytest.mark.parametrize("err", ["No unfinished job found", "No job found", "Job <7> is not found"])
def test_no_jobs_at_all(status: int, err: str) -> None:
    assert set(polled("", err + "\n", status).values()) == {GONE}
    assert set(polled(answer_of(), "", status).values()) == {GONE}


@pytest.mark.parametrize(
    ("out", "err", "status"),
    [
        ("", "", 0), ("", "LSF is down. Please wait ...", 255), ("{}\n", "", 0), (SAMPLE[:-12], "", 0),
        (SAMPLE, "", 124), (SAMPLE, "", -9), (SAMPLE[:80], "", 0),
        ("", "batch daemon not responding ... still trying", 255),
    ],
)  # fmt: skip
def test_no_answer(out: str, err: str, status: int) -> None:
    """spec: workflow 4.3, P03"""
    with pytest.raises(NoAnswer):
        polled(out, err, status)


def test_a_record_that_cannot_be_read_leaves_doubt() -> None:
    broken = SAMPLE.replace('"99999", "ERROR":"Job <99999> is not found" }', '"99999", "ERR')
    said = polled(broken.replace("  ]", '    { "JOBID":"9", "STAT":"DONE" }\n  ]'))
    assert (said[JobId("7")].state, said[JobId("9")].state) == (JobState.RUNNING, JobState.ENDED)
    assert said[JobId("8[1]")].state is JobState.UNKNOWN
    fewer = polled(answer_of({"JOBID": "7", "STAT": "RUN"}, jobs=5))
    assert (fewer[JobId("7")].state, fewer[JobId("9")].state) == (JobState.RUNNING, JobState.UNKNOWN)


@given(st.text())
def test_no_answer_is_too_odd(text: str) -> None:
    for out in (text, SAMPLE.replace("RUN", text), f"{SAMPLE[:60]}{text}"):
        try:
            said = polled(out)
        except NoAnswer:
            continue
        assert set(said) == set(ASKED)


@pytest.mark.parametrize(("number", "words"), [(300, 300), (301, 0)])
def test_few_are_asked_for_by_id(number: int, words: int) -> None:
    call = next(Lsf({}).poll([JobId(str(id)) for id in range(1, number + 1)]))
    assert len(call.argv) == 5 + words


def test_a_poll_needs_little_memory() -> None:
    """100,000 jobs are read record by record."""
    record = '    {\n      "JOBID":"8",\n      "JOBINDEX":"%d",\n      "STAT":"RUN"\n    }%s\n'
    count = 20_000
    with tempfile.TemporaryFile() as file:
        file.write(b'{\n  "COMMAND":"bjobs",\n  "JOBS":%d,\n  "RECORDS":[\n' % count)
        for index in range(1, count + 1):
            file.write((record % (index, "," if index < count else "")).encode())
        file.write(b"  ]\n}\n")
        size = file.tell()
        tracemalloc.start()
        said = carry_out(Lsf({}).poll(ASKED), {}, lambda call: Answer(call, 0, file, ""))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert said[JobId("8[2]")].state is JobState.RUNNING
    assert peak < size / 4


# -- ending and finding


def test_elements_are_ended_by_ranges() -> None:
    """spec: workflow 6.11.131"""
    steps = Lsf({}).cancel([JobId(id) for id in ("8[1]", "8[3]", "8[2]", "7", "8[9]")])
    assert next(steps).argv == ("bkill", "8[1-3,9]", "7")
    many = next(Lsf({}).cancel([JobId(f"8[{index}]") for index in range(1, 60_001, 2)])).argv
    assert max(map(len, many)) < 1000


def test_find_looks_at_name_and_description() -> None:
    records = [
        {"JOBID": "7", "JOBINDEX": "0", "JOB_NAME": "mine", "JOB_DESCRIPTION": "tf0123456789ab"},
        {"JOBID": "8", "JOBINDEX": "2", "JOB_NAME": "tf00000000000b[2]", "JOB_DESCRIPTION": ""},
        {"JOBID": "8[1]", "JOB_NAME": "tf00000000000b[1]", "JOB_DESCRIPTION": ""},
        {"JOBID": "9", "JOBINDEX": "0", "JOB_NAME": "tf0123456789abc", "JOB_DESCRIPTION": "-"},
    ]

    def found(name: str) -> dict[int, JobId]:
        return carry_out(Lsf({}).find(name), {}, lambda call: Answer.of(call, 0, answer_of(*records)))

    assert found("tf0123456789ab") == {1: "7"}
    assert found("tf00000000000b") == {1: "8[1]", 2: "8[2]"}
    assert found("tf00000000000c") == {}


@pytest.mark.parametrize(
    ("status", "out", "elements"),
    [
        (0, "        MAX_JOB_ARRAY_SIZE = 10000\n", 10000), (0, "MAX_JOB_ARRAY_SIZE=5", 5),
        (0, "CLEAN_PERIOD = 3600\n", 1000), (0, "", 1), (255, "MAX_JOB_ARRAY_SIZE = 10", 1),
    ],
)  # fmt: skip
def test_limits(status: int, out: str, elements: int) -> None:
    said = carry_out(Lsf({}).limits(), {}, lambda call: Answer.of(call, status, out))
    assert said == Limits(elements=elements)


# -- the stand-in itself


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LsfSite]:
    made = LsfSite(tmp_path)
    yield made
    made.close()


def said(site: LsfSite, *words: str, stdin: str = "") -> tuple[int, str, str]:
    """Return the exit status, the output and the error output of a command of the stand-in."""
    answer = run_call(Call(argv=words, stdin=stdin.encode(), cwd=str(site.shared)), site.environ)
    return answer.status, answer.text, answer.err


def test_the_stand_in_says_what_lsf_says(site: LsfSite) -> None:
    """Texts and statuses that were seen or are documented; the head of dialect.py says which."""
    assert said(site, "bjobs") == (0, "", "No unfinished job found\n")
    assert said(site, "bjobs", "99999") == (255, "", "Job <99999> is not found\n")
    assert said(site, "bkill", "99999") == (255, "", "Job <99999>: No matching job found\n")
    assert said(site, "bsub", "-q", "nope", "true") == (255, "", "nope: No such queue. Job not submitted.\n")
    assert said(site, "bsub") == (255, "", "No command is specified. Job not submitted.\n")
    site.turn(hosts={})
    assert said(site, "bsub", "sleep", "60") == (0, "Job <1> is submitted to default queue <normal>.\n", "")
    script = "#BSUB -J a-long-name[1-3]%2\n#BSUB -q short\nsleep 60\n"
    assert said(site, "bsub", stdin=script) == (0, "Job <2> is submitted to queue <short>.\n", "")
    assert said(site, "bkill", "-s", "USR1", "1") == (255, "", "Job <1>: Job has not started yet\n")
    assert said(site, "bkill", "2[2]") == (0, "Job <2[2]> is being terminated\n", "")
    assert said(site, "bkill", "2[2]") == (255, "", "Job <2[2]>: Job has already finished\n")
    table = said(site, "bjobs")[1].splitlines()
    assert table[0] == "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME"
    assert [line.split()[5] for line in table[2:]] == ["*g-name[1]", "*g-name[3]"]
    columns = "jobid jobindex stat exec_host delimiter='^'"
    assert said(site, "bjobs", "-noheader", "-o", columns, "2[1]")[1] == "2^1^PEND^-\n"
    assert said(site, "bjobs", "-json", "-noheader", "-o", "jobid")[0] == 255
    assert said(site, "bjobs", "-bogus")[0] == 255
    site.turn(hosts={"node1": 4})
    site.until(lambda: " RUN " in said(site, "bjobs", "1")[1], "job 1 to start")
    assert said(site, "brequeue", "1") == (0, "Job <1> is being requeued \n", "")


def test_ids_with_brackets(site: LsfSite) -> None:
    """Where the site set LSB_BJOBS_DISPLAY_ENH."""
    site.turn(enhanced_ids=True)
    submitted, jobs = site.submit("exit 4", 3)
    assert {status.exit_status for status in site.wait(jobs).values()} == {4}
    assert list(site.find(submitted.name).values()) == list(jobs)


def test_noise_before_the_answer(site: LsfSite) -> None:
    site.turn(noise="Cannot connect to LSF. Please wait ...\n")
    _, jobs = site.submit("exit 0")
    assert site.wait(jobs)[jobs[0]].state is JobState.ENDED


def test_a_silent_host_is_no_end(site: LsfSite) -> None:
    """UNKWN, until somebody gives the job up. spec: workflow 4.4"""
    _, jobs = site.submit("sleep 600", needs=Needs(requeue=False))
    host = site.wait(jobs, JobState.RUNNING)[jobs[0]].host
    site.turn(lost=[host])
    status = site.wait(jobs, JobState.UNKNOWN, through=(JobState.RUNNING,))[jobs[0]]
    assert status.reason == "UNKWN"
    site.cancel(jobs)
    assert site.wait(jobs, JobState.LOST, through=(JobState.UNKNOWN,))


def test_a_job_whose_host_is_lost_runs_again(site: LsfSite) -> None:
    submitted, jobs = site.submit(
        "echo start >> starts; [ $(wc -l < starts) -gt 1 ] && exit 0; sleep 600", needs=Needs(requeue=True)
    )
    status = site.wait(jobs, JobState.RUNNING)[jobs[0]]
    starts = submitted.directory / "starts"
    site.until(lambda: starts.exists() and starts.read_text(), "its start")
    site.turn(lost=[status.host], hung_s=0.5)
    assert site.wait(jobs, through=(JobState.RUNNING, JobState.QUEUED, JobState.UNKNOWN))[jobs[0]].exit_status == 0


def test_a_warning_before_the_run_limit(site: LsfSite) -> None:
    """`-wa USR1 -wt`, to all processes of the job."""
    site.turn(minute_s=3.0)
    body = "trap 'echo warned; exit 5' USR1; i=0; while [ $i -lt 600 ]; do sleep 0.2; i=$((i + 1)); done"
    submitted, jobs = site.submit(body, needs=Needs(time_s=3600, warn_s=3540))
    assert site.wait(jobs)[jobs[0]].exit_status == 5
    assert "warned" in site.said(submitted)


def test_a_busy_lsf_may_be_asked_again_later(site: LsfSite) -> None:
    site.turn(pending_limit=3)
    outcome = site.carry_out(site.system.submit(site.submission("true", 4)))
    assert isinstance(outcome, Refused)
    assert outcome.again


def test_while_lsf_is_down_jobs_run_on(site: LsfSite) -> None:
    submitted, jobs = site.submit("sleep 1; touch ran")
    site.turn(down="LSF is down. Please wait ...")
    with pytest.raises(NoAnswer):
        site.carry_out(site.system.poll(jobs))
    site.until((submitted.directory / "ran").exists, "its end")
    site.turn(down="")
    assert site.wait(jobs)[jobs[0]].state is JobState.ENDED
