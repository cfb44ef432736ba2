"""The batch system of the examples, as anybody might write one: it passes the suite that ours pass."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import ClassVar

import pytest

from examples.batch.by_ssh import SSH_FAILED, BySsh, SlurmBySsh
from taskfarmer.batch import Answer, BatchSystem, Call, JobId, NoAnswer, Unsure, carry_out, choose
from taskfarmer.batch.local import Local
from taskfarmer.errors import InputError
from tests.batch_contract import BatchSystemContract, Site, outcome_of
from tests.test_batch_local import LocalSite

SSH = """#!/bin/sh
# Stands for ssh: the other host is this one, and the command starts in the home directory.
[ "$1" = -oBatchMode=yes ] && [ "$2" = login.example.org ] && [ $# = 3 ] || exit 255
cd / && exec sh -c "$3"
"""


class LocalBySsh(BySsh):
    """`local`, of another host."""

    name: ClassVar[str] = "local by ssh"
    title: ClassVar[str] = "local by ssh"
    reads: ClassVar[str] = Local.reads
    of: ClassVar[type[BatchSystem]] = Local


class SshSite(LocalSite):
    """This host, as if it were another."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        (shared / "bin").mkdir()
        (shared / "bin" / "ssh").write_text(SSH)
        (shared / "bin" / "ssh").chmod(0o755)
        path = f"{shared}/bin:{self.environ['PATH']}"
        self.environ = {**self.environ, "PATH": path, "SUBMIT_HOST": "login.example.org"}
        self.system = LocalBySsh(self.environ)


class TestBySsh(BatchSystemContract):
    """The contract."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Site:
        """Return the site."""
        return SshSite(tmp_path)


def test_a_connection_that_broke_leaves_it_open(tmp_path: Path) -> None:
    site = SshSite(tmp_path)
    broken = (SSH_FAILED, b"", "client_loop: send disconnect: Broken pipe")
    assert isinstance(outcome_of(site, site.submission("true"), broken), Unsure)
    with pytest.raises(NoAnswer):
        site.answered(site.system.poll([JobId("1.1")]), broken)


def test_the_real_command_is_one_word_for_ssh() -> None:
    system = SlurmBySsh({"SUBMIT_HOST": "there"})
    seen: list[Call] = []

    def run(call: Call) -> Answer:
        seen.append(call)
        return Answer.of(call, 0, "7|RUNNING|0|None|n1|\n")

    carry_out(system.poll([JobId("7")]), {}, run)
    *words, line = seen[0].argv
    assert words == ["ssh", "-oBatchMode=yes", "there"]
    assert shlex.split(line)[:2] == ["squeue", "--me"]
    assert "'JobArrayID:|," in line


def test_it_is_chosen_by_its_path(tmp_path: Path) -> None:
    environ = SshSite(tmp_path).environ
    assert isinstance(choose("examples.batch.by_ssh.SlurmBySsh", environ), SlurmBySsh)


def test_a_host_must_be_named() -> None:
    with pytest.raises(InputError, match="SUBMIT_HOST is not set"):
        SlurmBySsh({"PATH": os.environ["PATH"]})
