"""`taskfarmer run` from end to end: what it promises of tasks that end, fail, are retried, wait for each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from itertools import combinations
from pathlib import Path

import pytest

from taskfarmer.farm.ledger import Ledger
from tests.farms import TASKFARMER, Farm, check_contract, wait_for

CPUS = len(os.sched_getaffinity(0))


def attempts_of(farm: Farm) -> list[dict[str, object]]:
    """Return the slices of the timeline."""
    return [event for event in json.loads((farm.workdir / "timeline.json").read_text()) if event["ph"] == "X"]


# -- the end -----------------------------------------------------------------------------------------------------------


def test_all_finish(farm: Farm) -> None:
    """spec: taskfarm 2.4"""
    farm.write("echo out; echo err >&2", "true", 'printf "%s\\n" "a  b" | tr a c', "cd / && pwd")
    assert farm.run("-n", "2").status == 0
    check_contract(farm, 4)
    assert farm.counts() == {"finished": 4}
    assert set(farm.attempts().values()) == {1}
    assert [farm.log(task) for task in range(4)] == ["out\nerr\n", "", "c  b\n", "/\n"]
    assert farm.view("toprocess") == []
    assert sorted(farm.view("finished")) == [0, 1, 2, 3]
    assert farm.view("failed") == []
    assert len(attempts_of(farm)) == 4


def test_some_fail(farm: Farm) -> None:
    farm.write("true", "exit 7", "kill -9 $$", "no-such-program-at-all", "true")
    assert farm.run("-n", "2").status == 1
    check_contract(farm, 5)
    assert farm.counts() == {"finished": 2, "failed": 3}
    assert sorted(farm.view("failed")) == [1, 2, 3]
    assert "not found" in farm.log(3)


def test_a_second_run_of_a_finished_farm_does_nothing(farm: Farm) -> None:
    farm.write("true", "false", "true")
    assert farm.run("-n", "2").status == 1
    before = farm.runs()
    assert farm.run("-n", "2").status == 1
    assert farm.runs() == before
    check_contract(farm, 3)


def test_json_is_one_object_and_nothing_else(farm: Farm) -> None:
    farm.write("true", "false", "echo loud")
    end = farm.run("--json", "-n", "2")
    said = end.json()
    assert end.err == ""
    assert said["version"] == 1
    assert said["workdir"] == str(farm.workdir)
    assert said["tasks"] == {
        "toprocess": 0, "running": 0, "finished": 2, "failed": 1, "cancelled": 0, "blocked": 0, "unknown": 0,
    }  # fmt: skip
    assert (said["damaged"], said["exit_status"], end.status) == (0, 1, 1)
    assert 0 < said["seconds"] < 60


def test_quiet_prints_nothing(farm: Farm) -> None:
    farm.write("true", "false", "echo loud")
    end = farm.run("--quiet")
    assert (end.status, end.out, end.err) == (1, "", "")


def test_verbose_prints_starts_and_ends(lone: Farm) -> None:
    lone.list.write_text("true\nfalse\n")
    out = lone.run("-n", "1", "-v").out
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d task 0 started: true$", out, re.MULTILINE)
    assert re.search(r" task 0 finished$", out, re.MULTILINE)
    assert re.search(r" task 1 failed \(exit status 1\)$", out, re.MULTILINE)


def test_tasks_begin_in_the_order_of_the_list(lone: Farm) -> None:
    """spec: taskfarm 2.4"""
    lone.write(*["true"] * 40)
    assert lone.run("-n", "1").status == 0
    assert [run.task for run in lone.runs()] == list(range(40))


def test_two_loops_share_the_slots(farm: Farm) -> None:
    farm.write(*["sleep 0.01"] * 40)
    assert farm.run("-n", "3", "--loops", "2").status == 0
    check_contract(farm, 40)
    assert farm.counts() == {"finished": 40}
    assert sorted(farmer.slots for farmer in Ledger.open(farm.workdir).state.farmers) == sorted([1, 2] * farm.farmers)
    assert sorted(farm.view("finished")) == list(range(40))


def test_more_slots_than_a_loop_can_fill_are_split_but_not_without_end(lone: Farm) -> None:
    lone.write("true")
    assert lone.run("-n", "100000").status == 0
    slots = [farmer.slots for farmer in Ledger.open(lone.workdir).state.farmers]
    assert 1 <= len(slots) <= CPUS  # the others may come when all is done
    assert min(slots) >= 100000 // CPUS


def test_options_given_anew_hold_in_all_loops(farm: Farm) -> None:
    farm.write(*["sleep 0.05; false"] * 8)
    assert farm.run().status == 1
    assert farm.once("retry", farm.workdir).status == 0
    options = ("-n", "2", "--loops", "2", "--retries", "1", "--retry-delay", "0.01")
    assert farm.run_command(*TASKFARMER, "resume", farm.workdir, *options).status == 1
    assert farm.attempts() == dict.fromkeys(range(8), 3)
    check_contract(farm, 8)


# -- again -------------------------------------------------------------------------------------------------------------


def test_a_failed_task_is_tried_again_after_a_delay(farm: Farm) -> None:
    farm.write('echo "try $TASKFARMER_ATTEMPT"; [ "$TASKFARMER_ATTEMPT" = 3 ]', "true")
    assert farm.run("-n", "1", "--retries", "3", "--retry-delay", "0.4").status == 0
    check_contract(farm, 2)
    runs = [run for run in farm.runs() if run.task == 0]
    assert [run.attempt for run in runs] == [1, 2, 3]
    first, second = runs[1].time - runs[0].time, runs[2].time - runs[1].time
    assert first >= 0.2  # half of the delay at least
    assert second >= 0.4  # of twice the delay
    assert [farm.log(0, attempt) for attempt in (1, 2, 3)] == ["try 1\n", "try 2\n", "try 3\n"]


def test_retries_come_to_an_end(farm: Farm) -> None:
    farm.write("exit 5", "true")
    assert farm.run("--retries", "2", "--retry-delay", "0.05").status == 1
    check_contract(farm, 2)
    assert farm.attempts() == {0: 3, 1: 1}
    assert farm.counts() == {"finished": 1, "failed": 1}


def test_retry_brings_a_failed_task_back_and_keeps_its_logs(farm: Farm) -> None:
    """spec: calibration 17.152"""
    farm.write('echo "try $TASKFARMER_ATTEMPT"; [ -e mended ]', "true")
    assert farm.run().status == 1
    (farm.path / "mended").touch()
    assert farm.once("retry", farm.workdir).status == 0
    assert farm.counts() == {"finished": 1, "toprocess": 1}
    assert farm.run().status == 0
    assert (farm.log(0), farm.log(0, 2)) == ("try 1\n", "try 2\n")
    assert farm.view("failed") == []
    check_contract(farm, 2)


# -- time limits of tasks ----------------------------------------------------------------------------------------------


def test_a_task_that_takes_too_long_ends_with_all_that_it_started(farm: Farm) -> None:
    pids = farm.path / "pids"
    in_session = f"setsid sh -c 'trap \"\" TERM; echo $$ >>{pids}; while :; do sleep 1; done'"
    # The second task ends only when the grandchild has, so it is not the end of the farm that ends it.
    farm.write(
        f"trap '' TERM; {in_session} & while :; do sleep 1; done",
        f"until [ -s {pids} ]; do sleep 0.05; done; while kill -0 $(cat {pids}); do sleep 0.05; done",
    )
    began = time.monotonic()
    assert farm.run("-n", "2", "--task-timeout", "1", "--stop-grace", "0.3", limit_s=20).status == 1
    assert time.monotonic() - began < 10
    check_contract(farm, 2)
    # The watcher takes a little longer than the time limit itself: either end of it is right.
    assert farm.counts()["failed"] in (1, 2)
    assert 0 in farm.view("failed")


def test_a_task_has_a_grace_to_end_in_order(farm: Farm) -> None:
    farm.write("trap 'echo saved; exit 0' TERM; sleep 30 & wait")
    assert farm.run("--task-timeout", "0.5", "--stop-grace", "10").status == 1
    assert farm.log(0) == "saved\n"
    check_contract(farm, 1)
    assert farm.counts() == {"failed": 1}  # who was told to end has not finished, whatever it says


# -- too many failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["4", "10%"])
def test_the_farm_stops_soon_after_too_many_failures(farm: Farm, limit: str) -> None:
    farm.write(*["sleep 0.05; false"] * 40)
    end = farm.run("-n", "1", "--max-failures", limit)
    assert end.status == 3
    assert "limit is reached" in end.out
    check_contract(farm, 40)
    counts = farm.counts()
    assert 4 <= counts["failed"] <= 4 + 15 * (farm.farmers - 1)  # others hear of it within a second
    assert counts["failed"] + counts["toprocess"] == 40


def test_tasks_that_cannot_be_started_are_failures_like_others(lone: Farm) -> None:
    lone.list.write_text("".join(f'{{"argv": ["/no/such/program", "{number}"]}}\n' for number in range(300)))
    end = lone.run("--tasklist", "jsonl", "-n", "2", "--max-failures", "5")
    assert end.status == 3
    assert "limit is reached" in end.out
    counts = lone.counts()
    assert 5 <= counts["failed"] <= 5 + 2
    assert counts["failed"] + counts["toprocess"] == 300


def test_farmers_hear_of_failures_elsewhere(lone: Farm) -> None:
    lone.write(*['sleep 0.1; [ "$WHO" = good ]'] * 100)
    options = ("-n", "1", "--max-failures", "1")
    good = lone.start(*options, env={"WHO": "good"})
    lone.wait_for_runs(3)
    bad = lone.start(*options, env={"WHO": "bad"})
    assert (bad.wait().status, good.wait().status) == (3, 3)
    check_contract(lone, 100)
    counts = lone.counts()
    assert counts["failed"] == 1
    assert counts["toprocess"] > 20


def test_halt_now_ends_what_runs(farm: Farm) -> None:
    farm.write("until [ -e go ]; do sleep 0.02; done; false", *["sleep 30"] * 2)
    at_work = farm.start_all("-n", "3", "--max-failures", "1", "--halt", "now")
    farm.wait_for_runs(3)
    farm.wait_for_farmers()
    (farm.path / "go").touch()
    ends = [farmer.wait(15) for farmer in at_work]
    assert {end.status for end in ends} == {3}
    check_contract(farm, 3)
    assert farm.counts() == {"failed": 1, "toprocess": 2}


# -- surroundings ------------------------------------------------------------------------------------------------------


def test_the_environment_of_a_task(farm: Farm) -> None:
    names = ("PROC_NUMBER", "TASKFARMER_TASK_ID", "TASKFARMER_ATTEMPT", "TASKFARMER_SLOT", "MINE")
    said = " ".join(f"${name}" for name in names)
    farm.write(*[f'echo "{said} $TASKFARMER_WORKDIR ${{TASKFARMER_FAULT-unset}} $PWD"; [ -z "$(cat)" ]'] * 2)
    assert farm.run("-n", "1", env={"MINE": "my own"}).status == 0
    for task in (0, 1):
        assert farm.log(task) == f"{task} {task} 1 0 my own {farm.workdir} unset {farm.path}\n"


def test_slots_are_not_shared(farm: Farm) -> None:
    farm.write(*['echo "$TASKFARMER_SLOT"; sleep 0.2'] * 6)
    assert farm.run("-n", "3").status == 0
    assert {farm.log(task).strip() for task in range(6)} <= {"0", "1", "2"}
    slots = {(run.token, farm.log(run.task).strip()) for run in farm.runs()}
    assert len(slots) >= 3


@pytest.mark.skipif(CPUS < 2, reason="there is but one CPU to be bound to")
def test_pinned_tasks_have_a_cpu_of_their_own(farm: Farm) -> None:
    # A process is bound just after it was started, so it is asked twice.
    farm.list.write_text("sleep 0.2; grep Cpus_allowed_list /proc/self/status\n" * 4)
    assert farm.run("-n", "2", "--pin").status == 0
    lists = [farm.log(task).split()[1] for task in range(4)]
    assert all(cpus.isdigit() for cpus in lists), lists
    assert len(set(lists)) == 2


# -- tasks that say more -----------------------------------------------------------------------------------------------


def test_tasks_wait_for_others_and_are_blocked_and_unblocked(farm: Farm) -> None:
    farm.write_jsonl(
        {"command": "sleep 0.2", "name": "first"},
        {"command": "true", "after": ["first"]},
        {"command": "[ -e mended ]", "name": "breaks"},
        {"command": "true", "after": ["breaks"], "name": "second"},
        {"command": "true", "after": ["second", 1]},
    )
    assert farm.run("-t", "jsonl", "-n", "3").status == 1
    assert farm.counts() == {"finished": 2, "failed": 1, "blocked": 2}
    check_contract(farm, 5)
    begun = {run.task: run.time for run in farm.runs()}
    assert begun[1] > begun[0] + 0.2
    (farm.path / "mended").touch()
    assert farm.once("retry", farm.workdir).status == 0
    assert farm.counts() == {"finished": 2, "toprocess": 3}
    assert farm.run("-t", "jsonl", "-n", "3").status == 0
    check_contract(farm, 5)
    begun = {run.task: run.time for run in farm.runs()}
    assert begun[2] < begun[3] < begun[4]


def test_a_json_task_says_how_it_runs(farm: Farm) -> None:
    directory = farm.path / "else where"
    directory.mkdir()
    tasks = [
        {"argv": ["sh", "-c", 'printf "%s|" "$@"', "sh", "a b", "$HOME", "*"]},
        {"command": 'echo "$PWD $EXTRA"', "cwd": str(directory), "env": {"EXTRA": "one two"}},
        {"command": "exit 1", "retries": 2},
        {"command": "sleep 30", "timeout": 0.3},
    ]
    farm.list.write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    assert farm.run("-t", "jsonl", "-n", "4", "--retry-delay", "0.02", "--stop-grace", "0.2").status == 1
    assert farm.log(0) == "a b|$HOME|*|"
    assert farm.log(1) == f"{directory} one two\n"
    assert Path(farm.workdir / "logs/log_2.3").exists()
    assert farm.counts() == {"finished": 2, "failed": 2}
    check_contract(farm, 4)


def _overlap(farm: Farm, limit: int, needs: dict[int, int]) -> None:
    """Check, from `begin TIME` and `end TIME` in the logs, that no farmer's tasks needed more than `limit` at once."""
    spans = []
    for run in farm.runs():
        begin, end = (float(word) for word in farm.log(run.task).split()[1::2])
        spans.append((run.token, begin, end, needs[run.task]))
    for one, other in combinations(spans, 2):
        if one[0] == other[0] and one[1] < other[2] and other[1] < one[2]:
            assert one[3] + other[3] <= limit, (one, other)


