"""A batch system in miniature, which really runs its jobs: what the stand-ins for LSF and PBS have in common.

One daemon for each directory, with one thread: jobs wait in order for slots on pretend hosts, run as processes of this
machine with sessions of their own, are signalled, held, requeued, and forgotten. Its dialect is a subclass, with a
method `do_NAME` for each command. Nothing is kept when the daemon ends, and all jobs end with it.

Knobs (`knobs.json` in the directory, read before each command and each tick):

    hosts           {"node1": 4, "node2": 4}: slots of each host
    lost            names of hosts of which nothing is heard; what runs there has ended, and nobody knows
    hung_s          seconds after which jobs of a lost host are given up (none: never)
    minute_s        how long a minute of run limits is (60)
    grace_s         seconds between the signals that end a job (0.5)
    keep_s          for how long ended jobs are known (3600)
    most_elements   of an array (1000)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.standins.miniature.ask import read_knobs

TICK_S = 0.03


class Complaint(Exception):
    """What a command says on its error output before it ends with a status other than 0."""

    def __init__(self, text: str, status: int = 255) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Job:
    """A job. `state`: pend, held, run, susp, over. `status` as subprocess has it. `why` the system ended it."""

    id: int
    index: int
    options: Mapping[str, Any]
    script: bytes
    env: dict[str, str]
    cwd: str
    slots: int = 1
    state: str = "pend"
    status: int | None = None
    why: str = ""
    killed_by: int = 0
    hosts: list[str] = field(default_factory=list)
    submitted: float = field(default_factory=time.time)
    started: float = 0.0
    ended: float = 0.0
    starts: int = 0
    requeue: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Its place in the order."""
        return (self.id, self.index)

    def signal(self, number: int) -> None:
        """Signal all of its processes."""
        if self.process:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


@dataclass
class Reply:
    """What a command says, and what the command itself runs then."""

    out: str = ""
    err: str = ""
    status: int = 0
    run: list[list[str]] = field(default_factory=list)


