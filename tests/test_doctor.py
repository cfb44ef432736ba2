"""`taskfarmer doctor`: what it finds, with programs of the test's own on the PATH; odd directories; what is wrong."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from taskfarmer.batch import Answer, BatchSystem, Call, JobId, JobStatus, Limits, NoAnswer, Outcome, Steps, Submission
from taskfarmer.batch.calls import HUNG
from taskfarmer.errors import InputError
from taskfarmer.selftest import directory, engines, inquiry, machine, schedulers
from taskfarmer.selftest import doctor as examination
from taskfarmer.selftest.directory import Mount, Place, mount_in, mount_of, place, place_problems
from taskfarmer.selftest.engines import Engine, Kernel, engine, engine_problems
from taskfarmer.selftest.machine import BatchJob, batch_job, job_problems, machine_problems
from taskfarmer.selftest.problem import Problem
from tests.farms import TASKFARMER, is_alive, wait_for
from tests.testbed.htcondor import HTCondor
from tests.testbed.slurm import Slurm

DOCS = Path(__file__).resolve().parents[1] / "docs"
LIMIT_S = 60.0
SLURM = {
    "sbatch": "echo slurm 23.11.4",
    "squeue": ":",
    "scancel": ":",
    "scontrol": "echo 'MaxArraySize            = 1001'; echo 'MaxJobCount             = 10000'",
}
"""A Slurm that answers, and has no jobs."""
PRINTS = 'exec /usr/bin/yes "what nobody wants to know, again and again"'
HANGS = 'echo $$ > "$0.pid"; exec /bin/sleep 600'


@dataclass
class World:
    """A host with the programs that a test gives it, and no others."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bin, self.place = self.path / "bin", self.path / "place"
        for made in (self.bin, self.place, self.path / "home"):
            made.mkdir()
        for name in ("sh", "env"):
            (self.bin / name).symlink_to(f"/bin/{name}")
        self.env = {"PATH": str(self.bin), "HOME": str(self.path / "home"), "LANG": "C.UTF-8", **self.env}

    def program(self, name: str, body: str) -> None:
        """Put a shell script on the PATH."""
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def slurm(self, **instead: str) -> None:
        """Put a Slurm on the PATH, some of whose commands do something else."""
        for name, body in (SLURM | instead).items():
            self.program(name, body)

    def doctor(self, *words: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command, by itself on `place`; it must not end with a traceback."""
        argv = [*TASKFARMER, "doctor", *words]
        done = subprocess.run(
            argv, cwd=self.place, env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="surrogateescape", timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *words: str | Path, status: int = 0) -> dict[str, Any]:
        """Return what it says to programs."""
        done = self.doctor("--json", *words)
        assert (done.returncode, done.stderr) == (status, ""), done
        said: dict[str, Any] = json.loads(done.stdout)
        assert said["healthy"] == (status == 0)
        return said


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A host without batch systems and containers."""
    return World(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked has a second."""
    monkeypatch.setattr(inquiry, "CALL_S", 1.0)
    monkeypatch.setattr(inquiry, "ALL_S", 1.5)


def named(said: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    """Return the batch system or container program of that name."""
    (found,) = [item for item in said[kind] if item["name"] == name]
    return dict(found)


def of(said: Mapping[str, Any], severity: str) -> list[str]:
    """Return the problems of that kind, as people read them."""
    problems = [Problem(**problem) for problem in said["problems"]]
    return [str(problem) for problem in problems if problem.severity == severity]


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_host_without_batch_systems_and_containers_is_well(world: World) -> None:
    done = world.doctor()
    assert (done.returncode, done.stderr) == (0, ""), done
    for name in ("slurm", "htcondor", "lsf", "apptainer", "podman", "docker", "shifter"):
        assert re.search(rf"^  {name} +not here", done.stdout, re.MULTILINE), name
    assert re.search(r"^  batch system +none: tasks run on this host$", done.stdout, re.MULTILINE)
    assert str(world.place) in done.stdout
    assert list(world.place.iterdir()) == []


@pytest.mark.parametrize("path", ["", "/nonexistent"])
def test_without_any_program(world: World, path: str) -> None:
    world.env["PATH"] = path
    said = world.json(status=1)
    assert not any(found["path"] for found in said["containers"])
    assert not any(system["here"] for system in said["batch_systems"])
    assert [line.partition(",")[0] for line in of(said, "error")] == [
        "programs: sh is not on the PATH", "programs: env is not on the PATH"
    ]  # fmt: skip


def test_without_a_path_the_system_s_is_taken(world: World) -> None:
    del world.env["PATH"]
    assert world.json(status=world.doctor().returncode)["host"]["missing"] == []


def test_what_it_says_to_programs_is_explained(world: World) -> None:
    world.slurm(squeue="exit 1")
    world.program("docker", "exit 1")
    said = world.json(status=1)
    assert (said["version"], said["command"], said["directory"]) == (1, "doctor", str(world.place))
    explained = (DOCS / "json.md").read_text().partition("## `doctor`")[2].partition("\n## ")[0]
    keys = set(_keys({key: value for key, value in said.items() if key not in ("version", "command")}))
    assert {key for key in keys if f"`{key}`" not in explained} == set()


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from () if key in ("probes", "extras") else _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def test_every_line_of_the_output_is_explained(world: World) -> None:
    page = (DOCS / "doctor.md").read_text()
    facts = world.doctor().stdout.rpartition("\n\n")[0]
    rows = re.findall(r"^  (\S+(?: \S+)*)  +\S", facts, re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if f"`{row}`" not in page] == []


@pytest.mark.parametrize("words", [("a", "--dir", "b"), ("",), ("--dir", "file"), ("file",)])
def test_what_is_no_directory_is_refused(world: World, words: tuple[str, ...]) -> None:
    (world.place / "file").touch()
    done = world.doctor(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    if "file" in words:
        assert done.stderr == "taskfarmer: file is a file; give a directory, or a list that has a workdir\n"


def test_colours_are_for_terminals(world: World) -> None:
    world.slurm()
    assert "\x1b" not in world.doctor().stdout
    assert "\x1b[32manswers\x1b[0m" in on_terminal(world, TERM="xterm")
    assert "\x1b" not in on_terminal(world, TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in on_terminal(world, TERM="dumb")


def on_terminal(world: World, **env: str) -> str:
    """Return what is seen on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*TASKFARMER, "doctor"], cwd=world.place, env={**world.env, **env}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # the terminal has nobody on its other end any more
        pass
    os.close(ours)
    assert process.wait(LIMIT_S) == 0
    return seen.decode()


# -- batch systems -----------------------------------------------------------------------------------------------------


def test_a_batch_system_that_answers_is_used(world: World) -> None:
    world.slurm()
    said = world.json()
    slurm = named(said, "batch_systems", "slurm")
    assert (slurm["here"], slurm["answers"], slurm["missing"], slurm["trouble"]) == (True, True, [], "")
    assert slurm["version"] == "slurm 23.11.4"
    assert (slurm["elements"], slurm["jobs"], slurm["of_all"]) == (1000, 10000, True)
    assert said["use"]["batch"] == "slurm"
    line = r"^  slurm +answers +slurm 23\.11\.4 +arrays of up to 1000, at most 10000 jobs of all users together$"
    assert re.search(line, world.doctor().stdout, re.MULTILINE)


def test_one_that_does_not_answer_is_an_error_in_its_own_words(world: World) -> None:
    world.slurm(squeue="echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    done = world.doctor()
    assert done.returncode == 1
    (line,) = re.findall(r"^  error +(.*)", done.stdout, re.MULTILINE)
    assert line.startswith("Slurm: it does not answer: squeue ended with status 1: squeue: error: Unable to contact")
    assert "; try `squeue " in line
    assert re.search(r"^  slurm +silent +slurm 23.11.4", done.stdout, re.MULTILINE)
    assert re.search(r"^1 error\b", done.stdout, re.MULTILINE)


def test_accounts_that_are_away_are_a_warning(world: World) -> None:
    """Slurm takes jobs all the same."""
    world.slurm(sacct="echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1")
    done = world.doctor()
    assert done.returncode == 0, done.stdout
    (line,) = re.findall(r"^  warning +(Slurm.*)", done.stdout, re.MULTILINE)
    assert "cannot tell of jobs of the past: sacct ended with status 1: sacct: error: Problem talking" in line
    assert "; try `sacct " in line
    assert re.search(r"^  slurm +answers +slurm 23.11.4 +arrays of up to 1000", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "answer", [r"printf '\377\000\033[31m|%s' \200", ":", "exit 1", "kill -9 $$", "echo 7 8; exit 3"]
)
def test_garbage_for_answers_is_survived(world: World, answer: str) -> None:
    for name in (*SLURM, "sacct", "bsub", "bjobs", "bkill", "podman", "docker", "apptainer", "shifter"):
        world.program(name, answer)
    done = world.doctor()
    assert done.returncode in (0, 1)
    assert done.stderr == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stdout)


def test_part_of_a_batch_system_is_a_warning(world: World) -> None:
    world.program("sbatch", SLURM["sbatch"])
    said = world.json()
    assert not named(said, "batch_systems", "slurm")["here"]
    assert said["use"]["batch"] == ""
    assert [line for line in of(said, "warning") if line.startswith("Slurm: sbatch is on the PATH, and without squeue")]


@pytest.mark.parametrize("name", ["squeue", "sbatch"])
def test_a_command_that_hangs_is_given_up_and_ended(world: World, impatient: None, name: str) -> None:
    world.slurm(**{name: HANGS})
    began = time.monotonic()
    found = schedulers.scheduler("slurm", world.env)
    assert time.monotonic() - began < LIMIT_S
    assert found.answers is (name == "sbatch")
    assert ("squeue did not answer within 1 s" in found.trouble) == (name == "squeue")
    pid = int((world.bin / f"{name}.pid").read_text())
    wait_for(lambda: not is_alive(pid), "the command to be ended")


def test_a_real_slurm(slurm: Slurm, tmp_path: Path) -> None:
    done = slurm.run(*TASKFARMER, "doctor", "--json", tmp_path)
    found = named(json.loads(done.stdout), "batch_systems", "slurm")
    assert (found["answers"], found["trouble"]) == (True, ""), found
    assert found["version"] == slurm.call("sbatch", "--version").strip()
    assert found["elements"] > 1
    with slurm.controller_away():
        done = slurm.run(*TASKFARMER, "doctor", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"^  error +Slurm: it does not answer: squeue ", done.stdout, re.MULTILINE), done.stdout


def test_a_real_htcondor(condor: HTCondor, tmp_path: Path) -> None:
    done = condor.run(*TASKFARMER, "doctor", "--json", tmp_path)
    found = named(json.loads(done.stdout), "batch_systems", "htcondor")
    assert (found["answers"], found["trouble"]) == (True, ""), found
    assert re.search(r"\d+\.\d+", found["version"])
    assert json.loads(done.stdout)["use"]["batch"] == "htcondor"


class Ours(BatchSystem):
    """A batch system of somebody's own, by one program."""

    name: ClassVar[str] = "ours"
    title: ClassVar[str] = "Ours"
    programs: ClassVar[tuple[str, ...]] = ("ours",)
    raises: ClassVar[type[Exception] | None] = None

    def files(self, submission: Submission) -> dict[str, str]:
        raise NotImplementedError

    def command(self, submission: Submission) -> tuple[str, ...]:
        raise NotImplementedError

    def submit(self, submission: Submission) -> Steps[Outcome]:
        raise NotImplementedError

    def poll(self, jobs: object) -> Steps[dict[JobId, JobStatus]]:
        raise NotImplementedError

    def cancel(self, jobs: object) -> Steps[None]:
        raise NotImplementedError

    def find(self, name: str) -> Steps[dict[int, JobId]]:
        yield Call(argv=("ours", "find", name))
        if self.raises is not None:
            raise self.raises("out of order")
        return {}

    def limits(self) -> Steps[Limits]:
        answer = yield Call(argv=("ours", "limits"))
        return Limits(elements=int(answer.text))

    def version(self) -> Steps[str]:
        answer = yield Call(argv=("ours", "version"))
        return answer.text.strip()


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch, world: World) -> type[Ours]:
    """Have taskfarmer know but one batch system, which is ours."""
    monkeypatch.setattr(schedulers, "SYSTEMS", {"ours": "tests.Ours"})
    monkeypatch.setattr(schedulers, "AUTO", ("ours",))
    monkeypatch.setattr(schedulers, "system_class", lambda _: Ours)
    monkeypatch.setattr(Ours, "raises", None)
    world.program("ours", "echo 12")
    return Ours


