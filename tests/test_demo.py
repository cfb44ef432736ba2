"""The demo of the README, run as a user runs it: in a copy, so that the tree stays as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_demo_finds_the_z_boson(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/demo", tmp_path / "demo", ignore=shutil.ignore_patterns("out"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    demo = subprocess.run(
        ["sh", tmp_path / "demo/demo.sh"], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert demo.returncode == 0, demo.stderr
    assert "cut short" in demo.stdout  # the log of a task that failed for good
    assert re.search(r"^peak at 9[01]\.\d GeV", demo.stdout, re.MULTILINE)
    workdir = tmp_path / "demo/out/tasks.txt_workdir"
    assert len((workdir / "finished").read_text().splitlines()) == 300
    assert (workdir / "failed").read_text() == ""
    # 300 first attempts, one more for the nine that were unlucky, the one that hung and the four of the broken file,
    # and one for those four after it was mended.
    attempts = [event for event in json.loads((workdir / "timeline.json").read_text()) if event["ph"] == "X"]
    assert len(attempts) == 318
