"""Podman, Docker and Apptainer for tests and benchmarks, with an image that is made here, without network.

For tests each is a session fixture, so that every worker of pytest-xdist has its own: storage, daemon and sockets lie
in a temporary directory, and nothing of the machine's own configuration is read. What is not there skips the tests that
need it, or fails them where `CI=true`. scripts/testbed.sh installs what they need.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.testbed import needs
from tests.testbed.images import BASH, BUSYBOX, PODMAN, configure_podman, make_root, remove_containers
from tests.testbed.needs import INSTALL, lacking
from tests.testbed.service import CACHE


@dataclass(frozen=True)
class Engine:
    """A container program that works: variables that its clients need, and an image."""

    name: str
    image: str
    env: Mapping[str, str] = field(default_factory=dict)

    def call(self, *words: str | Path) -> str:
        """Run the client and return what it printed."""
        argv = (self.name, *map(str, words))
        env = {**os.environ, **self.env}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout


def need(*programs: str | Path) -> None:
    """Skip a test that cannot run here."""
    needs.need_root("bring up container programs of its own")
    needs.need(*map(str, programs))


@pytest.fixture(scope="session")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root file system of the image, as a directory."""
    need(BUSYBOX, BASH)
    return make_root(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture(scope="session")
def apptainer(image_root: Path) -> Iterator[Engine]:
    """Apptainer, with a directory as image, first on PATH for as long as the session lasts."""
    with apptainer_up(image_root) as engine:
        yield engine


@contextmanager
def apptainer_up(image_root: Path) -> Iterator[Engine]:
    """Have Apptainer first on PATH."""
    path = CACHE / "apptainer" / "path"
    need("mksquashfs")
    if not (path.parent / ".ready").exists():
        lacking(f"{path}: there is no apptainer; {INSTALL}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
        yield Engine("apptainer", str(image_root))


@pytest.fixture(scope="session")
def podman(image_root: Path) -> Iterator[Engine]:
    """Podman with storage of its own; runc, since crun refuses control groups of both versions at once."""
    with podman_up(image_root) as engine:
        yield engine


@contextmanager
def podman_up(image_root: Path) -> Iterator[Engine]:
    """Give Podman storage of its own, with the image in it."""
    need(*PODMAN)
    place = _short_place()
    engine = Engine("podman", "localhost/mini:1", configure_podman(place))
    _import(engine, image_root)
    try:
        with _exported(engine):
            yield engine
    finally:
        remove_containers(engine.env)
        subprocess.run(["umount", place / "graph" / "overlay"], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(place, ignore_errors=True)


def _short_place() -> Path:
    """Make a directory with a short name: 108 bytes are all that a socket may be called, and some lie deep."""
    return Path(tempfile.mkdtemp(prefix="tf-", dir="/tmp"))


@pytest.fixture(scope="session")
def docker(image_root: Path) -> Iterator[Engine]:
    """A daemon of Docker of its own, without bridge and firewall, that ends with the session."""
    with docker_up(image_root) as engine:
        yield engine


@contextmanager
def docker_up(image_root: Path) -> Iterator[Engine]:
    """Start a daemon of Docker, and end it."""
    need("dockerd", "docker", "docker-init", "containerd")
    place = _short_place()
    socket = f"unix://{place}/docker.sock"
    places = (f"--data-root={place}/data", f"--exec-root={place}/exec", f"--pidfile={place}/docker.pid")
    alone = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
    limits = ("--storage-driver=overlay2", "--default-ulimit=nofile=1024:4096")
    with open(place / "log", "wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", f"--host={socket}", *places, *alone, *limits], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    engine = Engine("docker", "mini:1", {"DOCKER_HOST": socket})
    try:
        _wait_for_daemon(daemon, engine, place / "log")
        _import(engine, image_root)
        with _exported(engine):
            yield engine
            if left := engine.call("ps", "--all", "--quiet").split():
                engine.call("rm", "--force", *left)
    finally:
        daemon.terminate()
        daemon.wait(30)
        shutil.rmtree(place, ignore_errors=True)


def _wait_for_daemon(daemon: subprocess.Popen[bytes], engine: Engine, log: Path) -> None:
    env, deadline = {**os.environ, **engine.env}, time.monotonic() + 60
    while subprocess.run(["docker", "info"], env=env, capture_output=True, check=False).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            lacking(f"dockerd cannot be had here: {log.read_text().strip().splitlines()[-1]}")
        time.sleep(0.1)


def _import(engine: Engine, root: Path) -> None:
    archive = root.parent / "root.tar"
    if not archive.exists():
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    env = {**os.environ, **engine.env}
    argv = [engine.name, "import", str(archive), engine.image]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        lacking(f"{engine.name} cannot be had here: {done.stderr.strip()}")


@contextmanager
def _exported(engine: Engine) -> Iterator[None]:
    """Set the client's variables in this process: farmers of tests and clients of runners inherit them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine.env.items():
            patch.setenv(name, value)
        yield


UP = {"apptainer": apptainer_up, "docker": docker_up, "podman": podman_up}
"""What brings a program up for as long as the context lasts, around the root file system of an image."""


@pytest.fixture(scope="session", params=list(UP))
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each container program in turn, at work."""
    found: Engine = request.getfixturevalue(request.param)
    return found
