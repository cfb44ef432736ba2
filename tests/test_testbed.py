"""The testbed itself: its Slurm, HTCondor, Redis and containers work, keep to themselves, and leave nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import tests.testbed.__main__
from tests.farms import wait_for
from tests.testbed import needs
from tests.testbed.__main__ import main
from tests.testbed.fixtures import slurm_with
from tests.testbed.htcondor import HTCondor
from tests.testbed.images import Containers
from tests.testbed.redis import Redis
from tests.testbed.service import (
    LOOPBACK,
    ROOT,
    NoService,
    end_all,
    listeners,
    mounts_below,
    new_state,
    processes_of,
    remove,
)
from tests.testbed.slurm import Settings, Slurm

PROJECT = Path(__file__).parents[1]
FOR_LONG = "executable = /bin/sleep\narguments = 1000\nrequest_memory = 10\nqueue 2\n"


@pytest.fixture
def idle_slurm(slurm: Slurm) -> Iterator[Slurm]:
    """Slurm, without jobs afterwards."""
    yield slurm
    slurm.cancel_all()


@pytest.fixture
def idle_condor(condor: HTCondor) -> Iterator[HTCondor]:
    """HTCondor, without jobs afterwards."""
    yield condor
    condor.cancel_all()


# -- Slurm -------------------------------------------------------------------------------------------------------------


def test_slurm_runs_jobs_and_arrays(idle_slurm: Slurm, tmp_path: Path) -> None:
    one = idle_slurm.submit("-o", tmp_path / "%j", "--wrap", "echo $SLURM_CPUS_ON_NODE; exit 3", "-c", "8")
    several = idle_slurm.submit("-o", tmp_path / "%A_%a", "--array=1-3", "--wrap", "echo $SLURM_ARRAY_TASK_ID")
    idle_slurm.wait_for(one, "FAILED")
    idle_slurm.wait_for(several, "COMPLETED")
    assert (tmp_path / one).read_text() == "8\n"
    assert [(tmp_path / f"{several}_{number}").read_text() for number in (1, 2, 3)] == ["1\n", "2\n", "3\n"]
    assert "ExitCode=3:0" in idle_slurm.call("scontrol", "show", "job", one)


def test_slurm_has_nodes_to_run_steps_on(idle_slurm: Slurm) -> None:
    said = idle_slurm.call("srun", "--nodes=2", "--ntasks-per-node=1", "printenv", "SLURMD_NODENAME")
    assert set(said.split()) == {"n1", "n2"}


def test_slurm_requeues_a_job_that_is_preempted(idle_slurm: Slurm, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    work = f"echo ${{SLURM_RESTART_COUNT:-0}} >>{starts}; exec sleep 1000"
    job = idle_slurm.submit("--requeue", "-o", "/dev/null", "--wrap", work)
    wait_for(lambda: starts.exists() and starts.read_text() == "0\n", "the job to run")
    idle_slurm.preempt(job)
    wait_for(lambda: starts.read_text() == "0\n1\n", "the job to run again")


def test_slurm_loses_a_node(idle_slurm: Slurm) -> None:
    job = idle_slurm.submit("--requeue", "-w", "n2", "-o", "/dev/null", "--wrap", "exec sleep 1000")
    idle_slurm.wait_for(job, "RUNNING")
    with idle_slurm.node_away("n2"):
        wait_for(lambda: idle_slurm.detail(job, "Restarts") == "1", "the job to be requeued")
    idle_slurm.wait_for(job, "RUNNING")


def test_slurm_does_not_hear_of_a_node(idle_slurm: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = idle_slurm.submit("-w", "n1", "-o", out, "--wrap", "echo $$; exec sleep 1000")
    wait_for(lambda: out.exists() and out.read_text(), "the job to run")
    idle_slurm.lose_node("n1")
    try:
        assert Path(f"/proc/{out.read_text().strip()}").exists(), "the job runs on"
        assert job in idle_slurm.queue()
    finally:
        idle_slurm.find_node("n1")


def test_the_controller_of_slurm_is_away_and_comes_back(idle_slurm: Slurm) -> None:
    job = idle_slurm.submit("-o", "/dev/null", "--wrap", "exec sleep 1000")
    idle_slurm.wait_for(job, "RUNNING")
    with idle_slurm.controller_away():
        assert idle_slurm.run("scontrol", "ping").returncode != 0
    assert idle_slurm.jobs()[job] == "RUNNING"
    idle_slurm.freeze_controller()
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            idle_slurm.run("squeue", limit_s=2.0)
    finally:
        idle_slurm.thaw_controller()
    assert idle_slurm.jobs()[job] == "RUNNING"


def test_slurm_accounts(slurm_with_accounting: Slurm) -> None:
    slurm = slurm_with_accounting
    job = slurm.submit("-o", "/dev/null", "--wrap", "exit 4")
    slurm.wait_for(job, "FAILED")
    wait_for(
        lambda: slurm.call("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ExitCode") == "FAILED|4:0\n", "sacct"
    )


def test_slurm_with_other_settings() -> None:
    partitions = {"short": "Nodes=ALL Default=YES MaxTime=5", "closed": "Nodes=n1 AllowAccounts=nobody"}
    asked = Settings(nodes=1, cpus=3, max_array_size=11, partitions=partitions, conf={"MinJobAge": "7"})
    with slurm_with(asked) as small:
        shown = small.call("scontrol", "show", "config")
        assert {"MaxArraySize = 11", "MinJobAge = 7 sec"} <= {" ".join(line.split()) for line in shown.splitlines()}
        assert small.call("sinfo", "-h", "-o", "%P %l %D %c").splitlines() == ["short* 5:00 1 3", "closed infinite 1 3"]
        refused = small.run("sbatch", "--array=0-11", "-o", "/dev/null", "--wrap", "true")
        assert (refused.returncode, "Invalid job array specification" in refused.stderr) == (1, True)


# -- HTCondor ----------------------------------------------------------------------------------------------------------


def test_htcondor_runs_jobs(idle_condor: HTCondor, tmp_path: Path) -> None:
    cluster = idle_condor.submit(
        "executable = /bin/sh\narguments = \"-c 'echo $(ProcId); exit $(ProcId)'\"\noutput = out.$(ProcId)\n"
        "request_memory = 10\nqueue 2\n",
        cwd=tmp_path,
    )
    idle_condor.wait_for(cluster)
    assert [(tmp_path / f"out.{number}").read_text() for number in (0, 1)] == ["0\n", "1\n"]
    assert [idle_condor.details(f"{cluster}.{number}")["ExitCode"] for number in (0, 1)] == [0, 1]


def test_htcondor_holds_releases_and_evicts(idle_condor: HTCondor) -> None:
    cluster = idle_condor.submit(FOR_LONG)
    idle_condor.wait_for(cluster, "RUNNING")
    idle_condor.hold(f"{cluster}.0")
    idle_condor.wait_for(f"{cluster}.0", "HELD")
    idle_condor.release(f"{cluster}.0")
    idle_condor.preempt(f"{cluster}.1")
    wait_for(lambda: idle_condor.details(f"{cluster}.1")["NumJobStarts"] == 2, "the job to start again")
    idle_condor.wait_for(cluster, "RUNNING")


def test_the_queue_of_htcondor_is_away_and_comes_back(idle_condor: HTCondor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    cluster = idle_condor.submit(f"log = {log}\n{FOR_LONG}")
    wait_for(lambda: began(log) == 2, "both to run", 60)
    with idle_condor.controller_away():
        assert idle_condor.run("condor_q").returncode != 0
    assert set(idle_condor.queue()) == {f"{cluster}.0", f"{cluster}.1"}
    # Until the queue has found their machines again, or has started them anew, they could not be removed.
    wait_for(lambda: began(log) >= 4, "both to go on", 60)
    idle_condor.wait_for(cluster, "RUNNING")


def began(log: Path) -> int:
    """Return how often jobs have been started (001), or found again where they run (023), by their log."""
    return len(re.findall(r"^(?:001|023) \(", log.read_text(), re.MULTILINE)) if log.exists() else 0


def test_jobs_of_htcondor_that_do_not_heed_their_end_are_removed(idle_condor: HTCondor) -> None:
    deaf = "executable = /bin/sh\narguments = \"-c 'trap : TERM; while :; do sleep 0.2; done'\"\nrequest_memory = 10\n"
    idle_condor.wait_for(idle_condor.submit(f"{deaf}queue 2\n"), "RUNNING")
    with pytest.raises(NoService, match=r"jobs are left after 0 s.*\n.*JobStatus.*(.*\n)*ShadowLog"):
        idle_condor.cancel_all(0.0)
    idle_condor.cancel_all(patience_s=0.0)
    assert not idle_condor.queue()


def test_the_bindings_of_htcondor_reach_the_pool(idle_condor: HTCondor, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("htcondor2") is None:
        needs.lacking("htcondor2: not installed; `pip install htcondor` does it, where there are wheels")
    for name, value in idle_condor.env.items():
        monkeypatch.setenv(name, value)
    htcondor = import_module("htcondor2")  # only now: where it finds no configuration it sets one for all that follows
    htcondor.reload_config()
    cluster = idle_condor.submit(FOR_LONG)
    found = htcondor.Schedd().query(constraint=f"ClusterId == {cluster}", projection=["ProcId"])
    assert sorted(ad["ProcId"] for ad in found) == [0, 1]


# -- Redis -------------------------------------------------------------------------------------------------------------


def test_redis_answers(redis: Redis) -> None:
    url = redis.env["REDIS_URL"]
    assert redis.call("redis-cli", "-u", url, "ping") == "PONG\n"
    redis.call("redis-cli", "-u", url, "set", "word", "kept")
    assert redis.call("redis-cli", "-u", url, "get", "word") == "kept\n"


# -- it keeps to itself ------------------------------------------------------------------------------------------------


def test_all_listen_on_loopback_only(slurm_with_accounting: Slurm, idle_condor: HTCondor, redis: Redis) -> None:
    idle_condor.wait_for(idle_condor.submit(FOR_LONG), "RUNNING")  # daemons of jobs listen, too
    for service, at_least in ((slurm_with_accounting, 5), (idle_condor, 3), (redis, 1)):
        found = listeners(service.state)
        assert len(found) >= at_least, found
        assert {address for address, _ in found} == {LOOPBACK}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, for a playground."""
    made = new_state("play") / "bed"
    yield made
    remove(made.parent)