def test_a_system_of_somebody_s_own_is_asked_too(world: World, ours: type[Ours]) -> None:
    found = examination.examine(world.place, world.env)
    assert found.schedulers["ours"].elements == 12
    assert found.schedulers["ours"].version == "12"
    assert found.use.batch == "ours"
    assert not any(problem.severity == "error" for problem in found.problems)


@pytest.mark.parametrize(("error", "said"), [(NoAnswer, "out of order"), (KeyError, "KeyError: 'out of order'")])
def test_a_system_that_is_broken_is_said(
    world: World, ours: type[Ours], monkeypatch: pytest.MonkeyPatch, error: type[Exception], said: str
) -> None:
    monkeypatch.setattr(ours, "raises", error)
    found = examination.examine(world.place, world.env)
    assert [str(problem) for problem in found.problems if problem.severity == "error"] == [
        f"Ours: it does not answer: {said}; try `ours find tf000000000000`, and ask the site"
    ]
    assert not found.healthy


def test_a_system_that_cannot_be_loaded_is_a_warning(
    world: World, ours: type[Ours], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> type[BatchSystem]:
        raise InputError(f"the batch system {name!r} cannot be loaded: no")

    monkeypatch.setattr(schedulers, "system_class", broken)
    found = examination.examine(world.place, world.env)
    assert found.healthy
    (line,) = [str(problem) for problem in found.problems if "batch system" in problem.about]
    assert line == (
        "batch system ours: the batch system 'ours' cannot be loaded: no; mend or remove the package that it comes from"
    )


# -- containers --------------------------------------------------------------------------------------------------------

ABLE = Kernel(why_no_namespaces="", fuse=True)
UNABLE = Kernel(why_no_namespaces="user.max_user_namespaces = 0", fuse=False)


def test_containers_are_asked_whether_they_work(world: World) -> None:
    world.program("podman", 'case $1 in --version) echo podman version 5.2.1;; info) echo "true overlay";; esac')
    world.program(
        "docker", "case $1 in --version) echo Docker version 28.1, build x;; *) echo no daemon >&2; exit 1;; esac"
    )
    world.program("shifter", "exit 64")
    said = world.json()
    podman, docker, shifter = (named(said, "containers", name) for name in ("podman", "docker", "shifter"))
    assert (podman["version"], podman["works"], podman["text"]) == ("5.2.1", True, "without root, storage overlay")
    assert podman["path"] == str(world.bin / "podman")
    assert (docker["version"], docker["works"]) == ("28.1", False)
    assert docker["text"] == "docker ended with status 1: no daemon"
    assert (shifter["path"], shifter["works"]) == (str(world.bin / "shifter"), None)
    assert said["use"]["containers"] == ["PodmanRunner"]
    assert [line for line in of(said, "warning") if line.startswith("docker: it does not work here: ")]
    assert "podman" not in "".join(of(said, "warning"))


@pytest.mark.parametrize("said", ["1.2 2.3", "true", "true vfs and more", ""])
def test_a_podman_whose_answer_cannot_be_read_is_broken(world: World, said: str) -> None:
    world.program("podman", f"case $1 in --version) echo 5.2.1;; *) echo {said};; esac")
    found = engine("podman", world.env, ABLE)
    assert (found.works, found.text) == (False, "its answer cannot be read")


def test_a_runner_takes_the_first_of_its_programs_also_if_that_is_broken(world: World) -> None:
    world.program("singularity", "echo 3.11.1")
    alone = {name: engine(name, world.env, ABLE) for name in engines.ENGINES}
    assert engines.usable(alone) == ("ApptainerRunner",)
    world.program("apptainer", "exit 1")
    both = {name: engine(name, world.env, ABLE) for name in engines.ENGINES}
    assert (both["singularity"].works, engines.usable(both)) == (True, ())


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_a_command_that_prints_without_end_is_ended(world: World, stream: str) -> None:
    world.slurm(sbatch=f"{PRINTS}{stream}", squeue=f"{PRINTS}{stream}")
    for name in ("podman", "docker", "apptainer"):
        world.program(name, f"{PRINTS}{stream}")
    said, ended = world.json(status=1), "was killed by signal 9: it printed more than 16 MB"
    assert named(said, "batch_systems", "slurm")["trouble"] == f"squeue {ended}"
    assert named(said, "containers", "podman")["text"] == f"podman {ended}"
    assert not inquiry.Inquirer(world.env).ask("sbatch").text


def test_what_has_no_time_left_is_said_so() -> None:
    assert Answer.of(Call(argv=("squeue",), limit_s=0.4), HUNG).trouble == "squeue did not answer in time"
    assert Answer.of(Call(argv=("squeue",), limit_s=7.0), HUNG).trouble == "squeue did not answer within 7 s"


def test_a_container_program_that_hangs_is_given_up(world: World, impatient: None) -> None:
    world.program("podman", f"case $1 in --version) echo 5.2.1;; *) {HANGS};; esac")
    found = engine("podman", world.env, ABLE)
    assert (found.works, found.version) == (False, "5.2.1")
    assert "podman did not answer within 1 s" in found.text
    pid = int((world.bin / "podman.pid").read_text())
    wait_for(lambda: not is_alive(pid), "the command to be ended")


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_what_apptainer_needs_of_the_kernel(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    world.program(name, f"echo {name} version 1.3.4")
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    assert engine(name, world.env, ABLE).text == "without root"
    assert "unpacked" in engine(name, world.env, replace(ABLE, fuse=False)).text
    unable = engine(name, world.env, UNABLE)
    assert unable.works is False
    assert "user.max_user_namespaces = 0" in unable.text
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert engine(name, world.env, UNABLE).text == "as root"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program that is set-uid root")
def test_apptainer_that_is_setuid_needs_no_namespaces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.program("apptainer", "echo apptainer version 1.3.4")
    starter = world.path / "libexec/apptainer/bin/starter-suid"
    starter.parent.mkdir(parents=True)
    starter.touch()
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    assert engine("apptainer", world.env, UNABLE).works is False
    starter.chmod(0o4755)
    assert engine("apptainer", world.env, UNABLE).text == "with setuid"


def test_what_the_kernel_lets_us_do_is_tried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    unshare = subprocess.run(["unshare", "--user", "--mount", "true"], capture_output=True, check=False)
    assert (engines.kernel().why_no_namespaces == "") == (unshare.returncode == 0)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    assert "No such file" in engines.kernel().why_no_namespaces


def test_slow_storage_is_a_warning() -> None:
    slow = Engine(name="podman", runner="PodmanRunner", path="/p", works=True, text="without root, storage vfs")
    (problem,) = engine_problems({"podman": slow})
    assert problem.severity == "warning"


# -- this host ---------------------------------------------------------------------------------------------------------


def test_this_host(world: World) -> None:
    said = world.json()["host"]
    assert said["host"] == os.uname().nodename
    assert said["python"] == sys.version.split()[0]
    assert said["executable"] == TASKFARMER[0]
    assert 1 <= said["cpus"] <= said["cpus_here"]
    assert said["memory"] > 0
    assert said["processes_now"] >= 1
    assert set(said["extras"]) == set(machine.EXTRAS)


def test_a_limit_of_open_files_is_an_error_with_its_remedy(world: World) -> None:
    line = f"ulimit -n 60; exec {shlex.join([*TASKFARMER, 'doctor'])}"
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=world.place, env=world.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done
    assert re.search(r"^  error +open files: 60 are allowed, .* slots need about \d+; ", done.stdout, re.MULTILINE)


HERE = machine.machine({"PATH": "/usr/bin:/bin"})
SOUND = replace(
    HERE, cpus=4, open_files=4096, open_files_most=4096, processes=None, cpu_time_s=None, file_size=None,
    addresses=None, shm_free=1 << 30, scratch="/tmp", scratch_free=1 << 30,
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "environ", "said"),
    [
        ({}, {}, None),
        ({"open_files": 70, "open_files_most": None}, {}, "error open files: 70 are .* `ulimit -n 80` first"),
        ({"open_files": 70, "open_files_most": 70}, {}, "error open files: .*; ask for a hard limit of 80"),
        ({"processes": 100, "processes_now": 99}, {}, "error processes: 100 are .* 4 slots need 28 more"),
        ({"missing": ("sh",)}, {}, "error programs: sh is not on the PATH"),
        ({"cpu_time_s": 3600}, {}, "warning CPU time: a process is ended after 3600 s"),
        ({"file_size": 1000}, {}, "warning file size: no file may have more than 1000 bytes"),
        ({"addresses": 1 << 30}, {}, "warning address space: a process may have 1073741824 bytes"),
        ({"shm_free": None}, {}, "warning /dev/shm: there is none"),
        ({"shm_free": 64 << 20}, {}, "warning /dev/shm: 64 MiB are free"),
        ({"scratch": "", "scratch_free": None}, {}, "error temporary files: none can be made"),
        ({}, {"TMPDIR": "/nowhere"}, "warning temporary files: none can be made in TMPDIR, /nowhere: they go to /tmp"),
        ({"scratch_free": 1 << 20}, {}, "warning temporary files: 1 MiB are free in /tmp"),
        ({"cpus": 1}, {"SLURM_CPUS_ON_NODE": "64"}, "warning processors: 1 of the 64 .*srun --cpus-per-task=64"),
        ({}, {"SLURM_CPUS_ON_NODE": "4"}, None),
    ],
)  # fmt: skip
def test_what_hurts_on_a_host_is_said(wrong: dict[str, Any], environ: dict[str, str], said: str | None) -> None:
    found = [f"{it.severity} {it}" for it in machine_problems(replace(SOUND, **wrong), environ)]
    assert len(found) == (said is not None)
    if said is not None:
        assert re.match(said, found[0]), found


def test_the_batch_job_that_we_are_in(world: World) -> None:
    world.program("squeue", "echo 1:00:00")
    job = batch_job({**world.env, "SLURM_JOB_ID": "7"})
    assert job is not None
    assert (job.name, job.trouble) == ("Slurm job 7", "")
    assert job.end == pytest.approx(time.time() + 3600, abs=LIMIT_S)
    assert list(job_problems(job)) == []
    done = world.doctor(env={"SLURM_JOB_ID": "7"})
    assert re.search(r"^  batch job +Slurm job 7, ends .*, in (60 min|1\.0 h)$", done.stdout, re.MULTILINE), done.stdout


def test_a_job_of_htcondor_says_its_end_in_a_file(world: World) -> None:
    ad = world.path / "job.ad"
    ad.write_text("JobCurrentStartDate = 4000000000\nAllowedJobDuration = 60\n")
    job = batch_job({**world.env, "_CONDOR_JOB_AD": str(ad)})
    assert job == BatchJob(name="HTCondor job", end=4000000060.0)
    ad.unlink()
    gone = batch_job({**world.env, "_CONDOR_JOB_AD": str(ad)})
    assert gone is not None
    assert "No such file" in gone.trouble


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"PBS_JOBID": "5.server"}, "PBS job 5.server"),
        ({"SGE_TASK_ID": "undefined", "JOB_ID": "6"}, "Grid Engine job 6"),
    ],
)
def test_a_job_whose_end_nobody_says_is_a_warning(world: World, environ: dict[str, str], name: str) -> None:
    job = batch_job(world.env | environ)
    assert job == BatchJob(name=name)
    (problem,) = job_problems(job)
    assert problem.severity == "warning"
    assert "--until" in problem.remedy