SPAN = "echo begin $(date +%s.%N); sleep 0.15; echo end $(date +%s.%N)"


def test_slots_respect_cpus(farm: Farm) -> None:
    needs = {0: 2, 1: 1, 2: 1, 3: 2, 4: 1}
    farm.write_jsonl(*[{"command": SPAN, "cpus": needs[task]} for task in needs])
    assert farm.run("-t", "jsonl", "-n", "2").status == 0
    check_contract(farm, 5)
    _overlap(farm, 2, needs)


def test_slots_respect_memory(farm: Farm) -> None:
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(limit).exists() and (text := Path(limit).read_text().strip()).isdigit():
            most = min(most, int(text))
    needs = dict.fromkeys(range(3), int(0.6 * most))
    farm.write_jsonl(*[{"command": SPAN, "memory": needs[task]} for task in needs])
    assert farm.run("-t", "jsonl", "-n", "3").status == 0
    check_contract(farm, 3)
    _overlap(farm, most, needs)


def test_slots_respect_gpus(farm: Farm) -> None:
    needs = {0: 1, 1: 1, 2: 2, 3: 0}
    shown = 'echo "${CUDA_VISIBLE_DEVICES-unset}" >>gpus.$PROC_NUMBER'
    farm.write_jsonl(*[{"command": f"{shown}; {SPAN}", "gpus": needs[task]} for task in needs])
    assert farm.run("-t", "jsonl", "-n", "4", env={"CUDA_VISIBLE_DEVICES": "3,5"}).status == 0
    check_contract(farm, 4)
    _overlap(farm, 2, needs)
    given = {task: (farm.path / f"gpus.{task}").read_text().strip() for task in needs}
    assert given[0] in ("3", "5")
    assert given[1] in ("3", "5")
    assert sorted(given[2].split(",")) == ["3", "5"]
    assert given[3] == "3,5"  # who asks for none has what the farmer has


