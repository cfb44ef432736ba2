"""The commands of a miniature batch system: each hands its words to the daemon of a directory and prints what it says.

The directory is named by an environment variable. The daemon is started by the first command (which should not be one
of a farmer's: farmers end what they started), and ends when the directory is gone. `knobs.json` in the directory turns
things; those of the commands themselves are

    down     text: the daemon is not asked; this is printed to the error output, and the exit status is 255
    hang_s   seconds to wait before anything is done
    noise    text that is printed before the answer
    cut      bytes of the output after which it ends
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any


def main(variable: str, engine: str, reads: str = "") -> int:
    """Run the command that this program was called as.

    `variable` names the directory, `engine` is `module:Class`, and `reads` the command that gets a standard input.
    """
    place = os.environ.get(variable)
    if not place:
        print(f"{variable}: not set: the directory of this stand-in", file=sys.stderr)
        return 127
    knobs = read_knobs(place)
    time.sleep(float(knobs.get("hang_s", 0)))
    if knobs.get("down"):
        print(knobs["down"], file=sys.stderr)
        return 255
    command = os.path.basename(sys.argv[0])
    stdin = sys.stdin.buffer.read().decode("latin-1") if command == reads and not sys.stdin.isatty() else ""
    request = {
        "command": command, "words": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "stdin": stdin,
    }  # fmt: skip
    answer = ask(place, engine, request)
    out = (str(knobs.get("noise", "")) + answer["out"]).encode("utf-8", "surrogateescape")
    sys.stderr.write(answer["err"])
    sys.stdout.buffer.write(out[: knobs.get("cut")])
    sys.stdout.flush()
    for local in answer["run"]:  # what a command runs itself: remote shells of parallel jobs
        subprocess.run(local, check=False)
    return int(answer["status"])


def read_knobs(place: str) -> dict[str, Any]:
    """Return what is turned."""
    try:
        with open(f"{place}/knobs.json") as file:
            return dict(json.load(file))
    except FileNotFoundError:
        return {}


def ask(place: str, engine: str, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon, which is started if it is not there."""
    os.makedirs(place, exist_ok=True)
    with connected(place, engine) as connection, connection.makefile("rwb") as stream:
        stream.write(json.dumps(request).encode() + b"\n")
        stream.flush()
        return dict(json.loads(stream.readline()))


def connected(place: str, engine: str) -> socket.socket:
    """Return a connection to the daemon."""
    lock = os.open(f"{place}/lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        for attempt in range(3000):
            try:
                return connect(place)
            except OSError:
                if attempt == 0:
                    start(place, engine)
                time.sleep(0.01)
    finally:
        os.close(lock)
    raise SystemExit(f"{place}: no daemon")


def connect(place: str) -> socket.socket:
    """Connect; by a descriptor, since names of sockets must be short."""
    directory = os.open(place, os.O_PATH)
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"/proc/self/fd/{directory}/socket")
        return connection
    finally:
        os.close(directory)


def start(place: str, engine: str) -> None:
    """Start the daemon."""
    module, _, name = engine.partition(":")
    code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); from {module} import {name}; {name}({place!r}).serve()"
    with open(f"{place}/daemon.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-S", "-c", code], cwd="/", start_new_session=True, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, env={"PATH": os.defpath},
        )  # fmt: skip