@pytest.mark.parametrize("answer", ["echo INVALID", "exit 1", "echo UNLIMITED"])
def test_a_scheduler_that_does_not_say_the_end(world: World, answer: str) -> None:
    world.program("squeue", answer)
    job = batch_job({**world.env, "SLURM_JOB_ID": "7"})
    assert job is not None
    assert job.end is None
    assert len(list(job_problems(job))) == 1


def test_nobody_is_in_a_job_without_one(world: World) -> None:
    assert batch_job(world.env) is None


def test_a_wrong_end_of_the_job_is_an_error(world: World) -> None:
    done = world.doctor(env={"TASKFARMER_END_TIME": "soon"})
    assert done.returncode == 1
    assert re.search(r"^  error +end of the job: TASKFARMER_END_TIME is 'soon'", done.stdout, re.MULTILINE)


def test_an_end_that_has_passed_is_a_warning() -> None:
    (problem,) = job_problems(BatchJob(name="TASKFARMER_END_TIME", end=1.0))
    assert problem.severity == "warning"


# -- the directory -----------------------------------------------------------------------------------------------------


def test_a_directory_is_tried_out_and_left_as_it_was(tmp_path: Path) -> None:
    found = place(tmp_path)
    assert found.probes == dict.fromkeys(("writing", "link", "exclusive creation", "rename", "appending"), "")
    assert found.claim == "link"
    assert found.sync_s is not None
    assert (found.farm, found.trouble) == (False, "")
    assert found.mount == mount_of(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_not_there_yet(world: World) -> None:
    said = world.json("yet")
    assert said["directory"] == str(world.place / "yet")
    assert said["file_system"]["path"] == str(world.place)
    assert "is not there" not in "".join(of(said, "warning"))
    assert re.search(r"^  not there +\S*/place was looked at$", world.doctor("yet").stdout, re.MULTILINE)
    assert f"{world.place}/not/yet: {world.place}/not is not there; make it" in "".join(
        of(world.json("not/yet"), "warning")
    )


def test_a_farm_is_known_by_its_directory_and_by_its_list(world: World) -> None:
    (world.place / "tasks.txt").write_text("true\ntrue\n")
    argv = [*TASKFARMER, "run", "tasks.txt", "--logs", "none"]
    subprocess.run(argv, cwd=world.place, env=world.env, capture_output=True, check=True, timeout=LIMIT_S)
    for name in ("tasks.txt", "tasks.txt_workdir"):
        said = world.json(name)
        assert said["directory"] == str(world.place / "tasks.txt_workdir")
        assert (said["file_system"]["farm"], said["file_system"]["tasks"]) == (True, 2)
        assert said["use"]["logs"] == "none"
    for entry in (world.place / "tasks.txt_workdir/ledger/log").iterdir():
        entry.write_bytes(b"rubbish")
    assert of(world.json("tasks.txt", status=1), "error")


@pytest.mark.parametrize("name", ["with blanks", "quote's", "line\nbreak", "Größe", "\x1b[31mred", b"\xff"])
def test_odd_names_of_directories(world: World, name: str | bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(world.place) + b"/" + os.fsencode(name)))
    path.mkdir()
    done = world.doctor(path)
    assert done.returncode == 0, done
    assert "\x1b" not in done.stdout
    assert json.loads(world.doctor("--json", path).stdout)["directory"] == str(path)


