"""The job scripts of examples/slurm on a real Slurm: submitted, warned, cancelled, requeued, bereft of nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.farms import SCRIPTS, Farm, check_contract, wait_for
from tests.testbed.slurm import Slurm

EXAMPLES = Path(__file__).parents[1] / "examples/slurm"
ALL = ["single.sh", "array.sh", "multinode.sh", "requeue.sh", "drain.sh"]
FARMERS = {"array.sh": 4, "multinode.sh": 2}
"""How many there are, unless one; each has two slots here."""
UNTIL_GO = "until [ -e go ]; do sleep 0.05; done"


@dataclass
class Cluster:
    """A farm whose farmers are jobs of Slurm."""

    slurm: Slurm
    farm: Farm

    def submit(self, script: str, *words: str, sbatch: tuple[str, ...] = ()) -> str:
        """Submit a script with our list, two slots a farmer and no retries; return the job id."""
        path = f"{SCRIPTS}{os.pathsep}{self.farm.env['PATH']}"
        env = {**self.farm.env, "PATH": path}
        run: tuple[str | Path, ...] = (EXAMPLES / script, self.farm.list, "-n", "2", "--retries", "0", *words)
        return self.slurm.submit(*sbatch, *run, cwd=self.farm.path, env=env)

    def wait_until_at_work(self, script: str) -> None:
        """Wait until all farmers of a script have joined, and all their slots are taken."""
        farmers = FARMERS.get(script, 1)
        self.farm.wait_for_farmers(farmers)
        self.farm.wait_for_runs(2 * farmers)

    def go(self) -> None:
        """Let all tasks end that wait for it."""
        (self.farm.path / "go").touch()

    def said(self) -> str:
        """Return what all jobs have printed by now."""
        return "".join(path.read_text() for path in sorted(self.farm.path.glob("slurm-*.out")))

    def finished(self, total: int) -> None:
        """See that the farm is done, and each task was once."""
        assert self.farm.counts() == {"finished": total}, self.said()
        check_contract(self.farm, total)


@pytest.fixture
def cluster(slurm: Slurm, lone: Farm) -> Iterator[Cluster]:
    """A cluster with nothing in its queue, also afterwards."""
    yield Cluster(slurm, lone)
    slurm.cancel_all()


@pytest.mark.parametrize("script", ALL)
def test_a_script_works_its_list_through(cluster: Cluster, script: str) -> None:
    cluster.farm.write(*["true"] * 20)
    job = cluster.submit(script)
    cluster.slurm.wait_for(job, "COMPLETED")
    cluster.finished(20)
    assert set(cluster.farm.attempts().values()) == {1}


@pytest.mark.parametrize("script", ALL)
def test_the_status_of_a_farm_with_failed_tasks_is_that_of_the_job(cluster: Cluster, script: str) -> None:
    cluster.farm.write("exit 7")
    job = cluster.submit(script, sbatch=("--array=1",) if script == "array.sh" else ())
    cluster.slurm.wait_for(job, "FAILED")
    assert cluster.slurm.detail(job, "ExitCode") == "1:0"


def test_the_jobs_of_an_array_share_a_list(cluster: Cluster) -> None:
    """spec: taskfarm 8"""
    cluster.farm.write(*[UNTIL_GO] * 30)
    job = cluster.submit("array.sh")
    cluster.wait_until_at_work("array.sh")
    assert set(cluster.slurm.queue()) == {f"{job}_{number}" for number in (1, 2, 3, 4)}
    cluster.go()
    cluster.slurm.wait_for(job, "COMPLETED")
    cluster.finished(30)
    assert len({run.token for run in cluster.farm.runs()}) == 4
    assert set(cluster.farm.attempts().values()) == {1}


def test_each_node_of_a_job_has_a_farmer(cluster: Cluster) -> None:
    """spec: taskfarm 8"""
    cluster.farm.write(*[f"echo $SLURMD_NODENAME $TASKFARMER_TOKEN >>nodes; {UNTIL_GO}"] * 10)
    job = cluster.submit("multinode.sh")
    cluster.wait_until_at_work("multinode.sh")
    cluster.go()
    cluster.slurm.wait_for(job, "COMPLETED")
    cluster.finished(10)
    pairs = {tuple(line.split()) for line in (cluster.farm.path / "nodes").read_text().splitlines()}
    assert {node for node, _ in pairs} == {"n1", "n2"}
    assert len({farmer for _, farmer in pairs}) == len(pairs) == 2


@pytest.mark.parametrize("script", ["array.sh", "multinode.sh", "drain.sh"])
def test_a_warned_job_leaves_its_work_to_the_next(cluster: Cluster, script: str) -> None:
    slots, draining = 2 * FARMERS.get(script, 1), script == "drain.sh"
    cluster.farm.write(*[UNTIL_GO] * slots, *["true"] * 5)
    job = cluster.submit(script)
    cluster.wait_until_at_work(script)
    cluster.slurm.warn(job, "USR2" if draining else "USR1")
    if draining:
        wait_for(lambda: "nothing new is started" in cluster.said(), "that it drains")
        cluster.go()
    cluster.slurm.wait_for(job, "FAILED")
    assert set(cluster.farm.counts()) == ({"finished", "toprocess"} if draining else {"toprocess"}), cluster.said()
    assert cluster.farm.counts()["toprocess"] == 5 + (0 if draining else slots)
    element = f"{job}_1" if script == "array.sh" else job
    assert cluster.slurm.detail(element, "ExitCode") == "3:0"
    cluster.go()
    cluster.slurm.wait_for(cluster.submit(script), "COMPLETED")
    cluster.finished(slots + 5)


def test_a_job_of_an_array_is_warned_alone(cluster: Cluster) -> None:
    cluster.farm.write(*[UNTIL_GO] * 12)
    job = cluster.submit("array.sh")
    cluster.wait_until_at_work("array.sh")
    cluster.slurm.warn(f"{job}_2", "USR1")
    cluster.slurm.wait_for(f"{job}_2", "FAILED")
    cluster.go()
    cluster.slurm.wait_for(job, "COMPLETED", "FAILED")
    assert [cluster.slurm.detail(f"{job}_{number}", "ExitCode") for number in (1, 2, 3, 4)] == ["0:0", "3:0"] + [
        "0:0"
    ] * 2
    cluster.finished(12)


def test_a_job_requeues_itself_until_its_list_is_done(cluster: Cluster) -> None:
    """spec: taskfarm 8"""
    cluster.farm.write(*[UNTIL_GO] * 5)
    job = cluster.submit("requeue.sh")
    for restarts in (1, 2):
        cluster.farm.wait_for_farmers(restarts)
        cluster.farm.wait_for_runs(2 * restarts)
        cluster.slurm.warn(job, "USR1")
        cluster.slurm.wait_for(job, "PENDING")
        assert cluster.slurm.detail(job, "Restarts") == str(restarts)
    cluster.go()
    cluster.slurm.wait_for(job, "COMPLETED")
    cluster.finished(5)
    assert (cluster.farm.path / f"slurm-{job}.out").read_text().count("work is left, the job is requeued") == 2


@pytest.mark.parametrize("script", ALL)
def test_a_cancelled_job_gives_its_tasks_back(cluster: Cluster, script: str) -> None:
    slots = 2 * FARMERS.get(script, 1)
    cluster.farm.write(*[UNTIL_GO] * slots)
    job = cluster.submit(script)
    cluster.wait_until_at_work(script)
    cluster.slurm.call("scancel", job)
    cluster.slurm.wait_for(job, "CANCELLED")
    assert cluster.farm.counts() == {"toprocess": slots}, "neither failed, nor put back by another farmer only"
    check_contract(cluster.farm, slots)
    assert not cluster.slurm.queue(), "what was cancelled is not requeued"


@pytest.mark.parametrize("script", ["single.sh", "multinode.sh", "requeue.sh"])
def test_a_preempted_job_comes_back_and_goes_on(cluster: Cluster, script: str) -> None:
    slots = 2 * FARMERS.get(script, 1)
    cluster.farm.write(*[UNTIL_GO] * slots)
    job = cluster.submit(script, sbatch=("--requeue", "--open-mode=append"))
    cluster.wait_until_at_work(script)
    cluster.slurm.preempt(job)
    cluster.slurm.wait_for(job, "PENDING")
    cluster.go()
    cluster.slurm.wait_for(job, "COMPLETED")
    cluster.finished(slots)


def test_an_array_outlives_one_of_its_nodes(cluster: Cluster) -> None:
    cluster.farm.write(*[UNTIL_GO] * 16)
    job = cluster.submit("array.sh", sbatch=("--requeue", "--open-mode=append"))
    cluster.wait_until_at_work("array.sh")
    node = cluster.slurm.detail(f"{job}_1", "BatchHost")
    with cluster.slurm.node_away(node):
        cluster.slurm.wait_for(f"{job}_1", "PENDING")
        cluster.go()
        wait_for(lambda: cluster.farm.counts().get("finished") == 16, "all tasks to be done", 60)
    cluster.slurm.wait_for(job, "COMPLETED")
    cluster.finished(16)


def test_a_farmer_knows_the_end_of_its_job_from_slurm(cluster: Cluster) -> None:
    # The first two tasks take all slots until squeue has answered, for which a farmer does not wait.
    short = {"command": "sleep 5", "duration": 5.0}
    cluster.farm.write_jsonl(short, short, {"duration": 3600.0}, {"duration": 1.0})
    job = cluster.submit("single.sh", "--tasklist", "jsonl", sbatch=("--time=00:02:00",))
    cluster.slurm.wait_for(job, "FAILED")
    assert cluster.slurm.detail(job, "ExitCode") == "3:0"
    assert "are left to work in; 1 task remains, of 60 min" in cluster.said()
    assert set(cluster.farm.attempts()) == {0, 1, 3}


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("words", [(), ("--until", "none")], ids=["knows_the_end", "is_warned"])
def test_jobs_of_a_minute_requeue_until_all_is_done(cluster: Cluster, words: tuple[str, ...]) -> None:
    """Limits are minutes, and Slurm looks at them every half a minute: with both, and with its warning only."""
    cluster.farm.write(*["sleep 12"] * 12)
    job = cluster.submit("requeue.sh", *words, sbatch=("--time=00:01:00", "--signal=B:USR1@25"))
    cluster.slurm.wait_for(job, "COMPLETED", limit_s=600)
    cluster.finished(12)
    assert int(cluster.slurm.detail(job, "Restarts")) >= 1
