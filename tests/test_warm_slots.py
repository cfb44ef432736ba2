"""Containers that are kept for a slot (`reuse = slot`): what runs in them, what ends them, and what nobody can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.core.model import Task
from taskfarmer.errors import InputError
from taskfarmer.runners import Job
from taskfarmer.runners.owners import is_left, private_directory, remove_left_directories
from taskfarmer.runners.warm import SERVER, message
from tests.farms import Farm, wait_for
from tests.test_container_runners import define_engine, kill_whole, made, no_container, sleepers
from tests.test_container_runners import run as run_line
from tests.testbed.containers import Engine

WHICH = "echo $(readlink /proc/self/ns/mnt).$(cut -d ' ' -f 22 /proc/1/stat)"
"""Tells containers apart."""


@pytest.fixture
def warm(engine: Engine, tmp_path: Path) -> Iterator[Any]:
    """A runner that keeps its container, which is ended with the test."""
    runner = made(engine, str(tmp_path), reuse="slot")
    yield runner
    runner.close()


def run(runner: Any, line: str, tmp_path: Path, **more: Any) -> tuple[int, str]:
    """Run a task; return its status and its output."""
    runner.job = Job(taskid=3, task=Task(text=line, **more), attempt=2, slot=0, workdir="wd")
    return run_line(runner, runner.job.task.line, tmp_path)


# what is the same as in a container of its own


LOOK = """\
env | grep -v -e ^HOSTNAME= -e ^[A-Z]*_BIND= -e ^SHLVL= -e ^_= | sort
pwd; id; umask; ulimit -n; ulimit -c; tty
grep -e ^Cap -e ^Seccomp: -e ^NoNewPrivs -e ^Sig[IC] -e ^Cpus_allowed_list /proc/self/status
ls /proc/self/fd | wc -l
cat; cut -d ' ' -f 5 /proc/self/mountinfo | grep -v -e taskfarmer -e /etc/ -e ^/tmp/tf- | sort -u
"""


def test_a_task_sees_what_it_sees_in_a_container_of_its_own(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PROC_NUMBER": "3", "OF_HOST": "1", "LINES": "a\n b'c\"d", "PATH": os.environ["PATH"]}.items():
        monkeypatch.setenv(name, value)
    arguments: dict[str, Any] = {"env": "GIVEN='a  b' EMPTY=", "setup": "export SET=up", "options": ""}
    if engine.name != "apptainer":
        arguments |= {"user": "7", "group": "8", "options": "--env=status=image"}
    cold, kept = (made(engine, str(tmp_path), reuse=reuse, **arguments) for reuse in ("no", "slot"))
    try:
        env = {"LINES": os.environ["LINES"], "status": "task"}
        first = run(cold, LOOK, tmp_path, env=env)
        assert first[0] == 0, first
        os.environ["PROC_NUMBER"] = "4"  # nothing of one task is the next one's
        run(kept, "export LEFT=1; umask 0; cd /; ulimit -n 100", tmp_path, env={"OTHER": "1"})
        os.environ["PROC_NUMBER"] = "3"
        assert run(kept, LOOK, tmp_path, env=env)[1].splitlines() == first[1].splitlines()
    finally:
        kept.close()


@pytest.mark.parametrize(
    "line", ["exit 7", "exit 125", "exit 255", "/no/such", "no-such x", "kill -9 $$", "kill $$", "sh -c 'exit 3'"]
)
def test_a_status_is_the_same(engine: Engine, warm: Any, tmp_path: Path, line: str) -> None:
    status, said = run(warm, line, tmp_path)
    assert (status, said) == run(made(engine, str(tmp_path)), line, tmp_path)
    if "no" in line:  # there is no such program: said as of a line in a shell, not with the name of a script of ours
        assert (status, said) == (127, f"sh: {line.split(maxsplit=1)[0]}: not found\n")


def test_a_task_of_words_needs_no_shell(warm: Any, tmp_path: Path) -> None:
    assert run(warm, "", tmp_path, argv=("echo", "a b", "$X", "it's")) == (0, "a b $X it's\n")


def test_all_output_is_there_byte_by_byte(warm: Any, tmp_path: Path) -> None:
    """spec: workflow 6.15.182"""
    line = "head -c 3000000 /dev/urandom | tee data; printf end; printf x >&2"
    with open("log", "w") as log:
        assert warm.run(3, line, log) == 0
    assert Path("log").read_bytes() == Path("data").read_bytes() + b"endx"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of these tests run in a directory that the container sees."""
    monkeypatch.chdir(tmp_path)


# what is kept, and what is not