def test_a_task_that_never_fits_is_left_for_others(farm: Farm) -> None:
    farm.write_jsonl({"command": "true", "cpus": 64}, {"command": "true"}, {"command": "true", "after": [0]})
    end = farm.run("-t", "jsonl", "-n", "2")
    assert end.status == 3
    assert farm.counts() == {"finished": 1, "toprocess": 2}
    assert "64 cpus" in end.out + end.err, "it is not said why nothing more was done"
    assert farm.run("-t", "jsonl", "-n", "64").status == 0
    check_contract(farm, 3)


def test_a_sweep_runs_every_combination(farm: Farm) -> None:
    command = f"{farm.task('echo')} {{seed}} {{e}}"
    params = ("--param", "seed=0..2", "--param", "e=1,5 0")
    for _ in range(2):  # the second time it is finished, and known again
        end = farm.run_command(*TASKFARMER, "run", "--command", command, *params, "-w", "tasks.txt_workdir")
        assert end.status == 0, end
    check_contract(farm, 6)
    assert [farm.log(task) for task in range(6)] == [f"{seed} {e}\n" for seed in range(3) for e in ("1", "5 0")]
    assert set(farm.attempts().values()) == {1}


def test_a_table_fills_a_template(farm: Farm) -> None:
    farm.list = farm.list.rename(farm.path / "table.csv") if farm.list.exists() else farm.path / "table.csv"
    farm.list.write_text("seed,energy\n1,50\n2,a b\n")
    assert farm.run("--command", "echo {seed} {energy}", "-w", farm.workdir).status == 0
    assert [farm.log(task) for task in (0, 1)] == ["1 50\n", "2 a b\n"]
    check_contract_without_notes(farm, 2)


