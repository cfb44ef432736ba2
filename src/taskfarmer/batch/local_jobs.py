"""The commands of the batch system `local`: `python local_jobs.py submit|poll|cancel|find SPOOL`, details on stdin.

Each submission has a directory of its name in the spool, which appears whole, and a supervisor: a process of its own
session that runs the elements, as many at once as there are slots, and outlives whoever submitted.

    SPOOL/NAME/spec         what was asked for (JSON)
    SPOOL/NAME/supervisor   its pid, the start time of that pid, and the boot that both belong to
    SPOOL/NAME/events       lines, by the supervisor alone: `3 started PID START`, `3 ended STATUS`, `3 lost WHY`
    SPOOL/NAME/cancel       lines of element numbers, by anybody, who then sends SIGUSR1 to the supervisor
    SPOOL/slots/K           held (flock) by the supervisor of the element that runs in slot K

Elements of a supervisor that is gone are lost: killed with SIGKILL, or the machine went down. Whoever asks for them
ends what is left of them first, so that what is said to be lost does not go on. Needs only the standard library and
starts without it as far as possible, since it is started for every poll.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

MOST_ELEMENTS = 10_000
GRACE_S = 5.0
"""Between SIGTERM and SIGKILL of what is cancelled."""
KEPT_S = 7 * 86400.0
"""For how long ended submissions are known."""
WAKE_S = 0.2
"""How often a supervisor looks for a slot that another one has left, and at its walltimes."""
UNSEEN = 72
"""As in `script`, which this does not import."""
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EROFS, errno.EISDIR)
"""Errors that would be the same again."""
SIGNALS = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(argv: list[str]) -> int:
    """Run one command."""
    command, spool = argv[0], argv[1]
    try:
        if command == "submit":
            submit(spool, json.load(sys.stdin))
        elif command == "poll":
            sys.stdout.writelines(poll(spool, by_name(sys.stdin)))
        elif command == "cancel":
            cancel(spool, by_name(sys.stdin))
        else:
            sys.stdout.write(f"{count_of(spool, argv[2])}\n")
    except OSError as error:
        refuse(f"{error.filename or spool}: {error.strerror}")
    return 0


def refuse(why: str) -> NoReturn:
    """Say why not, and leave."""
    sys.stderr.write(f"{why}\n")
    sys.exit(1)


def by_name(ids: Iterable[str]) -> dict[str, list[int]]:
    """Return the elements by submission of ids such as `tf0123456789ab.3`; what is no id stays one line of no use."""
    asked: dict[str, list[int]] = {}
    for line in ids:
        name, _, element = line.strip().rpartition(".")
        if name and "/" not in name and element.isdecimal():
            asked.setdefault(name, []).append(int(element))
    return asked


# -- processes


def boot() -> str:
    """Return what is another one after each start of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def started(pid: int) -> str:
    """Return when a process was started, in ticks; empty if it is none any more. Zombies are none."""
    with suppress(OSError):
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""


def kill_group(pid: int, number: int) -> None:
    """Send a signal to a job with all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def is_supervised(directory: str) -> bool:
    """Whether the supervisor of a submission lives. A record that a power cut has emptied is nobody's."""
    words = read(f"{directory}/supervisor").split()
    return len(words) == 3 and words[2] == boot() and started(int(words[0])) == words[1]


def read(path: str) -> str:
    """Return the text of a file."""
    with open(path) as file:
        return file.read()


# -- what is asked


def history(directory: str) -> dict[int, list[str]]:
    """Return the last event of each element that has begun, of lines that are whole."""
    last = {}
    for line in read(f"{directory}/events").splitlines():
        element, *words = line.split(" ", 3)
        if element.isdecimal() and len(words) > 1:
            last[int(element)] = words
    return last


def poll(spool: str, asked: dict[str, list[int]]) -> Iterator[str]:
    """Yield a line for each job: its id, state, exit status and reason, with tabs between."""
    for name, elements in asked.items():
        directory = f"{spool}/{name}"
        try:
            count = int(json.loads(read(f"{directory}/spec"))["count"])
            lives = is_supervised(directory)  # looked at first: then what it wrote is all that it will write
            last = history(directory)
            if not lives:
                bury(directory, last)
        except (FileNotFoundError, ValueError):
            count, lives, last = 0, False, {}
        for element in elements:
            state, *rest = last.get(element, ["queued"]) if 1 <= element <= count else ["gone"]
            if state in ("queued", "started") and not lives:
                state, rest = "lost", ["its", "supervisor is gone"]
            status, reason = "", " ".join(rest) if state == "lost" else ""
            if state == "ended":
                status, reason = rest[0], " ".join(rest[1:])
            yield f"{name}.{element}\t{state}\t{status}\t{reason}\n"


