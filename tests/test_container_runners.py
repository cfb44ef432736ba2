"""Runners of containers and environments: with Podman, Docker and Apptainer for real, Shifter and srun by stand-ins."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from taskfarmer.core.model import Task, encode_task
from taskfarmer.errors import InputError
from taskfarmer.farm.directories import looker
from taskfarmer.farm.ledger import Ledger
from taskfarmer.runners import (
    ApptainerRunner,
    BasicRunner,
    DockerRunner,
    EnvironmentRunner,
    Job,
    Mount,
    PodmanRunner,
    Runner,
    ShifterRunner,
    SlurmStepRunner,
    containers,
)
from taskfarmer.runners import podman as podman_module
from taskfarmer.runners.leash import TIED_STEP, leash
from taskfarmer.runners.mounts import mounts_of
from taskfarmer.runners.warm import message
from tests.farms import TASKFARMER, Farm, Farmer, is_alive, kill, processes_with, wait_for
from tests.testbed.containers import Engine
from tests.testbed.fixtures import slurm_with
from tests.testbed.slurm import Settings, Slurm

CLASSES: dict[str, Any] = {"apptainer": ApptainerRunner, "docker": DockerRunner, "podman": PodmanRunner}
REUSE = ["no", "slot"]


@pytest.fixture(scope="session", params=["podman", "docker"])
def daemon(request: pytest.FixtureRequest) -> Engine:
    """Podman and Docker in turn, at work."""
    found: Engine = request.getfixturevalue(request.param)
    return found


def made(engine: Engine, mounts: Any = "", **arguments: Any) -> Any:
    """Return the runner of a program, with what it calls its mounts."""
    key = "binds" if engine.name == "apptainer" else "volumes"
    return CLASSES[engine.name](engine.image, **{key: mounts}, **arguments)


class NoRunner:
    """Has what a runner has, and is none."""

    def prepare(self, job: Job) -> None:
        """Do nothing."""


def job(line: str = "true", **more: Any) -> Job:
    """Return the second attempt of a task."""
    return Job(taskid=3, task=Task(text=line, **more), attempt=2, slot=1, workdir="wd")


def words(runner: Runner, line: str = "true", **more: Any) -> tuple[str, ...]:
    """Return what a runner starts."""
    command = runner.prepare(job(line, **more))
    for directory in command.remove:
        os.rmdir(directory)
    assert command.argv is not None
    return command.argv


def run(runner: Runner, line: str, tmp_path: Path) -> tuple[int, str]:
    """Run a line through the blocking form; return its status and its output."""
    log = tmp_path / "log"
    with open(log, "w") as stream:
        status = runner.run(3, line, stream)
    return status, log.read_text()


def define(farm: Farm, name: str, runner: str, **keys: str) -> None:
    """Write the INI file of a runner beside the list."""
    lines = (f"{key} = {value}\n" for key, value in keys.items())
    (farm.path / "runners.ini").write_text(f"[{name}]\nRunner = taskfarmer.runners.{runner}\n{''.join(lines)}")


def define_engine(farm: Farm, engine: Engine, **keys: str) -> None:
    """The same for a container program; the farm's directory is seen inside."""
    mounts = {"binds" if engine.name == "apptainer" else "volumes": str(farm.path)}
    define(farm, "inside", CLASSES[engine.name].__name__, image=engine.image, **mounts, **keys)


# mounts


def test_mounts_of_text() -> None:
    assert mounts_of(" /a /b:/c '/d e:/f':ro /g:/h:rw") == (
        *(Mount("/a", "/a"), Mount("/b", "/c"), Mount("/d e", "/f", read_only=True), Mount("/g", "/h")),
    )


@pytest.mark.parametrize("text", ["/a:/b:z", "/a:/b:ro:x", ":/a", "/a:b", "'/a"])
def test_text_that_is_no_mount_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        mounts_of(text)


@pytest.mark.parametrize("path", ["/a\nb", "/a\0b"])
def test_a_path_that_no_option_carries_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="line break"):
        Mount(path)


def test_a_relative_source_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Mount("x") == Mount(f"{tmp_path}/x", f"{tmp_path}/x")


def test_podman_refuses_when_it_is_made_what_it_could_not_write() -> None:
    with pytest.raises(InputError, match="colon and a comma"):
        PodmanRunner("i", [Mount("/a,b:c")])
    assert 'type=bind,"source=/a,b:c",target=/t' in words(DockerRunner("i", [Mount("/a,b:c", "/t")]))


# every argument reaches the command line


def test_the_words_for_apptainer() -> None:
    """spec: workflow 6.15.178, packtivity 12.85"""
    runner = ApptainerRunner(
        "docker://i", "/a:/b:ro", cleanenv="yes", pwd="/p", nv=True, options="--x 'y z'", program="/opt/apptainer"
    )
    argv = words(runner)
    assert argv[3] == leash()
    given = argv[4 : argv.index("docker://i")]
    assert [word for word in given if "taskfarmer-" not in word] == [
        *("/opt/apptainer", "--quiet", "exec", "--pid", "--cleanenv", "--nv", "--pwd=/p", "--bind=/a:/b:ro"),
        *("--x", "y z"),
    ]
    (share,) = (word for word in given if "taskfarmer-" in word)  # where the container says that it was started
    assert share.startswith("--bind=/")
    assert argv[-3:] == ("sh", "-c", "true")


def test_a_line_that_needs_no_shell_has_only_the_one_that_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(line: str, **arguments: Any) -> tuple[str, ...]:
        argv = words(DockerRunner("i", **arguments), line)
        return argv[argv.index("i") + 7 :]

    assert inside("sim --seed 5 'a b'") == ("sim", "--seed", "5", "a b")
    for line in ("sim | sort", "sim $SEED", "true", "cd /x", "sim > out"):  # not every image has a program `true`
        assert inside(line) == ("sh", "-c", line)
    assert inside("sim", shell="bash") == ("bash", "-c", "sim")  # an image may have a BASH_ENV
    assert inside("sim", env="BASH_FUNC_sim=x") == ("sim",)
    monkeypatch.setenv("BASH_FUNC_module%%", "() { :; }")  # a shell that is bash by the name of sh takes it in
    assert inside("module load root") == ("sh", "-c", "module load root")


