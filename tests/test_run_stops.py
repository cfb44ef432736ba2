"""`taskfarmer run`, stopped: what runs goes back, and nothing is left alive (spec: taskfarm 2)."""

from __future__ import annotations

import signal
import time

import pytest

from tests.farms import OUTLIVES_S, TASKFARMER, Farm, Farmer, check_contract, kill, processes_with, wait_for

STOPS = ["USR1", "INT", "TERM", "HUP"]


def send(farm: Farm, at_work: list[Farmer], name: str) -> None:
    """Send all farmers a signal, once all have joined."""
    farm.wait_for_farmers()
    for farmer in at_work:
        farmer.signal(getattr(signal, f"SIG{name}"))


@pytest.mark.parametrize("name", STOPS)
def test_a_signal_stops_at_once(farm: Farm, name: str) -> None:
    """spec: taskfarm 2.5"""
    farm.write("true", "sleep 30", "sleep 30 | cat; echo no", "sleep 30", "true")
    at_work = farm.start_all("-n", "2")
    farm.wait_for_runs(3)
    began = time.monotonic()
    send(farm, at_work, name)
    ends = [farmer.wait(10) for farmer in at_work]
    assert time.monotonic() - began < 5
    assert {end.status for end in ends} == {3}
    assert all(f"SIG{name}" in end.out for end in ends)
    check_contract(farm, 5)
    counts = farm.counts()
    assert counts.get("failed", 0) == 0
    assert counts["toprocess"] >= 3
    assert {0, 1, 2, 3, 4} == {*farm.view("toprocess"), *farm.view("finished")}


@pytest.fixture
def evaluating(lone: Farm) -> Farmer:
    """A farmer whose slow handler is being evaluated, and has a process of its own at work."""
    (lone.path / "slow.py").write_text(
        "import subprocess\nfrom taskfarmer.task import ListTaskList\n\n\n"
        "class Slow(ListTaskList):\n    def __init__(self, path, workdir):\n        super().__init__(path, workdir)\n"
        "        subprocess.run(['sh', '-c', 'touch evaluating; sleep 30; true'])\n"
    )
    (lone.path / "slow.ini").write_text("[slow]\nTaskList = slow.Slow\n")
    lone.write("true")
    farmer = lone.start("-t", "slow")
    wait_for((lone.path / "evaluating").exists, "the handler")
    return farmer


@pytest.mark.parametrize("name", STOPS)
def test_a_signal_before_the_farm_is_made(lone: Farm, evaluating: Farmer, name: str) -> None:
    evaluating.signal(getattr(signal, f"SIG{name}"))
    end = evaluating.wait(10)
    assert end.status == 3, end
    assert "Traceback" not in end.err
    assert lone.runs() == []


@pytest.mark.parametrize("whom", ["loop", "guardian"])
def test_a_kill_before_the_farm_is_made_leaves_nothing_alive(evaluating: Farmer, whom: str) -> None:
    kill(evaluating.loop() if whom == "loop" else evaluating.pid)
    wait_for(lambda: not processes_with(evaluating.mark), "all to be dead", OUTLIVES_S)


def test_nohup_means_what_it_says(farm: Farm) -> None:
    farm.write("until [ -e go ]; do sleep 0.02; done")
    at_work = [farm.start_command("nohup", *TASKFARMER, "run", farm.list, "-n", "1") for _ in range(farm.farmers)]
    farm.wait_for_runs(1)
    send(farm, at_work, "HUP")
    (farm.path / "go").touch()
    assert {farmer.wait(10).status for farmer in at_work} == {0}
    check_contract(farm, 1)


def test_a_stopped_farm_goes_on(farm: Farm) -> None:
    farm.write("[ -e go ] || sleep 30", "true")
    at_work = farm.start_all("-n", "2")
    farm.wait_for_runs(2)
    send(farm, at_work, "USR1")
    assert {farmer.wait(10).status for farmer in at_work} == {3}
    (farm.path / "go").touch()
    assert farm.run("-n", "2").status == 0
    check_contract(farm, 2)
    assert farm.attempts()[0] == 2


def test_the_time_limit_stops_the_farm(farm: Farm) -> None:
    """spec: taskfarm 2.5"""
    farm.write("true", "sleep 30")
    end = farm.run("-n", "2", "--timeout", "1", limit_s=15)
    assert end.status == 3
    assert "time limit" in end.out
    check_contract(farm, 2)
    assert farm.counts() == {"finished": 1, "toprocess": 1}


def test_a_task_that_says_0_when_it_is_stopped_has_not_finished(farm: Farm) -> None:
    farm.write("trap 'exit 0' TERM; sleep 30 & wait")
    at_work = farm.start_all("-n", "1")
    farm.wait_for_runs(1)
    time.sleep(0.1)  # for the shell to set its trap; too early is right, too
    send(farm, at_work, "TERM")
    assert {farmer.wait(10).status for farmer in at_work} == {3}
    assert farm.counts() == {"toprocess": 1}
    check_contract(farm, 1)