def bury(directory: str, last: dict[int, list[str]]) -> None:
    """End what a supervisor that is gone has left running."""
    if read(f"{directory}/supervisor").split()[2:] != [boot()]:
        return
    for state, *rest in last.values():
        if state == "started" and started(int(rest[0])) in ("", rest[1]):  # else the pid is somebody else's by now
            kill_group(int(rest[0]), signal.SIGKILL)


def cancel(spool: str, asked: dict[str, list[int]]) -> None:
    """Tell the supervisors to end elements; those of none are over."""
    for name, elements in asked.items():
        directory = f"{spool}/{name}"
        with suppress(FileNotFoundError):
            if is_supervised(directory):
                with open(f"{directory}/cancel", "a") as file:
                    file.write("".join(f"{element}\n" for element in elements))
                with suppress(ProcessLookupError):
                    os.kill(int(read(f"{directory}/supervisor").split()[0]), signal.SIGUSR1)


def count_of(spool: str, name: str) -> int:
    """Return how many elements a submission has; 0: it was never made."""
    try:
        return int(json.loads(read(f"{spool}/{name}/spec"))["count"])
    except (FileNotFoundError, ValueError):
        return 0


# -- submitting


def submit(spool: str, spec: dict[str, Any]) -> None:
    """Start a supervisor, and print how many elements there are once the submission is recorded.

    Submitting the same name again changes nothing.
    """
    if spec["count"] > MOST_ELEMENTS:
        refuse(f"{spec['count']} elements are more than the {MOST_ELEMENTS} that one submission may have")
    if not os.access(spec["script"], os.X_OK):
        refuse(f"{spec['script']}: not a script that can be run")
    os.makedirs(f"{spool}/slots", exist_ok=True)
    purge(spool)
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.close(ours)
        detach(theirs)
        status = 1
        try:
            status = supervise(spool, spec, theirs)
        finally:
            os._exit(status)
    os.close(theirs)
    with open(ours) as file:
        said = file.read()
    if said != "ready":
        refuse(said or "the supervisor ended before it began")
    sys.stdout.write(f"{spec['count']}\n")


def detach(keep: int) -> None:
    """Leave the session and the streams of whoever submitted."""
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, keep)
    os.closerange(keep + 1, 1024)


