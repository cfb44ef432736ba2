"""Executors: each keeps the contract, and what is its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.core.model import Task
from taskfarmer.definitions import Definition
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.executors import Executor, StartError
from taskfarmer.farm.executors.processes import Processes
from taskfarmer.farm.executors.worker import status_of
from taskfarmer.farm.executors.workers import Workers
from taskfarmer.farm.output import Output
from taskfarmer.runners import BasicRunner, Command, Job, Runner
from tests.executor_contract import ENVIRON, Bench, ExecutorContract, Make, is_alive, until


def processes(runner: Runner) -> Make:
    """Return what makes processes of that runner's commands."""

    def make(output: Output, disk: Disk, environ: Mapping[str, str], workdir: str, pin: bool) -> Executor:
        return Processes(runner, output, disk, environ=environ, workdir=workdir, pin=pin)

    return make


def workers(directory: Path, target: str, **arguments: str) -> Make:
    """Return what makes workers of a class in `directory`, as an INI file there would name it."""
    definition = Definition("runner", "old", target, arguments, str(directory / "old.ini"), 1)

    def make(output: Output, disk: Disk, environ: Mapping[str, str], workdir: str, pin: bool) -> Executor:
        return Workers(definition, output, disk, environ=environ, workdir=workdir, pin=pin)

    return make


@pytest.fixture
def bench(tmp_path: Path, runner: Runner) -> Iterator[Bench]:
    """Return a loop around processes."""
    made = Bench(tmp_path / "wd", processes(runner))
    yield made
    made.executor.close()
    made.selector.close()


@pytest.fixture
def runner() -> Runner:
    """Return the runner of `bench`."""
    return BasicRunner()


class TestProcesses(ExecutorContract):
    @pytest.fixture
    def make(self) -> Make:
        return processes(BasicRunner())


