"""What a test needs, and what becomes of it without: it is skipped, or fails where `CI=true`.

In CI only somebody without rights may skip: packages cannot be installed then, and what only root can do not be done.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from tests.testbed.service import find

INSTALL = "`make testbed-packages` installs it on Debian"


def need(*programs: str) -> None:
    """Skip a test for which a program is not installed."""
    if absent := [program for program in programs if find(program) is None]:
        why = f"{', '.join(absent)}: not installed; {INSTALL}"
        if os.geteuid() != 0:
            pytest.skip(f"{why}, for root")
        lacking(why)


def need_root(what: str) -> None:
    """Skip a test of what only root can do."""
    if os.geteuid() != 0:
        pytest.skip(f"only root can {what}")


def lacking(why: str) -> NoReturn:
    """Skip a test for want of something, which fails in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
