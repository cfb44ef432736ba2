"""Pilots on a real Slurm: from a list to its end, whatever becomes of jobs, nodes and the controller."""

from __future__ import annotations

import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.farm import submissions
from taskfarmer.farm.ledger import Ledger
from tests.farms import TASKFARMER, Farm, counts_of, wait_for
from tests.faults import HASTY_SLURM, Faults
from tests.test_look_commands import call, said
from tests.testbed.fixtures import slurm_with
from tests.testbed.slurm import Settings, Slurm

SUBMIT = (*TASKFARMER, "submit")
LIMIT_S = 90.0


@pytest.fixture
def cluster(lone: Farm, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """A farm whose commands know the test's Slurm; afterwards nothing may be left in its queue."""
    yield from on(slurm, lone, monkeypatch)


def on(slurm: Slurm, lone: Farm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """Yield a farm whose commands know a Slurm; afterwards nothing may be left in its queue."""
    lone.env |= slurm.env
    for name, value in lone.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(lone.path)
    yield lone
    try:
        if lone.workdir.is_dir():
            call("stop", lone.workdir)
            wait_for(lambda: not slurm.queue(), "the queue to be empty", LIMIT_S)
    finally:
        slurm.cancel_all()


def submit(farm: Farm, *words: object) -> Any:
    """Submit, and return what the command said."""
    return said("submit", farm.list, "--batch", "slurm", *words)


def pilots(farm: Farm, *states: str) -> list[dict[str, Any]]:
    """Return the pilots, as `status` shows them; those in the states only, if any are named."""
    found: list[dict[str, Any]] = said("status", farm.workdir)["queue"]["pilots"]
    return [pilot for pilot in found if not states or pilot["state"] in states]


def wait_for_pilots(farm: Farm, count: int, *states: str) -> None:
    wait_for(lambda: len(pilots(farm, *states)) == count, f"{count} pilots {states}", LIMIT_S)


def all_finished(farm: Farm, count: int) -> None:
    """Wait for the end; nothing failed, whatever was lost."""
    wait_for(lambda: counts_of(farm.workdir) == {"finished": count}, f"{count} tasks to finish", LIMIT_S)


def endings(farm: Farm) -> Counter[str]:
    """Return how many attempts ended in which way."""
    shown = said("show", farm.workdir, f"0-{len(farm.attempts()) - 1}")["tasks"]
    return Counter(attempt["ending"] for task in shown for attempt in task["attempts"])


def lost(farm: Farm) -> int:
    """Return how many attempts began beyond one of each task."""
    return sum(farm.attempts().values()) - len(farm.attempts())


def test_from_a_list_to_the_cluster(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["true"] * 200)
    result = call("submit", cluster.list, "--jobs", 4, "--slots", 2, "--time", "10m", "--memory", "100M")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("submitted 4 pilots to Slurm: ")
    all_finished(cluster, 200)
    assert lost(cluster) == 0
    wait_for_pilots(cluster, 4, "ended")
    assert [pilot["exit_status"] for pilot in pilots(cluster)] == [0] * 4
    farmers = {farmer["id"] for farmer in said("status", cluster.workdir)["farmers"]}
    assert farmers == {id for pilot in pilots(cluster) for id in pilot["farmers"]}
    assert not slurm.queue()


def test_pilots_in_the_queue_are_shown_beside_farmers(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 60"] * 60)
    submit(cluster, "--jobs", 5, "--slots", 4)
    wait_for_pilots(cluster, 4, "running")
    wait_for_pilots(cluster, 1, "queued")
    wait_for(lambda: all(pilot["farmers"] for pilot in pilots(cluster, "running")), "the farmers to join")
    text = call("status", cluster.workdir).output
    assert "Resources" in text or "Priority" in text
    (waiting,) = pilots(cluster, "queued")
    slurm.call("scontrol", "hold", waiting["job"])
    wait_for_pilots(cluster, 1, "held")
    assert "held: JobHeld" in call("status", cluster.workdir).output


def test_a_cancelled_pilot_loses_its_tasks_and_fails_none(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 1"] * 24)
    submit(cluster, "--jobs", 3, "--slots", 2)
    cluster.wait_for_runs(6)
    slurm.call("scancel", pilots(cluster, "running")[0]["job"])
    wait_for_pilots(cluster, 1, "lost")
    all_finished(cluster, 24)
    assert endings(cluster) == {"finished": 24, "lost": 2}


def test_a_node_that_goes_down_loses_its_tasks_and_fails_none(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 1"] * 32)
    submit(cluster, "--jobs", 2, "--slots", 8, "--no-requeue")
    cluster.wait_for_runs(16)
    with slurm.node_away("n2"):
        wait_for_pilots(cluster, 1, "lost")
        all_finished(cluster, 32)
    assert endings(cluster) == {"finished": 32, "lost": 8}


def test_a_requeued_pilot_goes_on(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 1"] * 20)
    submit(cluster, "--jobs", 1, "--slots", 2, "--requeue")
    cluster.wait_for_runs(2)
    slurm.preempt(pilots(cluster)[0]["job"])
    all_finished(cluster, 20)
    assert endings(cluster) == {"finished": 20, "lost": 2}
    (pilot,) = pilots(cluster)
    assert len(pilot["farmers"]) == 2


@pytest.fixture(scope="module")
def preempting() -> Iterator[Slurm]:
    """A Slurm that puts jobs back into the queue where those of another partition go first."""
    partitions = {"main": "Nodes=ALL Default=YES PriorityTier=1", "first": "Nodes=ALL PriorityTier=9"}
    conf = {"PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE"}
    with slurm_with(Settings(nodes=1, partitions=partitions, conf=conf)) as made:
        yield made


@pytest.fixture
def preempted(lone: Farm, preempting: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """A farm on that."""
    yield from on(preempting, lone, monkeypatch)


@pytest.mark.parametrize("how", [("submit", "--jobs", "1", "--slots", "2"), ("run", "--one-job-per-task")])
def test_what_runs_in_a_job_that_is_preempted_and_requeued_runs_again(
    preempted: Farm, preempting: Slurm, how: tuple[str, ...]
) -> None:
    """It has not failed, though no retry is allowed, and counts once: as an attempt that was stopped or as the same."""
    preempted.write(*["echo x >>ran.$PROC_NUMBER; [ $(wc -l <ran.$PROC_NUMBER) -gt 1 ] || sleep 100"] * 2)
    command, *options = how
    farmer = preempted.start_command(*TASKFARMER, command, preempted.list, "--batch", "slurm", *options)
    preempted.wait_for_runs(2)
    (job, *_) = {id_.partition("_")[0] for id_ in preempting.queue()}
    first = preempting.submit("-p", "first", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    preempting.wait_for(first, "COMPLETED")
    all_finished(preempted, 2)
    assert farmer.wait(LIMIT_S).status == 0
    assert [(preempted.path / f"ran.{task}").read_text() for task in range(2)] == ["x\nx\n"] * 2
    assert preempting.detail(job, "Restarts") == "1"
    assert endings(preempted) == ({"finished": 2, "lost": 2} if command == "submit" else {"finished": 2})
    for task in range(2):
        shown = call("show", preempted.workdir, task).output
        assert (shown.count(", counted"), shown.count(": failed")) == (1, 0), shown


def test_at_the_signal_before_its_end_a_pilot_queues_once_more(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 1"] * 40)
    submit(cluster, "--jobs", 2, "--slots", 2, "--time-min", "1m", "--time", "30m", "--requeue")
    cluster.wait_for_runs(4)
    slurm.call("scancel", "--batch", "--signal=USR1", pilots(cluster)[1]["job"])
    all_finished(cluster, 40)
    # The last element of an array has the id of the whole: the others are not to be queued again with it.
    assert [len(pilot["farmers"]) for pilot in pilots(cluster)] == [1, 2]
    wait_for_pilots(cluster, 2, "ended")


def test_without_requeueing_the_signal_ends_the_pilot_and_a_keeper_submits_another(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 1"] * 16)
    keeper = cluster.start_command(*SUBMIT, cluster.list, "--batch", "slurm", "--keep", "1", "--slots", "2")
    cluster.wait_for_runs(2)
    slurm.call("scancel", "--batch", "--signal=USR1", pilots(cluster)[0]["job"])
    ended = keeper.wait(LIMIT_S)
    assert (ended.status, "the farm is done" in ended.out) == (0, True), ended
    assert pilots(cluster)[0]["exit_status"] == 3
    all_finished(cluster, 16)


def test_kept_until_the_end_though_pilots_are_killed(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 0.5"] * 60)
    keeper = cluster.start_command(*SUBMIT, cluster.list, "--batch", "slurm", "--keep", "3", "--slots", "2")
    for count in (6, 20, 30):
        cluster.wait_for_runs(count)
        wait_for(lambda: pilots(cluster, "running"), "a pilot that runs")
        slurm.call("scancel", pilots(cluster, "running")[0]["job"])
    assert keeper.wait(LIMIT_S).status == 0
    all_finished(cluster, 60)
    wait_for(lambda: not slurm.queue(), "the queue to be empty", LIMIT_S)


def test_kept_by_a_job_of_its_own(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 0.5"] * 20)
    words = ("--keep", 2, "--slots", 2, "--as-job", "--time", "30m")
    result = call("submit", cluster.list, "--batch", "slurm", *words, "--", "--partition=main", "--exclusive", "-n2")
    assert (result.exit_code, result.stderr.count("goes without --exclusive -n2")) == (0, 1), result.output
    (keeper,) = (pilot["job"] for pilot in pilots(cluster) if pilot["kind"] == "keeper")
    assert (slurm.detail(keeper, "NumCPUs"), slurm.detail(keeper, "OverSubscribe")) == ("1", "OK")
    all_finished(cluster, 20)
    wait_for(lambda: not slurm.queue(), "the keeper to leave", LIMIT_S)
    assert {pilot["kind"] for pilot in pilots(cluster)} == {"keeper", "pilots"}


@pytest.mark.parametrize("native", [(), ("--", "--export=ALL")])
def test_a_pilot_that_a_job_submitted_takes_nothing_of_that_job_for_its_own(
    cluster: Farm, slurm: Slurm, native: tuple[str, ...]
) -> None:
    told = "ARRAY_JOB_ID ARRAY_TASK_ID MEM_PER_NODE NTASKS RESTART_COUNT".split()
    cluster.write("echo $SLURM_JOB_ID " + " ".join(f"${{SLURM_{name}-none}}" for name in told))
    words = shlex.join([*SUBMIT, str(cluster.list), "--batch", "slurm", "--jobs", "1", *native])
    outer = f"export SLURM_NTASKS=9 SLURM_RESTART_COUNT=7 SLURM_JOB_END_TIME=1; cd {cluster.path}; {words}"
    output = cluster.path / "outer"
    job = slurm.submit("--array=3", "--mem=256", "-o", output, "--wrap", outer, env=cluster.env)
    slurm.wait_for(job)
    assert "submitted 1 pilot to Slurm" in output.read_text()
    all_finished(cluster, 1)
    (pilot,) = pilots(cluster)
    assert cluster.log(0).split() == [pilot["job"], *["none"] * len(told)]


def test_a_farmer_on_each_node(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["echo $SLURMD_NODENAME; sleep 0.5"] * 24)
    submit(cluster, "--jobs", 1, "--nodes", 2, "--slots", 4)
    all_finished(cluster, 24)
    assert len(said("status", cluster.workdir)["farmers"]) == 2
    assert {cluster.log(task).strip() for task in range(24)} == {"n1", "n2"}


def test_the_farmer_of_one_node_may_leave_long_before_that_of_another(cluster: Farm, slurm: Slurm) -> None:
    """Though the site has Slurm end a step some time after the first of its processes has ended."""
    cluster.write(*["until [ -e go ]; do sleep 0.1; done"] * 2)
    with configured(slurm, "WaitTime=1"):
        submit(cluster, "--jobs", 1, "--nodes", 2, "--slots", 1)
        cluster.wait_for_runs(2)
        call("stop", cluster.workdir, "--farmer", said("status", cluster.workdir)["farmers"][0]["id"])
        wait_for(lambda: alive(cluster) == 1, "one farmer to leave", LIMIT_S)
        time.sleep(3)
        (cluster.path / "go").touch()
        all_finished(cluster, 2)
    assert lost(cluster) == 1


def alive(farm: Farm) -> int:
    """Return how many farmers are at work."""
    return sum(farmer["standing"] == "alive" for farmer in said("status", farm.workdir)["farmers"])


def test_two_clusters_on_one_workdir(cluster: Farm, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither buries, replaces or cancels the other's pilots, though job ids mean something else on each."""
    cluster.write(*["until [ -e go ]; do sleep 0.1; done"] * 12)
    submit(cluster, "--jobs", 2, "--slots", 2)
    cluster.wait_for_runs(4)
    first = pilots(cluster)[0]["job"].partition("_")[0]
    settings = Settings(nodes=1, conf={"ClusterName": "beta", "FirstJobId": first})
    with slurm_with(settings) as other, monkeypatch.context() as beta:
        for name, value in other.env.items():
            beta.setenv(name, value)
        theirs = other.submit("--hold", "--array=1-2", "-o", "/dev/null", "--wrap", "true")
        assert theirs == first
        assert {(p["state"], p["at"]) for p in pilots(cluster)} == {("unknown", "testbed")}
        assert "not known here: submitted to slurm testbed, and here is beta" in call("status", cluster.workdir).output
        assert submit(cluster, "--jobs", 1, "--slots", 2)["pilots"] == 1
        cluster.wait_for_runs(6)
        assert [pilot["state"] for pilot in pilots(cluster) if pilot["at"] == "beta"] == ["running"]
        (cluster.path / "go").touch()
        all_finished(cluster, 12)
        assert lost(cluster) == 0
        stopped = said("stop", cluster.workdir)
        assert "2 pilots of testbed cannot be cancelled from here" in stopped["problems"]
        wait_for(lambda: set(other.queue()) == {f"{theirs}_1", f"{theirs}_2"}, "the pilot of beta to leave", LIMIT_S)
    # That of beta may have been seen to end from there, or is not known here.
    wait_for(lambda: [p["at"] for p in pilots(cluster, "ended")][:2] == ["testbed"] * 2, "pilots to end", LIMIT_S)


def test_stop_empties_the_queue(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 60"] * 60)
    submit(cluster, "--jobs", 6, "--slots", 4)
    cluster.wait_for_runs(16)
    stopped = said("stop", cluster.workdir)
    assert stopped["pilots_cancelled"] >= 2
    wait_for(lambda: not slurm.queue(), "the queue to be empty", LIMIT_S)
    assert counts_of(cluster.workdir) == {"toprocess": 60}


def test_after_stop_pilots_can_be_submitted_at_once(cluster: Farm, slurm: Slurm) -> None:
    """Those that were cancelled while they waited are no longer counted."""
    cluster.write(*["true"] * 4)
    for _ in range(2):
        assert call("submit", cluster.list, "--batch", "slurm", "--jobs", 2, "--", "--hold").exit_code == 0
        assert len(slurm.queue()) == 2
        assert said("stop", cluster.workdir)["pilots_cancelled"] == 2
    assert [pilot["state"] for pilot in pilots(cluster)] == ["lost"] * 4


def test_drain_lets_what_runs_end(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["until [ -e go ]; do sleep 0.1; done"] * 60)
    submit(cluster, "--jobs", 6, "--slots", 4)
    cluster.wait_for_runs(16)
    assert said("drain", cluster.workdir)["pilots_cancelled"] == 2
    (cluster.path / "go").touch()
    wait_for(lambda: not slurm.queue(), "the queue to be empty", LIMIT_S)
    assert counts_of(cluster.workdir)["finished"] >= 16
    assert lost(cluster) == 0


def test_refusals_are_shown_in_slurms_words(cluster: Farm, slurm: Slurm) -> None:
    cluster.write("true")
    for words, why in ((("--queue", "nope"), "nvalid partition"), (("--", "--no-such-option"), "no-such-option")):
        result = call("submit", cluster.list, "--batch", "slurm", "--jobs", 1, *words)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert why in result.stderr
    assert not slurm.queue()


@pytest.fixture
def without_accounts(cluster: Farm, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Have `sacct` fail as it does while slurmdbd is away; `sbatch` is counted."""
    faults = Faults(cluster.path / "faults", ["sbatch", "sacct"], cluster.env["PATH"])
    monkeypatch.setenv("PATH", f"{faults.directory}:{cluster.env['PATH']}")
    faults.lay("sacct", *["exit 1 sacct: error: Problem talking to the database: Connection refused"] * 1000)
    return faults


@pytest.mark.parametrize("number", [("--jobs", 2), ("--keep", 2)])
def test_a_refusal_is_one_while_the_accounts_are_away(
    cluster: Farm, slurm: Slurm, without_accounts: Faults, number: tuple[str, int]
) -> None:
    cluster.write("true")
    result = call("submit", cluster.list, "--batch", "slurm", *number, "--queue", "nope")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert "nvalid partition" in result.stderr
    assert without_accounts.calls() == {"sbatch": 1}
    assert not slurm.queue()


def test_in_doubt_nothing_is_submitted_while_the_accounts_are_away(
    cluster: Farm, slurm: Slurm, without_accounts: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They alone may know what became of the first."""
    monkeypatch.setattr(submissions, "UNSURE_S", 0.5)
    cluster.write(*["true"] * 4)
    without_accounts.lay("sbatch", "exit 1 sbatch: error: Socket timed out on send/recv operation")
    result = call("submit", cluster.list, "--batch", "slurm", "--jobs", 2)
    assert result.exit_code == 3, result.output
    assert without_accounts.calls()["sbatch"] == 1
    assert without_accounts.calls()["sacct"] > 0
    without_accounts.lift()
    submit(cluster, "--jobs", 2)
    assert without_accounts.calls()["sbatch"] == 2
    all_finished(cluster, 4)


@pytest.mark.parametrize("number", [("--jobs", 2), ("--keep", 2)])
def test_more_time_than_a_partition_gives_is_no_matter_of_waiting(
    cluster: Farm, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, number: tuple[str, int]
) -> None:
    faults = Faults(cluster.path / "faults", ["sbatch"], cluster.env["PATH"])
    monkeypatch.setenv("PATH", f"{faults.directory}:{cluster.env['PATH']}")
    cluster.write("true")
    with configured(slurm, "EnforcePartLimits=ALL", "PartitionName=short State=UP Nodes=ALL MaxTime=5"):
        result = call("submit", cluster.list, "--batch", "slurm", *number, "--queue", "short", "--time", "1h")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert "Requested time limit is invalid" in result.stderr
    assert "correct the options" in result.stderr
    assert faults.calls()["sbatch"] == 1
    assert not slurm.queue()


@contextmanager
def configured(slurm: Slurm, *lines: str) -> Iterator[None]:
    """For so long Slurm's configuration has more lines."""
    configuration = slurm.state / "slurm.conf"
    before = configuration.read_text()
    try:
        configuration.write_text(before + "\n".join([*lines, ""]))
        slurm.call("scontrol", "reconfigure")
        yield
    finally:
        configuration.write_text(before)
        slurm.call("scontrol", "reconfigure")


@pytest.mark.parametrize("number", [("--jobs", 2), ("--keep", 2)])
def test_a_command_that_ends_well_and_submits_nothing_is_refused_in_its_last_words(
    cluster: Farm, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, number: tuple[str, int]
) -> None:
    monkeypatch.setattr(submissions, "UNSURE_S", 1.0)
    faults = Faults(cluster.path / "faults", ["sbatch"], cluster.env["PATH"])
    monkeypatch.setenv("PATH", f"{faults.directory}:{cluster.env['PATH']}")
    cluster.write(*["true"] * 4)
    faults.lay("sbatch", *["exit 0 sbatch: Job 7 to start at noon"] * 3)
    result = call("submit", cluster.list, "--batch", "slurm", *number)
    assert result.exit_code == 2, result.output
    last = result.stderr.splitlines()[-1]
    assert "sbatch ended well without a job id; it said: sbatch: Job 7 to start at noon" in last
    assert "leave out the option" in last
    assert faults.calls()["sbatch"] == 2
    assert call("submit", cluster.list, "--batch", "slurm", *number).exit_code == 2
    assert faults.calls()["sbatch"] == 3  # it knew of the others
    assert not pilots(cluster)
    assert not slurm.queue()
    submit(cluster, "--jobs", 2)
    all_finished(cluster, 4)


def test_an_answer_that_went_astray_is_not_the_end(
    cluster: Farm, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command is heard and its answer lost, the second does nothing."""
    monkeypatch.setattr(submissions, "UNSURE_S", 1.0)
    faults = Faults(cluster.path / "faults", ["sbatch"], cluster.env["PATH"])
    monkeypatch.setenv("PATH", f"{faults.directory}:{cluster.env['PATH']}")
    cluster.write(*["sleep 60"] * 4)
    faults.lay("sbatch", "partial", "empty")
    submit(cluster, "--jobs", 2)
    assert len(slurm.queue()) == 2
    submit(cluster, "--jobs", 4)
    assert len(slurm.queue()) == 4
    assert faults.met() == {"sbatch partial": 1, "sbatch empty": 1}


@pytest.mark.parametrize("fault", ["hang", "lost-hang", "garbage", "lost"])
def test_a_scheduler_that_misbehaves_gets_as_many_pilots_as_were_asked_for(
    cluster: Farm, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(submissions, "UNSURE_S", 1.0)
    faults = Faults(cluster.path / "faults", ["sbatch", "squeue"], cluster.env["PATH"])
    monkeypatch.setenv("PATH", f"{faults.directory}:{cluster.env['PATH']}")
    cluster.write(*["sleep 60"] * 4)
    faults.lay("sbatch", fault)
    said("submit", cluster.list, "--batch", HASTY_SLURM, "--jobs", 2)
    assert len(slurm.queue()) == 2
    faults.lay("squeue", fault)  # which does not have two more submitted for those that it does not tell of
    result = call("submit", cluster.list, "--batch", HASTY_SLURM, "--jobs", 2)
    assert (result.exit_code, "the queue cannot be looked at" in result.stderr) == (3, True), result.output
    assert "nothing was submitted: 2 pilots" in call("submit", cluster.list, "--batch", HASTY_SLURM, "--jobs", 2).output
    assert len(slurm.queue()) == 2
    assert faults.met() == {f"sbatch {fault}": 1, f"squeue {fault}": 1}


@pytest.mark.parametrize("number", [("--jobs", 2), ("--keep", 2)])
def test_what_no_node_can_have_is_refused_in_slurms_words(cluster: Farm, slurm: Slurm, number: tuple[str, int]) -> None:
    """Slurm refuses it, and yet has jobs of it, which failed at once."""
    cluster.write(*["true"] * 4)
    result = call("submit", cluster.list, "--batch", "slurm", *number, "--memory", "1PB")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert "Memory specification can not be satisfied" in result.stderr
    assert not pilots(cluster)


def test_a_job_of_somebody_s_own_with_a_line_break_in_its_name(cluster: Farm, slurm: Slurm) -> None:
    """It is no reason not to understand a refusal; names like it are not taken."""
    slurm.submit("--hold", "-J", "a b\nc", "-o", "/dev/null", "--wrap", "true")
    cluster.write("true")
    for words, why in ((("--", "--no-such-option"), "no-such-option"), (("--job-name", "a\nb"), "control characters")):
        result = call("submit", cluster.list, "--batch", "slurm", "--jobs", 1, *words)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
        assert why in result.stderr
    slurm.cancel_all()


def test_running_pilots_have_no_reason(cluster: Farm, slurm: Slurm) -> None:
    cluster.write("until [ -e go ]; do sleep 0.1; done")
    submit(cluster, "--jobs", 1)
    cluster.wait_for_runs(1)
    assert [(pilot["state"], pilot["reason"]) for pilot in pilots(cluster)] == [("running", "")]
    result = call("submit", cluster.list, "--batch", "slurm", "--jobs", 2)
    assert "nothing was submitted: 1 pilot waits or runs already\n" in result.stdout
    assert "no more than 1 would find something to do\n" in result.stdout
    (cluster.path / "go").touch()
    all_finished(cluster, 1)


def test_a_directory_that_the_node_does_not_see(cluster: Farm, slurm: Slurm, tmp_path: Path) -> None:
    cluster.write("true")
    work = tmp_path / "only here"
    work.mkdir()
    first = cluster.start("--timeout", "30", cwd=work).wait()
    assert first.status == 0
    call("add", cluster.workdir, "--", "true")
    script = said("submit", cluster.workdir, "--batch", "slurm", "--jobs", 1, "--dry-run")["files"]["job.sh"]
    assert f"cd {shlex.quote(str(work))}" in script
    work.rmdir()
    said("submit", cluster.workdir, "--batch", "slurm", "--jobs", 1)
    wait_for_pilots(cluster, 1, "ended")
    (pilot,) = pilots(cluster)
    assert pilot["exit_status"] == 72
    assert "does not see the workdir or the tasks' directory" in call("status", cluster.workdir).output


def test_status_does_not_wait_for_a_controller_that_hangs(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 1"] * 4)
    submit(cluster, "--jobs", 1)
    slurm.freeze_controller()
    try:
        shown = said("status", cluster.workdir)
        assert "did not answer" in shown["queue"]["problems"][0]
        assert said("status", cluster.workdir, "--no-queue")["queue"]["problems"] == []
    finally:
        slurm.thaw_controller()
    all_finished(cluster, 4)


@pytest.mark.long
def test_kept_while_the_controller_is_away(cluster: Farm, slurm: Slurm) -> None:
    cluster.write(*["sleep 1"] * 20)
    keeper = cluster.start_command(*SUBMIT, cluster.list, "--batch", "slurm", "--keep", "2", "--slots", "2")
    cluster.wait_for_runs(4)
    with slurm.controller_away():
        wait_for(lambda: "slurm:" in keeper_err(cluster), "the keeper to notice", LIMIT_S)
    assert keeper.wait(3 * LIMIT_S).status == 0
    all_finished(cluster, 20)
    assert len(pilots(cluster)) <= 3


def keeper_err(farm: Farm) -> str:
    """Return what the farm's commands have said on standard error."""
    return "".join(path.read_text() for path in (farm.path / "streams").glob("*.err"))


@pytest.fixture
def held(cluster: Farm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """`sbatch` does what the test lays out for it; what is held is let go in the end."""
    faults = Faults(cluster.path / "faults", ["sbatch"], cluster.env["PATH"])
    cluster.env["PATH"] = f"{faults.directory}:{cluster.env['PATH']}"
    monkeypatch.setenv("PATH", cluster.env["PATH"])
    yield faults
    faults.release(drop=True)


def kill_in_sbatch(farm: Farm, faults: Faults, *words: object) -> None:
    """Kill a command that submits while it waits for `sbatch`, which is held."""
    killed = farm.start_command(*SUBMIT, str(farm.list), "--batch", "slurm", *map(str, words))
    wait_for(faults.met, "sbatch to be called", LIMIT_S)
    killed.signal(signal.SIGKILL)
    assert killed.wait().status == -signal.SIGKILL


@pytest.mark.parametrize("number", ["--jobs", "--keep"])
@pytest.mark.parametrize("moment", ["before", "meanwhile", "behind"])
def test_killed_while_it_submits_nothing_is_submitted_twice(
    cluster: Farm, slurm: Slurm, held: Faults, monkeypatch: pytest.MonkeyPatch, moment: str, number: str
) -> None:
    """Before its command is heard, so that it is not; while it is on its way; and when its answer is."""
    cluster.write(*["sleep 60"] * 8)
    held.lay("sbatch", "done-held" if moment == "behind" else "held")
    kill_in_sbatch(cluster, held, number, 2)
    words = ("submit", cluster.list, "--batch", "slurm", "--jobs", 2)
    if moment == "before":
        monkeypatch.setattr(submissions, "SETTLED_S", 1.0)
        held.release(drop=True)
    if moment == "meanwhile":
        again = cluster.start_command(*TASKFARMER, *map(str, words))
        wait_for(lambda: "waiting until it is known what became" in keeper_err(cluster), "it to wait", LIMIT_S)
        held.release()
        assert again.wait(LIMIT_S).status == 0
    else:
        assert call(*words).exit_code == 0
    assert len(slurm.queue()) == 2
    assert held.calls()["sbatch"] == (2 if moment == "before" else 1)
    assert len(Ledger.open(cluster.workdir).state) == 8


@pytest.mark.parametrize("command", ["stop", "cancel"])
def test_what_comes_to_the_queue_after_stop_is_foretold_and_cancelled_by_the_next(
    cluster: Farm, slurm: Slurm, held: Faults, command: str
) -> None:
    cluster.write(*["true"] * 8)
    held.lay("sbatch", "held")
    kill_in_sbatch(cluster, held, "--jobs", 2, "--", "--hold")
    (problem,) = said(command, cluster.workdir)["problems"]
    assert "not known yet whether 2 pilots came to the queue; say it again" in problem
    held.release()
    wait_for(lambda: len(slurm.queue()) == 2, "them to come", LIMIT_S)
    done = said(command, cluster.workdir)
    assert (done["pilots_cancelled"], done["problems"]) == (2, [])
    wait_for(lambda: not slurm.queue(), "the queue to be empty", LIMIT_S)