def script(path: Path, text: str) -> str:
    """Write an executable file and return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_script_without_a_first_line_runs_as_in_a_shell(bench: Bench, tmp_path: Path) -> None:
    assert bench.run(script(tmp_path / "plain", "echo ran $1; exit 4\n") + " me") == 4
    assert bench.said() == b"ran me\n"


def test_a_script_whose_interpreter_is_missing_is_127(bench: Bench, tmp_path: Path) -> None:
    assert bench.run(script(tmp_path / "odd", "#!/no/such/interpreter\n")) == 127


@pytest.mark.parametrize("cwd", [None, "/"])
def test_an_argument_list_is_run_as_it_stands(bench: Bench, cwd: str | None) -> None:
    task = Task(text="t", argv=("printf", "%s|", "a b", "$HOME", "'", "", "\udcff"), cwd=cwd)
    assert bench.run(task) == 0
    assert bench.said() == b"a b|$HOME|'||\xff|"


@pytest.mark.parametrize("cwd", [None, "/"])
def test_a_program_of_an_argument_list_that_is_not_there_is_127(bench: Bench, cwd: str | None) -> None:
    assert bench.run(Task(text="t", argv=("no-such-program",), cwd=cwd)) == 127
    assert b"no-such-program" in bench.said()


def test_a_program_with_an_equals_sign_is_no_variable(bench: Bench, tmp_path: Path) -> None:
    program = script(tmp_path / "a=b", "#!/bin/sh\necho program $1 in $PWD\n")
    assert bench.run(Task(text="t", argv=(program, "x y"), cwd="/")) == 0
    assert bench.said() == b"program x y in /\n"


def test_a_name_is_looked_up_where_the_task_says(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "mine", "#!/bin/sh\necho mine\n")
    task = Task(text="mine", env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    assert bench.run(task, id=1) == 0
    assert bench.run(Task(text="t", argv=("mine",), env=task.env), id=2) == 0
    assert (bench.said(1), bench.said(2)) == (b"mine\n", b"mine\n")


def test_a_relative_path_begins_in_the_tasks_directory(bench: Bench, tmp_path: Path) -> None:
    script(tmp_path / "prog", "#!/bin/sh\necho found\n")
    assert bench.run(Task(text="./prog", cwd=str(tmp_path))) == 0
    assert bench.said() == b"found\n"


@pytest.mark.parametrize("runner", [BasicRunner("bash")])
def test_what_the_environment_tells_a_bash_is_done(tmp_path: Path, runner: Runner) -> None:
    (tmp_path / "env.sh").write_text("true() { echo from the file; }\n")
    bench = Bench(tmp_path / "1", processes(runner), environ=ENVIRON | {"BASH_ENV": str(tmp_path / "env.sh")})
    assert bench.run("true") == 0
    assert bench.said() == b"from the file\n"
    bench = Bench(tmp_path / "2", processes(runner), environ=ENVIRON | {"BASH_FUNC_true%%": "() { echo exported; }"})
    assert bench.run("true") == 0
    assert bench.said() == b"exported\n"


@pytest.mark.parametrize("runner", [BasicRunner("none")])
def test_without_a_shell_nothing_is_special(bench: Bench) -> None:
    assert bench.run("echo $HOME && 'x'") == 0
    assert bench.said() == b"$HOME && 'x'\n"


def test_a_grandchild_in_a_session_of_its_own_may_go_on_writing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "wd", processes(BasicRunner()), "packed")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert bench.run(f"(setsid sh -c 'read x < {fifo}; echo late $x' &); echo early") == 0
    assert bench.said() == b"early\n"
    assert bench.run("echo again", attempt=2) == 0
    fifo.write_text("word\n")
    bench.wait_for_output(b"late word\n")
    assert (bench.said(), bench.said(attempt=2)) == (b"early\nlate word\n", b"again\n")
    bench.executor.close()


def test_one_that_closes_its_output_ends_like_any_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "wd", processes(BasicRunner()), "packed")
    assert bench.run("exec >/dev/null 2>&1; sleep 0.1; exit 5") == 5
    bench.executor.close()


class Odd(Runner):
    """A runner whose `prepare` returns or raises what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def prepare(self, job: Job) -> Command:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # that is the test


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ZeroDivisionError("what"), b"Odd.prepare: ZeroDivisionError: what"),
        (None, b"Odd.prepare returned no Command"),
        (Command(argv=(1,)), b"cannot be started"),  # type: ignore[arg-type]
        (Command(line="true", env={"A": 1}), b"cannot be started"),  # type: ignore[dict-item]
        (Command(line="true", env={"A=B": "x"}), b"cannot be started"),
        (Command(line="true", env={"A": "\ud800"}), b"cannot be started"),
    ],
)
def test_a_runner_that_is_wrong_fails_the_attempt(tmp_path: Path, answer: Any, said: bytes) -> None:
    bench = Bench(tmp_path, processes(Odd(answer)))
    assert bench.run("line") == 126
    assert said in bench.said()
    assert bench.said().count(b"\n") == 1


@pytest.mark.parametrize(
    ("line", "status"), [("touch x/y", 0), ("exit 1", 1), ("kill -9 $$", -9), ("\0", 126), (None, 127)]
)
def test_directories_of_an_attempt_are_removed_however_it_ends(tmp_path: Path, line: str | None, status: int) -> None:
    directory = tmp_path / "temporary"
    directory.mkdir()
    (directory / "file").touch()
    command = Command(
        line=None if line is None else f"mkdir x; {line}",
        argv=("no-such-program",) if line is None else None,
        cwd=str(directory) if line else None,
        remove=(str(directory),),
    )
    assert Bench(tmp_path / "wd", processes(Odd(command))).run("t") == status
    assert not directory.exists()


