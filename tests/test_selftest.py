"""The self-test: what it says of file systems that are sound, and of some that are not; how workers meet; the judge."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.core.ids import format_ids
from taskfarmer.errors import InputError, WorkdirError
from taskfarmer.farm.clock import Clock
from taskfarmer.farm.workdir import Workdir
from taskfarmer.selftest import checks as checks_of_selftest
from taskfarmer.selftest import meeting
from taskfarmer.selftest.chaos import STRIKES, Ground
from taskfarmer.selftest.chaos import judged as judged_by_contract
from taskfarmer.selftest.checks import FIT, FIT_WITHOUT_LINK, Check, Suite, file_system
from taskfarmer.selftest.conductor import SSH, Conductor, launched
from taskfarmer.selftest.contract import Execution, Findings, examine, read_executions
from taskfarmer.selftest.witness import Witness
from tests.farms import TASKFARMER, processes_with, wait_for
from tests.ledgers import HandMade
from tests.test_disasters import as_root

LIMIT_S = 100.0
DOCS = Path(__file__).resolve().parents[1] / "docs"
NEEDED = {
    "rename", "appended lines", "delay of a line", "delay of a heartbeat", "delay of a new name", "sync", "log", "farm",
}  # fmt: skip
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("TASKFARMER_", "SLURM_"))}
OTHER_HOST = """unshare --uts --pid --net --fork --kill-child --mount-proc sh -c 'hostname "$0"; exec "$@"' {host}"""


def selftest(*options: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    argv = [*TASKFARMER, "selftest", *map(str, options)]
    return subprocess.run(
        argv, env={**PLAIN, **(env or {})}, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def start(*options: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command."""
    argv = [*TASKFARMER, "selftest", *map(str, options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env={**PLAIN, **(env or {})}, stdout=pipe, stderr=pipe, text=True)


def is_sound(said: dict[str, Any], hosts: Sequence[str]) -> None:
    """Check the result on a file system that is as it should be."""
    assert said["hosts"] == list(hosts)
    checks = {check["name"]: check for check in said["checks"]}
    assert {name for name, check in checks.items() if check["needed"] == "yes"} == NEEDED
    assert {name for name, check in checks.items() if check["needed"] == "one of two"} == {"link", "exclusive creation"}
    assert [check for check in checks.values() if check["verdict"] == "NOT OK"] == []
    assert {check["verdict"] for check in checks.values() if check["needed"] == "no"} == {"info"}
    assert checks["farm"]["figures"]["finished"] == 300
    assert checks["farm"]["figures"]["tasks_per_s"] > 0
    assert checks["log"]["figures"]["entries_per_s"] > 0
    assert (said["fit"], said["verdict"], said["left"]) == (True, FIT, "")


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_sound_directory_is_fit_and_left_clean(tmp_path: Path) -> None:
    done = selftest("--dir", tmp_path, "--json")
    assert done.returncode == 0, done
    said = json.loads(done.stdout)
    assert (said["version"], said["command"], said["directory"]) == (1, "selftest", str(tmp_path))
    assert said["file_system"] == file_system(tmp_path) != ""
    is_sound(said, [os.uname().nodename] * 2)
    assert list(tmp_path.iterdir()) == []
    explained = (DOCS / "json.md").read_text().partition("## `selftest`")[2].partition("\n## ")[0]
    keys = {*said, *(key for check in said["checks"] for key in (*check, *check["figures"]))}
    assert {key for key in keys - {"version", "command"} if f"`{key}`" not in explained} == set()
    page = (DOCS / "selftest.md").read_text()
    assert [check["name"] for check in said["checks"] if f"`{check['name']}`" not in page] == []
    assert [strike for strike in STRIKES if f"`{strike}`" not in page] == []


def test_hosts_that_share_nothing_but_the_directory(tmp_path: Path) -> None:
    as_root("unshare", "--uts", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "true")
    done = selftest("--dir", tmp_path, "--hosts", "alpha,beta", "--launcher", OTHER_HOST)
    assert done.returncode == 0, done
    assert "2 workers on alpha, beta" in done.stdout
    assert "300 tasks by 2 farmers" in done.stdout
    assert done.stdout.splitlines()[-1] == FIT
    assert list(tmp_path.iterdir()) == []


def test_hosts_that_come_by_themselves(tmp_path: Path) -> None:
    stale = meeting.Meeting.make(tmp_path)
    meeting.Words(stale.orders, create=False).say({"wants": 1})
    joins = start("--dir", tmp_path, "--join")
    done = selftest("--dir", tmp_path, "--nodes", "2", "--json")
    assert done.returncode == 0, done
    is_sound(json.loads(done.stdout), [os.uname().nodename] * 2)
    assert joins.wait(LIMIT_S) == 0
    assert joins.communicate() == ("", f"taskfarmer: waiting for the self-test in {tmp_path}, at most 300 s\n")
    assert list(tmp_path.iterdir()) == [stale.path]


def test_srun_starts_the_command_on_each_node(tmp_path: Path) -> None:
    ranks = [
        start("--dir", tmp_path, "--hosts", "srun", "--json", env={"SLURM_PROCID": str(rank), "SLURM_NTASKS": "3"})
        for rank in range(3)
    ]
    ends = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0], ends
    is_sound(json.loads(ends[0][0]), [os.uname().nodename] * 3)
    assert ends[1:] == [("", "")] * 2


