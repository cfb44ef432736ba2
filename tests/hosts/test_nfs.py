"""The tests of `test_hosts.py` on NFS, which a kernel has in the laboratory (`nfs_lab.sh`): a slice, or all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.hosts.conftest import need

HERE = Path(__file__).resolve().parent
LABORATORY = ("linux.uml", "busybox", "mount.nfs", "rpc.nfsd", "rpc.mountd", "rpcbind", "exportfs", "ip")


def in_the_laboratory(out: Path, version: str, chosen: str, limit_s: int) -> dict[str, str]:
    """Run the chosen tests (a `-k` expression; empty: all) there, and return by name how each ended."""
    need(*LABORATORY)
    report = out / "report.xml"
    pytest_ = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "long or not long")
    done = subprocess.run(
        [HERE / "nfs_lab.sh", *pytest_, "-k", chosen, f"--junitxml={report}", HERE / "test_hosts.py"],
        cwd=HERE.parents[1], env={**os.environ, "OUT": str(out), "LIMIT": str(limit_s), "NFS_LAB": version},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    cases = ElementTree.parse(report).iter("testcase")
    return {case.attrib["name"]: next((child.tag for child in case), "passed") for case in cases}


@pytest.mark.timeout(300)
def test_hosts_that_start_in_the_same_instant_on_nfs(tmp_path: Path) -> None:
    ended = in_the_laboratory(tmp_path, "3", "same_instant", 280)
    assert ended == {"test_hosts_that_start_in_the_same_instant_make_one_farm[nfs3]": "passed"}


@pytest.mark.long
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("version", ["3", "4.2"])
def test_all_on_nfs(tmp_path: Path, version: str) -> None:
    ended = in_the_laboratory(tmp_path, version, "", 5300)
    assert len(ended) >= 9
    assert set(ended.values()) == {"passed"}