@pytest.mark.parametrize("cls", [PodmanRunner, DockerRunner])
def test_the_words_for_podman_and_docker(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec: packtivity 12.73, 12.76, 12.82, 12.83"""
    monkeypatch.setattr(os, "urandom", bytes)
    runner = cls(
        *("i:1", "/a:/b:ro /c"), user="7", group="8", network="host", workdir="/w", cpus="2", memory="1g",
        mount_cwd="no", options="--x 'y z'", env="A='b c'",
    )  # fmt: skip
    command = runner.prepare(job("t", env={"TASK": "1"}))
    argv = command.argv
    given = argv[4 : argv.index("i:1")]
    (name,) = (word for word in given if word.startswith("--name="))
    assert name.startswith("--name=taskfarmer-")
    assert name.endswith("-3.2-000000000000")
    (share,) = (word for word in given if word.endswith(":/.taskfarmer:rw"))
    assert [word for word in given if not word.startswith("--env=") and word != name] == [
        *(runner.program, "run", "--rm", "--init", "--interactive", "--pull=never", "--log-driver=none"),
        *("--network=host", "--user=7:8", "--cpus=2", "--memory=1g", "--workdir=/w"),
        *("--volume", "/a:/b:ro", "--volume", "/c:/c:rw", "--volume", share, "--x", "y z", "--entrypoint="),
    ]
    assert {"--env=A", "--env=TASK", "--env=PROC_NUMBER", "--env=TASKFARMER_ATTEMPT"} <= set(given)
    assert command.env == {"A": "b c"}


def test_a_program_with_a_relative_path_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = words(ApptainerRunner("docker://i", program="./bin/apptainer"))
    assert argv[4] == f"{tmp_path}/bin/apptainer"


def test_no_network_and_the_directory_of_the_task_unless_said_otherwise(tmp_path: Path) -> None:
    argv = words(PodmanRunner("i"), cwd=str(tmp_path))
    assert {"--network=none", f"--workdir={tmp_path}", f"{tmp_path}:{tmp_path}:rw"} <= set(argv)
    assert not any(word.startswith("--network") for word in words(PodmanRunner("i", network="default")))


def test_each_attempt_has_a_name_of_its_own() -> None:
    """spec: packtivity 12.87"""
    runner = PodmanRunner("i")
    names = {word for _ in range(20) for word in words(runner) if word.startswith("--name=")}
    assert len(names) == 20


def test_docker_makes_files_of_the_farms_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    monkeypatch.setattr(os, "getgid", lambda: 1002)
    assert "--user=1001:1002" in words(DockerRunner("i"))
    assert not any(word.startswith("--user") for word in words(PodmanRunner("i")))


def test_the_words_for_srun() -> None:
    runner = SlurmStepRunner("--mpi=none", nodes="2", ntasks="4")
    argv = words(runner, "t", cpus=3, memory_bytes=(1 << 20) + 1, gpus=2)
    assert argv[argv.index("srun") :] == (
        *("srun", "--nodes=2", "--ntasks=4", "--cpus-per-task=3", "--exact", "--mem=2M", "--gpus=2", "--mpi=none"),
        *("/bin/sh", "-c", TIED_STEP, "sh", "sh", "-c", "t"),
    )


@pytest.mark.parametrize(
    ("options", "words_said"),
    [
        ("", ["--mem=0", "--gres=none"]),
        ("--mem-bind=none --gpu-bind=none", ["--mem=0", "--gres=none", "--mem-bind=none", "--gpu-bind=none"]),
        ("--mem-per-cpu=1G -G1", ["--mem-per-cpu=1G", "-G1"]),
        ("--mem 1G --gres=gpu:1", ["--mem", "1G", "--gres=gpu:1"]),
    ],
)
def test_a_step_takes_no_memory_and_no_gpus_unless_somebody_says_so(options: str, words_said: list[str]) -> None:
    argv = words(SlurmStepRunner(options), "t")
    assert list(argv[argv.index("--exact") + 1 : argv.index("/bin/sh", 1)]) == words_said


def test_a_container_in_a_step_has_the_input_that_srun_hands_on() -> None:
    argv = words(SlurmStepRunner(inner=ApptainerRunner("docker://i", program="a")))
    assert argv[2].endswith('; exec "$@" <"$0"')
    assert argv[3:5] == (leash(), "srun")
    assert argv.count(leash()) == 1
    assert "/dev/stdin" in argv


# bad input, when the runner is made


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PodmanRunner(""), "no name of an image"),
        (lambda: PodmanRunner("--privileged"), "no name of an image"),
        (lambda: PodmanRunner("i", shell="zsh"), "sh and bash"),
        (lambda: PodmanRunner("i", workdir="w"), "not an absolute path"),
        (lambda: PodmanRunner("i", pull="often"), "missing, never, always"),
        (lambda: PodmanRunner("i", group="1"), "group without user"),
        (lambda: PodmanRunner("i", env="A"), "NAME=VALUE"),
        (lambda: PodmanRunner("i", options="'"), "No closing quotation"),
        (lambda: PodmanRunner("i", nv="yes"), "it takes no nv"),
        (lambda: PodmanRunner("i", **{"inner.script": "x"}), "without inner"),
        (lambda: PodmanRunner("i", inner="taskfarmer.runners.NoSuch"), "has no class NoSuch"),
        (lambda: PodmanRunner("i", inner=EnvironmentRunner(env="A=1", once=True)), "captured once"),
        (lambda: PodmanRunner("i", stageout="x"), "without tempdir"),
        (lambda: PodmanRunner("i", tempdir="/tmp/a:b,c"), "takes no path with a colon and a comma"),
        (lambda: PodmanRunner("i", tempdir="yes", stageout="../x"), "leads out"),
        (lambda: PodmanRunner("i", tempdir="yes", stageout="a/h.root 'b/h.root'"), "both be called h.root"),
        (lambda: PodmanRunner("i", "/a:/x /b:/x/"), "two have the target /x"),
        (lambda: ApptainerRunner("i", "/a:/"), "over the container's /"),
        (lambda: PodmanRunner("i", "/a:/x:z"), "volumes: '/a:/x:z' is not SOURCE"),
        (lambda: ApptainerRunner("i", "/a:/x:z"), "binds: '/a:/x:z' is not SOURCE"),
        (lambda: PodmanRunner("i", options="--detach"), "--detach: the end of a container"),
        (lambda: DockerRunner("i", options="-Pdq"), "-Pdq: the end of a container"),
        (lambda: PodmanRunner("i", options="--interactive=false"), "ends it with its farmer"),
        (lambda: DockerRunner("i", options="--name x"), "a name of its own"),
        (lambda: PodmanRunner("i", reuse="yes"), "there are no and slot"),
        (lambda: PodmanRunner("i", reuse="slot", tempdir="yes"), "reuse = slot with tempdir"),
        (lambda: PodmanRunner("i", inner=BasicRunner(tempdir="yes", stageout="x")), "BasicRunner has a tempdir"),
        (lambda: ApptainerRunner("i", inner=EnvironmentRunner(env="A=1", tempdir="/tmp")), "only the outermost"),
        (lambda: EnvironmentRunner(env="A=1", inner=ShifterRunner("i", tempdir="yes")), "only the outermost"),
        (lambda: SlurmStepRunner(inner=EnvironmentRunner(env="A=1", inner=DockerRunner("i", tempdir="yes"))), "only"),
        (
            lambda: DockerRunner(
                "i",
                tempdir="yes",
                inner="taskfarmer.runners.BasicRunner",
                **{"inner.tempdir": "yes", "inner.stageout": "x"},
            ),
            "only the outermost",
        ),
        (lambda: BasicRunner(tempdir="yes", destination="d"), "destination without stageout"),
        (lambda: DockerRunner("i", tempdir="scratch"), r"neither yes nor no; a directory has a slash: \./scratch"),
        (lambda: PodmanRunner("i", inner=ApptainerRunner("i")), "ApptainerRunner cannot be in a container"),
        (
            lambda: DockerRunner("i", inner=EnvironmentRunner(env="A=1", inner=SlurmStepRunner())),
            "SlurmStepRunner cannot be in a container",
        ),
        (
            lambda: PodmanRunner(
                "i", inner=EnvironmentRunner(env="A=1", inner=EnvironmentRunner(env="B=1", once=True))
            ),
            "captured once",
        ),
        (
            lambda: EnvironmentRunner(env="A=1", inner=cast("Runner", NoRunner())),
            "NoRunner does not derive from taskfarmer.runners.Runner",
        ),
        (lambda: PodmanRunner("i", reuse="slot", options="--pid=host"), "no --pid and no --pod"),
        (lambda: EnvironmentRunner(env="A=1", inner=PodmanRunner("i", reuse="slot")), "cannot be inside"),
        (lambda: ApptainerRunner("i", cleanenv="perhaps"), "neither yes nor no"),
        (EnvironmentRunner, "nothing to set up"),
        (lambda: SlurmStepRunner(ntasks="0"), "at least 1"),
        (lambda: SlurmStepRunner(nodes="2"), "more than ntasks"),
        (lambda: SlurmStepRunner("--input=none"), "ends a step with its farmer"),
    ],
)
def test_what_cannot_be_is_refused_when_the_runner_is_made(make: Callable[[], Runner], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_the_root_of_the_host_does_not_hide_the_image() -> None:
    assert not [word for word in words(PodmanRunner("i"), cwd="/") if word.startswith("/:")]


def test_a_program_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(containers, "asked", partial(containers.asked, limit_s=0.5))
    monkeypatch.setattr(podman_module, "asked", containers.asked)
    with pytest.raises(InputError, match=r"podman image inspect .*did not answer within 0.5 s; is its daemon at work"):
        PodmanRunner("i", pull="never").check()


def test_a_place_of_temporary_files_that_cannot_be_mounted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("tempfile.tempdir", f"{tmp_path}/a:b,c")
    with pytest.raises(InputError, match=r"a:b,c: podman takes no path with a colon .*; set TMPDIR to"):
        PodmanRunner("i").check()
    for keeps_no_mark in (PodmanRunner("i", reuse="slot"), SlurmStepRunner(inner=PodmanRunner("i")).inner):
        with pytest.raises(InputError, match="podman cannot pull"):
            keeps_no_mark.check()


def test_the_directory_of_a_task_that_cannot_be_mounted_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no path with a colon and a comma or quote"):
        words(PodmanRunner("i"), "true", cwd=f"{tmp_path}/a:b,c")


PODMAN = """#!/bin/sh
case $1 in
    image) echo 'sha256:1 []' ;;
    run) echo 'taskfarmer: this container runs' ;;