def test_chaos_on_two_hosts_is_told_with_its_seed(tmp_path: Path) -> None:
    words = ("--chaos", "--seconds", "5", "--tasks", "60", "--farmers", "2", "--lease", "2", "--seed", "7")
    done = selftest("--dir", tmp_path, "--hosts", "a,b", "--launcher", "env HOST={host}", "--json", *words)
    assert done.returncode == 0, done
    (chaos,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "chaos"]
    figures = chaos["figures"]
    assert chaos["verdict"] == "ok"
    assert (figures["seed"], figures["lease_s"], figures["problems"]) == (7, 2, [])
    assert figures["finished"] == figures["tasks"] == 60 * figures["farms"]
    assert figures["executions"] == figures["tasks"] + figures["again"]
    assert sum(figures["strikes"].values()) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "term"])
def test_an_interrupt_leaves_nothing(tmp_path: Path, number: int) -> None:
    mark = f"SELFTEST_MARK={tmp_path}"
    running = start("--dir", tmp_path, "--chaos", "--tasks", "5000", env=dict([mark.split("=", 1)]))
    alive = "taskfarmer-selftest.*/chaos.*/workdir/ledger/alive/*"  # `*` would look into the one that is renamed
    wait_for(lambda: list(tmp_path.glob(alive)), "farmers to be at work", 60)
    assert len(processes_with(mark)) > 5
    running.send_signal(number)
    running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130
    assert list(tmp_path.iterdir()) == []
    wait_for(lambda: not processes_with(mark), "all to be gone")


def test_what_was_made_is_kept_if_asked(tmp_path: Path) -> None:
    done = selftest("--dir", tmp_path, "--keep")
    (left,) = tmp_path.iterdir()
    assert f"what was made is left in {left}" in done.stdout.splitlines()
    assert (left / "farm/workdir/ledger/log/00000001").exists()


def _refused(done: subprocess.CompletedProcess[str], text: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--hosts", ","], "names no host"),
        (["--join", "--hosts", "a"], "--hosts does not go with --join"),
        (["--join", "--seed", "1"], "--seed does not go with --join"),
        (["--seconds", "5"], "--seconds is for --chaos"),
        (["--hosts", "a", "--nodes", "2"], "give one"),
        (["--hosts", "srun"], "srun -N4"),
        (["--hosts", "a", "--launcher", "false"], "the worker on a has gone, with status 1"),
        (["--hosts", "a", "--launcher", "sh -c 'echo no route >&2; exit 255'"], "with status 255: no route"),
        (["--hosts", "a", "--launcher", "/nowhere/ssh {host}"], "/nowhere/ssh: No such file"),
        (["--hosts", "a", "--launcher", "ssh '{host}"], "No closing quotation"),
        (["--hosts", "a", "--launcher", ""], "--launcher is empty"),
    ],
)
def test_bad_usage_is_one_line(tmp_path: Path, options: list[str], text: str) -> None:
    _refused(selftest("--dir", tmp_path, *options), text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "count"), [("5", "2"), ("x", "2"), ("0", "")])