def supervise(spool: str, spec: dict[str, Any], tell: int) -> int:
    """Record the submission, say so, and run its elements to their ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    mine, final = f"{spool}/.{spec['name']}.{os.getpid()}", f"{spool}/{spec['name']}"
    try:
        os.mkdir(mine)
        files = {
            "spec": json.dumps(spec),
            "supervisor": f"{os.getpid()} {started(os.getpid())} {boot()}\n",
            "events": "",
        }
        for name, text in files.items():
            with open(f"{mine}/{name}", "w") as file:
                file.write(text)
        os.rename(mine, final)  # fails where the name is taken
        supervisor = Supervisor(spool, final, spec)
    except OSError as error:
        shutil.rmtree(mine, ignore_errors=True)
        known = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
        os.write(tell, b"ready" if known else f"{error.filename}: {error.strerror}".encode())
        return 1
    os.write(tell, b"ready")
    os.close(tell)
    supervisor.run()
    return 0


def purge(spool: str) -> None:
    """Forget submissions that ended long ago."""
    for entry in os.scandir(spool):
        with suppress(OSError, ValueError):
            if time.time() - os.stat(f"{entry.path}/events").st_mtime > KEPT_S and not is_supervised(entry.path):
                shutil.rmtree(entry.path, ignore_errors=True)


class Job:
    """An element that runs."""

    def __init__(self, element: int, pid: int, slots: list[int], began: float) -> None:
        self.element = element
        self.pid = pid
        self.slots = slots
        self.began = began
        self.lost = ""
        """Why it is being ended, if it is."""
        self.kill_at = float("inf")
        self.warned = False


class Supervisor:
    """Runs the elements of one submission."""

    def __init__(self, spool: str, directory: str, spec: dict[str, Any]) -> None:
        self.spool = spool
        self.directory = directory
        self.spec = spec
        self.queue = deque(range(1, spec["count"] + 1))
        self.jobs: dict[int, Job] = {}
        self.cancels = 0
        """Bytes of `cancel` that have been read."""
        self.events = os.open(f"{directory}/events", os.O_WRONLY | os.O_APPEND)

    def run(self) -> None:
        """Run them all."""
        while self.queue or self.jobs:
            self.start_what_fits()
            caught = signal.sigtimedwait(SIGNALS, WAKE_S)
            self.reap()
            self.heed_cancels()
            self.heed_time()
            if caught is not None and caught.si_signo in (signal.SIGTERM, signal.SIGINT):
                self.end_all("its supervisor was ended")

    def note(self, element: int, *words: object) -> None:
        """Write an event."""
        os.write(self.events, (" ".join(map(str, (element, *words))) + "\n").encode())

    def start_what_fits(self) -> None:
        """Start elements until there is no slot left."""
        most = self.spec["at_most"] or self.spec["count"]
        while self.queue and len(self.jobs) < most:
            slots = take_slots(f"{self.spool}/slots", self.spec["slots"], self.spec["cpus"])
            if not slots:
                return
            self.start(self.queue.popleft(), slots)

    def start(self, element: int, slots: list[int]) -> None:
        """Start one."""
        output = self.spec["output"].replace("{element}", str(element))
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        argv = [self.spec["script"], str(element)]
        try:
            pid = os.posix_spawn(
                argv[0], argv, self.spec["env"], file_actions=actions, setsid=True, setsigmask=[], setsigdef=SIGNALS
            )
        except OSError as error:
            release(slots)
            ends = ("ended", UNSEEN) if error.errno in ABSENT else ("lost",)
            self.note(element, *ends, f"it cannot be started: {error.strerror} ({output})")
            return
        self.jobs[pid] = Job(element, pid, slots, time.monotonic())
        self.note(element, "started", pid, started(pid) or "-")

    def reap(self) -> None:
        """Record the ends; whatever a job has left running ends with it, as on a node of a cluster."""
        for pid, job in list(self.jobs.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            kill_group(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self.note(job.element, *(("lost", job.lost) if job.lost else ("ended", status)))
            release(job.slots)
            del self.jobs[pid]

    def heed_cancels(self) -> None:
        """End what somebody asked to end since."""
        try:
            with open(f"{self.directory}/cancel") as file:
                file.seek(self.cancels)
                text = file.read().rpartition("\n")[0] + "\n"
        except FileNotFoundError:
            return
        self.cancels += len(text) if text.strip() else 0
        self.end({int(word) for word in text.split()}, "cancelled")

    def end(self, elements: set[int], why: str) -> None:
        """End these, whether they run or wait."""
        for element in [element for element in self.queue if element in elements]:
            self.queue.remove(element)
            self.note(element, "lost", why)
        for job in self.jobs.values():
            if job.element in elements and not job.lost:
                job.lost, job.kill_at = why, time.monotonic() + GRACE_S
                kill_group(job.pid, signal.SIGTERM)

    def end_all(self, why: str) -> None:
        """End everything."""
        self.end({*self.queue, *(job.element for job in self.jobs.values())}, why)

    def heed_time(self) -> None:
        """Warn and end those whose time is up, and kill those that were told to end and did not."""
        now, limit, warn = time.monotonic(), self.spec["time_s"], self.spec["warn_s"]
        for job in self.jobs.values():
            ran = now - job.began
            if limit and warn and ran > limit - warn and not job.warned:
                job.warned = True
                with suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGUSR1)  # to the script alone, as `B:` of Slurm's --signal does
            if limit and ran > limit:
                self.end({job.element}, "its time was up")
            if now > job.kill_at:
                kill_group(job.pid, signal.SIGKILL)


def take_slots(directory: str, slots: int, wanted: int) -> list[int]:
    """Return descriptors of as many slots as wanted (at most all), or none of them."""
    taken: list[int] = []
    with open(f"{directory}/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for number in range(slots):
            slot = os.open(f"{directory}/{number}", os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(slot)
                continue
            taken.append(slot)
            if len(taken) == min(wanted, slots):
                return taken
    release(taken)
    return []


def release(slots: list[int]) -> None:
    """Leave slots."""
    for slot in slots:
        with contextlib.suppress(OSError):
            os.close(slot)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