def test_the_fault_layer_sees_each_spawn(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    bench = Bench(tmp_path, processes(BasicRunner()))
    bench.disk._hook = lambda operation, what: seen.append((operation, what))
    assert bench.run("true && true") == 0
    assert seen == [("spawn", "/bin/sh")]


def test_a_machine_without_room_gives_the_attempt_back(tmp_path: Path) -> None:
    def full(operation: str, what: str) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    bench = Bench(tmp_path, processes(BasicRunner()))
    bench.disk._hook = full
    with pytest.raises(StartError) as caught:
        bench.start("true")
    assert caught.value.retryable
    assert bench.said() == b""


# workers

OLD = '''
import os, subprocess, sys, time
from taskfarmer.runners import BasicRunner, Runner

class Old(BasicRunner):
    """As users of PyTaskFarmer write them."""
    def run(self, taskid, command, logfh):
        return super().run(taskid, command, logfh)

class Python:
    """Derives from nothing; the command is Python."""
    __slots__ = ("count", "told")
    def __init__(self, start="0"):
        self.count = int(start)
        self.told = False
    def run(self, taskid, command, logfh):
        self.count += 1
        scope = {"self": self, "taskid": taskid, "logfh": logfh, "os": os, "sys": sys, "time": time}
        exec(command, scope)
        return scope.get("code")
    def terminate(self):
        self.told = True

class Broken(Python):
    def __init__(self, start="0"):
        raise RuntimeError("no licence")
'''


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return a directory with a module of old-style runners."""
    place = tmp_path / "ini"
    place.mkdir()
    (place / "oldrunners.py").write_text(OLD)
    return place


@pytest.fixture
def python(tmp_path: Path, old: Path) -> Iterator[Bench]:
    """Return a loop around workers whose lines are Python."""
    made = Bench(tmp_path / "wd", workers(old, "oldrunners.Python", start="10"), "packed")
    yield made
    made.executor.close()
    made.selector.close()


class TestWorkers(ExecutorContract):
    @pytest.fixture
    def make(self, old: Path) -> Make:
        return workers(old, "oldrunners.Old")


def test_workers_are_kept_and_used_again(python: Bench) -> None:
    for id in range(3):
        assert python.run("logfh.write(f'{self.count} {os.getpid()}')", id=id) == 0
    words = [python.said(id).split() for id in range(3)]
    assert [int(word[0]) for word in words] == [11, 12, 13]
    assert len({word[1] for word in words}) == 1


def test_there_are_no_more_workers_than_attempts_at_a_time(python: Bench) -> None:
    for _ in range(2):
        for id in range(2):
            python.start("time.sleep(0.3); print(os.getpid())", id=id, attempt=_ + 1)
        python.wait(0, 1)
    assert len({python.said(id, attempt) for id in range(2) for attempt in (1, 2)}) == 2


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("code = None", 0),
        ("code = False", 0),
        ("code = 0", 0),
        ("code = True", 1),
        ("code = 77", 77),
        ("code = -15", -15),
        ("code = 256", 1),
        ("code = 'wrong'", 1),
        ("sys.exit()", 0),
        ("sys.exit(9)", 9),
        ("raise KeyboardInterrupt", -2),
        ("os._exit(4)", 4),
        ("os._exit(0)", 1),
        ("os.abort()", -6),
    ],
)
def test_what_run_returns_is_the_status(python: Bench, line: str, status: int) -> None:
    assert python.run(line) == status
    assert python.run("logfh.write('on')", id=2) == 0


def test_statuses_of_odd_values() -> None:
    class Like:
        def __index__(self) -> int:
            return 5

    values: list[object] = ["", [], Like(), 1.5, -65, 2**70]
    assert [status_of(value) for value in values] == [0, 0, 5, 1, 1, 1]


def test_an_exception_is_status_1_and_one_line(python: Bench) -> None:
    assert python.run("logfh.write('before\\n'); {}['key']") == 1
    before, said = python.said().decode().splitlines()
    assert before == "before"
    assert said.startswith("taskfarmer: KeyError: 'key' (")
    assert python.run("sys.exit('so long')", id=2) == 1
    assert python.said(2) == b"taskfarmer: so long\n"


def test_a_worker_that_dies_is_said_so(python: Bench) -> None:
    assert python.run("os.kill(os.getpid(), 11)") == -11
    assert b"killed by signal 11" in python.said()


def test_a_worker_that_died_while_idle_is_replaced(python: Bench) -> None:
    assert python.run("print(os.getpid())") == 0
    os.kill(int(python.said()), signal.SIGKILL)
    assert until(lambda: not is_alive(int(python.said())))
    assert python.run("print(os.getpid())", id=2) == 0
    assert python.said(2) != python.said(1)
    python.turn()
    assert python.run("print(os.getpid())", id=3) == 0
    assert python.said(3) == python.said(2)


def test_term_calls_terminate_while_run_blocks(python: Bench) -> None:
    line = "print('here')\nwhile not self.told: time.sleep(0.01)\nprint('told'); code = 143"
    python.start(line)
    python.wait_for_output(b"here\n")
    python.executor.signal(1, signal.SIGTERM)
    assert python.wait(1) == [143]
    assert python.said() == b"here\ntold\n"
    assert python.run("print(self.told)", id=2) == 0  # in a worker that was never told
    assert python.said(2) == b"False\n"


def test_term_reaches_the_other_processes_of_the_group(python: Bench) -> None:
    python.start("import subprocess as s\np = s.Popen(['sleep', '60'], stdout=logfh)\nprint('here')\ncode = p.wait()")
    python.wait_for_output(b"here\n")
    python.executor.signal(1, signal.SIGTERM)
    assert python.wait(1) == [-15]


def test_term_before_the_worker_is_ready_ends_it(python: Bench) -> None:
    python.start("time.sleep(60)")
    python.executor.signal(1, signal.SIGTERM)
    python.executor.signal(1, signal.SIGKILL)
    assert python.wait(1)[0] in (-15, -9)


def test_kill_reaches_groups_of_its_own(python: Bench) -> None:
    python.start(
        "import subprocess as s\np = s.Popen(['sleep', '60'], process_group=0)\nprint('pid', p.pid, 'end'); p.wait()"
    )
    python.wait_for_output(b"end\n")
    pid = int(python.said().split()[1])
    python.executor.signal(1, signal.SIGKILL)
    assert python.wait(1) == [-9]
    assert until(lambda: not is_alive(pid), 2.0)


def test_what_run_does_to_its_process_is_undone(python: Bench) -> None:
    home = os.getcwd()
    look = "print(os.getcwd(), os.environ.get('X'), os.environ['FROM'], os.environ.get('OWN'))"
    assert python.run(Task(text="os.environ['X'] = 'x'; del os.environ['FROM']; os.chdir('/'); logfh.close()")) == 0
    assert python.run(look, id=2) == 0
    assert python.said(2).decode() == f"{home} None farmer None\n"
    assert python.run(Task(text="os.environ['FROM'] = 'task'", env={"OWN": "1"}), id=3) == 0
    assert python.run(look, id=4) == 0
    assert python.said(4).decode() == f"{home} None farmer None\n"


def test_a_runner_that_cannot_be_built_fails_the_attempt_in_one_line(tmp_path: Path, old: Path) -> None:
    bench = Bench(tmp_path / "wd", workers(old, "oldrunners.Broken"))
    assert bench.run("pass") == 126
    assert bench.said().count(b"\n") == 1
    assert b"no licence" in bench.said()
    bench.executor.close()


def test_what_lies_in_the_current_directory_hides_no_module_of_python(
    tmp_path: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    bench = Bench(tmp_path / "wd", workers(old, "oldrunners.Python"))
    assert bench.run("print('fine')") == 0
    bench.executor.close()


def test_idle_workers_end_with_the_executor(tmp_path: Path, old: Path) -> None:
    bench = Bench(tmp_path / "wd", workers(old, "oldrunners.Python"))
    assert bench.run("print(os.getpid())") == 0
    bench.executor.close()
    assert until(lambda: not is_alive(int(bench.said())))