def test_ranks_that_make_no_sense_are_refused(tmp_path: Path, rank: str, count: str) -> None:
    party = start("--dir", tmp_path, "--hosts", "srun", env={"SLURM_PROCID": rank, "SLURM_NTASKS": count})
    _, said = party.communicate(timeout=LIMIT_S)
    assert (party.returncode, said.count("\n")) == (2, 1)
    assert "not started by srun" in said


def test_a_disk_that_fills_up_is_said(tmp_path: Path) -> None:
    with Conductor(tmp_path, keep=False) as conductor:
        conductor._words.close()
        conductor._words = meeting.Words(Path("/dev/full"), create=False)
        with pytest.raises(WorkdirError, match="nothing can be written there any more: No space"):
            conductor._tick()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    _refused(selftest("--dir", tmp_path / "none"), "there is no such directory on")
    (tmp_path / "file").touch()
    _refused(selftest("--dir", tmp_path / "file"), f"{tmp_path}/file is a file; give a directory")


def test_a_directory_with_a_line_break_in_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\nb").mkdir()
    _refused(selftest("--dir", tmp_path / "a\nb"), "there is a line break in this name; name a directory without one")


def test_a_list_for_a_directory_with_any_name(tmp_path: Path) -> None:
    """Names are bytes, not always UTF-8."""
    name = tmp_path / os.fsdecode(b"odd \xff 'name' \xc3\xa9")
    ground = Ground.below(name)
    ground.prepare([0.0, 0.5])
    (line, _) = ground.tasklist.read_bytes().splitlines()
    assert shlex.split(os.fsdecode(line)) == ["sh", f"{name}/task.sh", f"{name}/executions", "0"]


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    as_root("mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path))
    try:
        _refused(selftest("--dir", tmp_path), "Read-only file system")
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


# -- file systems that are not sound -----------------------------------------------------------------------------------

BROKEN = {
    "no links": "def link(a, b): raise PermissionError(1, 'Operation not permitted')\nos.link = link",
    "links without a winner": "import shutil\nos.link = lambda a, b: shutil.copy(a, b)",
    "names with two winners": "real = os.open\nos.open = lambda p, f, *a, **k: real(p, f & ~os.O_EXCL, *a, **k)",
    "a rename that copies": (
        "def replace(a, b):\n    data = open(a, 'rb').read()\n    with open(b, 'wb') as f:\n"
        "        for k in range(0, len(data), 64):\n            f.write(data[k:k + 64]); f.flush()\n    os.unlink(a)\n"
        "os.replace = replace"
    ),
    "lines out of order": (
        "real = os.write\nos.write = lambda fd, data: real(fd, data[::-1] if data.startswith(b'00100 ') else data)"
    ),
}
"""Python that makes a process see such a file system."""


def suite_on(tmp_path: Path, broken: str, *only: str) -> tuple[dict[str, Check], Suite]:
    """Make checks with workers for whom the file system is broken in some way."""
    lies = tmp_path / "lies"
    lies.mkdir()
    (lies / "sitecustomize.py").write_text(f"import os\n{BROKEN[broken]}\n")
    path = os.pathsep.join([str(lies), *filter(None, [os.environ.get("PYTHONPATH")])])
    directory = tmp_path / "dir"
    directory.mkdir()
    with Conductor(directory) as conductor:
        for host in ("a", "b"):
            conductor.start(host, f"env PYTHONPATH={shlex.quote(path)} HOST={{host}}")
        conductor.gather(2)
        suite = Suite(conductor)
        checks = {check.name: check for check in suite.run(only=only)}
    assert list(directory.iterdir()) == []
    assert checks.keys() == set(only)
    return checks, suite


def test_without_links_it_is_fit_and_slower(tmp_path: Path) -> None:
    checks, suite = suite_on(tmp_path, "no links", "exclusive creation", "link", "log", "number of links", "farm")
    verdicts = {name: check.verdict for name, check in checks.items()}
    assert verdicts == {
        "exclusive creation": "ok", "link": "NOT OK", "log": "ok", "number of links": "info", "farm": "ok",
    }  # fmt: skip
    assert "EPERM" in checks["link"].text
    assert (suite.fit, suite.verdict) == (True, FIT_WITHOUT_LINK)


def test_links_without_a_winner_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_of_selftest, "RACE_S", 3.0)  # nobody ever loses: it goes on until its time is up
    checks, suite = suite_on(tmp_path, "links without a winner", "link", "log")
    assert {check.verdict for check in checks.values()} == {"NOT OK"}
    assert not suite.fit
    assert suite.verdict.startswith("not fit: log")


