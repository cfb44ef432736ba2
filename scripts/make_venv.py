"""Make a virtual environment with pip, also where Python came without ensurepip (Debian without python3-venv).

    python3 scripts/make_venv.py DIRECTORY

Such a Python can make an environment, but puts no pip into it. Then pip comes from the interpreter's own pip if it has
one, else from the Python package index, checked against the SHA-256 that the index states.
This file runs before anything is installed, so that it keeps to the standard library, and to syntax that an old Python
can read far enough to say that it is too old.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

OLDEST = (3, 11)
INDEX = "https://pypi.org/pypi/pip/json"
REMEDY = "install python3-venv (Debian: apt install python3-venv), or name another Python: make PYTHON=..."


def have_pip(python: Path) -> bool:
    """Say whether `python` exists and has pip."""
    command = [str(python), "-m", "pip", "--version"]
    return python.exists() and subprocess.run(command, check=False, capture_output=True).returncode == 0


def pip_wheel(directory: Path) -> Path:
    """Download the newest wheel of pip into `directory` and return its path.

    Raises:
        OSError: the index cannot be reached.
        ValueError: what came is not what the index says.
    """
    with urllib.request.urlopen(INDEX, timeout=60) as answer:
        newest = json.load(answer)["urls"]
    entry = next(file for file in newest if file["packagetype"] == "bdist_wheel")
    with urllib.request.urlopen(urljoin(INDEX, entry["url"]), timeout=60) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != entry["digests"]["sha256"]:
        raise ValueError(f"{entry['url']} is not the file that the index describes")
    wheel = directory / str(entry["filename"])
    wheel.write_bytes(content)
    return wheel


def add_pip(python: Path) -> None:
    """Put pip into the environment of `python`, which has none."""
    with tempfile.TemporaryDirectory() as scratch:
        if importlib.util.find_spec("pip"):
            pip = [sys.executable, "-m", "pip", "--python", str(python)]
        else:
            pip = [str(python), str(pip_wheel(Path(scratch)) / "pip")]
        subprocess.run([*pip, "--quiet", "--disable-pip-version-check", "install", "pip"], check=True)


def main(directory: str) -> None:
    """Make the environment unless it is there."""
    if sys.version_info < OLDEST:
        sys.exit("taskfarmer needs Python 3.11 or later; name one: make PYTHON=python3.11")
    python = Path(directory) / "bin" / "python"
    if have_pip(python):
        return
    try:
        import venv

        ready = importlib.util.find_spec("ensurepip") is not None
        venv.create(directory, with_pip=ready, symlinks=True, clear=True)
        if not ready:
            add_pip(python)
    except (ImportError, OSError, ValueError, LookupError, StopIteration, subprocess.CalledProcessError) as error:
        sys.exit(f"cannot make {directory}: {error}; {REMEDY}")


if __name__ == "__main__":
    main(sys.argv[1])