def test_one_that_cannot_be_written_is_an_error(world: World) -> None:
    said = world.json("/proc", status=1)  # not even by root
    (line,) = of(said, "error")
    assert line.startswith("/proc: it cannot be written: ")
    assert said["use"]["claim"] == ""


@pytest.mark.parametrize("where", ["find_workdir", "os.listdir"])
def test_one_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def refuses(path: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(f"taskfarmer.selftest.directory.{where}", refuses)
    found = place(tmp_path)
    monkeypatch.undo()
    assert (found.trouble, found.probes, found.claim) == ("Permission denied (EACCES)", {}, "")
    (problem,) = [problem for problem in place_problems(found) if problem.severity == "error"]
    assert "Permission denied" in str(problem)


def test_one_that_links_to_itself_is_an_error(world: World) -> None:
    (world.place / "loop").symlink_to("loop")
    (line,) = of(world.json("loop", status=1), "error")
    assert re.search(r"^  not seen +Too many levels", world.doctor("loop").stdout, re.MULTILINE)
    assert "Too many levels of symbolic links" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("options", "severity", "said"),
    [
        ("ro", "error", "it cannot be written: Read-only file system (EROFS); choose a directory elsewhere"),
        ("size=8k", "error", "it cannot be written: No space left on device (ENOSPC); remove files"),
        ("size=1m", "warning", "1 MiB are free"),
        ("nr_inodes=20", "warning", "more files can be made; pack the output"),
        ("noexec", "warning", "programs in it cannot be run (noexec)"),
        ("size=64m", "warning", "it is in memory (tmpfs)"),
    ],
)
def test_file_systems_that_are_full_or_strange(world: World, options: str, severity: str, said: str) -> None:
    mount = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", mount, "sh", options, str(world.place), *TASKFARMER, "doctor", "--json"]
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("root cannot make a namespace of mounts here")
    env = world.env | {"PATH": os.environ["PATH"]}
    done = subprocess.run([*argv, str(world.place)], env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    lines = of(json.loads(done.stdout), severity)
    assert [line for line in lines if line.startswith(str(world.place)) and said in line], lines


NFS = Mount("nfs4", "server:/export", "/mnt", ("rw", "hard", "vers=4.2"))
FINE = Place(
    asked="/mnt/d", path="/mnt/d", mount=NFS, bytes_free=1 << 40, bytes_all=1 << 41, files_free=1 << 30, sync_s=0.001,
    probes=dict.fromkeys(("writing", "link", "exclusive creation", "rename", "appending"), ""),
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, None),
        ({"trouble": "Stale file handle (ESTALE)"}, "error /mnt/d: Stale file handle"),
        ({"probes": FINE.probes | {"rename": "no"}}, "error /mnt/d: rename does not work: no"),
        ({"probes": FINE.probes | {"appending": "lines are lost"}}, "error /mnt/d: appending does not work"),
        ({"probes": FINE.probes | {"link": "EPERM"}}, "warning /mnt/d: it has no links: EPERM"),
        (
            {"probes": FINE.probes | {"link": "EPERM", "exclusive creation": "no"}},
            r"error /mnt/d: neither link \(EPERM\) nor exclusive creation \(no\) works",
        ),
        ({"files_free": None}, None),
        ({"files_free": 50}, "warning /mnt/d: 50 more files can be made"),
        ({"bytes_free": 1 << 20}, "warning /mnt/d: 1 MiB are free"),
        ({"sync_s": 1.0}, r"warning /mnt/d: a sync takes 1\.00 s"),
        ({"mount": replace(NFS, options=("rw", "soft"))}, "warning /mnt/d: /mnt is mounted soft"),
        ({"mount": replace(NFS, kind="cifs")}, "warning /mnt/d: nobody has found cifs to be fit yet"),
        ({"mount": replace(NFS, kind="fuse.odd")}, "warning /mnt/d: nobody has tried fuse.odd yet"),
        ({"mount": replace(NFS, kind="overlay")}, "warning /mnt/d: it is in the container's own layer"),
        ({"mount": replace(NFS, kind="ext4")}, None),
        ({"mount": None}, None),
    ],
)
def test_what_hurts_in_a_directory_is_said(wrong: dict[str, Any], said: str | None) -> None:
    found = [f"{it.severity} {it}" for it in place_problems(replace(FINE, **wrong))]
    assert len(found) == (said is not None), found
    if said is not None:
        assert re.match(said, found[0]), found


