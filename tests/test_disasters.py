"""Disasters: kills at random, disks that are full or read-only, damaged journals, children that do not behave."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from taskfarmer.core.entries import Bury
from taskfarmer.core.ids import format_ids
from taskfarmer.core.records import Ended, Started
from taskfarmer.farm.journal import read_tail
from taskfarmer.farm.ledger import Ledger
from taskfarmer.farm.segments import STRIDE
from taskfarmer.farm.upkeep import Undertaker
from tests.farms import (
    OUTLIVES_S,
    TASKFARMER,
    Farm,
    Farmer,
    check_contract,
    counts_of,
    is_alive,
    kill,
    started_on,
    wait_for,
)

# The first attempt of a task does this, later ones end at once: so a farm that is gone on with comes to its end.
ONLY_ONCE = '[ "$TASKFARMER_ATTEMPT" = 1 ] || exit 0; '
WHOM = pytest.mark.parametrize("whom", ["loop", "guardian", "both"])


def as_root(*argv: str) -> None:
    """Do what only root can. The test is skipped where that is not to be had, but not silently in CI as root."""
    if os.geteuid() != 0:
        pytest.skip(f"only root can {argv[0]}")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        why = f"root cannot {argv[0]} here: {done.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


def strike(victim: Farmer, whom: str) -> None:
    """Send SIGKILL to a farmer's loop, to its guardian, or to both in the same instant."""
    loop, guardian = victim.loop(), victim.pid
    if whom == "both":
        kill(guardian, signal.SIGSTOP)  # so that it cannot act in between
    if whom in ("loop", "both"):
        kill(loop)
    if whom in ("guardian", "both"):
        kill(guardian)
    if whom != "both":
        wait_for(lambda: not victim.started(), "what it started has ended", OUTLIVES_S)
    wait_for(lambda: not (is_alive(loop) or is_alive(guardian)), "the farmer has left")


# -- kills at random ---------------------------------------------------------------------------------------------------


def test_a_large_farm_is_killed_again_and_again(farm: Farm) -> None:
    total, chance = 2000, random.Random(farm.farmers)
    farm.write(*["true"] * total)
    options = ("-n", "3", "--logs", "packed", "--lease", "20")
    at_work = farm.start_all(*options)
    for _ in range(12):
        victim = chance.choice(at_work)
        goal = min(len(farm.runs()) + chance.randrange(1, 120), total)
        wait_for(lambda goal=goal: len(farm.runs()) >= goal, "progress")  # type: ignore[misc]
        if victim.process.poll() is not None:
            break
        strike(victim, chance.choice(["loop", "guardian", "both"]))
        at_work[at_work.index(victim)] = farm.start(*options)
    assert {farmer.wait().status for farmer in at_work} <= {0, 3}
    assert farm.run(*options).status == 0
    check_contract(farm, total)
    assert farm.counts() == {"finished": total}


# -- children that do not behave ---------------------------------------------------------------------------------------