def check_contract_without_notes(farm: Farm, total: int) -> None:
    """Check the contract for tasks that write nothing down."""
    assert farm.runs() == []
    check_contract(farm, total)


# -- going on ----------------------------------------------------------------------------------------------------------


def test_resume_needs_nothing_but_the_workdir(farm: Farm) -> None:
    farm.write("pwd", '[ -e go ] || sleep 30; pwd; echo "$TASKFARMER_ATTEMPT"')
    at_work = farm.start_all("-n", "2", "--retries", "1")
    farm.wait_for_runs(2)
    farm.wait_for_farmers()
    for farmer in at_work:
        farmer.signal(15)
    assert {farmer.wait().status for farmer in at_work} == {3}
    assert farm.counts()["toprocess"] >= 1
    (farm.path / "go").touch()
    elsewhere = farm.path / "elsewhere"
    elsewhere.mkdir()
    assert farm.run_command(*TASKFARMER, "resume", "../tasks.txt_workdir", cwd=elsewhere).status == 0
    check_contract(farm, 2)
    assert farm.log(1, 2) == f"{farm.path}\n2\n"
    assert Ledger.open(farm.workdir).state.config["rules"]["retries"] == 1
    assert farm.once("resume", farm.list).status == 0, "the list is a name for its workdir, as it is elsewhere"