def test_a_local_directory_is_not_for_jobs_on_other_hosts() -> None:
    local = replace(FINE, mount=replace(NFS, kind="ext4"))
    (of_many,) = place_problems(local, nodes=2)
    (of_batch,) = place_problems(local, batch="Slurm")
    assert "the other nodes of the job do not see it (ext4)" in of_many.text
    assert "jobs of Slurm on other hosts do not see it (ext4)" in of_batch.text
    assert list(place_problems(FINE, batch="Slurm", nodes=2)) == []


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:40 / /mnt rw,noexec,relatime shared:2 master:1 - nfs4 server:/a\\040b rw,vers=4.2,soft
31 30 0:41 / /mnt/with\\040blank rw - tmpfs none rw,size=8k
32 30 0:42 / /mnt/twice rw - ext4 /dev/sdb1 rw
33 30 0:43 / /mnt/twice ro - lustre mds:/fs ro,flock
"""


@pytest.mark.parametrize(
    ("path", "kind", "source", "told"),
    [
        ("/", "ext4", "/dev/sda1", ()),
        ("/mntx/y", "ext4", "/dev/sda1", ()),
        ("/mnt", "nfs4", "server:/a b", ("noexec", "vers=4.2", "soft")),
        ("/mnt/deep/er", "nfs4", "server:/a b", ("noexec", "vers=4.2", "soft")),
        ("/mnt/with blank/x", "tmpfs", "none", ("size=8k",)),
        ("/mnt/twice", "lustre", "mds:/fs", ("ro", "flock")),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, source: str, told: tuple[str, ...]) -> None:
    found = mount_in(MOUNTS, path)
    assert found is not None
    assert (found.kind, found.source, found.told) == (kind, source, told)


@pytest.mark.parametrize(
    ("kind", "reach"),
    [
        ("nfs4", "network"), ("lustre", "network"), ("fuse.sshfs", "network"), ("xfs", "local"), ("fuseblk", "local"),
        ("tmpfs", "memory"), ("overlay", "container"), ("fuse.mystery", "unknown"),
    ],
)  # fmt: skip
def test_who_sees_a_file_system(kind: str, reach: str) -> None:
    assert replace(NFS, kind=kind).reach == reach


# -- several at once ---------------------------------------------------------------------------------------------------


def test_what_hangs_for_ever_is_left_behind(monkeypatch: pytest.MonkeyPatch, world: World, ours: type[Ours]) -> None:
    def hangs(path: Path, environ: Mapping[str, str], limit_s: float) -> Place:
        time.sleep(600)
        raise AssertionError

    monkeypatch.setattr(directory, "look", hangs)
    monkeypatch.setattr(examination, "WAIT_S", 2.0)
    found = examination.examine(world.place, world.env)
    (line,) = [str(problem) for problem in found.problems if problem.severity == "error"]
    assert line.startswith(f"{world.place}: no answer came within 2 s")
    assert found.use.claim == ""


@pytest.fixture
def hung(world: World) -> Iterator[Path]:
    """A directory on a file system whose server has stopped answering: who touches it cannot be ended, even by KILL."""
    server_of_files = Path("/usr/lib/openssh/sftp-server")
    if os.geteuid() != 0 or not server_of_files.exists() or shutil.which("sshfs") is None:
        pytest.skip("only root, with sshfs and a server for it, can have a file system hang")
    one, other = socket.socketpair()
    with one, other:
        server = subprocess.Popen([server_of_files], stdin=one.fileno(), stdout=one.fileno())
        argv = ["sshfs", "-f", "-o", f"passive,fsname={world.path}", f":{world.path}/home", str(world.place)]
        client = subprocess.Popen(argv, stdin=other.fileno(), stdout=other.fileno())
    try:
        wait_for(lambda: os.path.ismount(world.place) or client.poll() is not None, "the file system to be mounted")
        if client.poll() is not None:
            pytest.skip("sshfs cannot mount here")
        server.send_signal(signal.SIGSTOP)
        yield world.place
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "--lazy", world.place], check=False)
        for process in (server, client):
            process.kill()
            process.wait()


def test_a_file_system_that_hangs_is_said_and_left_behind(
    hung: Path, world: World, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "WAIT_S", 5.0)
    found = examination.examine(hung, world.env)
    (line,) = [str(problem) for problem in found.problems if problem.severity == "error"]
    assert line.startswith(f"{hung}: no answer came within 5 s; ")


def test_answers_come_by_name_and_errors_come_through() -> None:
    jobs: dict[str, Callable[[], int]] = {"one": lambda: 1, "two": lambda: 2}
    assert inquiry.side_by_side(jobs, LIMIT_S) == {"one": 1, "two": 2}

    def wrong() -> int:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        inquiry.side_by_side({**jobs, "three": wrong}, LIMIT_S)
