"""Runners (spec: taskfarm 6), and the example of a runner of one's own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import pytest

from taskfarmer import runners
from taskfarmer.core.model import Task
from taskfarmer.errors import InputError
from taskfarmer.runners import BasicRunner, Command, EnvironmentRunner, Job, Runner, ShifterRunner, is_declarative
from tests.farms import Farm

STANDINS = Path(__file__).parent / "standins"
EXAMPLE = Path(__file__).parent.parent / "examples" / "runners"


@pytest.fixture
def standins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in programs on PATH."""
    monkeypatch.setenv("PATH", f"{STANDINS}{os.pathsep}{os.environ['PATH']}")


def job(task: Task, taskid: int = 3) -> Job:
    """Return the first attempt of a task."""
    return Job(taskid=taskid, task=task, attempt=1, slot=0, workdir="wd")


def run(runner: Runner, line: str, log: Path, taskid: int = 3) -> int:
    """Run a line through the blocking form and return its status; the output is in `log`."""
    with open(log, "a") as stream:
        return runner.run(taskid, line, stream)


def test_the_public_names_are_sorted_and_there() -> None:
    assert sorted(runners.__all__) == runners.__all__
    assert all(hasattr(runners, name) for name in runners.__all__)


def test_a_command_is_a_line_or_a_list() -> None:
    for arguments in ({}, {"line": "a", "argv": ("a",)}, {"argv": ()}):
        with pytest.raises(ValueError, match="argument list"):
            Command(**arguments)


# BasicRunner


def test_a_line_is_for_the_shell_and_a_list_is_not() -> None:
    assert BasicRunner().prepare(job(Task(text="a | b"))) == Command(line="a | b")
    assert BasicRunner("bash").prepare(job(Task(text="t", command="c"))) == Command(line="c", shell="bash")
    assert BasicRunner().prepare(job(Task(text="a 'b c'", argv=("a", "b c")))) == Command(argv=("a", "b c"))


def test_without_a_shell_the_line_is_split_at_white_space() -> None:
    assert BasicRunner("none").prepare(job(Task(text="echo 'a  b' $X"))) == Command(argv=("echo", "'a", "b'", "$X"))


def test_a_shell_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="none, sh and bash"):
        BasicRunner("zsh")


def test_a_missing_shell_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    BasicRunner("none").check()
    with pytest.raises(InputError, match="bash: no such program on PATH"):
        BasicRunner("bash").check()


# the blocking form


def test_both_streams_and_the_number_are_there(tmp_path: Path) -> None:
    assert run(BasicRunner(), "echo $PROC_NUMBER; echo bad >&2; exit 5", tmp_path / "log", 12) == 5
    assert (tmp_path / "log").read_text() == "12\nbad\n"


def test_a_program_that_is_not_there_gives_127_and_a_line(tmp_path: Path) -> None:
    assert run(BasicRunner("none"), "no-such-program x", tmp_path / "log") == 127
    assert "No such file or directory: no-such-program" in (tmp_path / "log").read_text()