esac
"""
"""A stand-in, with which a farm can be made."""
JSON_LINES = ("--tasklist", "jsonl")
JOBS = ("--batch", "local", "--one-job-per-task")
PILOT = ("--batch", "local", "--jobs", "1")


@pytest.fixture
def refusing(lone: Farm) -> Farm:
    """A list whose last task, in line 4, names a directory that the runner `picky` has no way to hand on."""
    program = lone.path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text(PODMAN)
    program.chmod(0o755)
    lone.env["PATH"] = f"{program.parent}{os.pathsep}{lone.env['PATH']}"
    inner = {"inner": "taskfarmer.runners.PodmanRunner", "inner.image": "i"}
    define(lone, "picky", "EnvironmentRunner", env="A=1", **inner)
    lone.write_jsonl({"cwd": "."}, {"env": {"cwd": "a:b,c"}}, {"cwd": "a:b,c"})
    lone.list.write_text(f"# three tasks\n{lone.list.read_text()}")
    (lone.path / "a:b,c").mkdir()
    return lone


def refused(farm: Farm, *words: str | Path, where: str, cwd: Path | None = None) -> None:
    """See a command of taskfarmer refuse the directory, in one line that says whose it is."""
    done = farm.once(*words, cwd=cwd)
    said = rf"taskfarmer: {re.escape(where)}: mount .*/a:b,c: podman takes no path .*; rename .*, or use another runner"
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(said, done.err.strip()), done.err


@pytest.mark.parametrize("words", [("run",), ("run", *JOBS), ("submit", *PILOT), ("submit", *PILOT, "--dry-run")])
def test_a_cwd_that_cannot_be_mounted_is_refused_before_anything_runs(refusing: Farm, words: tuple[str, ...]) -> None:
    farm = refusing
    refused(farm, *words, farm.list, *JSON_LINES, "--runner", "picky", where=f"{farm.list}:4: the cwd of task 2")
    assert not farm.workdir.exists()
    assert not farm.runs()


def test_where_a_farm_is_submitted_its_own_directory_is_looked_at(refusing: Farm) -> None:
    farm = refusing
    there = farm.path / "a:b,c"
    shutil.copy(farm.path / "runners.ini", there)
    refused(farm, "submit", *PILOT, farm.list, "--runner", "picky", where="the directory of the tasks", cwd=there)
    assert not farm.workdir.exists()


def test_a_cwd_of_a_task_that_is_added_is_looked_at(refusing: Farm) -> None:
    farm = refusing
    more = farm.path / "more.jsonl"
    farm.list.rename(more)
    farm.write_jsonl({"command": "exit 1"})
    assert farm.once("run", farm.list, *JSON_LINES, "--quiet").status == 1
    farm.workdir.rename(farm.path / "plain")
    assert farm.once("run", farm.list, *JSON_LINES, "--runner", "picky", "--quiet").status == 0
    for options in ((), ("--after", "0")):
        refused(farm, "add", farm.workdir, more, *options, where=f"{more}:4: the cwd of task 2")
    assert farm.counts() == {"finished": 1}
    assert farm.once("add", farm.path / "plain", more).status == 0


def test_the_cwds_of_a_farm_are_looked_at_for_another_runner(refusing: Farm) -> None:
    """Or for another directory in which they are; but not those of tasks that have finished."""
    farm = refusing
    lines = farm.list.read_text()
    farm.list.write_text(lines.replace("a:b,c", "nowhere/a:b,c"))
    assert farm.once("run", farm.list, *JSON_LINES, "--quiet").status == 1
    assert farm.counts() == {"finished": 2, "failed": 1}
    for words in (("run", farm.list), ("resume", farm.workdir)):
        for more in (), JOBS:
            refused(farm, *words, *more, "--runner", "picky", where="the cwd of task 2")
    there = farm.path / "a:b,c"
    shutil.copy(farm.path / "runners.ini", there)
    (there / "nowhere" / "a:b,c").mkdir(parents=True)
    assert farm.once("retry", farm.workdir).status == 0
    where = "the directory of the tasks"
    refused(farm, "resume", farm.workdir, *JOBS, "--cwd", there, "--runner", "picky", where=where)
    assert farm.once("resume", farm.workdir, "--cwd", there, "--quiet").status == 0
    assert farm.once("run", farm.list, "--runner", "picky", "--quiet").status == 0


def test_who_can_hand_on_any_directory_is_not_asked() -> None:
    """Nor is a runner asked twice about one."""
    asked = []

    class Picky(BasicRunner):
        def check_cwd(self, cwd: str) -> None:
            asked.append(cwd)

    for takes_any in (BasicRunner(), ShifterRunner("i"), ApptainerRunner("i"), SlurmStepRunner(), _OldStyle()):
        assert looker(takes_any, "/home") is None
    look = looker(SlurmStepRunner(inner=EnvironmentRunner(env="A=1", inner=Picky())), "/home")
    assert look is not None
    for number in range(100):
        look(number, encode_task(Task(text="t", cwd=f"x/{number % 2}")))
    assert asked == ["/home", "/home/x/0", "/home/x/1"]


class _OldStyle:
    def run(self, taskid: int, command: str, logfh: Any) -> int:
        return 0


@pytest.mark.parametrize("cls", [PodmanRunner, DockerRunner])
def test_only_a_directory_that_is_mounted_is_looked_at(cls: Any) -> None:
    with pytest.raises(InputError, match="line break"):
        cls("i").check_cwd("/a\nb")
    cls("i", mount_cwd=False).check_cwd("/a\nb")
    cls("i").check_cwd("/a:b c")


def test_options_with_a_value_are_not_taken_for_switches() -> None:
    assert PodmanRunner("i", options="-vdit:/x -eTITLE=1 -P").options == ("-vdit:/x", "-eTITLE=1", "-P")


class _Old(Runner):
    def run(self, taskid: int, command: str, logfh: Any) -> int:
        return 0


def test_an_old_runner_cannot_be_inside_another() -> None:
    with pytest.raises(InputError, match="no prepare"):
        PodmanRunner("i", inner=_Old())


@pytest.mark.parametrize("name", CLASSES)
def test_a_missing_program_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec: workflow 6.15.180"""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=f"{name}: no such program on PATH"):
        CLASSES[name](str(tmp_path)).check()


# containers for real


