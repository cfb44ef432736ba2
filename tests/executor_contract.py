"""What every executor keeps (`taskfarmer.farm.executors.Executor`), as tests: derive, and say how to make one.

A `Bench` is the loop in small: it starts, waits, reaps, and knows which attempts have ended.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.core.model import Task
from taskfarmer.core.resources import Share
from taskfarmer.farm.disk import Disk
from taskfarmer.farm.executors import Executor, Exit, Launch, StartError
from taskfarmer.farm.output import Files, Nothing, Output
from taskfarmer.farm.output.packs import Packs, read_attempt
from taskfarmer.farm.workdir import Workdir

FARMER = "0123456789abcdef"
ONE_SLOT = Share((0,))
ENVIRON = {
    "PATH": os.environ["PATH"],
    "HOME": "/nowhere",
    "FROM": "farmer",
    "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
}

Make = Callable[[Output, Disk, Mapping[str, str], str, bool], Executor]
"""(output, disk, environment, workdir, pin) -> executor."""


def until(true: Callable[[], object], limit_s: float = 20.0) -> bool:
    """Wait until something is true; False if it never is."""
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


class Bench:
    """A loop around one executor."""

    def __init__(
        self, path: Path, make: Make, logs: str = "files", pin: bool = False, environ: Mapping[str, str] = ENVIRON
    ) -> None:
        self.workdir = Workdir(path)
        for directory in self.workdir.directories():
            directory.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        self.disk = Disk()
        self.output = self._output()
        self.executor = make(self.output, self.disk, environ, str(path), pin)
        self.selector = selectors.DefaultSelector()
        self.ends: dict[int, Exit] = {}
        self.executor.attach(self.selector)

    def _output(self) -> Output:
        if self.logs == "packed":
            return Packs(self.workdir, FARMER, self.disk)
        return Files(self.workdir) if self.logs == "files" else Nothing()

    def start(self, task: str | Task, id: int = 1, attempt: int = 1, share: Share = ONE_SLOT) -> None:
        """Start an attempt."""
        task = Task(text=task) if isinstance(task, str) else task
        self.ends.pop(id, None)
        self.executor.start(Launch(id, attempt, task, share))

    def turn(self) -> None:
        """One round: events, then ends."""
        for key, _ in self.selector.select(0.005):
            key.data()
        for end in self.executor.reap():
            assert end.id not in self.ends, "an attempt ended twice"
            self.ends[end.id] = end

    def wait(self, *ids: int, limit_s: float = 20.0) -> list[int]:
        """Wait for these attempts, and return their statuses."""
        deadline = time.monotonic() + limit_s
        while not all(id in self.ends for id in ids):
            assert time.monotonic() < deadline, f"of {ids} only {sorted(self.ends)} ended"
            self.turn()
        return [self.ends[id].status for id in ids]

    def run(self, task: str | Task, **more: Any) -> int:
        """Run an attempt to its end, however it ends, and return its status."""
        try:
            self.start(task, **more)
        except StartError as error:
            if error.retryable:
                raise
            return error.status
        return self.wait(more.get("id", 1))[0]

    def wait_for_output(self, text: bytes, id: int = 1) -> None:
        """Turn until the output of a task has that text."""
        deadline = time.monotonic() + 20.0
        while text not in self.said(id):
            assert time.monotonic() < deadline, f"{text!r} is not in {self.said(id)!r}"
            self.turn()

    def said(self, id: int = 1, attempt: int = 1) -> bytes:
        """Return the output of an attempt."""
        if self.logs == "packed":
            return b"".join(read_attempt(self.workdir, [FARMER], id, attempt))
        path = Path(self.workdir.log_file(id, attempt))
        return path.read_bytes() if path.exists() else b""


class ExecutorContract:
    """The contract. `make` is what a class for an executor adds; the lines are shell lines."""

    @pytest.fixture
    def make(self) -> Make:
        """Return what makes the executor."""
        raise NotImplementedError

    @pytest.fixture(params=["files", "packed"])
    def bench(self, request: pytest.FixtureRequest, tmp_path: Path, make: Make) -> Iterator[Bench]:
        """Return a loop in a workdir of its own; nothing of it is left afterwards."""
        bench = Bench(tmp_path / "wd", make, request.param)
        yield bench
        bench.executor.close()
        bench.selector.close()

    @pytest.mark.parametrize(("line", "status"), [("true", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", -9)])
    def test_an_exit_tells_how_it_ended(self, bench: Bench, line: str, status: int) -> None:
        assert bench.run(line) == status

    def test_both_streams_come_in_order(self, bench: Bench) -> None:
        assert bench.run("echo one; echo two >&2; echo three") == 0
        assert bench.said() == b"one\ntwo\nthree\n"

    def test_output_of_an_attempt_is_there_when_its_end_is_told(self, bench: Bench) -> None:
        for id in range(5):
            assert bench.run(f"echo {id}", id=id) == 0
            assert bench.said(id) == b"%d\n" % id

    def test_output_of_one_that_runs_can_be_read(self, bench: Bench) -> None:
        bench.start("echo early; exec sleep 60")
        bench.wait_for_output(b"early\n")
        bench.executor.signal(1, signal.SIGKILL)
        bench.wait(1)

    def test_megabytes_of_output_come_whole(self, bench: Bench) -> None:
        assert bench.run("head -c 5000000 /dev/zero | tr '\\0' x") == 0
        assert bench.said() == b"x" * 5_000_000

    def test_attempts_run_side_by_side(self, bench: Bench, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        bench.start(f"cat {fifo}", id=1)
        bench.start(f"echo passed > {fifo}", id=2)
        assert bench.wait(1, 2) == [0, 0]
        assert bench.said(1) == b"passed\n"

    def test_an_attempt_has_its_own_output(self, bench: Bench) -> None:
        assert bench.run("echo first; exit 1") == 1
        assert bench.run("echo second", attempt=2) == 0
        assert (bench.said(), bench.said(attempt=2)) == (b"first\n", b"second\n")

    def test_attempts_know_who_they_are(self, bench: Bench) -> None:
        line = "echo $PROC_NUMBER $TASKFARMER_TASK_ID $TASKFARMER_ATTEMPT $TASKFARMER_SLOT $TASKFARMER_WORKDIR $FROM"
        assert bench.run(line, id=7, attempt=3, share=Share((2, 5))) == 0
        assert bench.said(7, 3).split() == [b"7", b"7", b"3", b"2", os.fsencode(bench.workdir.path), b"farmer"]

    def test_a_tasks_environment_is_its_own(self, bench: Bench) -> None:
        assert bench.run(Task(text='echo "$FROM"', env={"FROM": "ta\udcffsk", "NEW": "x y"}), id=1) == 0
        assert bench.run(Task(text='echo "$FROM-$NEW"'), id=2) == 0
        assert (bench.said(1), bench.said(2)) == (b"ta\xffsk\n", b"farmer-\n")

    def test_a_tasks_directory_is_its_own(self, bench: Bench, tmp_path: Path) -> None:
        place = tmp_path / "a = b"
        place.mkdir()
        assert bench.run(Task(text="pwd", cwd=str(place)), id=1) == 0
        assert bench.run("pwd", id=2) == 0
        assert (bench.said(1), bench.said(2)) == (os.fsencode(place) + b"\n", os.fsencode(os.getcwd()) + b"\n")

    def test_a_directory_that_is_not_there_fails_the_attempt_and_is_named(self, bench: Bench, tmp_path: Path) -> None:
        assert bench.run(Task(text="true", cwd=str(tmp_path / "gone"))) > 0
        assert b"gone" in bench.said()
        assert bench.run("true", id=2) == 0

    def test_gpus_are_named_to_those_who_asked(self, bench: Bench) -> None:
        task = Task(text='echo "$CUDA_VISIBLE_DEVICES"', gpus=2)
        assert bench.run(task, id=1, share=Share((0,), gpus=("1", "GPU-7"))) == 0
        assert bench.run('echo "${CUDA_VISIBLE_DEVICES-none}"', id=2) == 0
        assert (bench.said(1), bench.said(2)) == (b"1,GPU-7\n", b"none\n")

    def test_a_slot_can_mean_a_cpu(self, tmp_path: Path, make: Make) -> None:
        allowed = sorted(os.sched_getaffinity(0))
        bench = Bench(tmp_path, make, pin=True)
        for id, slots in enumerate([(0,), (1,), tuple(range(len(allowed)))]):
            bench.start("sleep 0.2; grep Cpus_allowed_list /proc/self/status", id=id, share=Share(slots))
        bench.wait(0, 1, 2)
        cpus = [bench.said(id).split()[1].decode() for id in range(3)]
        assert cpus[:2] == [str(allowed[0]), str(allowed[1 % len(allowed)])]
        assert os.sched_getaffinity(0) == set(allowed)
        bench.executor.close()

    def test_term_ends_it(self, bench: Bench) -> None:
        bench.start("echo here; sleep 60; echo never")
        bench.wait_for_output(b"here")
        bench.executor.signal(1, signal.SIGTERM)
        assert bench.wait(1)[0] != 0
        assert b"never" not in bench.said()

    def test_kill_ends_one_that_ignores_term_and_its_children(self, bench: Bench) -> None:
        bench.start("trap '' TERM; sleep 60 & echo pids $$ $! end; while :; do wait; done")
        bench.wait_for_output(b"end")
        pids = [int(word) for word in bench.said().split()[1:3]]
        bench.executor.signal(1, signal.SIGKILL)
        assert bench.wait(1)[0] == -signal.SIGKILL
        assert until(lambda: not any(map(is_alive, pids)), 2.0)

    def test_a_task_can_be_run_again_after_it_was_stopped(self, bench: Bench) -> None:
        for attempt, number in enumerate((signal.SIGTERM, signal.SIGKILL), 1):
            bench.start("echo here; exec sleep 60", attempt=attempt)
            while not bench.said(attempt=attempt):
                bench.turn()
            bench.executor.signal(1, number)
            bench.wait(1)
        assert bench.run("echo again", attempt=3) == 0

    def test_a_signal_to_one_that_ended_or_never_was_is_forgiven(self, bench: Bench) -> None:
        assert bench.run("true") == 0
        bench.executor.signal(1, signal.SIGKILL)
        bench.executor.signal(99, signal.SIGTERM)

    def test_children_that_nobody_knows_are_buried(self, bench: Bench) -> None:
        stranger = os.posix_spawn("/bin/true", ["true"], {})
        bench.start("exec sleep 0.2")
        bench.wait(1)
        with pytest.raises(ChildProcessError):
            os.waitpid(stranger, 0)

    def test_a_program_that_is_not_there_is_127_and_named(self, bench: Bench) -> None:
        assert bench.run("no-such-program --at all") == 127
        assert b"no-such-program" in bench.said()

    def test_a_file_that_is_no_program_is_126(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("data")
        assert bench.run(f"{tmp_path}/text") == 126
        assert b"ermission denied" in bench.said()

    def test_a_nul_fails_the_attempt(self, bench: Bench) -> None:
        assert bench.run("echo a\0b") != 0
        assert b"null byte" in bench.said()

    def test_bytes_that_are_no_utf8_reach_the_command_unchanged(self, bench: Bench) -> None:
        assert bench.run("printf '%s' 'a\udcff\udcceKb' ä") == 0
        assert bench.said() == b"a\xff\xceKb\xc3\xa4"

    def test_a_line_of_a_megabyte(self, bench: Bench) -> None:
        assert bench.run(f"x='{'y' * 1_000_000}'; echo ${{#x}}") == 0
        assert bench.said() == b"1000000\n"

    def test_children_are_told_by_sigpipe(self, bench: Bench) -> None:
        """Python ignores SIGPIPE, and what is ignored is inherited: `yes | head` would complain."""
        assert bench.run("bash -c 'yes | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}'") == 0
        assert bench.said() == b"141\n"

    def test_no_descriptor_of_the_loop_gets_into_a_task(self, bench: Bench) -> None:
        assert bench.run("ls /proc/self/fd | sort -n | tr '\\n' ' '") == 0
        assert [int(word) for word in bench.said().split()][:3] == [0, 1, 2]
        assert len(bench.said().split()) <= 4  # and that of `ls` for the directory

    def test_cpu_time_and_memory_are_measured(self, bench: Bench) -> None:
        assert bench.run("python3 -c 'x = bytearray(60 << 20); print(sum(range(3000000)))'") == 0
        assert 0.01 < bench.ends[1].user_s + bench.ends[1].system_s < 20
        assert bench.ends[1].rss_kib > 60 << 10

    def test_where_output_cannot_be_had_the_attempt_is_given_back(self, tmp_path: Path, make: Make) -> None:
        bench = Bench(tmp_path / "wd", make)
        bench.workdir.logs.rmdir()
        for line in ("true", "true && true"):
            with pytest.raises(StartError, match="no place for its output") as caught:
                bench.start(line)
            assert caught.value.retryable
        bench.workdir.logs.mkdir()
        assert bench.run("echo back") == 0
        assert bench.said() == b"back\n"
        bench.executor.close()

    def test_output_can_be_thrown_away(self, tmp_path: Path, make: Make) -> None:
        bench = Bench(tmp_path, make, "none")
        assert bench.run("echo gone") == 0
        assert list(bench.workdir.logs.iterdir()) == []
        bench.executor.close()

    def test_descriptors_do_not_add_up(self, bench: Bench) -> None:
        def count() -> int:
            return len(os.listdir("/proc/self/fd"))

        for id in range(4):
            bench.run("true", id=id)
        before = count()
        for id in range(4, 24):
            bench.run("echo x" if id % 2 else "no-such-program", id=id)
        bench.turn()
        assert count() <= before + 1