def test_a_program_that_may_not_run_gives_126(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    assert run(BasicRunner("none"), str(tmp_path / "data"), tmp_path / "log") == 126
    assert "Permission denied" in (tmp_path / "log").read_text()


def test_a_line_longer_than_an_argument_can_be_runs(tmp_path: Path) -> None:
    line = f"echo {'x' * 1_000_000} | wc -c"
    assert run(BasicRunner(), line, tmp_path / "log") == 0
    assert (tmp_path / "log").read_text().strip() == "1000001"


def test_bytes_that_are_no_utf8_reach_the_command(tmp_path: Path) -> None:
    line = b"printf %s \xff".decode("utf-8", "surrogateescape")
    assert run(BasicRunner(), line, tmp_path / "log") == 0
    assert (tmp_path / "log").read_bytes() == b"\xff"


def test_terminate_kills_the_group_while_run_blocks(tmp_path: Path) -> None:
    runner = BasicRunner()
    line = "trap '' TERM; sleep 61.25 & echo $!; wait"

    def end() -> None:
        while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text().strip():
            time.sleep(0.01)
        runner.terminate()

    thread = threading.Thread(target=end)
    thread.start()
    assert run(runner, line, tmp_path / "log") == -signal.SIGKILL
    thread.join()
    grandchild = int((tmp_path / "log").read_text())
    assert wait_until_gone(grandchild)
    runner.terminate()  # nothing runs any more: no harm


def wait_until_gone(pid: int) -> bool:
    """Return whether the process is gone, or a zombie, within two seconds."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_signal_between_start_and_record_kills_too(tmp_path: Path) -> None:
    runner = BasicRunner()
    runner.terminate()
    assert run(runner, "sleep 61.5", tmp_path / "log") == -signal.SIGKILL


# old and new style


class Old(Runner):
    """As the manual of PyTaskFarmer has it: no `super().__init__()`, no `prepare`."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, taskid: int, command: str, logfh: TextIO) -> int:
        self.process = subprocess.Popen(["echo", self.word, command], stdout=logfh, stderr=logfh)
        return self.process.wait()

    def terminate(self) -> None:
        if self.process:
            self.process.kill()


class New(Runner):
    def prepare(self, job: Job) -> Command:
        return Command(argv=("echo", str(job.attempt), job.task.line))


class OldOverNew(ShifterRunner):
    """An old class that derives from one that is declarative now."""

    def run(self, taskid: int, command: str, logfh: TextIO) -> int:
        return super().run(taskid, f"echo before && {command}", logfh)


class NewOverOld(Old):
    def prepare(self, job: Job) -> Command:
        return Command(line=self.word)


class Both(Runner):
    def prepare(self, job: Job) -> Command:
        return Command(line="x")

    def run(self, taskid: int, command: str, logfh: TextIO) -> int:
        return 0


class Foreign:
    def run(self, taskid: int, command: str, logfh: TextIO) -> int:
        return 0


class DerivedFromOldOverNew(OldOverNew):
    pass


@pytest.mark.parametrize(
    ("runner", "declarative"),
    [
        (Old("w"), False),
        (New(), True),
        (OldOverNew("i"), False),
        (DerivedFromOldOverNew("i"), False),
        (NewOverOld("w"), True),
        (Both(), True),
        (Foreign(), False),
        (BasicRunner(), True),
        (ShifterRunner("i"), True),
    ],
)
def test_the_more_derived_class_decides_the_style(runner: Any, declarative: bool) -> None:
    assert is_declarative(runner) is declarative


def test_an_old_runner_runs_unchanged(tmp_path: Path) -> None:
    runner = Old("hello")
    runner.check()
    assert run(runner, "a b", tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == "hello a b\n"


def test_a_class_that_overrides_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="overrides neither prepare nor run"):
        Runner().check()


def test_prepare_behind_an_old_run_knows_the_attempt(tmp_path: Path) -> None:
    runner = New()
    runner.job = Job(taskid=3, task=Task(text="t"), attempt=4, slot=0, workdir="wd")
    assert run(runner, "changed", tmp_path / "log", 3) == 0
    assert run(runner, "t", tmp_path / "log", 3) == 0
    assert run(runner, "other", tmp_path / "log", 5) == 0
    assert (tmp_path / "log").read_text() == "4 changed\n4 t\n1 other\n"


# ShifterRunner


def test_shifter_gets_exactly_these_words() -> None:
    runner = ShifterRunner("i:1", "source a.sh", " /a:/b  '/c d:/d' ", "cvmfs gpu")
    assert runner.prepare(job(Task(text="x 'y z'"))) == Command(
        argv=(
            *("shifter", "--image", "i:1", "-V/a:/b", "-V/c d:/d", "-mcvmfs", "-mgpu"),
            *("--", "/bin/bash", "-c", "source a.sh && x 'y z'"),
        ),
        env={"BASH_ENV": ""},
    )


@pytest.mark.parametrize("setup", ["", "  "])
def test_an_empty_setup_adds_nothing(setup: str) -> None:
    assert ShifterRunner("i", setup).prepare(job(Task(text="t"))).argv == (
        *("shifter", "--image", "i", "--", "/bin/bash", "-c", "t"),
    )


def test_an_argument_list_is_quoted_for_the_shell_inside() -> None:
    argv = ShifterRunner("i").prepare(job(Task(text="t", argv=("echo", "a b", "$X")))).argv
    assert argv is not None
    assert argv[-1] == "echo 'a b' '$X'"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(True, True), ("True", True), ("yes", True), (False, False), ("False", False), ("no", False), ("", False)],
)
def test_each_attempt_has_a_directory_of_its_own_if_asked(given: bool | str, wanted: bool) -> None:
    runner = ShifterRunner("i", tempdir=given)
    commands = [runner.prepare(job(Task(text="t"))) for _ in range(2)]
    places = [command.remove for command in commands]
    try:
        assert [len(place) for place in places] == [wanted, wanted]
        for command, place in zip(commands, places, strict=True):
            assert command.argv is not None
            assert command.argv[3:-4] == tuple(f"--workdir={directory}" for directory in place)
        assert len(set(sum(places, ()))) == 2 * wanted
    finally:
        for directory in sum(places, ()):
            os.rmdir(directory)