def test_names_with_two_winners_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_of_selftest, "RACE_S", 3.0)
    checks, suite = suite_on(tmp_path, "names with two winners", "exclusive creation")
    assert checks["exclusive creation"].verdict == "NOT OK"
    assert checks["exclusive creation"].figures["two_winners"] > 0
    assert suite.verdict == FIT  # links have one


def test_a_rename_that_is_not_whole_is_found(tmp_path: Path) -> None:
    checks, suite = suite_on(tmp_path, "a rename that copies", "rename")
    assert checks["rename"].figures["torn"] > 0
    assert suite.verdict.startswith("not fit: rename")


def test_lines_out_of_order_are_found(tmp_path: Path) -> None:
    checks, suite = suite_on(tmp_path, "lines out of order", "appended lines")
    assert checks["appended lines"].figures["wrong"] > 0
    assert suite.verdict.startswith("not fit: appended lines")


def suite_that_sees(monkeypatch: pytest.MonkeyPatch, directory: Path, *looks: list[str]) -> Check:
    """Have a farm judged, with these problems at one look after another, the last ones for good."""
    left = list(looks)

    def seen(*arguments: Any) -> Findings:
        found = judged_by_contract(*arguments)
        found.problems += left.pop(0) if len(left) > 1 else left[0]
        return found

    monkeypatch.setattr(checks_of_selftest, "judged", seen)
    monkeypatch.setattr(checks_of_selftest, "SETTLES_S", 2.5)
    with Conductor(directory) as conductor:
        conductor.start()
        conductor.gather(1)
        suite = Suite(conductor)
        (check,) = suite.run(only=("farm",))
        conductor.keep = False
    return check


def test_a_farm_that_is_seen_whole_a_moment_later_is_sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = suite_that_sees(monkeypatch, tmp_path, ["task 0 has 0 finishes that count: []"], [])
    assert (check.verdict, check.figures["problems"]) == ("ok", [])
    assert "seen whole" in check.text
    assert check.figures["settled_s"] >= 1.0


def test_what_is_wrong_with_a_farm_stays_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = suite_that_sees(monkeypatch, tmp_path, ["task 0 has 0 finishes that count: []"])
    assert check.verdict == "NOT OK"
    assert "THE CONTRACT DID NOT HOLD: task 0" in check.text
    assert "seen whole" not in check.text


# -- meeting -----------------------------------------------------------------------------------------------------------


def test_lines_are_heard_once_and_whole(tmp_path: Path) -> None:
    words, ear = meeting.Words(tmp_path / "file", create=True), meeting.Ear(tmp_path / "file")
    words.say({"a": 1}, {"b": "two\n"})
    assert ear.hear() == [{"a": 1}, {"b": "two\n"}]
    with open(tmp_path / "file", "ab") as file:
        file.write(b'{"c":')
        file.flush()
        assert ear.hear() == []
        file.write(b" 3}\n\0\0\0\n")
    assert ear.hear() == [{"c": 3}]
    assert ear.hear() == []


def test_only_a_test_that_goes_on_is_joined(tmp_path: Path) -> None:
    old = meeting.Meeting.make(tmp_path)
    meeting.Words(old.orders, create=False).say({"wants": 1})
    assert meeting.find(tmp_path, 1.0) is None
    assert meeting.find(old.path, 0.0) is not None  # a launcher names the test itself