def test_a_task_runs_inside(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec: workflow 6.15.181, packtivity 12.83"""
    monkeypatch.setenv("PROC_NUMBER", "3")
    runner = made(engine, env="GIVEN='a  b'")
    runner.check()
    line = 'cat /etc/os-release; echo "$PROC_NUMBER $GIVEN"; cat; echo bad >&2; exit 7'
    status, said = run(runner, line, tmp_path)
    assert (status, sorted(said.splitlines())) == (7, ["3 a  b", "NAME=mini", "bad"])  # Docker has two streams
    runner.job = Job(taskid=3, task=Task(text="t", argv=("echo", "a b", "$X")), attempt=1, slot=0, workdir="w")
    assert run(runner, runner.job.task.line, tmp_path) == (0, "a b $X\n")


@pytest.mark.parametrize("name", ["plain", "a b", "it's", 'a"b', "a,b", "a:b", "a\\b", "$HOME"])
def test_a_mount_of_any_name_works(engine: Engine, tmp_path: Path, name: str) -> None:
    """spec: packtivity 12.82"""
    source = tmp_path / name
    source.mkdir()
    (source / "in").write_text("here")
    outside = tmp_path / "outside"
    outside.mkdir()
    arguments = {} if engine.name == "apptainer" else {"mount_cwd": False}
    runner = made(
        engine, [Mount(str(source), "/mnt", read_only=True), Mount(str(source), f"/data/{name}")], **arguments
    )
    runner.check()
    status, said = run(runner, f"cat /mnt/in; touch /mnt/no || cp /mnt/in '/data/'{quoted(name)}/out", tmp_path)
    assert (status, "here" in said) == (0, True), said
    assert "Read-only" in said
    assert (source / "out").read_text() == "here"
    assert not (source / "no").exists()


def test_volumes_of_the_program_and_propagation_are_for_options(daemon: Engine, tmp_path: Path) -> None:
    """A mount is of a path; what has several lines needs no standard input, of which a task has none."""
    assert mounts_of("results:/results")[0].source == f"{os.getcwd()}/results"
    with pytest.raises(InputError, match="is not SOURCE"):
        made(daemon, "/cvmfs:/cvmfs:rslave")
    runner = made(daemon, options=f"--volume=results:/results --volume={tmp_path}:/here:ro,rprivate")
    script = "echo x >/results/x\ncat\nfor place in /results /here; do\n    ls $place\ndone\n"
    (tmp_path / "seen").touch()
    assert run(runner, script, tmp_path) == (0, "x\nlog\nseen\n")


def quoted(name: str) -> str:
    """Return a word of a shell line."""
    return "'" + name.replace("'", "'\\''") + "'"


def test_what_a_container_needs_is_checked_before_anything_runs(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or directory"):
        made(engine, str(tmp_path / "no")).check()
    with pytest.raises(InputError, match="cannot run a container"):
        made(engine, options="--no-such-option").check()
    arguments = {} if engine.name == "apptainer" else {"pull": "never"}
    with pytest.raises(InputError, match="nosuch"):
        CLASSES[engine.name]("nosuch", **arguments).check()


def test_bad_input_is_one_line_and_nothing_runs(farm: Farm, engine: Engine) -> None:
    define(farm, "inside", CLASSES[engine.name].__name__, image=engine.image, inner="x.y")
    farm.write("true")
    end = farm.run("--runner", "inside")
    assert end.status == 2
    assert len(end.err.splitlines()) == 1
    assert "runners.ini:1: [inside]" in end.err
    assert not farm.workdir.exists()


def test_statuses_of_the_program_itself_are_told_from_the_tasks(engine: Engine, tmp_path: Path) -> None:
    """spec: workflow 6.15.181, packtivity 12.84"""
    runner = made(engine)
    for status in runner.own_statuses:
        assert run(runner, f"exit {status}", tmp_path) == (status, "")
    assert run(runner, "/no/such/program", tmp_path)[1].count("\n") == 1
    runner.image = runner.digest = f"{tmp_path}/no" if engine.name == "apptainer" else "localhost/no:1"
    status, said = run(runner, "true", tmp_path)
    assert status == (255 if engine.name == "apptainer" else 125)
    last = said.splitlines()[-1]
    assert last.startswith("taskfarmer: the container could not be started: ")
    assert "no:1" in last if engine.name != "apptainer" else "/no" in last
    assert last.endswith("` says")


@pytest.mark.parametrize("reuse", REUSE)
@pytest.mark.parametrize("logs", ["files", "packed"])
def test_why_says_whether_the_task_or_the_container_program_failed(
    lone: Farm, engine: Engine, logs: str, reuse: str
) -> None:
    (lone.path / "gone").mkdir()
    place, other = quoted(f"{lone.path}/gone"), lone.path / "other"
    other.mkdir()
    key = "binds" if engine.name == "apptainer" else "volumes"
    mounts = f"{lone.path} --mount=type=bind,source={lone.path}/gone,target=/data".split()
    define(
        lone, "inside", CLASSES[engine.name].__name__, image=engine.image, reuse=reuse, options=mounts[1],
        **{key: mounts[0]},
    )  # fmt: skip
    status = made(engine).own_statuses[0]
    # In a directory of its own the third needs another container, also where one is kept.
    lone.write_jsonl(
        {"command": f"exit {status}"}, {"command": f"rmdir {place}"}, {"command": "true", "cwd": str(other)}
    )
    end = lone.run("--runner", "inside", "-n", "1", "--tasklist", "jsonl", "--logs", logs)
    assert len(lone.runs_file.read_text().splitlines()) == 2
    assert (end.status, lone.counts()) == (1, {"finished": 1, "failed": 2})
    (own, tool) = (lone.once("why", lone.workdir, str(id)).out for id in (0, 2))
    assert f"exit status {status}" in own
    assert "container" not in own
    assert f"exit status {status}" in tool
    assert "the container could not be started: " in tool
    assert f"{lone.path}/gone" in tool
    assert "the container could not be started: " in lone.once("show", lone.workdir, "2").out


def test_a_farm_runs_inside(farm: Farm, engine: Engine) -> None:
    define_engine(farm, engine)
    tasks: list[dict[str, Any]] = [
        {"command": "cat /etc/os-release; echo $A", "env": {"A": "x y"}},
        {"command": "exit 7"},
    ]
    farm.list.write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    end = farm.run("--runner", "inside", "-n", "2", "--tasklist", "jsonl")
    assert end.status == 1, end
    assert farm.log(0) == "NAME=mini\nx y\n"
    assert farm.counts() == {"finished": 1, "failed": 1}


SLEEP = "sleep 300 & setsid sleep 300 & sleep 300"


def sleepers(farm: Farm) -> list[int]:
    """Return the living processes of tasks of a farm, also those of containers, whoever is their parent."""
    token = f"TASKFARMER_WORKDIR={farm.workdir}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            asleep = b"sleep" in Path(f"/proc/{name}/cmdline").read_bytes()
            if asleep and token in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("reuse", REUSE)
def test_a_time_limit_ends_the_container(farm: Farm, engine: Engine, reuse: str) -> None:
    define_engine(farm, engine, reuse=reuse)
    farm.write(SLEEP)
    end = farm.run("--runner", "inside", "--task-timeout", "3", "--stop-grace", "1")
    assert end.status == 1, end
    wait_for(lambda: not sleepers(farm), "the container to end")
    no_container(engine)


def no_container(engine: Engine) -> None:
    """Hold that no container of ours is left, running or not."""
    if engine.name != "apptainer":
        wait_for(lambda: not engine.call("ps", "--filter=name=taskfarmer", "--quiet"), "no container")


@pytest.mark.parametrize("reuse", REUSE)
def test_a_stop_ends_a_container_that_ignores_it(farm: Farm, engine: Engine, reuse: str) -> None:
    """spec: workflow 6.15.181"""
    define_engine(farm, engine, reuse=reuse, **({"cleanenv": "yes"} if engine.name == "apptainer" else {}))
    farm.write(f"trap '' TERM; {SLEEP}")
    farmers = farm.start_all("--runner", "inside", "--stop-grace", "1")
    farm.wait_for_runs(1)
    wait_for(lambda: len(sleepers(farm)) >= 3, "the task to work")
    for farmer in farmers:
        farmer.signal(signal.SIGINT)
        farmer.signal(signal.SIGINT)
    for farmer in farmers:
        farmer.wait()
    wait_for(lambda: not sleepers(farm), "the container to end")
    no_container(engine)


@pytest.mark.parametrize("reuse", REUSE)
@pytest.mark.parametrize("whom", ["loop", "guardian", "both"])
def test_a_killed_farmer_leaves_no_container(lone: Farm, engine: Engine, whom: str, reuse: str) -> None:
    define_engine(lone, engine, reuse=reuse)
    lone.write(SLEEP)
    farmer = lone.start("--runner", "inside")
    wait_for(lambda: len(sleepers(lone)) >= 3, "the task to work")
    loop = farmer.loop()
    if whom == "both":
        kill(farmer.pid, signal.SIGSTOP)
    if whom != "guardian":
        kill(loop)
    if whom != "loop":
        kill(farmer.pid)
    wait_for(lambda: not sleepers(lone), "the container to end")
    farmer.close()
    # The program's own clean-up may have been killed, too, which leaves a record of the dead: until the next farmer.
    made(engine).check()
    no_container(engine)


def kill_whole(farmer: Farmer, farm: Farm, engine: Engine) -> None:
    """Kill loop and guardian in the same instant, and hold that no container outlives them."""
    loop = farmer.loop()
    kill(farmer.pid, signal.SIGSTOP)
    kill(loop)
    kill(farmer.pid)
    wait_for(lambda: not sleepers(farm), "the container to end")
    farmer.close()
    made(engine).check()
    no_container(engine)


WITHOUT_INIT = {"apptainer": "--compat --no-mount tmp", "docker": "--init=false", "podman": "--init=false"}


def test_a_container_without_an_init_ends_with_its_farmer_too(lone: Farm, engine: Engine) -> None:
    """Its first process is the task's own, which nothing inside could kill."""
    define_engine(lone, engine, options=WITHOUT_INIT[engine.name])
    lone.write(SLEEP)
    farmer = lone.start("--runner", "inside")
    wait_for(lambda: len(sleepers(lone)) >= 3, "the task to work")
    kill_whole(farmer, lone, engine)


@pytest.mark.parametrize(("line", "status"), [("exit 3", 3), ("echo x", 0), ("kill -TERM $$", 143), ("no-such", 127)])
def test_a_container_without_an_init_ends_as_its_task(engine: Engine, tmp_path: Path, line: str, status: int) -> None:
    ended, _ = run(made(engine, options=WITHOUT_INIT[engine.name]), line, tmp_path)
    assert ended == (128 - status if engine.name == "apptainer" and status > 128 else status)


def test_results_are_brought_back_from_a_fresh_directory(engine: Engine, tmp_path: Path) -> None:
    """spec: packtivity 12.85"""
    back = tmp_path / "back"
    runner = made(engine, tempdir="yes", stageout="'a b*' sub", destination=f"{back}/{{taskid}}")
    runner.check()
    status, said = run(runner, "pwd; touch 'a b1' 'a b2' no; mkdir sub; echo x >sub/y", tmp_path)
    assert status == 0, said
    assert sorted(path.name for path in (back / "3").iterdir()) == ["a b1", "a b2", "sub"]
    assert (back / "3" / "sub" / "y").read_text() == "x\n"
    assert not Path(said.strip()).exists()
    status, said = run(runner, "true", tmp_path)
    assert (status, "cannot bring back" in said) == (74, True)
    assert run(runner, "touch 'a b3' sub; exit 5", tmp_path)[0] == 5
    assert not (back / "3" / "a b3").exists()


def test_a_container_runs_in_the_directory_that_an_outer_runner_made(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text("export A=$PROC_NUMBER\n")
    elsewhere: dict[str, Any] = {"pwd" if engine.name == "apptainer" else "workdir": "/"}
    inner = made(engine, env="B=b", **elsewhere)
    middle = EnvironmentRunner(env="C=c", inner=inner)
    runner = EnvironmentRunner(
        f"'{tmp_path}/setup.sh'", tempdir="yes", stageout="result", destination=str(tmp_path / "back"), inner=middle
    )
    runner.check()
    status, said = run(runner, "cat /etc/os-release >result; pwd", tmp_path)
    assert status == 0, said
    assert (tmp_path / "back" / "result").read_text() == "NAME=mini\n"
    assert "taskfarmer-" in said
    assert not Path(said.strip()).exists()
    assert run(runner, "exit 4", tmp_path)[0] == 4
    assert run(runner, "true", tmp_path)[0] == 74


def test_a_farm_has_set_up_container_and_fresh_directory_at_once(lone: Farm, engine: Engine) -> None:
    """As docs/containers.md has it; the task's directory is relative."""
    keys = {"env": "A=1", "tempdir": "./scratch", "stageout": "*.out", "destination": "results/{taskid}"}
    inner = {"inner": f"taskfarmer.runners.{CLASSES[engine.name].__name__}", "inner.image": engine.image}
    define(lone, "simulate", "EnvironmentRunner", **keys, **inner)
    for name in ("scratch", "sub"):
        (lone.path / name).mkdir()
    lone.list.write_text(json.dumps({"command": "pwd; cat /etc/os-release >x.out", "cwd": "sub"}) + "\n")
    end = lone.run("--runner", "simulate", "--tasklist", "jsonl", "-n", "1")
    assert end.status == 0, (end, lone.log(0))
    assert lone.log(0).startswith(f"{lone.path}/scratch/taskfarmer-")
    assert (lone.path / "sub" / "results" / "0" / "x.out").read_text() == "NAME=mini\n"
    assert not list((lone.path / "scratch").iterdir())


def test_an_option_that_keeps_the_container_from_running_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="ends well without running anything"):
        made(engine, options="--help").check()


def test_a_setup_runs_in_the_container_and_its_failure_counts(engine: Engine, tmp_path: Path) -> None:
    """spec: packtivity 12.75"""
    assert run(made(engine, setup="X=$(cat /etc/os-release) # why"), "echo $X", tmp_path) == (0, "NAME=mini\n")
    assert run(made(engine, setup="false"), "echo no; exit 0", tmp_path) == (1, "")
    said = "taskfarmer: the set-up ends the shell (exit), so the task was not run\n"
    assert run(made(engine, setup="exit 0"), "echo no", tmp_path) == (126, said)
    assert run(made(engine, setup="trap 'echo end' EXIT"), "echo x; exit 4", tmp_path) == (4, "x\nend\n")
    assert run(made(engine, setup="A=1"), "exit 0", tmp_path) == (0, "")
    assert run(made(engine, setup="# nothing"), "echo x", tmp_path) == (0, "x\n")
    assert run(made(engine, setup="set -e; false; A=1"), "echo no", tmp_path) == (1, "")


def test_a_setup_that_takes_the_place_of_the_shell_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"takes the place of the shell \(exec\)"):
        made(engine, setup="exec true").check()
    made(engine, setup="cd /of/task/$TASKFARMER_TASK_ID").check()