def test_resume_of_what_is_no_farm(lone: Farm) -> None:
    end = lone.once("resume", "nowhere")
    assert (end.status, end.err.count("\n")) == (2, 1)
    assert "nowhere" in end.err
    (lone.path / "empty").mkdir()
    end = lone.once("resume", "empty")
    assert (end.status, end.err.count("\n")) == (2, 1)
    assert os.listdir(lone.path / "empty") == []


def test_an_edited_list_is_noticed_and_never_renumbered(farm: Farm) -> None:
    farm.write("echo one", "false", "echo three")
    assert farm.run().status == 1
    lines = farm.list.read_text().splitlines(keepends=True)
    farm.list.write_text("".join([farm.task("echo new") + "\n", lines[0], lines[2]]))
    end = farm.run()
    assert end.status == 1
    assert "the list has changed" in end.out
    assert "1 added" in end.out
    assert "1 removed" in end.out
    check_contract(farm, 3)
    assert (farm.log(0), farm.log(2)) == ("one\n", "three\n")
    assert set(farm.attempts().values()) == {1}


def test_another_list_is_refused(farm: Farm) -> None:
    farm.write("true")
    assert farm.run().status == 0
    other = farm.path / "other.txt"
    other.write_text("echo something else\n")
    end = farm.run_command(*TASKFARMER, "run", other, "-w", farm.workdir)
    assert (end.status, end.err.count("\n")) == (2, 1)
    assert "belongs to another list" in end.err
    check_contract(farm, 1)


