"""What the specifications say of all batch systems and container programs alike, and no other test names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.batch import (
    SYSTEMS,
    BatchSystem,
    JobId,
    JobStatus,
    Needs,
    Refused,
    Steps,
    Submission,
    choose,
    system_class,
)
from taskfarmer.batch.fake import Fake
from taskfarmer.batch.script import job_script
from taskfarmer.core.model import Task
from taskfarmer.errors import InputError
from taskfarmer.runners import ApptainerRunner, DockerRunner, Job, PodmanRunner, Runner
from tests.farms import Farm
from tests.test_batch_jobs import World, launch
from tests.testbed.containers import Engine

# choosing


def test_auto_is_the_first_whose_commands_are_here(tmp_path: Path) -> None:
    """LSF, HTCondor, Slurm, whatever else is there; then what is ours to add. spec: workflow 6.9.105"""
    environ = {"PATH": str(tmp_path)}
    systems = [system_class(name) for name in ("lsf", "htcondor", "slurm", "pbs", "sge")]
    for system in systems:
        for program in system.programs:
            (tmp_path / program).write_text("#!/bin/sh\n")
            (tmp_path / program).chmod(0o755)
    for at, system in enumerate(systems):
        assert type(choose("auto", environ)) is system
        for program in set(system.programs) - {name for later in systems[at + 1 :] for name in later.programs}:
            (tmp_path / program).unlink()
    with pytest.raises(InputError, match="no batch system is here"):
        choose("auto", environ)


# what is submitted


def submission(**needs: Any) -> Submission:
    """Return a submission of one element."""
    return Submission(
        name="tf0123456789ab", directory=Path("/shared/tf"), body="echo the task", cwd="/shared/work",
        output="/shared/tf/{element}.out", needs=Needs(**needs),
    )  # fmt: skip


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> BatchSystem:
    """Each of our systems in turn, wherever its commands are."""
    found: BatchSystem = system_class(request.param)({"PATH": "/bin"})
    return found


def test_a_job_script_does_one_thing_after_the_other(system: BatchSystem) -> None:
    """The shell, what the scheduler reads, the directory, the user's script, the variables, which so replace what it
    set, and the command, whose status is the job's. spec: workflow 6.6.66, 6.6.67, calibration 17.146
    """
    files = system.files(submission(env_script="/site/set up.sh", env={"A": "it's $X", "B": "2"}))
    lines = files["job.sh"].splitlines()
    assert lines[0] == "#!/bin/bash"
    for_the_scheduler = [at for at, line in enumerate(lines) if line.startswith(("#SBATCH", "#BSUB", "#PBS", "#$"))]
    assert for_the_scheduler == list(range(1, 1 + len(for_the_scheduler)))
    (directory,) = (at for at, line in enumerate(lines) if "cd /shared/work" in line)
    (script,) = (at for at, line in enumerate(lines) if line.startswith("source '/site/set up.sh'"))
    assert directory < script < len(lines) - 3
    assert lines[-3:] == ["""export A='it'"'"'s $X'""", "export B=2", "echo the task"]


@pytest.mark.parametrize(("name", "sourced"), [("setup.sh", "./setup.sh"), ("etc/setup.sh", "etc/setup.sh")])
def test_a_script_without_a_directory_is_that_of_the_working_directory(name: str, sourced: str) -> None:
    """And not what the PATH happens to have. spec: workflow 6.6.67"""
    lines = job_script(submission(env_script=name)).splitlines()
    (script,) = (at for at, line in enumerate(lines) if line.split()[0] == "source")
    assert lines[script].split()[1] == sourced
    assert any("cd /shared/work" in line for line in lines[:script])


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "slurm": {"p": "theirs", "job-name": "mine"},
    "htcondor": {"RequestCpus": 8, "JobBatchName": "mine", "environment": {"A": "b"}},
    "lsf": {"queue": "theirs", "job_slots": 8, "job_name": "mine"},
    "pbs": {"q": "theirs", "l": ["select=3"]},
    "sge": {"q": "theirs", "l": ["x=1"]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_one_task_stay_with_it(name: str) -> None:
    """Nothing of them is changed, and nothing comes to the next submission. spec: workflow 6.7.85, P15"""
    system = system_class(name)({"PATH": "/bin"})

    def made(settings: Mapping[str, Any]) -> tuple[object, ...]:
        asked = submission(queue="ours", job_name="people's", settings=settings)
        return system.files(asked), system.command(asked)

    without = made({})
    settings = {key: list(value) if isinstance(value, list) else value for key, value in SETTINGS[name].items()}
    first = made(settings)
    assert first != without
    assert made(settings) == first
    assert settings == SETTINGS[name]
    assert made({}) == without


# jobs that are not over


def test_a_job_that_waits_for_long_is_alive(tmp_path: Path) -> None:
    """spec: workflow 6.9.113"""
    world = World(tmp_path / "farm", Fake(slots=0))
    world.executor.start(launch(0))
    assert not world.turns(2000, 5)
    assert world.system.asked["poll"] > 10
    world.system.slots = 1
    world.turns(60)
    world.finish(0)
    assert [(end.id, end.status) for end in world.turns(100)] == [(0, 0)]


def test_a_job_in_a_state_never_heard_of_is_alive(tmp_path: Path) -> None:
    """spec: workflow 6.13.147, calibration 17.148"""
    world = World(tmp_path / "farm")
    world.executor.start(launch(0))
    world.turns(3)
    world.system.confuse(world.job(0).id, "PURPLE")
    assert not world.turns(2000, 5)
    assert world.system.asked["poll"] > 10
    world.finish(0, 4)
    assert [(end.id, end.status) for end in world.turns(100)] == [(0, 4)]
    assert world.ran == {0: 1}


class Recording(Fake):
    """Notes which jobs it was asked for, poll by poll."""

    def __init__(self) -> None:
        super().__init__()
        self.polls: list[frozenset[JobId]] = []

    def poll(self, jobs: Collection[JobId]) -> Steps[dict[JobId, JobStatus]]:
        """Say how they are."""
        self.polls.append(frozenset(jobs))
        return super().poll(jobs)


def test_an_end_that_is_known_is_not_asked_for_again(tmp_path: Path) -> None:
    """Nor is anything, when all have ended. spec: workflow 6.10.121"""
    system = Recording()
    world = World(tmp_path / "farm", system)
    for id in range(3):
        world.executor.start(launch(id))
    world.turns(10)
    ids = [world.job(id).id for id in range(3)]
    assert system.polls[-1] == set(ids)
    world.finish(0)
    system.lose(ids[1])
    before = len(system.polls)
    world.turns(90)
    assert sum(ids[1] in asked for asked in system.polls[before:]) == 1
    assert system.polls[-1] == {ids[2]}
    world.finish(2)
    world.turns(90)
    before = len(system.polls)
    world.turns(500, 5)
    assert len(system.polls) == before


def test_a_refusal_concerns_those_whom_it_was_said_of(tmp_path: Path) -> None:
    """Jobs that were taken run on to their end. spec: workflow 6.9.114"""
    world = World(tmp_path / "farm")
    world.executor.start(launch(0))
    world.turns(3)
    world.system.misbehave("submit", Refused("Requested node configuration is not available"))
    world.executor.start(launch(1, task=Task(text="x", gpus=9)))
    assert [(end.id, end.reason) for end in world.turns(10)] == [(1, "nostart")]
    assert not world.job(0).status.state.is_over
    world.finish(0)
    assert [(end.id, end.status) for end in world.turns(60)] == [(0, 0)]
    assert world.ran == {0: 1}


def test_no_more_jobs_than_slots_are_in_flight(tmp_path: Path, lone: Farm) -> None:
    """And what they run can be run by hand. spec: workflow 6.6.67, 6.9.109"""
    lone.env["TASKFARMER_LOCAL_JOBS"] = str(tmp_path / "spool")
    lone.env["TASKFARMER_LOCAL_SLOTS"] = "6"
    on = "mkdir on.$PROC_NUMBER; ls -d on.* | wc -l >>most; sleep 0.7; rmdir on.$PROC_NUMBER"
    lone.list.write_text(f"{on}\n" * 5)
    end = lone.start("--batch", "local", "--one-job-per-task", "-n", "2").wait(100)
    assert end.status == 0, end
    counts = [int(line) for line in (lone.path / "most").read_text().split()]
    assert len(counts) == 5
    assert max(counts) <= 2
    scripts = list(lone.workdir.glob("jobs/*/job.sh"))
    assert scripts
    assert all(path.stat().st_mode & 0o700 == 0o700 for path in scripts)


# containers


def words(runner: Runner) -> tuple[str, ...]:
    """Return what a runner starts for a task, from the client on."""
    command = runner.prepare(Job(taskid=3, task=Task(text="true"), attempt=1, slot=0, workdir="wd"))
    assert command.argv is not None
    return command.argv[4:]


def test_what_was_not_asked_for_is_not_in_the_words_for_apptainer() -> None:
    """But for the directory in which the container says that it was started. spec: workflow 6.15.178, 6.15.183"""
    given = words(ApptainerRunner("docker://i", program="apptainer"))
    client, share, image, *inside = given[:4], given[4], *given[5:]
    assert client == ("apptainer", "--quiet", "exec", "--pid")
    assert share.startswith("--bind=/")
    assert "taskfarmer-" in share
    assert (image, inside[0], inside[-3:]) == ("docker://i", "/bin/sh", ["sh", "-c", "true"])


def test_apptainer_or_singularity_or_what_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec: workflow 6.15.180"""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apptainer: no such program on PATH"):
        ApptainerRunner(str(tmp_path)).check()
    for name in ("singularity", "apptainer"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert ApptainerRunner("i").program == name
    assert ApptainerRunner("i", program="/opt/singularity").program == "/opt/singularity"


STUB = """#!/bin/sh
printf '%s\\n' "$*" >>"$0.said"
case $1 in
    image) [ -e "$0.image" ] && echo "sha256:$5 []" || { echo "no such image" >&2; exit 1; } ;;
    pull) case $3 in *none*) echo "manifest unknown" >&2; exit 1 ;; *) touch "$0.image" ;; esac ;;
    run)
        [ ! -e "$0.refuses" ] || { echo "out of disk" >&2; exit 125; }
        while [ "$1" != --entrypoint= ]; do shift; done
        shift 2
        exec "$@" ;;
esac
"""


@pytest.fixture(params=[DockerRunner, PodmanRunner])
def stub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """A runner's class, and a stand-in for its program that writes down how it is called."""
    cls = request.param
    path = tmp_path / "bin" / cls.program
    path.parent.mkdir()
    path.write_text(STUB)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return cls, path


def verbs(path: Path) -> list[str]:
    """Return the first words of its calls so far, but for those that look for what dead farmers left."""
    said = path.with_name(f"{path.name}.said")
    calls = [line.split()[0] for line in said.read_text().splitlines()]
    said.write_text("")
    return [verb for verb in calls if verb not in ("ps", "rm")]


def test_an_image_is_pulled_before_it_is_run_unless_that_is_forbidden(stub: tuple[Any, Path], tmp_path: Path) -> None:
    """spec: packtivity 12.73, 12.80, 12.84"""
    cls, path = stub
    at = str(tmp_path)  # so that no other test's answer is remembered
    cls(f"{at}/i:1").check()
    assert verbs(path) == ["image", "pull", "image", "run"]
    cls(f"{at}/i:2").check()
    assert "pull" not in verbs(path)
    cls(f"{at}/i:3", pull="always").check()
    assert verbs(path)[:2] == ["pull", "image"]
    path.with_name(f"{path.name}.image").unlink()
    with pytest.raises(InputError, match="no such image"):
        cls(f"{at}/i:4", pull="never").check()
    assert verbs(path) == ["image"]
    with pytest.raises(InputError, match=f"cannot pull {at}/none: manifest unknown"):
        cls(f"{at}/none").check()
    path.with_name(f"{path.name}.refuses").touch()
    with pytest.raises(InputError, match="out of disk"):
        cls(f"{at}/i:5").check()


@pytest.mark.parametrize("cls", [DockerRunner, PodmanRunner])
def test_words_of_ones_own_come_before_the_image(cls: Any) -> None:
    """And no directory is named where none was asked for. spec: packtivity 12.73, 12.76, 12.80"""
    given = words(cls("org/img:v1", "/data/w", mount_cwd="no", options="--security-opt label:disable"))
    assert given[1:3] == ("run", "--rm")
    image, option = given.index("org/img:v1"), given.index("--security-opt")
    assert option < image
    assert given[given.index("--volume") + 1] == "/data/w:/data/w:rw"
    assert not any(word.startswith("--workdir") for word in given[:image])
    assert given[-3:] == ("sh", "-c", "true")


def test_a_megabyte_of_output_comes_out_of_a_container(engine: Engine, tmp_path: Path) -> None:
    """spec: workflow 6.15.182"""
    from tests.test_container_runners import made, run

    status, said = run(made(engine), "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo bad >&2", tmp_path)
    assert status == 0, said[-200:]
    assert said.count("x") == 1_000_000
    assert "bad\n" in said