@pytest.mark.usefixtures("standins")
def test_a_task_runs_in_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASH_ENV", "/a/file/of/the/host")
    runner = ShifterRunner("img", "X='a  b'", "/a:/b /c:/d", "cvmfs", "True")
    runner.check()
    assert run(runner, 'echo "$X" $PROC_NUMBER; pwd; touch left', tmp_path / "log", 9) == 0
    said = (tmp_path / "log").read_text().splitlines()
    directory = said[1].removeprefix("workdir=")
    assert said == [
        *("image=img", f"workdir={directory}", "volume=/a:/b", "volume=/c:/d", "module=cvmfs"),
        *("a  b 9", directory),
    ]
    assert not os.path.exists(directory)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"volumes": "'/a:/b"}, "volumes"),
        ({"volumes": "/a;b:/c"}, "volumes"),
        ({"volumes": "/a:/b /a:b:c:/d"}, r"volumes: '/a:b:c:/d' is not SOURCE:TARGET\[:FLAGS\]"),
        ({"volumes": "/a:/b:ro:x:y"}, r"is not SOURCE:TARGET\[:FLAGS\]"),
        ({"volumes": "/a"}, r"'/a' is not SOURCE:TARGET\[:FLAGS\]"),
        ({"volumes": "/a:"}, r"is not SOURCE:TARGET\[:FLAGS\]"),
        ({"tempdir": "perhaps"}, "tempdir"),
    ],
)
def test_what_shifter_cannot_take_is_refused_when_the_runner_is_made(arguments: dict[str, str], said: str) -> None:
    assert ShifterRunner("i", volumes="/a:/b:ro '/c d:/d'").volumes == ("/a:/b:ro", "/c d:/d")
    with pytest.raises(InputError, match=said):
        ShifterRunner("i", **arguments)


def made_by(runner: type[Runner], **arguments: Any) -> Runner:
    """Return a runner; one of Shifter with an image."""
    return runner("img", **arguments) if runner is ShifterRunner else runner(**arguments)


@pytest.mark.usefixtures("standins")
@pytest.mark.parametrize("cls", [BasicRunner, ShifterRunner])
def test_results_are_brought_back_from_a_fresh_directory(cls: type[Runner], tmp_path: Path) -> None:
    back = tmp_path / "back"
    runner = made_by(cls, tempdir="yes", stageout="'a b' *.out", destination=str(back))
    runner.check()
    assert run(runner, "pwd; touch 'a b' x.out not", tmp_path / "log") == 0
    directory = (tmp_path / "log").read_text().splitlines()[-1]
    assert sorted(path.name for path in back.iterdir()) == ["a b", "x.out"]
    assert not os.path.exists(directory)
    assert run(runner, "exit 4", tmp_path / "log") == 4
    assert run(runner, "true", tmp_path / "log") == 74
    with pytest.raises(InputError, match="stageout without tempdir"):
        made_by(cls, stageout="x")


# each form in which an attempt is run: by the loop, in a process that is kept, in a batch job of its own
FORMS: dict[str, tuple[str, ...]] = {
    "loop": ("--runner", "new"),
    "kept": ("--runner", "old"),
    "job": ("--runner", "new", "--batch", "local", "--one-job-per-task"),
}


def define_staging(farm: Farm, tempdir: str) -> None:
    """Define the runners `new` and, of the old form, `old`, with that temporary directory."""
    (farm.path / "stages.py").write_text(
        "from taskfarmer.runners import BasicRunner\n"
        "class Old(BasicRunner):\n"
        "    def run(self, taskid, command, logfh):\n"
        "        return super().run(taskid, command, logfh)\n"
    )
    keys = f"tempdir = {tempdir}\nstageout = result\n"
    (farm.path / "stages.ini").write_text(
        f"[new]\nRunner = taskfarmer.runners.BasicRunner\n{keys}[old]\nRunner = stages.Old\n{keys}"
    )
    farm.env["TASKFARMER_LOCAL_JOBS"] = str(farm.path / "spool")


@pytest.mark.parametrize("form", FORMS)
def test_results_come_back_to_a_directory_of_the_task_that_is_relative(lone: Farm, form: str) -> None:
    define_staging(lone, "yes")
    (lone.path / "sub").mkdir()
    lone.write_jsonl(
        {"command": "echo 42 >result", "cwd": "sub"},
        {"command": "echo 43 >result", "cwd": "./sub/../sub/."},
        {"command": "echo 44 >result"},
    )
    end = lone.run("--tasklist", "jsonl", "-n", "1", *FORMS[form])
    assert end.status == 0, end
    found = {str(path.relative_to(lone.path)): path.read_text() for path in lone.path.rglob("result")}
    assert found == {"sub/result": found["sub/result"], "result": "44\n"}
    assert found["sub/result"] in ("42\n", "43\n")