def test_tasks_share_a_container_but_no_processes(warm: Any, tmp_path: Path) -> None:
    first = run(warm, f"{WHICH}; sleep 300 & setsid sleep 300 >/dev/null 2>&1 &", tmp_path)
    second = run(warm, f"{WHICH}; ps | grep '[s]leep 300'", tmp_path)
    assert first[0] == 0
    assert (1, first[1]) == second


def test_a_task_in_another_directory_has_another_container(
    warm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run(warm, WHICH, tmp_path)
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir("a b")
    status, said = run(warm, f"pwd; {WHICH}", tmp_path)
    assert (status, said.splitlines()[0]) == (0, f"{tmp_path}/a b")
    assert said.splitlines()[1] != one[1].strip()


def test_a_container_that_died_under_a_task_is_started_again(engine: Engine, warm: Any, tmp_path: Path) -> None:
    _, which = run(warm, WHICH, tmp_path)
    status, said = run(warm, "echo here; kill -9 -1; sleep 300", tmp_path)
    assert status == warm.own_statuses[0]
    assert "taskfarmer: the container ended under the task: " in said
    status, other = run(warm, WHICH, tmp_path)
    assert status == 0
    assert other != which


def test_a_container_that_died_between_tasks_is_started_again(engine: Engine, warm: Any, tmp_path: Path) -> None:
    run(warm, "true", tmp_path)
    client = warm._warm._process
    if engine.name == "apptainer":
        client.kill()
    else:
        (name,) = (word.removeprefix("--name=") for word in client.args if word.startswith("--name="))
        wait_for(lambda: name in engine.call("ps", "--format={{.Names}}"), "the container to be listed")
        engine.call("kill", name)
    client.wait(30)
    assert run(warm, "echo again", tmp_path) == (0, "again\n")


def test_a_task_is_told_to_end(farm: Farm, engine: Engine) -> None:
    define_engine(farm, engine, reuse="slot")
    farm.write("trap 'echo told; exit 0' TERM; sleep 300 & wait", "true")
    end = farm.run("--runner", "inside", "-n", "1", "--task-timeout", "10", "--stop-grace", "30")
    assert end.status == 1, end
    assert "told" in farm.log(0)
    assert farm.counts() == {"finished": 1, "failed": 1}
    wait_for(lambda: not sleepers(farm), "the sleeper to end")
    no_container(engine)


def test_a_task_that_never_stops_printing_ends_with_its_farmer(lone: Farm, engine: Engine) -> None:
    define_engine(lone, engine, reuse="slot")
    lone.write("sleep 300 & while :; do echo printed; done")
    farmer = lone.start("--runner", "inside")
    wait_for(lambda: sleepers(lone) and "printed" in lone.log(0), "the task to print")
    kill_whole(farmer, lone, engine)


def test_slots_keep_their_containers_to_the_end_of_the_farm(lone: Farm, engine: Engine) -> None:
    define_engine(lone, engine, reuse="slot")
    lone.write(*[f"echo $TASKFARMER_SLOT $({WHICH})"] * 40)
    end = lone.run("--runner", "inside", "-n", "2")
    assert end.status == 0, end
    pairs = {tuple(lone.log(id).split()) for id in range(40)}
    assert len({slot for slot, _ in pairs}) == len(pairs) == len({which for _, which in pairs})
    no_container(engine)
    assert not [name for name in os.listdir(Path(private_directory()).parent) if is_left(name)]


def test_a_slots_container_keeps_to_its_cpus(lone: Farm, engine: Engine) -> None:
    if len(os.sched_getaffinity(0)) < 2 or engine.name == "docker":  # whose daemon starts the container
        pytest.skip("there are no two CPUs to tell apart")
    define_engine(lone, engine, reuse="slot")
    lone.write(*["echo $TASKFARMER_SLOT $(grep ^Cpus_allowed_list: /proc/self/status)"] * 12)
    assert lone.run("--runner", "inside", "-n", "2", "--pin").status == 0
    cpus = {(lone.log(id).split()[0], lone.log(id).split()[2]) for id in range(12)}
    assert len(cpus) == len({slot for slot, _ in cpus})
    assert not any("-" in cpu or "," in cpu for _, cpu in cpus)


def test_the_example_works(lone: Farm, apptainer: Engine) -> None:
    example = (Path(__file__).parents[1] / "examples/runners/containers.ini").read_text()
    lines = (f"image = {apptainer.image}" if line.startswith("image") else line for line in example.splitlines())
    (lone.path / "containers.ini").write_text("\n".join(lines))
    lone.list.write_text(f"{WHICH}\n" * 3)
    assert lone.run("--runner", "short", "-n", "1").status == 0
    assert lone.log(0) == lone.log(1) == lone.log(2)


# what is not allowed, and what is left


def test_the_shell_refuses_to_work_among_processes_that_are_not_its_own(tmp_path: Path) -> None:
    done = subprocess.run(["/bin/sh", "-c", SERVER, "sh", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no namespace of processes of its own" in done.stderr


def test_what_a_dead_process_left_is_removed() -> None:
    program = "from taskfarmer.runners.owners import private_directory; print(private_directory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    theirs, mine = Path(done.stdout.strip()), Path(private_directory())
    assert is_left(theirs.name)
    remove_left_directories()
    assert not theirs.exists()
    assert mine.exists()
    mine.rmdir()


@pytest.mark.parametrize("name", ["taskfarmer-1.2-x", "taskfarmer-x", "other", "taskfarmer-unknown.1.1-a"])
def test_what_may_be_another_machines_is_left_alone(name: str) -> None:
    assert not is_left(name)


def test_the_error_is_picked_from_what_a_program_says() -> None:
    assert message("docker: Error response: no\n\nRun 'docker run --help' for more information\n").endswith(": no")
    assert message("a\nb\n\n") == "b"
    assert message("") == ""


CLOSER = """
from taskfarmer.runners import BasicRunner, Runner
class New(BasicRunner):
    def close(self):
        open("closed", "a").write("x")
class Old(Runner):
    def run(self, taskid, command, logfh):
        return 0
    close = New.close
"""


@pytest.mark.parametrize("form", ["New", "Old"])
def test_a_runner_is_closed_when_its_farmer_leaves(farm: Farm, form: str) -> None:
    (farm.path / "closers.py").write_text(CLOSER)
    (farm.path / "closers.ini").write_text(f"[closer]\nRunner = closers.{form}\n")
    farm.list.write_text("true\n" * 5)
    assert farm.run("--runner", "closer", "-n", "1").status == 0
    # By the farmer, and by the process in which the old form ran.
    assert 1 <= len((farm.path / "closed").read_text()) <= 2 * farm.farmers


LEARNER = """
import os
from taskfarmer.runners import Runner
class Learner(Runner):
    def check(self):
        self.learnt = {"by": os.getpid()}
    def run(self, taskid, command, logfh):
        print(self.learnt["by"], os.getpid(), file=logfh)
        return 0
"""


def test_what_the_check_learnt_is_known_in_all_processes_that_run_tasks(farm: Farm) -> None:
    (farm.path / "learner.py").write_text(LEARNER)
    (farm.path / "learner.ini").write_text("[learner]\nRunner = learner.Learner\n")
    farm.list.write_text("true\n" * 6)
    assert farm.run("--runner", "learner", "-n", "2").status == 0
    said = [farm.log(task).split() for task in range(6)]
    assert len({farmer for farmer, _ in said}) <= farm.farmers
    assert not {farmer for farmer, _ in said} & {worker for _, worker in said}


@pytest.fixture(params=["podman", "docker"])
def daemon(request: pytest.FixtureRequest) -> Engine:
    """Those that know images by names."""
    found: Engine = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("reuse", ["no", "slot"])
def test_a_name_that_moves_on_changes_nothing(daemon: Engine, tmp_path: Path, reuse: str) -> None:
    """The image is looked up once, by the check; not by the processes of the slots, which may do so later."""
    checked = made(daemon, str(tmp_path), reuse=reuse)
    checked.check()
    other = type(checked)("localhost/taskfarmer-no-such-image:1", volumes=str(tmp_path), reuse=reuse, pull="never")
    other.learnt = json.loads(json.dumps(checked.learnt))
    try:
        other.job = Job(taskid=3, task=Task(text="cat /etc/os-release"), attempt=2, slot=0, workdir=str(tmp_path))
        assert run_line(other, "cat /etc/os-release", tmp_path) == (0, "NAME=mini\n")
        (record,) = (tmp_path / "images").iterdir()
        assert json.loads(record.read_text())["id"] == checked.learnt["id"]
    finally:
        other.close()
        checked.close()


def test_a_job_on_another_node_looks_the_image_up_itself(daemon: Engine, tmp_path: Path) -> None:
    """Nothing was checked there before the task; an image that cannot be had is said, with the remedy."""
    runner = made(daemon, str(tmp_path))
    runner.before(Job(taskid=3, task=Task(text="true"), attempt=1, slot=0, workdir=str(tmp_path)))
    assert runner.learnt is not None
    assert len(list((tmp_path / "images").iterdir())) == 1
    absent = type(runner)("localhost/taskfarmer-no-such-image:1", pull="never")
    with pytest.raises(InputError, match="pull"):
        absent.before(Job(taskid=3, task=Task(text="true"), attempt=1, slot=0, workdir=str(tmp_path)))
