"""An image that is made here, without network, and Podman and Apptainer to run it with: for tests, and to play with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tests.testbed.service import CACHE, NoService, Service, find

BUSYBOX, BASH = Path("/usr/bin/busybox"), Path("/bin/bash-static")
PODMAN = ("podman", "runc", "conmon", "catatonit")
_APPTAINER = CACHE / "apptainer"


def make_root(where: Path) -> Path:
    """Make a root file system of 4 MB: busybox, bash, and the files that container programs write to."""
    for name in ("bin", "etc", "dev", "proc", "sys", "tmp", "root", "home", "var/tmp", "usr/bin", "mnt"):
        (where / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (where / name).chmod(0o1777)
    shutil.copy(BUSYBOX, where / "bin" / "busybox")
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if name not in ("busybox", "bash"):
            (where / "bin" / name).symlink_to("busybox")
    shutil.copy(BASH, where / "bin" / "bash")
    (where / "usr/bin/env").symlink_to("../../bin/env")
    texts = {
        "passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n", "hosts": "127.0.0.1 localhost\n",
        "resolv.conf": "", "localtime": "", "os-release": "NAME=mini\n",
    }  # fmt: skip
    for name, text in texts.items():
        (where / "etc" / name).write_text(text)
    return where


def configure_podman(place: Path) -> dict[str, str]:
    """Write configuration that keeps all of Podman below a directory; return what its clients need to be told."""
    env = {"CONTAINERS_CONF": f"{place}/containers.conf", "CONTAINERS_STORAGE_CONF": f"{place}/storage.conf"}
    (place / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{place}/run"\ngraphroot = "{place}/graph"\n'
    )
    # conmon starts podman's clean-up with this environment only: without the two files it looks elsewhere, for 20 s.
    handed_on = ", ".join(f'"{name}={value}"' for name, value in {"PATH": os.environ["PATH"], **env}.items())
    (place / "containers.conf").write_text(
        '[containers]\nnetns = "none"\ndefault_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]\n'
        '[engine]\nruntime = "runc"\nlock_type = "file"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        f'tmp_dir = "{place}/tmp"\nvolume_path = "{place}/volumes"\nconmon_env_vars = [{handed_on}]\n'
    )
    return env


def remove_containers(env: Mapping[str, str]) -> None:
    """Remove all containers of podman, also records whose processes were killed: the first try only notices that."""
    for _ in range(3):
        argv = ["podman", "rm", "--all", "--force", "--time", "0"]
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, timeout=20, check=False)
            if done.returncode == 0:
                return


class Containers(Service):
    """Podman with storage of its own, and the image: `$IMAGE` for Podman, `$IMAGE_ROOT` for Apptainer if that is there.

    With runc, since crun refuses control groups of both versions at once.
    """

    kind = "containers"
    programs = (*PODMAN, str(BUSYBOX), str(BASH))
    path: ClassVar[Path | None] = _APPTAINER / "path" if (_APPTAINER / ".ready").exists() else None
    _image = "localhost/mini:1"

    @property
    def variables(self) -> dict[str, str]:
        """Where Podman's files are, and the image."""
        files = {
            "CONTAINERS_CONF": f"{self.state}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.state}/storage.conf",
        }
        return {**files, "IMAGE": self._image, "IMAGE_ROOT": f"{self.state}/image"}

    def is_up(self) -> bool:
        """Whether Podman has the image; nothing runs for it."""
        told = (self.state / "storage.conf").exists() and find("podman") is not None
        return told and self.answers("podman", "image", "exists", self._image)

    def down(self) -> None:
        """Have Podman remove its containers, for what of them lies elsewhere; then as all do."""
        if (self.state / "storage.conf").exists() and find("podman"):
            remove_containers(self.env)
        super().down()

    def _bring_up(self) -> None:
        if os.geteuid() != 0:
            raise NoService("only root can keep Podman's storage in a directory")
        root = make_root(self.state / "image")
        configure_podman(self.state)
        archive = self.state / "image.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        done = self.run("podman", "import", archive, self._image)
        if done.returncode:
            raise NoService(f"podman says: {done.stderr.strip()}")