def test_the_place_of_our_own_directory_is_taken() -> None:
    with pytest.raises(InputError, match=r"/\.taskfarmer is taken"):
        DockerRunner("i", "/tmp:/.taskfarmer/")


def test_an_option_that_would_remove_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="remove the image"):
        PodmanRunner("i", options="--rmi")


def test_a_message_is_what_tells_something() -> None:
    said = 'docker: invalid argument "x" for "--cpus" flag\n\nUsage:  docker run\n\nRun \'docker run --help\' for more'
    assert message(said).startswith("docker: invalid argument")


def test_an_environment_inside_a_container_is_set_up_there(farm: Farm, engine: Engine) -> None:
    """spec: workflow 6.15.178, packtivity 12.75"""
    (farm.path / "set up.sh").write_text("declare -x NAME=$(cat /etc/os-release):$#\n")
    inner = {"inner": "taskfarmer.runners.EnvironmentRunner", "inner.script": f"'{farm.path}/set up.sh'"}
    define_engine(farm, engine, **inner)
    farm.write("echo $NAME")
    end = farm.run("--runner", "inside")
    assert (end.status, farm.log(0)) == (0, "NAME=mini:0\n"), end


# what only some have


def test_a_clean_environment_has_only_what_the_task_is_given(
    apptainer: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_HOST", "1")
    monkeypatch.setenv("TASKFARMER_ATTEMPT", "9")
    line = "echo $OF_THE_HOST $TASKFARMER_ATTEMPT $GIVEN"
    assert run(made(apptainer, env="GIVEN=a,b"), line, tmp_path) == (0, "1 9 a,b\n")
    assert run(made(apptainer, env="GIVEN=a,b", cleanenv=True), line, tmp_path) == (0, "9 a,b\n")
    assert run(made(apptainer, env="GIVEN=a,b", options="--containall"), line, tmp_path) == (0, "9 a,b\n")
    odd = "$HOME `id` $(id) \"q\" 's' back\\slash \\\\ \\$HOME .\n\n"
    given = f"GIVEN={shlex.quote(odd)}"
    for clean in ({"cleanenv": True}, {"options": "-c -e"}, {}):
        assert run(made(apptainer, env=given, **clean), 'printf %s "$GIVEN"', tmp_path) == (0, odd)


def test_a_task_that_dies_by_a_signal_does_so_outside_too(apptainer: Engine, tmp_path: Path) -> None:
    assert run(made(apptainer), "kill -9 $$", tmp_path)[0] == -signal.SIGKILL


def test_a_container_has_no_network(daemon: Engine, tmp_path: Path) -> None:
    runner = made(daemon)
    assert run(runner, "ls /sys/class/net", tmp_path) == (0, "lo\n")


def test_what_makes_the_client_cheaper_is_not_the_tasks(
    daemon: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOGC", raising=False)
    assert run(made(daemon), "echo ${GOGC-none} ${GOMAXPROCS-none}", tmp_path) == (0, "none none\n")
    assert run(made(daemon, env="GOGC=50"), "echo $GOGC ${GOMAXPROCS-none}", tmp_path) == (0, "50 none\n")


CLIENT = """#!/bin/sh
echo "${GOGC-none} ${GOMAXPROCS-none}"
"""


@pytest.mark.parametrize("cls", [PodmanRunner, DockerRunner])
def test_what_makes_the_client_cheaper_gives_way_to_the_users_own(
    cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the client, which says what it has."""
    program = tmp_path / cls.program
    program.write_text(CLIENT)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in ("GOGC", "GOMAXPROCS"):
        monkeypatch.delenv(name, raising=False)
    threads = cls.client_habits.get("GOMAXPROCS", "none")

    def seen(runner: Runner, **variables: str) -> str:
        runner.job = job(env=variables)
        with monkeypatch.context() as patch:
            for name, value in variables.items():  # as the farm sets them
                patch.setenv(name, value)
            status, said = run(runner, "true", tmp_path)
        assert status == 0
        return said.strip()

    assert seen(cls("i")) == f"400 {threads}"
    assert seen(cls("i", options="--title e -l extra -vene:/x")) == f"400 {threads}"
    assert seen(cls("i"), GOGC="50") == f"50 {threads}"
    assert seen(cls("i", env="GOGC=60")) == f"60 {threads}"
    for once in (True, False):
        set_up = script(tmp_path, "export GOGC=50\n")
        assert seen(EnvironmentRunner(set_up, once=once, inner=cls("i"))) == f"50 {threads}"
    for options in (
        *("--env-host", "--env=GOGC", "--env GO*", "--env-file=x", "--unsetenv-all"),
        *("-e GOGC", "-eGOGC", "-Pe GOGC"),
    ):
        assert seen(cls("i", options=options)) == "none none", options
    monkeypatch.setenv("GOGC", "50")
    assert seen(cls("i")) == f"50 {threads}"


def test_user_and_group_and_directory(daemon: Engine, tmp_path: Path) -> None:
    """spec: packtivity 12.76"""
    runner = made(daemon, user="7", group="8", workdir="/var/tmp", mount_cwd=False)
    assert run(runner, "id -u; id -g; pwd", tmp_path) == (0, "7\n8\n/var/tmp\n")


def test_the_image_that_ran_is_recorded(daemon: Engine, farm: Farm) -> None:
    define_engine(farm, daemon)
    farm.write("true")
    assert farm.run("--runner", "inside").status == 0
    (record,) = (farm.workdir / "images").iterdir()
    image = json.loads(record.read_text())
    assert image["image"] == daemon.image
    assert image["id"].removeprefix("sha256:") == record.stem
    assert record.stem in daemon.call("image", "inspect", daemon.image)


# environments


def script(path: Path, text: str) -> str:
    """Make a set-up script with a blank in its name, and return it as an argument."""
    (path / "set up.sh").write_text(text)
    return f"'{path}/set up.sh'"


@pytest.mark.parametrize("once", ["no", "yes"])
def test_a_task_has_the_environment_of_the_script(farm: Farm, once: str) -> None:
    text = 'echo said; export A="x\n  y" N=$((N + 1)); unset GONE; f() { echo f; }; export -f f\n'
    given = script(farm.path, f"{text}echo x >>{quoted(str(farm.path / 'times'))}\n")
    define(farm, "site", "EnvironmentRunner", script=given, env="B='a b' C=$A", once=once)
    farm.write(*['echo "$A|$B|$C|$N|${GONE-none}"'] * 3)
    end = farm.run("--runner", "site", "-n", "1", env={"GONE": "1", "N": "1"})
    assert end.status == 0, end
    assert farm.log(2) == ("" if once == "yes" else "said\n") + "x\n  y|a b|$A|2|none\n"
    times = len((farm.path / "times").read_text().splitlines())
    assert times - (0 if once == "yes" else 3) <= 2 * farm.farmers, "each farmer tries it once, the first one twice"


def test_a_script_may_stop_at_its_first_failure(tmp_path: Path) -> None:
    runner = EnvironmentRunner(script(tmp_path, "set -e\nfalse\nexport A=1\n"))
    runner.check()
    assert run(runner, "echo no", tmp_path) == (1, "")
    with pytest.raises(InputError, match="status 1"):
        EnvironmentRunner(f"'{tmp_path}/set up.sh'", once=True).check()


@pytest.mark.parametrize("text", ["exec true\n", "exit 0\n"])
def test_a_script_that_takes_the_place_of_the_shell_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"or takes its place \(exec\)"):
        EnvironmentRunner(script(tmp_path, text)).check()


@pytest.mark.parametrize("once", [False, True])
def test_a_setup_that_fails_is_the_tasks_or_the_farms_failure(tmp_path: Path, once: bool) -> None:
    runner = EnvironmentRunner(script(tmp_path, "echo no licence >&2; return 3\n"), once=once)
    if once:
        with pytest.raises(InputError, match=r"no licence \(status 3\)"):
            runner.check()
    else:
        runner.check()
        assert run(runner, "echo ran", tmp_path) == (3, "no licence\n")


def test_a_script_has_its_own_arguments_and_the_task_its_words(tmp_path: Path) -> None:
    runner = EnvironmentRunner(script(tmp_path, "export SAID=$*\n") + " a 'b c'")
    runner.job = Job(taskid=3, task=Task(text="t", argv=("printenv", "SAID")), attempt=1, slot=0, workdir="w")
    assert run(runner, runner.job.task.line, tmp_path) == (0, "a b c\n")


def test_a_missing_script_is_said() -> None:
    with pytest.raises(InputError, match="no such file"):
        EnvironmentRunner("/no/such").check()


def test_modules_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "bash").write_text('module() { [ "$1" = load ] && shift && export LOADED="$*"; }\n')
    monkeypatch.setenv("MODULESHOME", str(tmp_path))
    assert run(EnvironmentRunner(modules="gcc/12 root", once=True), "echo $LOADED", tmp_path) == (0, "gcc/12 root\n")
    monkeypatch.setenv("MODULESHOME", "/no/such")
    status, said = run(EnvironmentRunner(modules="gcc", env="LOADED=no"), "echo ran", tmp_path)
    assert (status, "module: not found" in said) == (1, True)


def test_an_environment_brings_results_back_too(tmp_path: Path) -> None:
    runner = EnvironmentRunner(env="A=1", tempdir=str(tmp_path), stageout="*.out", destination=str(tmp_path / "back"))
    runner.check()
    assert run(runner, "pwd; echo $A >x.out", tmp_path)[0] == 0
    assert (tmp_path / "back" / "x.out").read_text() == "1\n"


def staged(tmp_path: Path, line: str, stageout: str) -> tuple[int, str]:
    """Run a task whose results are brought back to `back`."""
    runner = EnvironmentRunner(env="A=1", tempdir="yes", stageout=stageout, destination=str(tmp_path / "back"))
    return run(runner, line, tmp_path)


def test_a_directory_that_is_brought_back_is_added_to_the_one_that_is_there(tmp_path: Path) -> None:
    there = tmp_path / "back" / "results" / "sub"
    there.mkdir(parents=True)
    (there / "of the user").write_text("mine")
    (there / "again").write_text("old")
    line = (
        "mkdir -p results/sub results/empty; cd results; echo new >sub/again; echo x >'sub/a\tb'; ln -s no l; >.hidden"
    )
    for _ in range(2):
        assert staged(tmp_path, line, "results/") == (0, "")
    back = tmp_path / "back" / "results"
    found = sorted(str(path.relative_to(back)) for path in back.rglob("*"))
    assert found == [".hidden", "empty", "l", "sub", "sub/a\tb", "sub/again", "sub/of the user"]
    assert (there / "again").read_text() == "new\n"
    assert os.readlink(back / "l") == "no"


def test_a_result_never_takes_the_place_of_a_directory_or_of_another_result(tmp_path: Path) -> None:
    (tmp_path / "back" / "x").mkdir(parents=True)
    status, said = staged(tmp_path, "echo file >x", "x")
    assert (status, "cannot bring back x" in said) == (74, True)
    status, said = staged(tmp_path, "mkdir a b; echo 1 >a/h; echo 2 >b/h", "*/h")
    assert (status, "another result is called h" in said) == (74, True)
    assert (tmp_path / "back" / "h").read_text() == "1\n"
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["h", "x"]


def test_a_result_that_is_a_link_into_the_directory_is_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("much")
    line = (
        "echo data >'run 1'; ln -s 'run 1' latest; ln -s \"$PWD/run 1\" again; "
        f"mkdir d; echo x >d/y; ln -s y d/z; ln -s d e; ln -s '{tmp_path}/input' input"
    )
    back = tmp_path / "back"
    for _ in range(2):
        assert staged(tmp_path, line, "latest again e input") == (0, "")
        for name in ("latest", "again"):
            assert not (back / name).is_symlink()
            assert (back / name).read_text() == "data\n"
        assert not (back / "e").is_symlink()
        assert (back / "e" / "y").read_text() == "x\n"
        assert os.readlink(back / "e" / "z") == "y"
        assert os.readlink(back / "input") == f"{tmp_path}/input"
    status, said = staged(tmp_path, "ln -s no missing", "missing")
    assert (status, "cannot bring back missing" in said) == (74, True)
    assert not (back / "missing").is_symlink()


def test_what_two_patterns_find_is_one_result(tmp_path: Path) -> None:
    assert staged(tmp_path, "echo 1 >a.root; echo 2 >b.root; mkdir d; echo 3 >d/c", "*.root a* d d*") == (0, "")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["a.root", "b.root", "d"]


def test_results_come_back_to_where_the_system_would_have_run_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("there/sub")
    monkeypatch.chdir(tmp_path)
    command = BasicRunner(tempdir="yes", stageout="x").prepare(job("echo 1 >x", cwd="link/.."))
    subprocess.run(command.argv or (), cwd=command.cwd, check=True)
    for directory in command.remove:
        shutil.rmtree(directory)
    assert (tmp_path / "there" / "x").read_text() == "1\n"
    assert not (tmp_path / "x").exists()


def test_the_place_of_temporary_directories_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o755)
    with pytest.raises(InputError, match="no directory that can be written to"):
        BasicRunner(tempdir=str(tmp_path / "file")).check()
    for name, inner, said in (
        ("a:b,c", PodmanRunner("i"), "colon and a comma"),
        ("a\nb", ApptainerRunner("i"), "break"),
    ):
        (tmp_path / name).mkdir()
        middle = EnvironmentRunner(env="B=1", inner=inner)
        with pytest.raises(InputError, match=said):
            EnvironmentRunner(env="A=1", tempdir=str(tmp_path / name), inner=middle).check()


@pytest.mark.parametrize("cls", [PodmanRunner, DockerRunner])
def test_a_fresh_directory_is_for_the_farms_own_user(cls: Any) -> None:
    for user in ("", "0", "root", str(os.getuid())):
        cls("i", user=user, group="7" if user else "", tempdir="yes").check_directory(None)
    other = cls("i", user=str(os.getuid() + 1), group="7")
    other.staging.check(other)
    with pytest.raises(InputError, match="with tempdir: that directory is for the farm's own user alone"):
        EnvironmentRunner(env="A=1", tempdir="yes", inner=other).check()


def test_wildcards_mean_what_they_mean_to_a_shell(tmp_path: Path) -> None:
    assert staged(tmp_path, "touch ax.txt bx.txt; mkdir -p 'd 1'; touch 'd 1/c.txt'", "[!a]x.txt 'd ?/*.txt'") == (
        0,
        "",
    )
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["bx.txt", "c.txt"]


def test_a_directory_of_a_farmer_that_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, sys; from taskfarmer.runners.owners import private_directory; "
        "print(private_directory(sys.argv[1]), flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    runner = EnvironmentRunner(env="A=1", tempdir=str(tmp_path))
    (mine,) = runner.prepare(job()).remove
    runner.check()
    assert not left.exists()
    assert Path(mine).is_dir()


def test_a_script_that_exits_is_not_a_task_that_succeeded(tmp_path: Path) -> None:
    status, said = run(EnvironmentRunner(script(tmp_path, "echo set up; exit 0\n")), "echo ran", tmp_path)
    assert (status, said) == (126, "set up\ntaskfarmer: the set-up ends the shell (exit), so the task was not run\n")
    assert run(EnvironmentRunner(script(tmp_path, "exit 3\n")), "echo ran", tmp_path) == (3, "")
    with pytest.raises(InputError, match="ends the shell"):
        EnvironmentRunner(script(tmp_path, "export A=1; exit 0\n"), once=True).check()


def test_what_a_script_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    runner = EnvironmentRunner(script(tmp_path, f"sleep 600 & echo $! >'{tmp_path}/pid'; export A=1\n"), once=True)
    began = time.monotonic()
    try:
        assert run(runner, "echo $A", tmp_path) == (0, "1\n")
        assert time.monotonic() - began < 300
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


# steps of Slurm, by a stand-in

SRUN = """#!/bin/sh
while :; do case $1 in --*) echo "$1" >>"$SRUN_SAID"; shift ;; *) break ;; esac; done
exec "$@"
"""


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for srun, which writes down its options and runs one task here; the answer is what it wrote."""
    said = tmp_path / "srun.said"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "srun"
    program.write_text(SRUN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SRUN_SAID", str(said))
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    return said


def test_a_task_is_a_step(srun: Path, tmp_path: Path) -> None:
    runner = SlurmStepRunner("--mpi=none")
    runner.check()
    srun.unlink()
    assert run(runner, "echo $0 | wc -l; exit 4", tmp_path) == (4, "1\n")
    assert srun.read_text().split() == [
        *("--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--exact", "--mem=0", "--gres=none", "--mpi=none")
    ]


@pytest.mark.usefixtures("srun")
def test_a_directory_of_one_node_is_not_for_steps_on_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SlurmStepRunner(tempdir="yes").check()
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    SlurmStepRunner(tempdir=str(tmp_path)).check()
    around = partial(EnvironmentRunner, env="A=1", inner=EnvironmentRunner(env="B=1", inner=SlurmStepRunner()))
    around(tempdir=str(tmp_path)).check()
    for runner in (SlurmStepRunner(tempdir="yes"), around(tempdir="yes")):
        with pytest.raises(InputError, match="name a directory that all of them see"):
            runner.check()


def test_a_step_needs_an_allocation(srun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(InputError, match="no allocation"):
        SlurmStepRunner().check()


@pytest.mark.parametrize(("step", "refused"), [("0", True), ("4294967291", False), ("", False)])
def test_a_farmer_that_is_a_step_itself_cannot_wait_for_others(
    srun: Path, monkeypatch: pytest.MonkeyPatch, step: str, refused: bool
) -> None:
    """Of a script, whose step has a number of Slurm's own, it says nothing that another has to wait."""
    (srun.parent / "bin" / "srun").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("taskfarmer.runners.slurmstep.TRIAL_S", 0.2)
    monkeypatch.setenv("SLURM_STEP_ID", step)
    with pytest.raises(InputError, match=r"is itself one.*srun --overlap") if refused else nullcontext():
        SlurmStepRunner().check()


def test_of_several_farmers_in_a_step_each_has_its_own_node(srun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURMD_NODENAME": "n7"}.items():
        monkeypatch.setenv(name, value)
    SlurmStepRunner(nodes="2", ntasks="2").check()
    assert "--nodelist" not in srun.read_text()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    SlurmStepRunner(tempdir="yes").check()
    assert "--nodelist=n7" in srun.read_text().split()
    with pytest.raises(InputError, match=r"nodes = 2: the job has several farmers.*; start a single farmer"):
        SlurmStepRunner(nodes="2", ntasks="2").check()


@pytest.mark.usefixtures("srun")
def test_a_container_runs_in_a_step(engine: Engine, tmp_path: Path) -> None:
    runner = SlurmStepRunner(inner=made(engine))
    runner.check()
    assert run(runner, "cat /etc/os-release", tmp_path) == (0, "NAME=mini\n")


# steps of Slurm for real


@pytest.fixture
def allocation(slurm: Slurm, lone: Farm) -> Iterator[Callable[..., str]]:
    """Start a farmer on the farm's list in an allocation of two nodes; the answer is the id of its job."""

    def start(*options: str) -> str:
        call = shlex.join(map(str, (*TASKFARMER, "run", lone.list, "--runner", "steps", *options)))
        words = ("--nodes=2", "--ntasks=4", "--cpus-per-task=2", "-o", lone.path / "job.out", "--wrap", call)
        return slurm.submit(*words, cwd=lone.path, env=lone.env)

    yield start
    slurm.cancel_all()


@pytest.fixture
def memory_slurm() -> Iterator[Slurm]:
    """One whose nodes have memory and GPUs to give, and no more."""
    with slurm_with(Settings(nodes=1, gpus=2, conf={"SelectTypeParameters": "CR_CPU_Memory"})) as made:
        yield made


def steps_of(slurm: Slurm, job: str) -> list[str]:
    """Return the ids of the steps that run in a job, but for its script's."""
    said = slurm.call("squeue", "--steps", "--noheader", "--format=%i").split()
    return [step for step in said if step.startswith(f"{job}.") and step.partition(".")[2].isdigit()]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"options": "--help"}, "it ends well without running anything"),
        ({"options": "--nosuch"}, "unrecognized option '--nosuch'"),
        ({"ntasks": "50"}, "More processors requested than permitted"),
    ],
)
def test_a_step_that_cannot_be_is_said_before_anything_ran(
    slurm: Slurm, lone: Farm, allocation: Callable[..., str], keys: dict[str, str], said: str
) -> None:
    define(lone, "steps", "SlurmStepRunner", **keys)
    lone.write("true")
    job = allocation("-n", "4")
    slurm.wait_for(job)
    out = (lone.path / "job.out").read_text()
    assert said in out, out
    assert slurm.detail(job, "ExitCode") == "2:0"
    assert not lone.workdir.exists()