def playground(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run what `make testbed` and `make testbed-down` run."""
    argv = [sys.executable, "-m", "tests.testbed", *map(str, words)]
    return subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)


def test_nothing_is_left_when_the_playground_is_taken_down(slurm: Slurm, condor: HTCondor, place: Path) -> None:
    needs.need(*Containers.programs)
    if Containers.path is None:
        needs.lacking(f"apptainer: not installed; {needs.INSTALL}")
    came = playground("up", place)
    assert came.returncode == 0, came.stderr
    assert all(f"{kind}: up" in came.stdout for kind in ("slurm", "htcondor", "redis", "containers")), came.stdout
    # A job, and something that it detached.
    work = f"echo $$ >{place}/job; setsid sleep 1000 & sleep 1000"
    script = f". {place}/env.sh && sbatch -o /dev/null --wrap '{work}' && redis-cli -u $REDIS_URL ping && condor_status"
    script += " && podman run -d --rm $IMAGE sleep 1000 && apptainer exec $IMAGE_ROOT cat /etc/os-release"
    client = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert client.returncode == 0, client.stderr
    assert client.stdout.endswith("NAME=mini\n")
    wait_for((place / "job").exists, "the job to run")
    ports = [port for _, port in listeners(place)]
    before = processes_of(place)
    assert len(before) > 12
    assert "conmon" in {program_of(pid) for pid in before}, "the container is found"
    assert "is up already" in playground("up", place).stdout
    assert playground("down", place).returncode == 0
    assert not processes_of(place)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in before), "also those that would not be found"
    assert not place.exists()
    assert not mounts_below(place)
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex((LOOPBACK, port)) != 0


def program_of(pid: int) -> str:
    """Return the name of a process; nothing: it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def test_a_playground_with_containers_alone_is_up_until_it_is_taken_down(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.need_root("bring up Podman with storage of its own")
    needs.need(*Containers.programs)
    containers = Containers(place / "containers")
    monkeypatch.setattr(tests.testbed.__main__, "services", lambda _place: [containers])
    assert main(["up", str(place)]) == 0
    assert not processes_of(place)
    capsys.readouterr()
    assert main(["up", str(place)]) == 0
    assert "is up already" in capsys.readouterr().out
    containers.call("podman", "run", "-d", "localhost/mini:1", "sleep", "1000")
    at_work = processes_of(place)
    assert {"conmon", "sleep"} <= {program_of(pid) for pid in at_work}
    assert main(["down", str(place)]) == 0
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in at_work)
    assert not place.exists()
    assert not mounts_below(place)


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_directory_with_something_else_is_no_playground(command: str, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = playground(command, tmp_path)
    assert done.returncode == 2
    assert "no testbed" in done.stderr or "too long" in done.stderr
    assert (tmp_path / "mine").exists()


_DIES = """
import sys, time
from tests.testbed.service import new_state
from tests.testbed.slurm import Slurm
made = Slurm(new_state("slurm"))
made.up()
job = made.submit("-o", "/dev/null", "--wrap", "setsid sleep 1000 & sleep 1000")
made.wait_for(job, "RUNNING")
print(made.state, flush=True)
time.sleep(1000)
"""


def test_the_next_session_ends_what_a_dead_one_left(slurm: Slurm) -> None:
    session = subprocess.Popen([sys.executable, "-c", _DIES], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert session.stdout
    state = Path(session.stdout.readline().strip())
    try:
        left = processes_of(state)
        assert len(left) >= 6
        shutil.rmtree(new_state("other"))
        assert state.exists(), "its session lives"
        session.send_signal(signal.SIGKILL)
        session.wait(20)
        shutil.rmtree(new_state("other"))
        wait_for(lambda: not state.exists(), "it to be removed")  # by this session or another one
        assert not any(Path(f"/proc/{pid}/exe").exists() for pid in left)
        assert processes_of(slurm.state), "our own is as it was"
    finally:
        session.kill()
        session.communicate()
        end_all(state)


def test_a_client_in_a_shell_is_none_of_its_processes(slurm: Slurm) -> None:
    shell = subprocess.Popen(["sleep", "1000"], env={**os.environ, **slurm.env})
    try:
        assert shell.pid not in processes_of(slurm.state)
    finally:
        shell.kill()
        shell.wait()


# -- what is not there -------------------------------------------------------------------------------------------------


def test_what_is_not_installed_is_skipped_but_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("CI", "true")
    needs.need("sh")
    with pytest.raises(pytest.fail.Exception, match="no-such-program: not installed; `make testbed-packages`"):
        needs.need("sh", "no-such-program")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no-such-program: not installed"):
        needs.need("no-such-program")
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="for root"):
        needs.need("no-such-program")
    with pytest.raises(pytest.skip.Exception, match="only root can mount"):
        needs.need_root("mount")


def test_parts_that_nobody_knows_are_refused() -> None:
    script = PROJECT / "scripts/testbed.sh"
    done = subprocess.run(["sh", script, "slurm", "abacus"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.split(" of ")[0]) == (2, "testbed.sh: abacus is none")


def test_where_nothing_can_be_installed_the_script_says_what_is_skipped(tmp_path: Path) -> None:
    for name in ("id", "tr"):
        with suppress(FileExistsError):
            (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        ["/bin/sh", PROJECT / "scripts/testbed.sh", "redis", "slurm"], env={"PATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "testbed.sh: not root on Debian: the tests with redis slurm will be skipped\n"


def test_packages_are_kept_for_the_next_machine(tmp_path: Path) -> None:
    """What apt does with its own option is not tested: there is no network."""
    needs.need_root("mount")
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, line in (("dpkg-query", "exit 1"), ("id", "echo 0"), ("apt-get", f'echo "$*" >>{tmp_path}/calls')):
        (stubs / name).write_text(f"#!/bin/sh\n{line}\n")
        (stubs / name).chmod(0o755)
    # The script says in /usr/sbin that no service is to be started; here in one that nobody else sees.
    words = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /usr/sbin && exec sh "$0" redis')
    subprocess.run(
        [*words, PROJECT / "scripts/testbed.sh"], check=True, timeout=60, cwd=tmp_path,
        env={**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}", "TESTBED_CACHE": "kept"},
    )  # fmt: skip
    update, install = (tmp_path / "calls").read_text().splitlines()
    assert (update, install.split()[1]) == ("-qq update", "install")
    assert f"-o Dir::Cache::archives={tmp_path}/kept/debs " in install
    assert (tmp_path / "kept/debs/partial").is_dir()


def test_states_are_private() -> None:
    state = new_state("private")
    try:
        assert state.parent == ROOT
        assert (ROOT.stat().st_mode & 0o777, state.stat().st_mode & 0o777) == (0o700, 0o700)
    finally:
        state.rmdir()
