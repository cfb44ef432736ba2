"""All benchmarks, one after the other: `python -m benchmarks`, with the options that all of them have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run every script with the given options; 1 if one of them missed a target or failed."""
    here = Path(__file__).resolve().parent
    codes = [subprocess.call([sys.executable, here / name, *sys.argv[1:]]) for name in SCRIPTS]
    return int(any(codes))


SCRIPTS = ("latency.py", "peers.py", "scale.py", "farmers.py", "simulate.py", "polling.py")

if __name__ == "__main__":
    sys.exit(main())