def test_tasks_are_steps_of_a_real_allocation(slurm: Slurm, lone: Farm, allocation: Callable[..., str]) -> None:
    define(lone, "steps", "SlurmStepRunner")
    say = "echo $SLURM_STEP_ID $SLURMD_NODENAME $SLURM_CPUS_PER_TASK; cat"
    tasks = [{"command": say, "cpus": 1 + id % 2, "memory": "20M"} for id in range(10)]
    lone.write_jsonl(*tasks, {"command": "exit 7"}, {"command": "kill -9 $$"}, {"command": "/no/such/program"})
    job = allocation("-n", "4", "--tasklist", "jsonl")
    slurm.wait_for(job)
    said = (lone.path / "job.out").read_text()
    assert slurm.detail(job, "ExitCode") == "1:0", said
    assert lone.counts() == {"finished": 10, "failed": 3}, said
    assert lone.attempts() == dict.fromkeys(range(13), 1)
    steps = [lone.log(id).split() for id in range(10)]
    assert len({step for step, _, _ in steps}) == 10
    assert {node for _, node, _ in steps} == {"n1", "n2"}
    assert [int(cpus) for _, _, cpus in steps] == [1 + id % 2 for id in range(10)]
    statuses = [lone.once("why", lone.workdir, str(id)).out for id in (10, 11, 12)]
    assert [status in said for status, said in zip(("status 7", "status 137", "status 127"), statuses, strict=True)]


