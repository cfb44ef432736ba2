"""A scheduler's commands (`batch.calls`): those that print without end, or say little."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from taskfarmer.batch import Answer, BatchSystem, Call, JobId, NoAnswer, Steps, Submission, Unsure, carry_out
from taskfarmer.batch import calls as calls_module
from taskfarmer.batch.calls import MOST_BYTES, QUEUE_BYTES, about_jobs, run_call
from taskfarmer.batch.gridengine import GridEngine
from taskfarmer.batch.htcondor import HTCondorCommands
from taskfarmer.batch.lsf import Lsf
from taskfarmer.batch.pbs import Pbs
from taskfarmer.batch.slurm import Slurm
from taskfarmer.farm.executors.errand import Errand

ENVIRON = {"PATH": os.environ["PATH"]}
ENDLESS = ("yes", "yes >&2", "yes | head -c 3M", "yes & wait")


def endless(text: str) -> Call:
    """Return a call of a command that may print 1 MB, and prints more."""
    return Call(argv=("sh", "-c", text), most_bytes=1 << 20)


@pytest.mark.parametrize("text", ENDLESS)
def test_what_prints_without_end_is_ended_and_nothing_of_it_kept(text: str) -> None:
    answer = run_call(endless(text), ENVIRON)
    assert (answer.ok, answer.text) == (False, "")
    assert answer.trouble == "sh was killed by signal 9: it printed more than 1 MB"


@pytest.mark.parametrize("text", ENDLESS)
def test_so_it_is_where_nobody_waits_for_it(text: str) -> None:
    def ask() -> Steps[str]:
        return (yield endless(text)).trouble

    errand = Errand(ask(), ENVIRON)
    errand.wait()
    assert errand.value == "sh was killed by signal 9: it printed more than 1 MB"


def test_what_prints_as_much_as_it_may_is_heard() -> None:
    call = Call(argv=("head", "-c", "1M", "/dev/zero"), most_bytes=1 << 20)
    assert len(run_call(call, ENVIRON).text) == 1 << 20


def test_a_command_has_no_longer_than_its_limit() -> None:
    began = time.monotonic()
    assert run_call(Call(argv=("sleep", "100"), limit_s=0.3), ENVIRON).trouble == "sleep did not answer in time"
    assert time.monotonic() - began < 20
    assert run_call(Call(argv=("sleep", "100"), limit_s=0.0), ENVIRON).trouble == "sleep did not answer in time"


def test_what_tells_of_jobs_may_say_more_than_what_submits_one() -> None:
    assert Call(argv=("sbatch",)).most_bytes == MOST_BYTES
    assert about_jobs("squeue", "--me").most_bytes == QUEUE_BYTES
    assert QUEUE_BYTES > 100_000 * 2124  # what PBS says of as many (benchmarks/polling.py)


COMMANDS = {
    Slurm: "sbatch squeue sacct scancel scontrol",
    HTCondorCommands: "condor_submit condor_q condor_history condor_rm condor_config_val",
    Lsf: "bsub bjobs bkill bparams lsid",
    Pbs: "qsub qstat qselect qdel",
    GridEngine: "qsub qstat qacct qdel qconf",
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_system_whose_commands_print_without_end_does_not_answer(
    kind: type[BatchSystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "QUEUE_BYTES", 1 << 20)
    for name in COMMANDS[kind].split():
        (tmp_path / name).write_text(f"#!/bin/sh\nexec yes {name}\n")
        (tmp_path / name).chmod(0o755)
    system = kind({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    job = JobId("7.0" if "condor" in COMMANDS[kind] else "7")
    asked: list[Steps[Any]] = [system.poll([job]), system.find("tf0123456789ab"), system.cancel([job])]
    for steps in asked:
        with pytest.raises(NoAnswer, match="printed more than") as error:
            carry_out(steps, system.environ)
        assert "\n" not in str(error.value)
    name = "tf0123456789ab"
    submission = Submission(name=name, directory=tmp_path / name, body="true", cwd="/", output=f"{tmp_path}/out")
    submission.directory.mkdir()
    for file, text in system.files(submission).items():
        (submission.directory / file).write_text(text)
    outcome = carry_out(system.submit(submission), system.environ)
    assert isinstance(outcome, Unsure)
    assert "printed more than 16 MB" in outcome.why


# -- the last words ----------------------------------------------------------------------------------------------------


def words(out: str | bytes, err: str = "") -> str:
    """Return the last words of a command that said this."""
    return Answer.of(Call(argv=("sbatch",)), 0, out, err).last_words


def test_the_last_words_are_one_line_that_a_terminal_can_show() -> None:
    assert words("") == ""
    assert words("a\nb \n", "warning:\tc\n") == "a b warning: c"
    assert words("\x1b[31mred\x07") == "?[31mred?"
    assert words(b"\xff\xfe") == "\ufffd\ufffd"
    assert words(f"{'x' * 500} end") == f"... {'x' * 296} end"