class Engine:
    """The daemon. A dialect says what it is told with `do_...`, and replaces the hooks."""

    endings: tuple[tuple[int, ...], ...] = ((signal.SIGTERM,), (signal.SIGKILL,))
    """Signals by which a job is ended, one after the other."""
    most_of_an_array = "max_running"
    """The option that says how many elements run at once."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.jobs: dict[tuple[int, int], Job] = {}
        self.next_id = 1
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.knobs: dict[str, Any] = {}

    # -- hooks

    def environment(self, job: Job) -> dict[str, str]:
        """Return what is set in the job beside what it was submitted with."""
        return {}

    def argv(self, job: Job, script: str) -> list[str]:
        """Return the command that runs its script."""
        return [script]

    def deliver(self, job: Job, out: str, err: str) -> None:
        """Bring its output to where it belongs."""

    def began(self, job: Job) -> None:
        """It was started: time to wind clocks."""

    def exited(self, job: Job) -> None:
        """Its process ended, with `job.status`; it may be put back."""
        self.finish(job)

    # -- what dialects use

    def knob(self, name: str, default: Any) -> Any:
        """Return how a knob is turned."""
        return self.knobs.get(name, default)

    def minutes(self, count: float) -> float:
        """Return the seconds of so many minutes."""
        return count * float(self.knob("minute_s", 60.0))

    def later(self, after_s: float, do: Callable[[], None]) -> None:
        """Do something in a while."""
        self.timers.append((time.monotonic() + after_s, do))

    def add(self, jobs: Iterable[Job]) -> None:
        """Take jobs into the queue."""
        for job in jobs:
            self.jobs[job.key] = job

    def end(self, job: Job, why: str, *numbers: int) -> None:
        """End a job, politely at first, and note why. One that waits ends at once."""
        if job.state == "over" or job.why:
            return
        job.why = why
        if job.process is None:
            self.finish(job)
            return
        run = job.starts
        for step, step_numbers in enumerate([numbers] if numbers else self.endings):
            self.later(step * float(self.knob("grace_s", 0.5)), lambda n=step_numbers: self._strike(job, run, n))  # type: ignore[misc]
        self.turn()

    def _strike(self, job: Job, run: int, numbers: Iterable[int]) -> None:
        if job.starts == run and job.process is not None:
            for number in numbers:
                job.killed_by = number
                job.signal(number)
                job.signal(signal.SIGCONT)

    def put_back(self, job: Job, why: str) -> None:
        """Have a job started anew under the same id."""
        if job.process is not None:
            job.requeue = why
            job.signal(signal.SIGKILL)
        elif job.state == "over":
            self._reset(job)

    def _reset(self, job: Job) -> None:
        job.state, job.status, job.why, job.hosts, job.requeue, job.ended = "pend", None, "", [], "", 0.0

    def finish(self, job: Job) -> None:
        """It is over."""
        job.state, job.ended = "over", time.time()

    # -- the loop

    def serve(self) -> None:
        """Serve until the directory is gone, or somebody says stop."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)  # jobs inherit what is ignored here
        os.umask(0o022)
        self.directory = os.open(self.place, os.O_PATH)
        name = f"/proc/self/fd/{self.directory}/socket"
        os.makedirs(f"{self.place}/spool", exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(name)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
            listener.listen(128)
            listener.settimeout(TICK_S)
            while os.path.exists(name):
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    self._answer(connection)
                self.turn()
        for job in self.jobs.values():
            job.signal(signal.SIGKILL)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        with connection, connection.makefile("rwb") as stream, suppress(OSError, ValueError):
            request = json.loads(stream.readline())
            self.turn()
            reply = self.perform(request)
            stream.write(json.dumps(vars(reply)).encode() + b"\n")

    def perform(self, request: dict[str, Any]) -> Reply:
        """Carry out a command."""
        try:
            return getattr(self, "do_" + request["command"].replace("-", "_"))(request)  # type: ignore[no-any-return]
        except Complaint as complaint:
            return Reply(err=f"{complaint}\n" if str(complaint) else "", status=complaint.status)
        except Exception:
            return Reply(err=traceback.format_exc(), status=70)

    def turn(self) -> None:
        """Do what is due."""
        self.knobs = read_knobs(self.place)
        now = time.monotonic()
        due = [timer for timer in self.timers if timer[0] <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for _, do in due:
            do()
        for job in list(self.jobs.values()):
            if job.process is not None and job.process.poll() is not None:
                self._reap(job)
        self._lose()
        self._start_what_fits()
        keep = float(self.knob("keep_s", 3600.0))
        for job in [job for job in self.jobs.values() if job.state == "over" and time.time() - job.ended > keep]:
            if self.may_forget(job):
                del self.jobs[job.key]

    def may_forget(self, job: Job) -> bool:
        """Whether a job that ended long enough ago can be forgotten."""
        return True

    def _lose(self) -> None:
        lost = set(self.knob("lost", []))
        for job in self.jobs.values():
            if job.process is not None and lost & set(job.hosts):
                job.signal(signal.SIGKILL)
                job.process.wait()
                job.process = None
                if (hung_s := self.knob("hung_s", None)) is not None:
                    self.later(float(hung_s), lambda job=job: self.given_up(job))  # type: ignore[misc]

    def given_up(self, job: Job) -> None:
        """Nothing was heard of a job's host for too long."""

    def _reap(self, job: Job) -> None:
        assert job.process is not None
        job.status = job.process.wait()
        job.signal(signal.SIGKILL)  # whatever it left running
        job.process = None
        self.deliver(job, self._spooled(job, "out"), self._spooled(job, "err"))
        if job.requeue:
            self._reset(job)
        else:
            self.exited(job)

    def _spooled(self, job: Job, kind: str) -> str:
        return f"{self.place}/spool/{job.id}.{job.index}.{job.starts}.{kind}"

    def _free(self) -> dict[str, int]:
        free = {host: int(slots) for host, slots in self.knob("hosts", {"node1": 4, "node2": 4}).items()}
        for job in self.jobs.values():
            if job.state in ("run", "susp"):
                for host in job.hosts:
                    free[host] = free.get(host, 0) - 1
        return {host: slots for host, slots in free.items() if host not in self.knob("lost", [])}

    def _start_what_fits(self) -> None:
        waiting = [job for job in self.jobs.values() if job.state == "pend"]
        if not waiting:
            return
        free = self._free()
        running: dict[int, int] = {}
        for job in self.jobs.values():
            if job.state in ("run", "susp"):
                running[job.id] = running.get(job.id, 0) + 1
        for job in waiting:
            most = job.options.get(self.most_of_an_array)
            if most and running.get(job.id, 0) >= most:
                continue
            if hosts := self.place_on(job, free):
                for host in hosts:
                    free[host] -= 1
                running[job.id] = running.get(job.id, 0) + 1
                self._start(job, hosts)

    def place_on(self, job: Job, free: Mapping[str, int]) -> list[str]:
        """Return hosts for all slots of a job, or none: the first that has room for it alone, else any."""
        for host, slots in free.items():
            if slots >= job.slots:
                return [host] * job.slots
        return []

    def _start(self, job: Job, hosts: list[str]) -> None:
        job.starts += 1
        job.state, job.hosts, job.started, job.why, job.killed_by = "run", hosts, time.time(), "", 0
        script = self._spooled(job, "sh")
        with open(script, "wb") as file:
            file.write(job.script)
        os.chmod(script, 0o700)
        out, err = self._spooled(job, "out"), self._spooled(job, "err")
        cwd = job.cwd if os.path.isdir(job.cwd) else "/tmp"
        env = {**job.env, **self.environment(job)}
        with open(out, "wb") as out_file, open(err, "wb") as err_file:
            try:
                job.process = subprocess.Popen(
                    self.argv(job, script), cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out_file,
                    stderr=err_file if job.options.get("separate") else subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            except OSError:
                job.status = 127
                self.exited(job)
                return
        self.began(job)

    def stop(self) -> Reply:
        """End the daemon, and all jobs."""
        os.unlink(f"{self.place}/socket")
        return Reply()

    def append(self, target: str, *sources: str | bytes, fresh: bool = False) -> None:
        """Write texts and files (str: a path; bytes: itself) to a file, behind what is there unless `fresh`."""
        with suppress(OSError), open(target, "wb" if fresh else "ab") as to:
            for source in sources:
                if isinstance(source, bytes):
                    to.write(source)
                else:
                    with open(source, "rb") as file:
                        shutil.copyfileobj(file, to)