@pytest.mark.parametrize("own_step", ["", "srun --overlap -n1 -c3 "])
@pytest.mark.parametrize("asked", [("--mem=1000", "--gpus-per-node=2"), ("--mem-per-cpu=300", "--gres=gpu:2")])
def test_steps_run_side_by_side(lone: Farm, memory_slurm: Slurm, asked: tuple[str, str], own_step: str) -> None:
    """Where Slurm counts memory and GPUs, whatever the job was given of both and whoever asks for none of it.

    Also those of a farmer that is a step itself.
    """
    define(lone, "steps", "SlurmStepRunner")
    meet = f"cd {lone.path}; touch at.$PROC_NUMBER; until [ -e at.0 -a -e at.1 -a -e at.2 ]; do sleep 0.1; done"
    task = {"command": f"{meet}; echo ${{SLURM_GPUS_ON_NODE-none}}", "timeout": 40}
    lone.write_jsonl(task, {**task, "memory": "800M", "gpus": 1}, {**task, "gpus": 1})
    options = ("--tasklist", "jsonl", "--runner", "steps", "-n", "3", "--memory", "900M", "--gpus", "0,1")
    call = shlex.join(map(str, (*TASKFARMER, "run", lone.list, *options)))
    words = ("--nodes=1", "--ntasks=3", *asked, "-o", lone.path / "job.out", "--wrap", own_step + call)
    job = memory_slurm.submit(*words, cwd=lone.path, env=lone.env)
    memory_slurm.wait_for(job)
    assert lone.counts() == {"finished": 3}, (lone.path / "job.out").read_text()
    assert [last_line(lone, task) for task in range(3)] == ["none", "1", "1"]


def test_a_step_of_several_containers(slurm: Slurm, lone: Farm, allocation: Callable[..., str], engine: Engine) -> None:
    inner = f"taskfarmer.runners.{CLASSES[engine.name].__name__}"
    hands_on = {"inner.options": "--env=SLURM_PROCID"} if engine.name != "apptainer" else {}
    define(lone, "steps", "SlurmStepRunner", ntasks="3", inner=inner, **{"inner.image": engine.image}, **hands_on)
    lone.write("cat /etc/os-release; echo process $SLURM_PROCID; sleep 1")
    job = allocation("-n", "1")
    slurm.wait_for(job)
    said = lone.log(0).splitlines()
    assert slurm.detail(job, "ExitCode") == "0:0", said
    assert sorted(said) == [*["NAME=mini"] * 3, *(f"process {number}" for number in range(3))]


WAYS = ("--jobs", "--one-job-per-task")


@pytest.fixture
def batch(slurm: Slurm, lone: Farm) -> Iterator[Callable[[str], int]]:
    """Have the farm's tasks run by its runner `far`, in a pilot or as jobs of their own, until nothing is queued.

    The answer is the exit status of the command.
    """
    lone.env |= slurm.env

    def work(way: str) -> int:
        words = ("run", "--one-job-per-task") if way == "--one-job-per-task" else ("submit", "--jobs", "1")
        done = lone.start_command(*TASKFARMER, *words, lone.list, "--batch", "slurm", "--runner", "far").wait()
        wait_for(lambda: not slurm.queue(), "the jobs to end", 90.0)
        return done.status

    yield work
    slurm.cancel_all()


@pytest.mark.parametrize("way", WAYS)
def test_steps_are_of_the_job_that_runs_the_tasks(lone: Farm, batch: Callable[[str], int], way: str) -> None:
    """Where they are submitted there is no allocation, and need not be."""
    inner = {"inner": "taskfarmer.runners.EnvironmentRunner", "inner.env": "COLOUR='blue sky'"}
    define(lone, "far", "SlurmStepRunner", **inner)
    lone.write(*["echo $SLURM_STEP_ID $COLOUR"] * 2)
    assert batch(way) == 0, lone.log(0)
    assert lone.counts() == {"finished": 2}
    for task in (0, 1):
        step, *words = lone.log(task).split()
        assert step.isdigit()
        assert words == ["blue", "sky"]


@pytest.mark.parametrize("way", WAYS)
def test_a_node_without_the_program_is_said(lone: Farm, batch: Callable[[str], int], way: str) -> None:
    """In one line, once, before any task is tried; where they are submitted nobody asks for it."""
    define(lone, "far", "ApptainerRunner", image="docker://i", program="/only/on/nodes/apptainer")
    lone.write("true")
    status = batch(way)
    line = "/only/on/nodes/apptainer: no such program; install it, load its module, or use another runner"
    if way == "--jobs":
        assert (status, lone.counts()) == (0, {"toprocess": 1})
        assert line in lone.once("status", lone.workdir).out
    else:
        assert (status, lone.counts()) == (1, {"failed": 1})
        assert lone.log(0) == f"taskfarmer: {line}\n"
        assert line in lone.once("why", lone.workdir, "0").out


@pytest.mark.parametrize("words", [("run", "--one-job-per-task"), ("submit", "--jobs", "1")])
def test_what_no_machine_can_do_is_refused_before_anything_is_submitted(lone: Farm, words: tuple[str, ...]) -> None:
    define(lone, "far", "SlurmStepRunner", nodes="2")
    lone.write("true")
    done = lone.start_command(*TASKFARMER, *words, lone.list, "--batch", "local", "--runner", "far").wait()
    assert done.status == 2, done
    assert "nodes = 2: more than ntasks = 1" in done.err
    assert not lone.workdir.exists()