def test_nobody_to_join_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskfarmer.selftest import worker

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(WorkdirError, match="no self-test"):
            worker.join(tmp_path, "", 0.5)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_launcher_gets_words_or_one_quoted_line() -> None:
    words = ["/opt/my python", "-m", "taskfarmer"]
    assert launched(SSH, "node1", words) == ["ssh", "-o", "BatchMode=yes", "node1", "'/opt/my python' -m taskfarmer"]
    assert launched("srun -w {host} -N1", "node1", words) == ["srun", "-w", "node1", "-N1", *words]
    with pytest.raises(InputError, match="empty"):
        launched("", "node1", words)


# -- the judge ---------------------------------------------------------------------------------------------------------


class Judged:
    """A hand-made farm of three tasks with what its tasks wrote down; all finished, by one farmer, unless told."""

    def __init__(self, path: Path) -> None:
        self.farm = HandMade(path / "workdir", ["a", "b", "c"])
        self.notes = path / "notes"
        self.notes.mkdir()
        self.up = 100.0

    def ran(self, farmer: Any, task: int, attempt: int = 1, *, begin: float = 0.0, seconds: float | None = 1.0) -> None:
        """Note an execution; `begin` 0: after all others."""
        begin = begin or self.up
        with open(self.notes / farmer.id, "a") as file:
            file.write(f"{task} {attempt} 77 b {begin:.2f}\n")
            if seconds is not None:
                file.write(f"{task} {attempt} 77 e {begin + seconds:.2f}\n")
        self.up = max(self.up, begin + (seconds or 0.0)) + 1

    def finishes(self, farmer: Any, *tasks: int, attempt: int = 1) -> None:
        """Have a farmer run tasks, truly."""
        for task in tasks:
            self.ran(farmer, task, attempt)
            farmer.run(task, attempt=attempt)

    def found(self, silenced: Sequence[tuple[int, int]] = (), still_s: dict[str, float] | None = None) -> Findings:
        """Return what the judge says."""
        return examine(self.farm.path, self.notes, 3, silenced=silenced, still_s=still_s or {})


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    """A farm to be judged."""
    return Judged(tmp_path)


def test_a_farm_without_fault_is_found_so(judged: Judged) -> None:
    one = judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1, 2)
    one.leave()
    found = judged.found()
    assert (found.tasks, found.finished, found.executions, found.again, found.farmers) == (3, 3, 3, 0, 1)
    assert found.problems == []


def test_a_lost_attempt_that_is_done_again_is_no_fault(judged: Judged) -> None:
    one, two = judged.farm.join(), judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1)
    one.start(2)
    judged.ran(one, 2, seconds=None)
    one.bury("its processes are gone")
    two.take(2)
    judged.finishes(two, 2, attempt=2)
    two.leave()
    found = judged.found()
    assert (found.again, found.buried, found.silent, found.overlaps, found.problems) == (1, 1, 0, 0, [])


def test_a_silent_farmer_excuses_executions_at_the_same_time(judged: Judged) -> None:
    one, two = judged.farm.join(), judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1)
    one.start(2)
    judged.ran(one, 2, begin=200, seconds=50)
    one.bury("silent for 5 s")
    two.take(2)
    judged.ran(two, 2, 2, begin=220, seconds=5)
    two.run(2, attempt=2)
    judged.ran(one, 0, 1, begin=300)  # it woke up, and had begun this before it could look
    one.end(2)
    found = judged.found()
    assert (found.overlaps, found.silent, found.unprovoked, found.late) == (1, 1, 1, 1)
    assert found.problems == []
    assert judged.found([(1, 4242)]).unprovoked == 0


def test_a_silence_that_no_witness_saw_is_found(judged: Judged) -> None:
    """It would excuse executions at the same time: the ledger must not be its own witness."""
    one, two = judged.farm.join(), judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1, 2)
    one.bury("silent for 300 s")
    two.leave()
    assert judged.found(still_s={one.id: 301.0}).problems == []
    (problem,) = judged.found(still_s={one.id: 20.5, two.id: 15.0}).problems
    assert problem.startswith(f"farmer {one.id} was buried as silent for 300 s, but a witness saw")
    assert "for 20.50 s at most" in problem


