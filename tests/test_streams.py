"""Standard streams that are closed, full or without a reader: they never end or disturb a farm."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.farms import Farm, check_contract

TASKFARMER = f"{sys.executable} -m taskfarmer"
COUNT = 40


@pytest.mark.parametrize(
    "rest",
    [
        "-v | head -3",
        ">/dev/full",
        "-v >/dev/full",
        "--json >/dev/full",
        "-v >&-",
        "2>&-",
        "-v <&- >&- 2>&-",
        "-v --loops 2 >/dev/full 2>/dev/full",
    ],
)
def test_a_farm_works_whoever_reads_what_it_says(lone: Farm, rest: str) -> None:
    lone.write(*["true"] * (COUNT - 1), "false")
    end = lone.start_command("bash", "-c", f"set -o pipefail; {TASKFARMER} run tasks.txt -n 4 {rest}").wait()
    assert (end.status, end.err) == (1, "")
    assert lone.counts() == {"finished": COUNT - 1, "failed": 1}
    check_contract(lone, COUNT)


@pytest.mark.parametrize(("rest", "status"), [("| true", 0), ("| head -1", 0), (">&-", 0), (">/dev/full", 2)])
def test_commands_that_look(lone: Farm, rest: str, status: int) -> None:
    lone.write(*["true"] * 2000)
    assert lone.run("--logs", "none").status == 0
    end = lone.start_command("bash", "-c", f"set -o pipefail; {TASKFARMER} tasks tasks.txt_workdir {rest}").wait()
    assert end.status == status, end
    assert end.err.count("\n") == (status == 2)


def ignored(status: str) -> bool:
    """Whether a process ignores SIGTTOU, by its /proc/PID/status."""
    (mask,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(mask >> (signal.SIGTTOU - 1) & 1)


def test_a_terminal_that_stops_background_output_stops_no_loop(lone: Farm) -> None:
    """After `stty tostop`: the loop is not in the terminal's foreground group."""
    lone.list.write_text("cat /proc/$PPID/status >loop; cat /proc/self/status\n")
    assert lone.run().status == 0
    assert ignored((lone.path / "loop").read_text())
    assert not ignored(lone.log(0))


@pytest.mark.parametrize("options", [(), ("-v",)])
def test_every_loop_says_what_is_worth_a_line(lone: Farm, options: tuple[str, ...]) -> None:
    lone.write_jsonl({"command": "true", "cpus": 64}, {"command": "true"})
    end = lone.run("-t", "jsonl", "-n", "4", "--loops", "2", *options)
    assert end.status == 3
    assert sum("64 cpus" in line for line in end.out.splitlines()) == 2, end.out


def test_every_loop_tells_of_its_tasks(lone: Farm) -> None:
    lone.write(*["sleep 0.05"] * 20)
    end = lone.run("-n", "4", "--loops", "2", "-v")
    starts = [line for line in end.out.splitlines() if " started: " in line]
    assert end.status == 0
    assert len(starts) == sum(" finished" in line and " task " in line for line in end.out.splitlines()) == 20