def at_work(lone: Farm, task: int) -> list[str]:
    """Return the processes of a task, srun and what is below it, by what they are."""
    found = []
    for pid in processes_with(f"TASKFARMER_WORKDIR={lone.workdir}", f"TASKFARMER_TASK_ID={task}"):
        with suppress(OSError):  # it has just ended
            words = Path(f"/proc/{pid}/cmdline").read_text()
            found += [f"{pid} {words!r}"] * is_alive(pid)
    return found


@pytest.mark.parametrize("stubborn", [False, True])
def test_to_cancel_a_task_ends_its_step(
    slurm: Slurm, lone: Farm, allocation: Callable[..., str], stubborn: bool
) -> None:
    define(lone, "steps", "SlurmStepRunner")
    trap = "trap '' TERM; " if stubborn else ""
    lone.write(f"{trap}{SLEEP}", "sleep 300")
    job = allocation("-n", "2", "--stop-grace", "2")
    lone.wait_for_runs(2)
    wait_for(lambda: len(steps_of(slurm, job)) == 2, "two steps")
    assert lone.once("cancel", lone.workdir, "0").status == 0
    wait_for(lambda: len(steps_of(slurm, job)) == 1, "the step to end")
    wait_for(lambda: not at_work(lone, 0), "its processes to end")
    assert at_work(lone, 1)
    assert lone.once("cancel", lone.workdir, "1").status == 0
    slurm.wait_for(job)
    assert lone.counts() == {"cancelled": 2}
    assert not at_work(lone, 1)


def test_a_killed_farmer_leaves_no_step(slurm: Slurm, lone: Farm) -> None:
    define(lone, "steps", "SlurmStepRunner")
    lone.write(SLEEP)
    call = shlex.join(map(str, (*TASKFARMER, "run", lone.list, "--runner", "steps", "-n", "1")))
    # The allocation outlives the farmer: it is the script's last command but one.
    words = ("--nodes=2", "-o", lone.path / "job.out", "--wrap", f"{call}; sleep 200")
    job = slurm.submit(*words, cwd=lone.path, env=lone.env)
    try:
        lone.wait_for_runs(1)
        wait_for(lambda: steps_of(slurm, job), "the step")
        place = next(iter(Ledger.open(lone.workdir).state.alive())).host
        kill(place["pid"], signal.SIGSTOP)
        kill(place["guardian"])
        kill(place["pid"])
        wait_for(lambda: not steps_of(slurm, job), "the step to end", 90.0)
        wait_for(lambda: not at_work(lone, 0), "its processes to end")
        assert job in slurm.queue()
    finally:
        slurm.cancel_all()


# steps of Slurm, of farmers that are steps themselves


@pytest.fixture
def binding_slurm() -> Iterator[Slurm]:
    """One whose two nodes have memory to give, and bind what runs to its CPUs, of which each has two."""
    conf = {"SelectTypeParameters": "CR_CPU_Memory", "TaskPlugin": "task/affinity"}
    with slurm_with(Settings(nodes=2, cpus=2, conf=conf)) as made:
        yield made


def submit_steps(farm: Farm, slurm: Slurm, *words: str) -> str:
    """Submit a pilot of two nodes whose tasks are steps; return its job."""
    farm.env |= slurm.env
    define(farm, "steps", "SlurmStepRunner")
    options = ("--batch", "slurm", "--jobs", "1", "--nodes", "2", "--runner", "steps", "--tasklist", "jsonl")
    done = farm.once("submit", farm.list, *options, *words, "--json")
    assert done.status == 0, done
    return str(json.loads(done.out)["submitted"][0]["jobs"][0])


def nodes_of_farmers(farm: Farm) -> dict[str, str]:
    """Return the node of each farmer that is at work, by the farmer's id."""
    found = {}
    for farmer in Ledger.open(farm.workdir).state.alive():
        variables = Path(f"/proc/{farmer.host['pid']}/environ").read_bytes().split(b"\0")
        found[farmer.id] = next(v for v in variables if v.startswith(b"SLURMD_NODENAME=")).decode().partition("=")[2]
    return found


def last_line(farm: Farm, task: int) -> str:
    """Return what a task printed, without what srun says while the step before is not quite over."""
    return farm.log(task).splitlines()[-1]


def meeting(farm: Farm, count: int) -> str:
    """Return what a task does to wait until so many are at work, and then until the file `go` is there."""
    here = shlex.quote(str(farm.path))
    return f"cd {here}; touch at.$PROC_NUMBER; until [ -e go -a $(ls at.* | wc -l) -ge {count} ]; do sleep 0.1; done"


@pytest.mark.parametrize("way", ["submit", "srun --overlap"])
def test_tasks_of_a_farmer_that_is_a_step_are_steps_on_its_node(slurm: Slurm, lone: Farm, way: str) -> None:
    """As many at once as it has slots; and the farmer of each node has its own."""
    lone.write_jsonl(*[{"command": f"{meeting(lone, 4)}; echo $SLURM_STEP_ID $SLURMD_NODENAME; cat"}] * 6)
    if way == "submit":
        job = submit_steps(lone, slurm, "--slots", "2")
    else:
        define(lone, "steps", "SlurmStepRunner")
        options = ("--runner", "steps", "--tasklist", "jsonl", "-n", "2")
        call = shlex.join(map(str, ("srun", "--overlap", "-N2", "-n2", "-c2", *TASKFARMER, "run", lone.list, *options)))
        words = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "-o", lone.path / "job.out", "--wrap", call)
        job = slurm.submit(*words, cwd=lone.path, env=lone.env)
    try:
        lone.wait_for_runs(4)
        nodes = nodes_of_farmers(lone)
        assert sorted(nodes.values()) == ["n1", "n2"]
        (lone.path / "go").touch()
        slurm.wait_for(job)
        assert slurm.detail(job, "ExitCode") == "0:0"
    finally:
        slurm.cancel_all()
    assert lone.counts() == {"finished": 6}
    said = {run.task: last_line(lone, run.task).split() for run in lone.runs()}
    assert len({step for step, _ in said.values()}) == 6
    assert [said[run.task][1] for run in lone.runs()] == [nodes[run.token] for run in lone.runs()]


@pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs the first two CPUs to bind to")
def test_such_steps_are_bound_to_cpus_of_their_own(binding_slurm: Slurm, lone: Farm) -> None:
    """Not to those of the farmer's step, as srun would by the variables that it has set there."""
    command = f"{meeting(lone, 4)}; echo $SLURMD_NODENAME $SLURM_CPUS_ON_NODE $SLURM_CPU_BIND_LIST"
    (lone.path / "go").touch()
    task = {"command": command, "timeout": 60}
    lone.write_jsonl(*[task, {**task, "memory": "300M"}] * 2)
    job = submit_steps(lone, binding_slurm, "--slots", "2", "--memory", "900M")
    binding_slurm.wait_for(job)
    assert lone.counts() == {"finished": 4}, lone.once("status", lone.workdir).out
    logs = sorted(last_line(lone, task) for task in range(4))
    assert logs == ["n1 1 0x1", "n1 1 0x2", "n2 1 0x1", "n2 1 0x2"]


def test_such_steps_end_with_their_time_their_farmer_and_their_farm(slurm: Slurm, lone: Farm) -> None:
    lone.write_jsonl({"command": SLEEP, "timeout": 3}, {"command": SLEEP}, {"command": SLEEP})
    job = submit_steps(lone, slurm, "--slots", "1")
    try:
        lone.wait_for_runs(3)
        wait_for(lambda: not at_work(lone, 0), "the task that is over its time to end")
        assert lone.counts() == {"failed": 1, "running": 2}
        wait_for(lambda: len(steps_of(slurm, job)) == 3, "the farmers' step and two others")
        farmers = {farmer.id: farmer.host for farmer in Ledger.open(lone.workdir).state.alive()}
        killed = farmers[next(run.token for run in lone.runs() if run.task == 1)]
        kill(killed["pid"], signal.SIGSTOP)
        kill(killed["guardian"])
        kill(killed["pid"])
        wait_for(lambda: len(steps_of(slurm, job)) == 2, "the step to end", 90.0)
        wait_for(lambda: not at_work(lone, 1), "its processes to end")
        assert at_work(lone, 2)
        assert lone.once("stop", lone.workdir).status == 0
        slurm.wait_for(job)
        assert not at_work(lone, 2)
    finally:
        slurm.cancel_all()
    assert lone.counts() == {"failed": 1, "toprocess": 2}


TRY_STEP = """
from taskfarmer.runners import SlurmStepRunner, slurmstep
slurmstep.TRIAL_S = 5.0
SlurmStepRunner().check()
"""


def test_a_farmer_in_a_step_that_keeps_its_cpus_is_refused(slurm: Slurm, lone: Farm) -> None:
    call = shlex.join(("srun", "-N1", "-n1", sys.executable, "-c", TRY_STEP))
    job = slurm.submit("-o", lone.path / "job.out", "--wrap", call, cwd=lone.path, env=lone.env)
    slurm.wait_for(job)
    said = (lone.path / "job.out").read_text()
    hint = (
        "the farmer is itself one, which has its CPUs for itself; start it by `srun --overlap`, or in the job's script"
    )
    assert f"InputError: no step starts within 5 s: {hint}" in said, said