def _daemon(farm: Farm, pid_file: Path) -> str:
    """Return a command that leaves a daemon as textbooks make them: two forks, a session of its own, no streams."""
    script = farm.path / f"{pid_file.name}.py"
    script.write_text(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "        for fd in (0, 1, 2):\n"
        "            os.close(fd)\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    return shlex.join([sys.executable, str(script)])


def _unruly(farm: Farm) -> tuple[list[str], list[Path]]:
    """Return bodies of tasks that resist, and the files in which what they started writes its process id."""
    files = [farm.path / name for name in ("stubborn", "session", "daemon", "nameless")]
    stubborn, session, far, nameless = files
    bodies = [
        f"trap '' TERM; echo $$ >{stubborn}; while :; do sleep 1; done",
        f"setsid sh -c 'trap \"\" TERM; echo $$ >{session}; while :; do sleep 1; done' & sleep 600",
        f"{_daemon(farm, far)}; sleep 600",
        f"env -i setsid sh -c 'echo $$ >{nameless}; exec sleep 600' & sleep 600",
    ]
    return [ONLY_ONCE + body for body in bodies], files


def _pids(files: list[Path]) -> list[int]:
    wait_for(lambda: all(file.exists() and file.read_text().strip() for file in files), "all to have begun")
    return [int(file.read_text()) for file in files]


def test_a_task_that_was_lost_more_often_than_allowed_is_not_started_again(lone: Farm) -> None:
    lone.write("sleep 600", "true")
    victim = lone.start("-n", "1", "--lease", "20")
    lone.wait_for_runs(1)
    strike(victim, "both")
    end = lone.start("-n", "1", "--max-losses", "0").wait()
    assert (end.status, lone.attempts()[0]) == (1, 1), end
    assert "1 finished, 1 failed" in end.out
    said = lone.once("why", lone.workdir, "0").out
    assert "its farmer or its batch job was lost while it ran, 1 time, so it was not started again" in said


@pytest.mark.parametrize("whom", ["loop", "guardian"])
def test_after_a_kill_nothing_is_alive(farm: Farm, whom: str) -> None:
    bodies, files = _unruly(farm)
    farm.write(*bodies)
    victim = farm.start("-n", "4", "--lease", "20")
    pids = _pids(files)
    others = [farm.start("-n", "4", "--lease", "20") for _ in range(farm.farmers - 1)]
    if others:
        others[0].loop()
    strike(victim, whom)
    wait_for(lambda: not any(map(is_alive, pids)), "all to be dead", OUTLIVES_S)
    assert all(other.wait().status == 0 for other in others)
    assert farm.run("-n", "4").status == 0
    check_contract(farm, 4)


def test_after_a_kill_of_both_the_next_farmer_ends_what_is_left(farm: Farm) -> None:
    bodies, files = _unruly(farm)
    farm.write(*bodies[:3])  # without its environment a process cannot be told from others once both are dead
    victim = farm.start("-n", "4", "--lease", "20")
    pids = _pids(files[:3])
    strike(victim, "both")
    assert all(map(is_alive, pids))
    assert farm.run("-n", "4").status == 0
    assert not any(map(is_alive, pids))
    check_contract(farm, 3)


def test_a_stop_ends_children_that_resist(farm: Farm) -> None:
    bodies, files = _unruly(farm)
    farm.write(*bodies)
    at_work = farm.start_all("-n", "4", "--stop-grace", "0.3")
    pids = _pids(files)
    farm.wait_for_farmers()
    for farmer in at_work:
        farmer.signal(signal.SIGTERM)
    assert [farmer.wait(10).status for farmer in at_work] == [3] * farm.farmers
    assert not any(map(is_alive, pids))
    check_contract(farm, 4)
    assert farm.counts() == {"toprocess": 4}


def test_a_daemon_does_not_outlive_the_farmer(farm: Farm) -> None:
    file = farm.path / "daemon"
    farm.write(_daemon(farm, file))
    assert farm.run("-n", "1").status == 0
    assert not is_alive(_pids([file])[0])
    check_contract(farm, 1)


def test_a_loop_that_hangs_is_ended_by_its_guardian(farm: Farm) -> None:
    farm.write(ONLY_ONCE + "sleep 600", "true")
    victim = farm.start("-n", "2", "--lease", "3")
    farm.wait_for_runs(2)
    loop = victim.loop()
    kill(loop, signal.SIGSTOP)
    others = [farm.start("-n", "2") for _ in range(farm.farmers - 1)]
    end = victim.wait(10)
    assert end.status == 3
    assert "no confirmed heartbeat" in end.err
    assert not is_alive(loop)
    assert not victim.started()
    assert all(other.wait().status == 0 for other in others)
    assert farm.run().status == 0
    check_contract(farm, 2)


def test_who_was_silent_for_a_lease_is_replaced_and_one_result_counts(lone: Farm) -> None:
    lone.write("while [ ! -e go ]; do sleep 0.05; done")
    silent = lone.start("-n", "1", "--lease", "2", "--stop-grace", "0.5")
    lone.wait_for_runs(1)
    loop = silent.loop()
    for pid in (silent.pid, loop):
        kill(pid, signal.SIGSTOP)
    other = lone.start("-n", "1")
    lone.wait_for_runs(2)  # the lease is over: the task runs twice
    (lone.path / "go").touch()
    assert other.wait().status == 0
    for pid in (loop, silent.pid):
        kill(pid, signal.SIGCONT)
    assert silent.wait(20).status in (0, 3)
    assert counts_of(lone.workdir) == {"finished": 1}
    state = Ledger.open(lone.workdir).state
    assert [(farmer.ended, farmer.finished) for farmer in state.farmers] == [("buried", 0), ("left", 1)]
    assert not started_on(lone.workdir)


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_several_loops_is_killed(farm: Farm, which: int) -> None:
    total = 2 * farm.farmers
    farm.write(*["until [ -e go ]; do sleep 0.02; done"] * total)
    at_work = farm.start_all("-n", "2", "--loops", "2", "--lease", "20")
    farm.wait_for_runs(total)
    farm.wait_for_farmers(total)
    for farmer in at_work:
        kill(farmer.loops()[which])
    # Long before the lease is over the other loops take over what these had.
    waiting = {"running": farm.farmers, "toprocess": farm.farmers}
    wait_for(lambda: farm.counts() == waiting, "the tasks of the killed to be free", 12)
    (farm.path / "go").touch()
    ends = [farmer.wait() for farmer in at_work]
    assert [end.status for end in ends] == [0] * farm.farmers, ends
    said = "a loop of the farmer was killed by signal 9; its tasks are ended, and will be done by the others"
    assert all(said in end.err for end in ends), ends
    assert all(f"{total} finished" in end.out for end in ends), "whichever was killed, the end is told"
    check_contract(farm, total)
    assert farm.counts() == {"finished": total}


def _elsewhere(farm: Farm, *options: str) -> Farmer:
    """Start a farmer in a PID namespace of its own: to others it is on another host."""
    far = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    as_root(*far, "true")
    return farm.start_command(*far, *TASKFARMER, "run", farm.list, "-w", farm.workdir, *options)


def test_a_host_that_dies_is_replaced_after_the_lease(farm: Farm) -> None:
    farm.write(ONLY_ONCE + "sleep 600", "true")
    victim = _elsewhere(farm, "-n", "1", "--lease", "2")
    farm.wait_for_runs(1)
    others = [farm.start("-n", "1") for _ in range(farm.farmers)]
    farm.wait_for_farmers(1 + farm.farmers)
    kill(victim.pid)
    died = time.time()
    assert [other.wait().status for other in others] == [0] * farm.farmers
    again = max(run.time for run in farm.runs() if run.task == 0)
    assert 1.5 < again - died < 15
    check_contract(farm, 2)
    assert [burial.unseen for burial in _burials(farm)] == [True]


def _burials(farm: Farm) -> list[Bury]:
    """Return what the log says of the dead."""
    log = Ledger.open(farm.workdir).log
    return [body for number in log.numbers() if isinstance(body := log.read(number).body, Bury)]


def test_a_host_that_left_on_a_full_disk_is_replaced_after_the_lease(farm: Farm, disk: Path) -> None:
    farm.workdir = disk / "workdir"
    farm.write(ONLY_ONCE + "sleep 600")
    far = _elsewhere(farm, "-n", "1", "--lease", "2")
    farm.wait_for_runs(1)
    farm.wait_for_farmers(1)
    ballast = _fill(disk)
    kill(far.loops()[0], signal.SIGTERM)  # the guardian: `unshare` is above it
    assert far.wait().status == 3
    ballast.unlink()
    assert farm.run("-n", "1", "-w", farm.workdir).status == 0
    check_contract(farm, 1)


@pytest.mark.parametrize("logs", ["files", "packed", "none"])
def test_a_child_that_closes_its_output_is_waited_for(farm: Farm, logs: str) -> None:
    farm.write("exec >&- 2>&-; sleep 0.2; exit 3", "true")
    assert farm.run("-n", "2", "--logs", logs).status == 1
    check_contract(farm, 2)
    assert farm.counts() == {"finished": 1, "failed": 1}


@pytest.mark.parametrize("logs", ["packed", "none"])
def test_a_child_that_writes_300_megabytes(farm: Farm, logs: str) -> None:
    size = 300_000_000
    farm.write(f"head -c {size} /dev/zero", "echo small")
    at_work = farm.start_all("-n", "2", "--logs", logs)
    most_kib = 0
    while any(farmer.process.poll() is None for farmer in at_work):
        for loop in [loop for farmer in at_work for loop in farmer.loops()]:
            most_kib = max(most_kib, _peak_kib(loop))
        time.sleep(0.02)
    assert {farmer.wait().status for farmer in at_work} == {0}
    assert 0 < most_kib < 150_000
    check_contract(farm, 2)
    if logs == "packed":
        packs = (farm.workdir / "ledger/packs").glob("*.pack")
        assert size < sum(pack.stat().st_size for pack in packs) < 1.05 * size


def _peak_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    as_root("mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path))
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def _fill(disk: Path) -> Path:
    """Write until the disk is full; removing the file that is returned frees it again."""
    ballast = disk / "ballast"
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o600)
    with suppress(OSError):
        while True:
            os.write(fd, bytes(4096))
    os.close(fd)
    return ballast


@pytest.mark.parametrize("logs", ["files", "packed"])
def test_a_full_disk_starts_nothing_and_loses_nothing(farm: Farm, disk: Path, logs: str) -> None:
    total = 150 * farm.farmers  # enough to be at work while the disk is filled, also on a busy machine
    farm.workdir = disk / "workdir"
    farm.write(*["seq 200; sleep 0.05"] * total)
    at_work = farm.start_all("-n", "2", "--logs", logs, "--lease", "20", "-w", farm.workdir, "-v")
    farm.wait_for_runs(10)
    farm.wait_for_farmers()
    ballast = _fill(disk)
    for farmer in at_work:
        wait_for(lambda farmer=farmer: "No space left" in farmer.said(), "that it says so")  # type: ignore[misc]
    quiet = _quiet(farm, at_work)
    assert all(farmer.process.poll() is None for farmer in at_work), "a farmer gave up"
    assert 0 < quiet < total
    ballast.unlink()
    assert [farmer.wait().status for farmer in at_work] == [0] * farm.farmers
    check_contract(farm, total)
    assert farm.counts() == {"finished": total}
    assert set(farm.attempts().values()) == {1}


def _quiet(farm: Farm, at_work: list[Farmer]) -> int:
    """Wait until nothing has been running or started for a second; return how many attempts began by then."""
    limit = time.monotonic() + 20
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < 1.0:
        assert time.monotonic() < limit, "tasks go on being started"
        now = len(farm.runs())
        if now != seen or any(farmer.started() for farmer in at_work):
            seen, since = now, time.monotonic()
        time.sleep(0.02)
    return seen


@WHOM
def test_a_kill_on_a_full_disk_loses_nothing_that_was_written(farm: Farm, disk: Path, whom: str) -> None:
    total = 150 * farm.farmers
    farm.workdir = disk / "workdir"
    farm.write(*["sleep 0.05"] * total)
    options = ("-n", "2", "--lease", "20", "-w", farm.workdir, "-v")
    at_work = farm.start_all(*options)
    farm.wait_for_runs(10)
    farm.wait_for_farmers()
    ballast = _fill(disk)
    wait_for(lambda: any("No space left" in farmer.said() for farmer in at_work), "that it says so")
    strike(at_work[0], whom)
    ballast.unlink()
    for farmer in at_work[1:]:
        assert farmer.wait().status == 0
    assert farm.run(*options).status == 0
    assert farm.counts() == {"finished": total}
    assert not started_on(farm.workdir)


def test_on_a_full_disk_no_farm_is_made(lone: Farm, disk: Path) -> None:
    lone.write("true")
    ballast = _fill(disk)
    lone.workdir = disk / "workdir"
    end = lone.run("-w", lone.workdir)
    assert end.status == 2
    assert end.err.count("\n") == 1
    assert "No space left" in end.err
    assert not lone.workdir.exists()
    ballast.unlink()
    assert lone.run("-w", lone.workdir).status == 0


def test_a_read_only_workdir_is_refused_and_nothing_is_lost(farm: Farm, disk: Path) -> None:
    farm.workdir = disk / "workdir"
    farm.write("true", ONLY_ONCE + "sleep 600", "true")
    at_work = farm.start_all("-n", "3", "-w", farm.workdir)
    farm.wait_for_runs(3)
    farm.wait_for_farmers()
    wait_for(lambda: farm.counts().get("finished") == 2, "two to finish")
    for farmer in at_work:
        farmer.signal(signal.SIGTERM)
    assert [farmer.wait().status for farmer in at_work] == [3] * farm.farmers
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for end in [farmer.wait() for farmer in farm.start_all("-w", farm.workdir)]:
        assert end.status == 2, end
        assert end.err.count("\n") == 1, end
        assert "read-only" in end.err
    assert farm.counts() == {"finished": 2, "toprocess": 1}
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert farm.run("-w", farm.workdir).status == 0
    check_contract(farm, 3)


@pytest.mark.parametrize("where", ["workdir", "below/workdir"])
def test_a_file_system_that_is_away_for_a_while_is_waited_for(farm: Farm, disk: Path, where: str) -> None:
    """Also one of which the workdir is the top: another stands where it is mounted, with no workdir in it."""
    total = 30 * farm.farmers
    farm.workdir = disk / where
    farm.workdir.parent.mkdir(exist_ok=True)
    farm.write(*["sleep 0.1"] * total)
    at_work = farm.start_all("-n", "1", "-w", farm.workdir)
    farm.wait_for_runs(2)
    farm.wait_for_farmers()
    as_root("mount", "-t", "tmpfs", "none", str(disk))
    time.sleep(2.5)
    assert all(farmer.process.poll() is None for farmer in at_work)
    subprocess.run(["umount", "--lazy", disk], check=True)
    for end in [farmer.wait() for farmer in at_work]:
        assert end.status == 0, end
    assert farm.counts() == {"finished": total}
    check_contract(farm, total)


@pytest.mark.parametrize("who", ["at work", "new"])
def test_the_writer_of_an_entry_that_died_is_waited_for(lone: Farm, who: str) -> None:
    """Without links a number is taken before the entry is in it. What runs goes on meanwhile."""
    lone.write("sleep 2", "sleep 0.1", "true")
    options = ("-n", "1", "--lease", "20", "--stop-grace", "0.5")
    farmer = lone.start(*options)
    lone.wait_for_runs(1)
    lone.wait_for_farmers()
    if who == "new":
        strike(farmer, "both")
    ledger = Ledger.open(lone.workdir)
    entry = Path(ledger.log.path(ledger.state.number + 1))
    then = time.time() - 80
    entry.touch()
    os.utime(entry, (then, then))
    if who == "new":
        farmer = lone.start(*options)
    wait_for(lambda: "may be dead; it lapses within 30 s" in farmer.said(), "it is said", 15)
    look = lone.once("status", lone.workdir)
    assert look.status == 0, look
    assert "all        3" in look.out, look
    assert look.err.startswith(f"taskfarmer: {entry}: the writer of this entry may be dead; it lapses within 30 s")
    assert lone.once("cancel", lone.workdir, "2").status == 2, "it is not waited for"
    end = farmer.wait()
    assert end.status == 0, end
    assert lone.attempts() == {0: 1 + (who == "new"), 1: 1, 2: 1}
    assert Ledger.open(lone.workdir).log.read(int(entry.name)).by == "void"
    assert [burial.unseen for burial in _burials(lone)] == [False] * (who == "new"), "of the gone all can be read"
    check_contract(lone, 3)


# -- journals that are cut, or damaged ---------------------------------------------------------------------------------


def _struck_farm(farm: Farm, total: int) -> Path:
    """Make a farm whose one farmer was killed at work, after ends that only its journal knows; return the journal."""
    farm.write(*[ONLY_ONCE + ("sleep 600" if number % 4 == 3 else "true") for number in range(total)])
    victim = farm.start("-n", str(total), "--lease", "20")
    farm.wait_for_runs(total)
    wait_for(lambda: farm.counts().get("finished") == total - total // 4, "all but the sleepers to finish")
    strike(victim, "both")
    for pid in started_on(farm.workdir):
        kill(pid)
    (journal,) = (farm.workdir / "ledger/journal").iterdir()
    return journal


def test_a_task_whose_text_is_damaged_ends_none_that_runs(lone: Farm) -> None:
    """The farmer says so, waits for what runs, and then ends with status 4; it starts nothing more."""
    waiting = [f"until [ -e {name} ]; do sleep 0.05; done" for name in ("first", "second")]
    lone.write(*waiting, *["true"] * (STRIDE - 2), "echo last", "true")  # of the others the texts are in memory by then
    farmer = lone.start("-n", "2")
    lone.wait_for_runs(2)
    (texts,) = (lone.workdir / "ledger/tasks").glob("*.jsonl")
    texts.write_bytes(texts.read_bytes().replace(b"echo last", b"\xff" * 9))
    (lone.path / "second").touch()
    wait_for(lambda: "cannot be read" in farmer.said(), "the farmer to find out")
    assert lone.counts()["running"] == 1
    (lone.path / "first").touch()
    ended = farmer.wait()
    assert (ended.status, ended.err.count("Traceback")) == (4, 0), ended
    assert lone.counts() == {"toprocess": 2, "finished": STRIDE}


def test_a_journal_cut_at_any_length_loses_only_what_was_cut(lone: Farm) -> None:
    total = 4
    journal = _struck_farm(lone, total)
    whole = journal.read_bytes()
    agreed = set(os.listdir(lone.workdir / "ledger/log"))
    for length in range(len(whole) + 1):
        journal.write_bytes(whole[:length])
        _bury(Ledger.open(lone.workdir))
        counts = Ledger.open(lone.workdir).state.counts()
        ended = {r.id for r in read_tail(journal).records if isinstance(r, Ended)}
        assert counts["finished"] == len(ended), length
        assert counts["toprocess"] == total - len(ended), length
        assert counts["unknown"] == 0, length
        for name in set(os.listdir(lone.workdir / "ledger/log")) - agreed:
            (lone.workdir / "ledger/log" / name).unlink()  # the burial: the next cut begins anew


def test_a_farm_whose_journal_was_cut_is_gone_on_with(farm: Farm) -> None:
    total = 8
    journal = _struck_farm(farm, total)
    whole = journal.read_bytes()
    os.truncate(journal, len(whole) * 2 // 3)
    known = {r.id for r in read_tail(journal).records if isinstance(r, Ended)}
    assert 0 < len(known) < total - total // 4
    before = farm.attempts()
    assert farm.run("-n", "2").status == 0
    assert farm.counts() == {"finished": total}
    again = {task for task, count in farm.attempts().items() if count > before[task]}
    assert again == set(range(total)) - known
    assert not started_on(farm.workdir)


@pytest.mark.parametrize("where", [0.3, 0.6])
def test_zeroed_blocks_make_tasks_unknown_that_are_never_run_by_themselves(farm: Farm, where: float) -> None:
    total = 8
    journal = _struck_farm(farm, total)
    whole = bytearray(journal.read_bytes())
    start = int(len(whole) * where)
    whole[start : start + 120] = bytes(120)
    journal.write_bytes(whole)
    tail = read_tail(journal)
    assert tail.damaged
    ended = {r.id for r in tail.records if isinstance(r, Ended)}
    open_again = {r.id for r in tail.records if isinstance(r, Started)} - ended
    before = farm.attempts()
    assert farm.run("-n", "2").status == 4
    state = Ledger.open(farm.workdir).state
    unknown = {task for task in range(total) if state.name_of(task) == "unknown"}
    assert open_again <= unknown
    assert not unknown & ended
    again = {task for task, count in farm.attempts().items() if count > before[task]}
    assert again == set(range(total)) - ended - unknown
    assert farm.run("-n", "2").status == 4  # still: nobody has said what to do
    assert farm.counts() == {"finished": total - len(unknown), "unknown": len(unknown)}
    retried = farm.once("retry", farm.workdir, format_ids(unknown))
    assert retried.status == 0, retried
    assert farm.run("-n", "2").status == 0
    assert farm.counts() == {"finished": total}
    assert not started_on(farm.workdir)


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_farm_that_takes_the_place_of_another_is_left_alone_by_its_farmers(lone: Farm, how: str) -> None:
    """To start over, people remove the workdir; a farmer on another host may still be at work in it."""
    lone.write(*["sleep 0.2; echo x >>old"] * 200)
    old = lone.start("-n", "1")
    lone.wait_for_runs(2)
    lone.write(*["sleep 0.1; echo x >>new"] * 30)
    if how == "removed":
        shutil.rmtree(lone.workdir)
    else:
        lone.workdir.rename(lone.path / "away")
    new = lone.start("-n", "1")
    first, second = old.wait(), new.wait()
    assert first.status == 3, first
    said = first.out + first.err
    assert "the workdir is gone" in said or "this is not the farm any more that was worked on" in said
    assert "Traceback" not in said
    assert second.status == 0, second
    assert lone.counts() == {"finished": 30}
    assert (lone.path / "new").read_text() == "x\n" * 30
    assert len((lone.workdir / "finished").read_text().splitlines()) == 30


def _bury(ledger: Ledger) -> None:
    """Do what the next farmer on this machine does first."""
    said: list[str] = []
    Undertaker(ledger, "nobody", 1.0, 20.0, said.append).bury_the_gone()
    assert len(said) == 1
    assert not ledger.state.alive()