class Heartbeats(Clock):
    """A workdir with nothing but heartbeats, and the time there."""

    def __init__(self, path: Path) -> None:
        self.workdir = Workdir(path)
        self.now = 1000.0
        self.witness = Witness(path, self)

    def boottime(self) -> float:
        return self.now

    def beat(self, farmer: str, beat: int) -> None:
        """Have a farmer show a sign of life."""
        for directory, text in ((self.workdir.alive, str(beat)), (self.workdir.journals, "")):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / farmer).write_text(text)

    def looks(self, *at: float) -> dict[str, float]:
        """Look at these times; return what was seen so far."""
        for seconds in at:
            self.now = 1000.0 + seconds
            self.witness.look()
        return self.witness.still_s


def test_a_witness_takes_for_silence_what_it_did_not_see(tmp_path: Path) -> None:
    farm = Heartbeats(tmp_path / "farm")
    farm.beat("a", 1)
    farm.beat("b", 1)
    assert farm.looks(1, 2) == {}, "one sign says nothing"
    farm.beat("a", 2)
    assert farm.looks(3) == {"a": 3.0}, "from the look before its first to that which saw it gone"
    farm.workdir.ledger.rename(tmp_path / "hidden")
    farm.looks(4, 7)
    (tmp_path / "hidden").rename(farm.workdir.ledger)
    farm.beat("a", 3)
    assert farm.looks(8) == {"a": 6.0}
    farm.beat("a", 4)
    farm.looks(9, 10)
    (farm.workdir.alive / "a").unlink()
    assert farm.looks(20) == {"a": 12.0}
    assert farm.looks(30) == {"a": 12.0}, "who has gone is not silent"


def _problem(judged: Judged, text: str) -> None:
    (problem,) = judged.found().problems
    assert text in problem


def test_a_task_that_is_missing_is_found(judged: Judged) -> None:
    one = judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1)
    one.leave()
    _problem(judged, "not all 3 tasks are finished: {'toprocess': 1, 'finished': 2}")


def test_a_finish_of_what_did_not_run_is_found(judged: Judged) -> None:
    one = judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1)
    judged.ran(one, 2, seconds=None)
    one.run(2)
    one.leave()
    _problem(judged, "task 2: its finish (attempt 1 of ")


def test_two_finishes_that_count_are_found(judged: Judged) -> None:
    one = judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1, 2)
    two = judged.farm.join()
    judged.finishes(two, 1, attempt=2)
    two.leave()
    one.leave()
    assert any("task 1 has 2 finishes" in problem for problem in judged.found().problems)
    assert any("task 1 ran again after its finish" in problem for problem in judged.found().problems)


def test_a_finished_task_that_ran_again_is_found(judged: Judged) -> None:
    one, two = judged.farm.join(), judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1, 2)
    judged.ran(two, 1, 2, seconds=None)
    two.leave()
    one.leave()
    _problem(judged, "task 1 ran again after its finish")


def test_an_attempt_that_began_twice_is_found(judged: Judged) -> None:
    one = judged.farm.join()
    one.take(0, 1, 2)
    judged.ran(one, 0, seconds=None)
    judged.finishes(one, 0, 1, 2)
    one.leave()
    assert any("task 0: attempt 1 began 2 times" in problem for problem in judged.found().problems)


def test_executions_at_the_same_time_without_silence_are_found(judged: Judged) -> None:
    one, two = judged.farm.join(), judged.farm.join()
    one.take(0, 1, 2)
    judged.finishes(one, 0, 1)
    one.start(2)
    judged.ran(one, 2, begin=200, seconds=50)
    one.bury("its processes are gone")
    two.take(2)
    judged.ran(two, 2, 2, begin=220, seconds=50)
    two.run(2, attempt=2)
    two.leave()
    _problem(judged, "two executions of task 2 at the same time")


def test_executions_are_read_with_their_ends(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("5 1 70 b 10.00\n6 1 71 b 10.50\n5 1 70 e 11.25\n7 1 7")
    assert set(read_executions(tmp_path)) == {
        Execution(5, 1, "token", 70, 10.0, 11.25),
        Execution(6, 1, "token", 71, 10.5, None),
    }
    assert format_ids(e.task for e in read_executions(tmp_path)) == "5-6"
