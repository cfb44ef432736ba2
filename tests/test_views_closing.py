"""A view whose file cannot be closed without an error, as network file systems may have it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from taskfarmer.farm.disk import Disk
from taskfarmer.farm.views.growing import Growing


def test_a_view_whose_closing_fails_is_begun_anew_and_touches_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = Growing(tmp_path / "finished", Disk())
    view.write(b"0 a\n")
    close = os.close

    def close_with_error(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "a write that was delayed has failed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close_with_error)
        with pytest.raises(OSError, match="delayed"):
            view.publish()
    with open(tmp_path / "another", "wb"):  # gets the number that was free
        view.forget()
        view.write(b"1 b\n")
        view.publish()
    assert (tmp_path / "finished").read_bytes() == b"1 b\n"
    assert (tmp_path / "another").read_bytes() == b""