def said_of(farm: Farm, *words: str | Path) -> str:
    """Return what a second run that goes on says."""
    end = farm.run(*words)
    assert end.status == 0, end
    return end.out


def refused(farm: Farm, *words: str | Path) -> str:
    """Return the one line of a run that is refused."""
    end = farm.run(*words)
    assert (end.status, end.out, end.err.count("\n")) == (2, "", 1), end
    return end.err


def test_two_sweeps_do_not_share_a_workdir(lone: Farm) -> None:
    def sweep(command: str, values: str) -> tuple[int, str]:
        words = ("run", "--command", command, "--param", f"x={values}")
        end = lone.once(*words)
        return end.status, end.err

    assert sweep("echo a {x}", "0..2") == (0, "")
    assert sweep("echo a {x}", "0..2") == (0, "")
    for other in (sweep("echo b {x}", "0..2"), sweep("echo a {x}", "0..3")):
        assert other[0] == 2
        assert "--workdir" in other[1]


def test_another_command_of_a_table_is_refused(lone: Farm) -> None:
    lone.list.write_text("seed\n1\n")
    assert lone.run("--command", "echo {seed}").status == 0
    assert "'echo {seed}'" in refused(lone, "--command", "echo other {seed}")
    assert "the handler 'table'" in refused(lone, "-t", "jsonl")
    assert lone.run("--command", "echo {seed}").status == lone.run().status == 0
    assert lone.log(0) == "1\n"


def test_a_plain_list_does_not_become_a_table(lone: Farm) -> None:
    lone.list.write_text("true\n")
    assert lone.run().status == 0
    assert "the handler 'default'" in refused(lone, "--command", "echo {true}")


def test_arguments_of_a_handler_that_changed_are_said(lone: Farm) -> None:
    lone.write_jsonl({"command": "true"})
    ini = lone.path / "here.ini"
    (lone.path / "mine.py").write_text(
        "from taskfarmer.task import ListTaskList\nclass Mine(ListTaskList):\n"
        "    def __init__(self, path, workdir, word):\n        super().__init__(path, workdir)\n"
        "        self.word = word\n    def __getitem__(self, i):\n        return 'echo ' + self.word\n"
    )
    ini.write_text("[mine]\nTaskList = mine.Mine\nword = one\n")
    assert "has changed" not in said_of(lone, "-t", "mine") + said_of(lone, "-t", "mine")
    ini.write_text("[mine]\nTaskList = mine.Mine\nword = two\n")
    assert f"the handler 'mine' ({ini}:1) has changed since" in said_of(lone, "-t", "mine")
    assert "has changed" not in said_of(lone)
    assert lone.log(0) == "one\n"