def test_the_grace_is_kept_and_then_over(farm: Farm) -> None:
    farm.write("trap 'echo saved; exit 1' TERM; sleep 30 & wait", "trap '' TERM; while :; do sleep 1; done")
    at_work = farm.start_all("-n", "2", "--stop-grace", "1")
    farm.wait_for_runs(2)
    time.sleep(0.3)  # for the shells to set their traps
    began = time.monotonic()
    send(farm, at_work, "TERM")
    assert {farmer.wait(10).status for farmer in at_work} == {3}
    assert 0.9 < time.monotonic() - began < 5
    assert farm.log(0) == "saved\n"
    check_contract(farm, 2)


def test_a_second_interrupt_kills(farm: Farm) -> None:
    farm.write("trap '' TERM INT; echo ready; while :; do sleep 1; done")
    at_work = farm.start_all("-n", "1", "--stop-grace", "60")
    wait_for(lambda: (farm.workdir / "logs/log_0").exists() and farm.log(0) == "ready\n", "the task")
    send(farm, at_work, "INT")
    for farmer in at_work:
        wait_for(lambda farmer=farmer: "SIGINT" in farmer.said(), "the first to be heard")  # type: ignore[misc]
    began = time.monotonic()
    send(farm, at_work, "INT")
    assert {farmer.wait(10).status for farmer in at_work} <= {3}
    assert time.monotonic() - began < 5
    check_contract(farm, 1)
    assert farm.counts() == {"toprocess": 1}


def test_draining_finishes_what_runs_and_starts_nothing(farm: Farm) -> None:
    farm.write(*["until [ -e go ]; do sleep 0.02; done"] * (2 * farm.farmers), *["true"] * 20)
    at_work = farm.start_all("-n", "2")
    farm.wait_for_runs(2 * farm.farmers)
    send(farm, at_work, "USR2")
    for farmer in at_work:
        wait_for(lambda farmer=farmer: "draining: nothing new" in farmer.said(), "that it drains")  # type: ignore[misc]
    (farm.path / "go").touch()
    assert {farmer.wait(10).status for farmer in at_work} == {3}
    check_contract(farm, 2 * farm.farmers + 20)
    assert farm.counts() == {"finished": 2 * farm.farmers, "toprocess": 20}


@pytest.mark.parametrize(("words", "said"), [((), "asked to stop"), (("--drain",), "asked to drain")])
def test_the_command_stop(farm: Farm, words: tuple[str, ...], said: str) -> None:
    farm.write(*["sleep 0.7"] * 40)
    at_work = farm.start_all("-n", "2")
    farm.wait_for_runs(2)
    farm.wait_for_farmers()
    assert farm.once("stop", farm.workdir, *words).status == 0
    ends = [farmer.wait(15) for farmer in at_work]
    assert {end.status for end in ends} == {3}
    assert any(said in end.out for end in ends)
    check_contract(farm, 40)


def test_a_stop_while_tasks_wait_for_their_retry(farm: Farm) -> None:
    farm.write("false", "true")
    at_work = farm.start_all("-n", "1", "--retries", "5", "--retry-delay", "60")
    farm.wait_for_farmers()
    wait_for(lambda: farm.counts().get("finished") == 1, "one to finish")
    wait_for(lambda: farm.attempts()[0] == 1, "the other to fail")
    time.sleep(0.2)
    send(farm, at_work, "TERM")
    assert {farmer.wait(10).status for farmer in at_work} == {3}
    check_contract(farm, 2)
    assert farm.counts() == {"finished": 1, "toprocess": 1}


def test_what_is_cancelled_and_retried_at_once_does_not_run_twice_at_a_time(farm: Farm) -> None:
    """Spec: the contract, line 4. The old attempt takes its time to end; `retry` waits for it."""
    farm.write(
        "[ -e stamps ] && { echo begin >> stamps; exit 0; }; "
        "trap 'sleep 0.7; echo end >> stamps; exit 0' TERM; echo begin >> stamps; sleep 30 & wait"
    )
    at_work = farm.start_all("-n", "1", "--stop-grace", "20")
    stamps = farm.path / "stamps"
    wait_for(stamps.exists, "the first attempt")
    assert farm.once("cancel", farm.workdir, "0").out == "cancelled 1 task: 0\n"
    retried = farm.once("retry", farm.workdir, "0")
    assert retried.status == 0, retried
    assert farm.once("resume", farm.workdir).status == 0
    # Who was about to leave may see that there is work again, and say that some is left.
    assert {farmer.wait().status for farmer in at_work} <= {0, 3}
    assert stamps.read_text().split() == ["begin", "end", "begin"]
    check_contract(farm, 1)
