"""`taskfarmer run` on all kinds of input: odd lists, odd names, users' own classes; and what is refused."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.farms import TASKFARMER, Farm, check_contract

NUMBERS = ("retry-delay", "task-timeout", "stop-grace", "lease", "max-failures")
OLD_RUNNER = """
import subprocess
import taskfarmer.runners


class MyRunner(taskfarmer.runners.Runner):
    def __init__(self, word):
        self.word = word
        self.process = None

    def run(self, taskid, command, logfh):
        self.process = subprocess.Popen([self.word, str(taskid), *command.split()], stdout=logfh, stderr=logfh)
        return self.process.wait()

    def terminate(self):
        self.process.kill()
"""
OLD_LIST = """
import taskfarmer.task


class MyList(taskfarmer.task.ListTaskList):
    def __init__(self, path, workdir, **kwargs):
        super().__init__(path, workdir)
        self.greeting = kwargs["Greeting"]

    def __getitem__(self, taskid):
        return f"echo {self.greeting} {self.tasks[taskid]} >>{self.workdir}/said.{taskid}"
"""


def files_in(path: Path) -> set[str]:
    """Return the names of everything below a directory."""
    return {str(item.relative_to(path)) for item in path.rglob("*")}


# -- lists -------------------------------------------------------------------------------------------------------------


def test_a_line_of_a_megabyte(farm: Farm) -> None:
    long = "x" * (1 << 20)
    farm.write(f"printf %s {long} | wc -c", "true")
    assert farm.run("-n", "2").status == 0
    assert farm.log(0) == f"{1 << 20}\n"
    check_contract(farm, 2)


def test_bytes_that_are_no_utf8(farm: Farm) -> None:
    farm.list.write_bytes(b"printf '\xff\xfe' | od -An -tx1\necho \xe9t\xe9; printf '\\303(\\000'\nfalse \xff\n")
    assert farm.run("-n", "2", "-v").status == 1
    assert farm.log(0) == " ff fe\n"
    assert (farm.workdir / "logs/log_1").read_bytes() == b"\xe9t\xe9\n\xc3(\0"
    assert (farm.workdir / "failed").read_bytes() == b"2 false \xff\n"
    check_contract(farm, 3)


def test_a_nul_is_refused_before_anything_runs(lone: Farm) -> None:
    lone.list.write_bytes(b"true\ntouch ran\necho a\0b\n")
    assert f"{lone.list}:3" in refused(lone, lone.list)


@pytest.mark.parametrize("text", ["", "# nothing\n\n   \n"])
def test_an_empty_list_is_finished(farm: Farm, text: str) -> None:
    farm.list.write_text(text)
    assert farm.run().status == 0
    assert farm.counts() == {}
    check_contract(farm, 0)


def test_a_thousand_times_the_same_line(farm: Farm) -> None:
    farm.write(*["true"] * 1000)
    assert farm.run("-n", "3", "--logs", "none").status == 0
    check_contract(farm, 1000)
    assert farm.attempts() == dict.fromkeys(range(1000), 1)
    assert sorted(farm.view("finished")) == list(range(1000))


@pytest.mark.parametrize(
    "name", ["with space", 'it\'s "quoted"', "new\nline", "äöü-日本", "-dash", "$(touch pwned)", "a=b", "x" * 200]
)
def test_odd_names_of_workdirs(farm: Farm, name: str) -> None:
    farm.workdir = farm.path / name
    farm.write("echo out", "false")
    assert farm.run(f"--workdir={name}", "-n", "2").status == 1
    assert farm.log(0) == "out\n"
    check_contract(farm, 2)
    assert farm.run_command(*TASKFARMER, "resume", "--", name).status == 1
    check_contract(farm, 2)
    assert not (farm.path / "pwned").exists()


# -- users' own classes ------------------------------------------------------------------------------------------------


@pytest.fixture
def own(farm: Farm) -> Farm:
    """A farm in whose directory a runner and a handler written for PyTaskFarmer are defined."""
    (farm.path / "mine.py").write_text(OLD_RUNNER)
    (farm.path / "lists.py").write_text(OLD_LIST)
    (farm.path / "definitions.ini").write_text(
        "[mine]\nRunner = mine.MyRunner\nword = echo\n\n[greet]\nTaskList = lists.MyList\nGreeting: hello\n"
        "[unrelated]\nkey = value\n"
    )
    (farm.path / "other.ini").write_text("[something]\nkey = value\n")
    return farm


def test_an_old_runner_works_unchanged(own: Farm) -> None:
    """spec: taskfarm 6"""
    own.list.write_text("one  two\nthree\n")
    assert own.run("-r", "mine", "-n", "2").status == 0
    assert [own.log(task) for task in (0, 1)] == ["0 one two\n", "1 three\n"]
    check_contract(own, 2)


def test_an_old_runner_is_ended_with_what_it_started(own: Farm) -> None:
    (own.path / "definitions.ini").write_text("[mine]\nRunner = mine.MyRunner\nword = ./slow\n")
    slow = own.path / "slow"
    slow.write_text(f"#!/bin/sh\n{own.task('exec sleep 30')}\n")
    slow.chmod(0o755)
    own.list.write_text("a\nb\n")
    at_work = own.start_all("-r", "mine", "-n", "2", "--stop-grace", "0.5")
    own.wait_for_runs(2)
    own.wait_for_farmers()
    for farmer in at_work:
        farmer.signal(15)
    assert {farmer.wait(15).status for farmer in at_work} == {3}
    check_contract(own, 2)
    assert own.counts() == {"toprocess": 2}


def test_an_old_handler_works_unchanged(own: Farm) -> None:
    """spec: taskfarm 2.2"""
    own.list.write_text("one\n# no\ntwo\n")
    assert own.run("-t", "greet", "-n", "2").status == 0
    assert [(own.workdir / f"said.{task}").read_text() for task in (0, 1)] == ["hello one\n", "hello two\n"]
    assert sorted((own.workdir / "finished").read_text().splitlines()) == ["0 one", "1 two"]
    check_contract(own, 2)


def test_definitions_are_kept_in_the_workdir(own: Farm) -> None:
    own.list.write_text("one\n")
    assert own.run("-r", "mine").status == 0
    (own.path / "definitions.ini").unlink()
    assert own.once("add", own.workdir, "--", "again").status == 0
    assert own.run_command(*TASKFARMER, "resume", own.workdir, cwd=own.path / "home").status == 0
    assert own.log(1) == "1 again\n"
    check_contract(own, 2)


def test_definitions_in_the_home_directory(own: Farm) -> None:
    place = own.path / "home/.pytaskfarmer/runners.d"
    place.mkdir(parents=True)
    (own.path / "definitions.ini").rename(place / "site.ini")
    (own.path / "mine.py").rename(place / "mine.py")
    own.list.write_text("one\n")
    assert own.run("-r", "mine").status == 0
    assert own.log(0) == "0 one\n"


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(farm: Farm, *words: str | Path) -> str:
    """Run what must be refused: in one line, with status 2, and with nothing written; return the line."""
    before = files_in(farm.path)
    end = farm.start_command(*TASKFARMER, "run", *words).wait()
    assert end.status == 2, end
    assert end.out == ""
    assert end.err.count("\n") == 1 or end.err.startswith("Usage:"), end.err
    assert "Traceback" not in end.err
    new = files_in(farm.path) - before
    assert {name for name in new if not name.startswith("streams") and "__pycache__" not in name} == set()
    return end.err


def test_lists_that_cannot_be_read(lone: Farm) -> None:
    assert "no such task list" in refused(lone, "missing.txt")
    assert "is a directory" in refused(lone, ".")
    assert "TASKLIST" in refused(lone)


def test_a_workdir_that_cannot_be_made(lone: Farm) -> None:
    lone.write("true")
    assert "its parent must exist" in refused(lone, lone.list, "-w", "no/such/parent")
    assert "Not a directory" in refused(lone, lone.list, "-w", lone.list)


def test_unknown_definitions(lone: Farm) -> None:
    lone.write("true")
    (lone.path / "here.ini").write_text("[shifty]\nRunner = taskfarmer.runners.BasicRunner\n")
    said = refused(lone, lone.list, "-r", "shift")
    assert "did you mean shifty?" in said
    assert str(lone.path) in said
    assert "jsonl" in refused(lone, lone.list, "-t", "json")


def test_classes_that_cannot_be_used(lone: Farm) -> None:
    lone.write("true")
    (lone.path / "broken.ini").write_text(
        "[nowhere]\nRunner = no.such.Class\n\n[args]\nRunner = taskfarmer.runners.BasicRunner\nsteering = x\n"
    )
    assert f"{lone.path / 'broken.ini'}:1" in refused(lone, lone.list, "-r", "nowhere")
    assert f"{lone.path / 'broken.ini'}:4" in refused(lone, lone.list, "-r", "args")


@pytest.mark.parametrize("asked", ["check(self)", "check_cwd(self, cwd)"])
def test_a_runner_that_fails_when_it_is_asked_is_one_line(lone: Farm, asked: str) -> None:
    lone.write("true")
    (lone.path / "asked.ini").write_text("[asked]\nRunner = asked.Asked\n")
    (lone.path / "asked.py").write_text(
        "from taskfarmer.runners import BasicRunner\n"
        "class Asked(BasicRunner):\n"
        f"    def {asked}:\n"
        "        raise KeyError('oops')\n"
    )
    done = lone.run("--runner", "asked")
    assert (done.status, done.err.count("\n")) == (2, 1), done.err
    assert f"{asked.partition('(')[0]} failed: KeyError: 'oops' ({lone.path}/asked.py:4)" in done.err
    assert not lone.workdir.exists()


def test_a_runner_whose_program_is_missing_is_said_once(lone: Farm) -> None:
    lone.write("true", "true")
    (lone.path / "site.ini").write_text("[s]\nRunner = taskfarmer.runners.ShifterRunner\nimage = x\n")
    before = dict(lone.env)
    lone.env["PATH"] = "/nonexistent"
    assert "shifter" in refused(lone, lone.list, "-r", "s")
    lone.env = before


@pytest.mark.parametrize(
    "words",
    [
        ("--max-failures", "many"),
        ("--max-failures", "-1"),
        ("--max-failures", "1.5"),
        ("--max-failures", "200%"),
        ("--max-losses", "-1"),
        ("-n", "0"),
        ("--retries", "-1"),
        ("--task-timeout", "0"),
        ("--logs", "tape"),
        ("--param", "a=1"),
        ("--lease", "0"),
        *((f"--{name}={value}",) for name in NUMBERS for value in ("nan", "inf", "1e400", "-1")),
        ("-n", "100001"),
        ("--timeout", "9" * 400),
        ("-w", ""),
    ],
)
def test_options_that_make_no_sense(lone: Farm, words: tuple[str, ...]) -> None:
    lone.write("true")
    refused(lone, lone.list, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-n", "x"), "'x' is no whole number from 1 to 100000"),
        (("-n", "0"), "'0' is no whole number from 1 to 100000"),
        (("--retries", "1.5"), "'1.5' is no whole number of 0 or more"),
        (("--lease", "0.5"), "'0.5' is no number of seconds from 1 to 1000000000"),
        (("--task-timeout", "0"), "'0' is no number of seconds above 0, up to 1000000000"),
        (("--retry-delay", "soon"), "'soon' is no number of seconds from 0 to 1000000000"),
        (("--max-failures", "100.5%"), "100.5% is more than all tasks (100%)"),
    ],
)
def test_numbers_are_refused_in_plain_words(lone: Farm, words: tuple[str, str], said: str) -> None:
    lone.write("true")
    assert f"'{words[0]}'" in (line := refused(lone, lone.list, *words))
    assert f": {said}; see `taskfarmer run --help`" in line


def test_numbers_of_any_size_that_is_allowed(lone: Farm) -> None:
    lone.write("true")
    assert lone.run("--max-failures", "100%", "--max-losses", "0").status == 0
    assert lone.run(*(f"--{name}=1e9" for name in NUMBERS), "--timeout", "1000000000").status == 0


def test_a_directory_that_is_gone_is_one_line(lone: Farm) -> None:
    gone = lone.path / "gone"
    gone.mkdir()
    line = f"cd gone; rmdir ../gone; exec {TASKFARMER[0]} -m taskfarmer run ../tasks.txt"
    end = lone.start_command("bash", "-c", line).wait()
    assert (end.status, end.err.count("\n")) == (2, 1), end
    assert "the current directory is not there any more" in end.err


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed", "timeline.json"])
def test_a_list_that_the_farm_would_write_over_is_refused(lone: Farm, name: str) -> None:
    (lone.path / name).write_text("true\n")
    assert "a file that the farm in this workdir writes" in refused(lone, name, "-w", ".")
    assert (lone.path / name).read_text() == "true\n"


def test_a_definition_that_hides_another_is_said(lone: Farm) -> None:
    lone.write("true")
    (lone.path / "here.ini").write_text("[default]\nRunner = taskfarmer.runners.BasicRunner\n")
    end = lone.run()
    assert end.status == 0
    assert f"[default] at {lone.path}/here.ini:1 is used; it hides the one of built in" in end.out


def test_a_workdir_of_a_newer_version(lone: Farm) -> None:
    lone.write("true")
    assert lone.run().status == 0
    last = max(lone.workdir.joinpath("ledger/log").iterdir())
    text = last.read_text()
    from taskfarmer.farm import framing

    (said,) = framing.unframe(last.read_bytes())
    assert isinstance(said, str)
    last.write_bytes(framing.frame(said.replace('"v":1', '"v":99')))
    assert "format 99" in refused(lone, lone.list)
    last.write_text(text)
    assert lone.run().status == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_workdir_without_permission(lone: Farm) -> None:
    lone.write("true")
    lone.path.joinpath("closed").mkdir()
    lone.path.joinpath("closed").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert "Permission denied" in refused(lone, lone.list, "-w", "closed/workdir")


@pytest.mark.parametrize("words", [("run",), ("resume",), ("submit", "--batch", "local", "--keep", "1")])
def test_a_farm_that_cannot_be_written_is_said_before_all_else(lone: Farm, words: tuple[str, ...]) -> None:
    lone.write("false")
    assert lone.run().status == 1
    argv = [*TASKFARMER, *words, str(lone.list if words == ("run",) else lone.workdir)]
    if os.geteuid() == 0:
        mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
        argv = ["unshare", "--mount", "sh", "-c", mount, "sh", str(lone.workdir), *argv]
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
            pytest.skip("root cannot make a namespace of mounts here")
        why = "its file system is read-only here; run this on a host where it is not"
    else:
        for directory in (lone.workdir, *(path for path in lone.workdir.rglob("*") if path.is_dir())):
            directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
        why = "permission denied; have its owner give you the right to write"
    end = lone.start_command(*argv).wait()
    assert (end.status, end.out) == (2, "")
    assert end.err == f"taskfarmer: {lone.workdir}: the farm cannot be written: {why}\n"
    for directory in (lone.workdir, *(path for path in lone.workdir.rglob("*") if path.is_dir())):
        directory.chmod(stat.S_IRWXU)
