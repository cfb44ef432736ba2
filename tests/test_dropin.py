"""`pytaskfarmer.py` and `pytaskfarmer`: options, defaults, exit statuses (spec: taskfarm 1, 8)."""

from __future__ import annotations

import re
import signal

import pytest

from taskfarmer.farm.ledger import Ledger
from tests.farms import SCRIPTS, Farm, check_contract

NEW, OLD = SCRIPTS / "pytaskfarmer", SCRIPTS / "pytaskfarmer.py"


@pytest.mark.parametrize("script", [NEW, OLD], ids=["pytaskfarmer", "pytaskfarmer.py"])
def test_the_list_is_worked_through_whatever_fails(farm: Farm, script: str) -> None:
    farm.write("true", "false", "true")
    end = farm.run_command(script, "tasks.txt")
    assert end.status == 0, end
    check_contract(farm, 3)
    assert farm.counts() == {"finished": 2, "failed": 1}
    assert {farmer.slots for farmer in Ledger.open(farm.workdir).state.farmers} == {8}
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in end.out.splitlines())
    assert str(farm.workdir) in end.out


@pytest.mark.parametrize(
    "words",
    [
        ("-n", "2", "tasks.txt", "-w", "other", "-v", "True"),
        ("--proc", "2", "--verbose", "False", "--workdir", "other", "tasks.txt"),
        ("-v", "-n", "2", "-w", "other", "tasks.txt"),
        ("-n", "2", "-w", "other", "-v", "tasks.txt"),
        ("--pro", "2", "--work", "other", "--verb", "--run=default", "--task", "default", "tasks.txt"),
        ("--proc=2", "--workdir=other", "--verbose=True", "tasks.txt"),
        ("-w", "other", "--logDir", "somewhere", "-r", "default", "-t", "default", "-n2", "tasks.txt"),
        ("-w", "other", "--runner", "default", "--tasklist", "default", "tasks.txt", "-n", "2"),
    ],
)
def test_the_old_options(farm: Farm, words: tuple[str, ...]) -> None:
    farm.write("true", "true")
    end = farm.run_command(OLD, *words)
    assert end.status == 0, end
    assert ("--logDir" in end.err) == ("--logDir" in words)
    farm.workdir = farm.path / "other"
    check_contract(farm, 2)
    assert {farmer.slots for farmer in Ledger.open(farm.workdir).state.farmers} == {2}


def test_proc_without_a_value_is_the_number_of_cpus(farm: Farm) -> None:
    import os

    farm.write("true")
    assert farm.run_command(OLD, "tasks.txt", "-n").status == 0
    assert {farmer.slots for farmer in Ledger.open(farm.workdir).state.farmers} == {os.cpu_count()}


@pytest.mark.parametrize("name", ["USR1", "INT", "TERM"])
def test_a_signal_gives_1(farm: Farm, name: str) -> None:
    farm.write("true", "sleep 30")
    at_work = [farm.start_command(OLD, "tasks.txt") for _ in range(farm.farmers)]
    farm.wait_for_runs(2)
    farm.wait_for_farmers()
    for farmer in at_work:
        farmer.signal(getattr(signal, f"SIG{name}"))
    assert {farmer.wait(10).status for farmer in at_work} == {1}
    check_contract(farm, 2)
    assert farm.view("toprocess")[-1] == 1


def test_the_time_limit_gives_1(farm: Farm) -> None:
    farm.write("true", "sleep 30")
    assert farm.run_command(OLD, "--timeout", "1", "tasks.txt").status == 1
    check_contract(farm, 2)
    assert farm.counts() == {"finished": 1, "toprocess": 1}


@pytest.mark.parametrize("words", [(), ("missing.txt",), ("--nonsense", "tasks.txt"), ("--proc", "x", "tasks.txt")])
def test_bad_usage_gives_2(lone: Farm, words: tuple[str, ...]) -> None:
    lone.write("true")
    end = lone.start_command(OLD, *words).wait()
    assert end.status == 2, end
    assert "Traceback" not in end.err
    assert not lone.workdir.exists()


def test_both_commands_share_a_farm(lone: Farm) -> None:
    lone.write(*["sleep 0.02"] * 30)
    old, new = lone.start_command(OLD, "-n", "1", "tasks.txt"), lone.start("-n", "1")
    assert (old.wait().status, new.wait().status) == (0, 0)
    check_contract(lone, 30)
    assert lone.counts() == {"finished": 30}