def test_an_edited_list_is_read_by_the_farm_s_own_handler(lone: Farm) -> None:
    lone.write_jsonl({"command": "true"}, {"command": "echo"})
    assert lone.run("-t", "jsonl").status == 0
    lone.write_jsonl({"command": "true"}, {"command": "echo"}, {"command": "echo new"})
    assert "(1 added)" in said_of(lone)


def test_a_project_that_was_renamed_goes_on(lone: Farm) -> None:
    project, renamed = lone.path / "project", lone.path / "renamed"
    project.mkdir()
    (project / "tasks").write_text("[ -e go ] && pwd\n")
    for words, status in ((("run", "tasks"), 1), (("retry", "tasks"), 0)):
        assert lone.once(*words, cwd=project).status == status
    project.rename(renamed)
    (renamed / "go").touch()
    lone.workdir = renamed / "tasks_workdir"
    end = lone.once("resume", "tasks_workdir", cwd=renamed)
    assert (end.status, end.err.count("\n")) == (2, 1), end
    assert "--cwd DIR" in end.err
    assert lone.once("resume", lone.workdir, "--cwd", renamed).status == 0
    assert lone.log(0, 2) == f"{renamed}\n"
    end = lone.once("run", "tasks", cwd=renamed)
    assert end.status == 0
    assert f"{project}, where its tasks ran, is gone: they run in {renamed}" in end.out


def test_a_workdir_of_pytaskfarmer_is_taken_over_in_the_middle(farm: Farm) -> None:
    farm.write(*["echo done"] * 8)
    texts = farm.list.read_text().splitlines()
    (farm.workdir / "logs").mkdir(parents=True)
    (farm.workdir / "logs/log_0").write_text("old\n")
    (farm.workdir / "lock").touch()
    (farm.workdir / "finished").write_text(f"0 {texts[0]}\n3 {texts[3]}\n5 {texts[5]}"[:-4])  # the last one was cut
    (farm.workdir / "failed").write_text(f"2 {texts[2]}\n77 nonsense\n")
    (farm.workdir / "toprocess").write_text(f"1 {texts[1]}\n6 {texts[6]}\n7 {texts[7]}\n")  # 4 was lost
    (farm.workdir / "timeline.json").write_text("[]")
    ends = [farmer.wait() for farmer in farm.start_all("-n", "2")]
    assert [end.status for end in ends] == [1] * farm.farmers  # 2 stays failed
    said = "".join(end.out for end in ends)
    assert "2 tasks finished, 1 failed" in said
    assert "2 tasks were in none of its files" in said
    assert "77" in said
    check_contract(farm, 8, inherited=[0, 3])
    assert farm.attempts() == {1: 1, 4: 1, 5: 1, 6: 1, 7: 1}
    assert sorted(farm.view("finished")) == [0, 1, 3, 4, 5, 6, 7]
    assert farm.view("failed") == [2]
    assert farm.log(0) == "old\n"


def test_a_workdir_that_was_moved_goes_on(farm: Farm) -> None:
    farm.write("true", "[ -e go ]")
    assert farm.run().status == 1
    (farm.path / "go").touch()
    moved = farm.path / "moved"
    shutil.move(farm.workdir, moved)
    farm.workdir = moved
    assert farm.once("retry", moved).status == 0
    assert farm.run_command(*TASKFARMER, "resume", moved).status == 0
    check_contract(farm, 2)


def test_views_are_true_while_farmers_run(farm: Farm) -> None:
    farm.write(*["true"] * 5, "until [ -e go ]; do sleep 0.05; done")
    at_work = farm.start_all("-n", "2")
    shown = [farm.workdir / name for name in ("finished", "failed", "toprocess")]
    wait_for(lambda: all(view.exists() for view in shown) and len(farm.view("finished")) == 5, "the views", 15)
    assert farm.view("failed") == []
    (farm.path / "go").touch()
    assert {farmer.wait().status for farmer in at_work} == {0}
    assert len(farm.view("finished")) == 6
    assert len(attempts_of(farm)) == 6