@pytest.mark.parametrize("form", FORMS)
def test_the_place_of_temporary_directories_may_be_relative(lone: Farm, form: str) -> None:
    define_staging(lone, "scratch/tmp")
    for name in ("scratch/tmp", "sub"):
        (lone.path / name).mkdir(parents=True)
    lone.write_jsonl({"command": "pwd; echo 42 >result", "cwd": "sub"})
    end = lone.run("--tasklist", "jsonl", "-n", "1", *FORMS[form])
    assert end.status == 0, end
    assert lone.log(0).startswith(f"{lone.path}/scratch/tmp/taskfarmer-")
    assert (lone.path / "sub" / "result").read_text() == "42\n"
    assert not list((lone.path / "scratch" / "tmp").iterdir())


def test_the_directory_of_an_attempt_that_cannot_be_prepared_goes_again(tmp_path: Path) -> None:
    class Failing(Runner):
        def prepare(self, job: Job) -> Command:
            assert job.directory is not None
            assert Path(job.directory).parent == tmp_path
            raise OSError("no")

    runner = EnvironmentRunner(env="A=1", tempdir=str(tmp_path), inner=Failing())
    with pytest.raises(OSError, match="no"):
        runner.prepare(job(Task(text="t")))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("standins")
def test_shifter_runs_in_the_directory_that_an_outer_runner_made(tmp_path: Path) -> None:
    back = tmp_path / "back"
    inner = ShifterRunner("img")
    runner = EnvironmentRunner(env="A=42", tempdir="yes", stageout="result", destination=str(back), inner=inner)
    runner.check()
    assert run(runner, "pwd; echo $A >result", tmp_path / "log") == 0
    said = (tmp_path / "log").read_text().splitlines()
    assert said == ["image=img", f"workdir={said[-1]}", said[-1]]
    assert (back / "result").read_text() == "42\n"
    assert not os.path.exists(said[-1])


@pytest.mark.usefixtures("standins")
def test_an_old_class_over_shifter_still_works(tmp_path: Path) -> None:
    assert run(OldOverNew("img"), "echo after", tmp_path / "log") == 0
    assert (tmp_path / "log").read_text() == "image=img\nbefore\nafter\n"


@pytest.mark.usefixtures("standins")
def test_the_stand_in_refuses_what_shifter_is_never_given() -> None:
    wrong = ["shifter", "--image", "i", "--", "/bin/bash", "-c", " && t"]
    environ = {**os.environ, "BASH_ENV": "", "PROC_NUMBER": "1"}
    done = subprocess.run(wrong, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (64, "shifter: odd text ' && t'\n")


def test_a_missing_shifter_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="shifter: no such program on PATH"):
        ShifterRunner("i").check()


# the example: a runner whose tasks are input files


@pytest.mark.usefixtures("standins")
def test_the_example_runs_marlin_on_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskfarmer.config import Config
    from taskfarmer.definitions import build, find
    from taskfarmer.tasklists import read_lines

    monkeypatch.setattr(sys, "path", list(sys.path))
    definition = find("runner", "mysteeringfile", Config.read({"HOME": str(tmp_path)}, EXAMPLE))
    runner = build(definition)
    assert is_declarative(runner)
    monkeypatch.chdir(tmp_path)
    Path("actsseed_steer.xml").write_text("<marlin/>")
    files = [text for _, text in read_lines(str(EXAMPLE / "filelist"))]
    for taskid, file in enumerate(files):
        Path(file).write_text("events")
        assert run(runner, file, tmp_path / "log", taskid) == 0, (tmp_path / "log").read_text()
        assert Path(f"{file}.out").read_text() == "steered by actsseed_steer.xml\n"
    assert len(files) == 2


def test_the_example_needs_nothing_but_the_public_names() -> None:
    spec = importlib.util.spec_from_file_location("mcc_example", EXAMPLE / "mcc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runner = module.MuonColliderRunner("s.xml", marlin="/opt/Marlin")
    argv = ("/opt/Marlin", "s.xml", "--global.LCIOInputFiles=a b.slcio")
    assert runner.prepare(job(Task(text="a b.slcio"))) == Command(argv=argv)


def test_a_farm_that_is_resumed_from_elsewhere_finds_what_its_runner_names(lone: Farm) -> None:
    (lone.path / "setup.sh").write_text("export WORD=here\n")
    (lone.path / "set.ini").write_text("[set]\nRunner = taskfarmer.runners.EnvironmentRunner\nscript = setup.sh\n")
    lone.write('test -e go && echo "$WORD"')
    assert lone.run("--runner", "set").status == 1
    (lone.path / "go").touch()
    elsewhere = lone.path / "elsewhere"
    elsewhere.mkdir()
    assert lone.once("retry", lone.workdir).status == 0
    end = lone.once("resume", "../tasks.txt_workdir", cwd=elsewhere)
    assert end.status == 0, end
    assert lone.log(0, 2) == "here\n"
