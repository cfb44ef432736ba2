"""What a farmer knows of its machine: what it may use, who lives, and who descends from whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from taskfarmer.farm import host
from taskfarmer.farm.cgroups import ControlGroups


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], env={**os.environ, host.TOKEN: "test-host"}) as process:
        yield process
        process.kill()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cpus_are_the_least_of_what_is_said() -> None:
    usable = host.usable_cpus({})
    assert 1 <= usable <= len(os.sched_getaffinity(0))
    assert host.usable_cpus({"SLURM_CPUS_ON_NODE": "1"}) == 1
    assert host.usable_cpus({"SLURM_CPUS_ON_NODE": "100000"}) == usable
    assert host.usable_cpus({"SLURM_CPUS_ON_NODE": "many"}) == usable


@pytest.mark.parametrize(
    ("said", "gpus"),
    [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("NoDevFiles", ()), ("GPU-a1,GPU-b2", ("GPU-a1", "GPU-b2"))],
)
def test_gpus_are_what_the_environment_allows(said: str, gpus: tuple[str, ...]) -> None:
    assert host.usable_gpus({"CUDA_VISIBLE_DEVICES": said}) == gpus


def test_memory_is_some() -> None:
    assert host.usable_memory() > 1 << 20


def group(at: Path, **files: str) -> None:
    at.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (at / name.replace("__", ".")).write_text(text + "\n")


def test_limits_of_all_groups_above_a_process_hold(tmp_path: Path) -> None:
    group(tmp_path / "slurm", cpu__max="max 100000", memory__max="8000000", pids__max="max")
    group(tmp_path / "slurm/job_1", cpu__max="350000 100000", memory__max="6000000", pids__max="400")
    group(tmp_path / "slurm/job_1/step_0", cpu__max="900000 100000", memory__max="max", pids__max="500")
    group(tmp_path / "slurm/job_2", cpu__max="100000 100000", memory__max="1")
    groups = ControlGroups(tmp_path, "0::/slurm/job_1/step_0\n")
    assert (groups.cpus(), groups.memory_bytes(), groups.processes()) == (3, 6_000_000, 400)
    assert host.usable_cpus({}, groups) == min(3, len(os.sched_getaffinity(0)))
    assert host.usable_memory(groups) == 6_000_000


def test_limits_of_the_first_version_of_control_groups_hold(tmp_path: Path) -> None:
    group(tmp_path / "cpu,cpuacct/slurm", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    group(tmp_path / "cpu,cpuacct/slurm/job", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    group(tmp_path / "memory/other", memory__limit_in_bytes="9223372036854771712")
    group(tmp_path / "memory", memory__limit_in_bytes="5000000")
    group(tmp_path / "pids/job", pids__max="30")
    members = "4:pids:/job\n3:memory:/other\n2:cpu,cpuacct:/slurm/job\n1:name=systemd:/a:b\n"
    groups = ControlGroups(tmp_path, members)
    assert (groups.cpus(), groups.memory_bytes(), groups.processes()) == (1, 5_000_000, 30)


@pytest.mark.parametrize("path", ["/", "/../../elsewhere", "/docker/0123/not-here"])
def test_in_a_container_the_root_that_is_seen_counts(tmp_path: Path, path: str) -> None:
    group(tmp_path / "root", cpu__max="200000 100000", memory__max="7000000")
    group(tmp_path, cpu__max="100000 100000", memory__max="1")
    group(tmp_path / "elsewhere", cpu__max="100000 100000", memory__max="1")
    groups = ControlGroups(tmp_path / "root", f"0::{path}\n")
    assert (groups.cpus(), groups.memory_bytes()) == (2, 7_000_000)


def test_no_control_groups_limit_nothing(tmp_path: Path) -> None:
    groups = ControlGroups(tmp_path, "0::/user.slice\n")
    assert (groups.cpus(), groups.memory_bytes(), groups.processes()) == (None, None, None)
    assert host.usable_cpus({}, groups) == len(os.sched_getaffinity(0))


def test_a_zombie_is_dead() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    try:
        until(lambda: host.start_of(child) == 0)
        assert os.path.exists(f"/proc/{child}")
    finally:
        os.waitpid(child, 0)


def test_a_farmer_is_gone_when_loop_and_guardian_are(sleeper: subprocess.Popen[bytes]) -> None:
    here = host.here(sleeper.pid)
    assert host.Place.from_json(here.to_json()) == here
    assert host.Place.from_json({"host": "elsewhere"}) is None
    assert not host.is_gone(here)
    assert not host.is_gone(replace(here, pid=sleeper.pid, start=1)), "its guardian lives"
    sleeper.kill()
    until(lambda: host.start_of(sleeper.pid) == 0)
    assert host.is_gone(replace(here, pid=os.getpid(), start=here.start + 1)), "the pid is another's by now"
    assert not host.is_gone(replace(here, boot="another boot", start=here.start + 1)), "nothing is known of elsewhere"
    assert not host.is_gone(replace(here, pid_namespace=1, start=here.start + 1))


def test_what_carries_a_token_is_found_and_ended(sleeper: subprocess.Popen[bytes]) -> None:
    assert list(host.with_token("test-host")) == [sleeper.pid]
    assert list(host.with_token("test-hos")) == []
    assert host.kill_with_token("test-host")
    assert sleeper.wait(5) == -signal.SIGKILL


def test_descendants_are_ended_also_in_sessions_of_their_own() -> None:
    script = """
import os, subprocess, sys, time
from taskfarmer.farm import host
host.become_subreaper()
subprocess.run("setsid sh -c 'sleep 60 & sleep 60' & exit", shell=True)
deadline = time.monotonic() + 10
while len(host.descendants(os.getpid())) < 3 and time.monotonic() < deadline:
    time.sleep(0.01)
before = len(host.descendants(os.getpid()))
ended = host.kill_descendants()
print(before >= 3, ended, host.descendants(os.getpid()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True True []\n"
