"""What stands in for ssh between hosts: a PID namespace cannot be entered from beside it, so that we open the door."""

from __future__ import annotations

import shlex
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from .machines import Machine

_CALL = """\
call=$(mktemp -d "$1/XXXXXX") && printf %s "$3" >"$call/command" && printf %s "$2" >"$call/new" || exit
mv "$call/new" "$call/host"
until [ -e "$call/status" ]; do sleep 0.05; done
cat "$call/err" >&2
exit "$(cat "$call/status")"
"""
"""Leaves a call in a local directory, and ends as the command does that was started for it."""


class Doorman:
    """Starts what one host calls for on another, within `with`. Calls are directories in `path`, which all see."""

    def __init__(self, path: Path, hosts: Iterable[Machine]) -> None:
        path.mkdir()
        self._path = path
        self._hosts = {host.name: host for host in hosts}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self.launcher = f"{shlex.join(['sh', '-c', _CALL, 'sh', str(path)])} {{host}} {{command}}"
        """For `taskfarmer selftest`."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _serve(self) -> None:
        started: dict[Path, subprocess.Popen[bytes]] = {}
        while not self._over.wait(0.05):
            for call in {call.parent for call in self._path.glob("*/host")} - started.keys():
                started[call] = self._start(call)
            for call, process in started.items():
                if process.poll() is not None and not (call / "status").exists():
                    (call / "new").write_text(str(process.returncode))
                    (call / "new").rename(call / "status")
        for process in started.values():
            process.wait()

    def _start(self, call: Path) -> subprocess.Popen[bytes]:
        host = self._hosts[(call / "host").read_text()]
        argv = host.argv("sh", "-c", (call / "command").read_text())
        with open(call / "err", "wb") as err:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=err, stderr=err)
