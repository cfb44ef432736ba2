"""The ATLAS handlers, over real ROOT files (spec: taskfarm 7)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot  # type: ignore[import-untyped]  # it has no stubs

from taskfarmer.atlas import AthenaTaskList, TransformTaskList
from taskfarmer.config import Config
from taskfarmer.core.model import Task, decode_task
from taskfarmer.definitions import find
from taskfarmer.errors import InputError, WorkdirError
from taskfarmer.task import ListTaskList
from taskfarmer.tasklists import encoded_tasks, rootfiles

STANDINS = Path(__file__).parent / "standins"

# The definition of the manual: what users have.
DIGI = """\
[digi]
TaskList = taskfarmer.atlas.TransformTaskList
transform = Reco_tf.py
input = HITS
output = RDO
autoConfiguration = everything
conditionsTag = default:OFLCOND-MC16-SDR-RUN2-06
preInclude = HITtoRDO:Campaigns/MC16NoPileUp.py
preExec = all:from AODFlags import AODFlags; AODFlags.Thin.set(False);' 'HITtoRDO:import digi; digi.Size = 42
"""
DIGI_GIVES = {
    "autoConfiguration": ["everything"],
    "conditionsTag": ["default:OFLCOND-MC16-SDR-RUN2-06"],
    "preInclude": ["HITtoRDO:Campaigns/MC16NoPileUp.py"],
    "preExec": ["all:from AODFlags import AODFlags; AODFlags.Thin.set(False);", "HITtoRDO:import digi; digi.Size = 42"],
}
RECO = """\
[reco]
TaskList = taskfarmer.atlas.AthenaTaskList
jobOptions = MyReco/jobOptions.py
output = OUT.root
nprocs = 64
postExec = a = "b c"; d' 'e
"""
RECO_GIVES = {"nprocs": ["64"], "postExec": ['a = "b c"; d', "e"]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory, which is the current one, with the stand-in programs on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{STANDINS}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def events(path: str, count: int, tree: str = "CollectionTree") -> None:
    """Write a ROOT file with a tree of that many entries."""
    with uproot.recreate(path) as file:
        file.mktree(tree, {"x": np.int32})
        if count:
            file[tree].extend({"x": np.arange(count, dtype=np.int32)})


def files(*names: str) -> None:
    """Write the list of input files, with a comment above them."""
    Path("list").write_text("# inputs\n" + "".join(f"{name}\n" for name in names))


def tasks_of(name: str) -> list[Task]:
    """Return the tasks that the handler of that name in the INI file makes of `list`."""
    config = Config.read()
    lines = encoded_tasks(find("tasklist", name, config), "list", "wd", config)
    return [decode_task(line) for line in lines]


def execute(task: Task, expected: dict[str, list[str]]) -> None:
    """Run a task as the farm does; the stand-ins check what they are given."""
    environ = {**os.environ, "EXPECT": json.dumps(expected)}
    done = subprocess.run(["sh", "-c", task.line], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def transform(**arguments: Any) -> TransformTaskList:
    """Return a transform handler on `list`."""
    return TransformTaskList("list", "wd", "Sim_tf.py", "EVNT", "HITS", **arguments)


def test_the_transform_command_word_by_word(here: Path) -> None:
    files("a.root", "b.root")
    handler = transform(geo="default:X", n="5")
    assert isinstance(handler, ListTaskList)
    assert (len(handler), handler.tasks, handler.outdir) == (2, ["a.root", "b.root"], f"{here}/wd/output")
    assert handler[1] == (
        "Sim_tf.py --geo 'default:X' --n '5' --inputEVNTFile b.root --outputHITSFile HITS.1.root"
        f" && rsync -avr HITS.1.root {here}/wd/output"
    )
    assert os.path.isdir("wd/output")


def test_the_athena_command_word_by_word(here: Path) -> None:
    files("a.root", "b.root")
    handler = AthenaTaskList("list", "wd", "job.py", "OUT.root", nprocs="64")
    assert handler[1] == (
        f"athena.py --nprocs '64' --filesInput b.root job.py && rsync -avr OUT.root {here}/wd/output/OUT.root.1"
    )


def test_a_split_transform_word_by_word(here: Path) -> None:
    files("a.root", "b.root")
    events("a.root", 5)
    events("b.root", 4)
    handler = transform(maxEventsPerJob="2")
    assert handler.tasks == ["a.root"] * 3 + ["b.root"] * 2
    assert [handler[taskid].partition(" --input")[2].partition(" && ")[0] for taskid in range(len(handler))] == [
        "EVNTFile a.root --outputHITSFile HITS.0.0.root --skipEvents 0 --maxEvents 2",
        "EVNTFile a.root --outputHITSFile HITS.0.1.root --skipEvents 2 --maxEvents 2",
        "EVNTFile a.root --outputHITSFile HITS.0.2.root --skipEvents 4 --maxEvents 2",
        "EVNTFile b.root --outputHITSFile HITS.1.0.root --skipEvents 0 --maxEvents 2",
        "EVNTFile b.root --outputHITSFile HITS.1.1.root --skipEvents 2 --maxEvents 2",
    ]
    assert handler[4].endswith(f" && rsync -avr HITS.1.1.root {here}/wd/output")


def test_a_split_athena_word_by_word(here: Path) -> None:
    """The number in the name of the result is the position among all tasks."""
    files("a.root", "b.root")
    events("a.root", 3)
    events("b.root", 1)
    handler = AthenaTaskList("list", "wd", "job.py", "OUT.root", maxEventsPerJob="2")
    assert [handler[taskid] for taskid in range(len(handler))] == [
        f"athena.py --filesInput {file} --skipEvents {skip} --evtMax 2 job.py"
        f" && rsync -avr OUT.root {here}/wd/output/OUT.root.{taskid}"
        for taskid, (file, skip) in enumerate([("a.root", 0), ("a.root", 2), ("b.root", 0)])
    ]


@pytest.mark.parametrize(
    ("entries", "most", "pieces"), [(0, 3, 0), (1, 3, 1), (2, 3, 1), (3, 3, 1), (4, 3, 2), (6, 3, 2), (7, 1, 7)]
)
def test_pieces_are_rounded_up_and_no_entries_give_no_task(here: Path, entries: int, most: int, pieces: int) -> None:
    files("a.root")
    events("a.root", entries)
    assert len(transform(maxEventsPerJob=str(most))) == pieces


def test_the_manuals_transform_runs_and_its_two_arguments_arrive(here: Path) -> None:
    Path("digi.ini").write_text(DIGI)
    names = ["a.root", "with a blank & quote's.root"]
    files(*names)
    for name in names:
        events(name, 1)
    tasks = tasks_of("digi")
    assert [task.text for task in tasks] == names
    for task in tasks:
        execute(task, DIGI_GIVES)
    for n, name in enumerate(names):
        result = json.loads(Path(f"wd/output/RDO.{n}.root").read_text())
        assert (result["inputHITSFile"], result["outputRDOFile"]) == (name, f"RDO.{n}.root")


def test_a_split_transform_runs(here: Path) -> None:
    Path("digi.ini").write_text(DIGI + "maxEventsPerJob = 4\n")
    files("a.root")
    events("a.root", 9)
    tasks = tasks_of("digi")
    for task in tasks:
        execute(task, DIGI_GIVES)
    results = [json.loads(Path(f"wd/output/RDO.0.{i}.root").read_text()) for i in range(3)]
    assert [(result["skipEvents"], result["maxEvents"]) for result in results] == [(0, 4), (4, 4), (8, 4)]


def test_athena_runs_in_a_workdir_with_a_blank(here: Path) -> None:
    Path("reco.ini").write_text(RECO + "maxEventsPerJob : 2\n")
    files("my file.root")
    events("my file.root", 3)
    config = Config.read()
    lines = encoded_tasks(find("tasklist", "reco", config), "list", "my wd", config)
    for line in lines:
        execute(decode_task(line), RECO_GIVES)
    results = [json.loads(Path(f"my wd/output/OUT.root.{i}").read_text()) for i in range(2)]
    assert [result["skipEvents"] for result in results] == [0, 2]
    assert {result["jobOptions"] for result in results} == {"MyReco/jobOptions.py"}


def test_the_stand_ins_refuse_other_arguments(here: Path) -> None:
    """Else the tests above would show nothing."""
    Path("digi.ini").write_text(DIGI)
    files("a.root")
    events("a.root", 1)
    (task,) = tasks_of("digi")
    with pytest.raises(AssertionError, match="--preExec is"):
        execute(task, {**DIGI_GIVES, "preExec": ["one"]})
    done = subprocess.run(["rsync", "-av", "a.root", str(here)], capture_output=True, text=True, check=False)
    assert (done.returncode, "expected -avr" in done.stderr) == (64, True)


@pytest.mark.parametrize("text", ["0", "-3", "ten", "", "1.5"])
def test_a_number_of_events_that_is_none(here: Path, text: str) -> None:
    Path("digi.ini").write_text(DIGI + f"maxEventsPerJob = {text}\n")
    files("a.root")
    with pytest.raises(InputError) as caught:
        tasks_of("digi")
    assert str(caught.value) == (
        f"{here}/digi.ini:1: [digi] maxEventsPerJob = {text}: not a whole number of events from 1"
    )
    assert not os.path.exists("wd")


def write_text() -> None:
    Path("bad.root").write_text("this is no ROOT file, but a text that is long enough to be looked into" * 20)


def cut() -> None:
    events("bad.root", 10_000)
    os.truncate("bad.root", 3000)


def cut_head() -> None:
    events("bad.root", 3)
    os.truncate("bad.root", 60)


def write_other_tree() -> None:
    events("bad.root", 3, "OtherTree")


def write_histogram() -> None:
    with uproot.recreate("bad.root") as file:
        file["CollectionTree"] = np.histogram(np.arange(3.0))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: None, "No such file or directory"),
        (lambda: os.mkdir("bad.root"), "not a ROOT file that can be read"),
        (lambda: Path("bad.root").touch(), "not a ROOT file that can be read"),
        (write_text, "not a ROOT file that can be read: ValueError"),
        (cut, "is cut short: 3000 of "),
        (cut_head, "not a ROOT file that can be read"),
        (write_other_tree, "has no CollectionTree"),
        (write_histogram, "its CollectionTree is no tree"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_before_anything_runs(here: Path, make: Any, complaint: str) -> None:
    Path("digi.ini").write_text(DIGI + "maxEventsPerJob = 2\n")
    make()
    events("good.root", 1)
    files("good.root", "bad.root", "missing.root")
    with pytest.raises(InputError) as caught:
        tasks_of("digi")
    message = str(caught.value)
    assert message.startswith("list:3: bad.root: ")
    assert complaint in message
    assert message.endswith("(1 more cannot be read); mend the file or take it off the list")
    assert "\n" not in message
    assert not os.path.exists("wd")


def test_without_splitting_files_are_left_alone(here: Path) -> None:
    files("root://server//file.root", "/only/in/the/container.root")
    handler = transform()
    assert [handler[taskid].split()[2] for taskid in range(2)] == [
        "root://server//file.root",
        "/only/in/the/container.root",
    ]


def test_each_file_is_opened_once_and_remembered(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = uproot.open

    def count(what: dict[str, None]) -> Any:
        opened.extend(what)
        return original(what)

    monkeypatch.setattr(uproot, "open", count)
    for number in range(20):
        events(f"{number}.root", number)
    names = [f"{number}.root" for number in range(20)]
    files(*names, "7.root")
    assert len(transform(maxEventsPerJob="100")) == 20  # 0.root has no events, 7.root is there twice
    assert sorted(opened) == sorted(names)
    assert os.listdir("wd/output") == [".entries.json"]
    opened.clear()
    assert len(transform(maxEventsPerJob="100")) == 20
    assert opened == []
    events("3.root", 101)
    assert len(transform(maxEventsPerJob="100")) == 21
    assert opened == ["3.root"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2, "files": []}', '{"version": 1, "files": [[1]]}'])
def test_a_damaged_or_later_cache_is_made_anew(here: Path, content: str) -> None:
    files("a.root")
    events("a.root", 3)
    os.makedirs("wd/output")
    Path("wd/output/.entries.json").write_text(content)
    assert len(transform(maxEventsPerJob="1")) == 3
    value = json.loads(Path("wd/output/.entries.json").read_text())
    assert value == {"version": 1, "files": [[f"{here}/a.root", *stat_of("a.root"), 3]]}


def stat_of(path: str) -> list[int]:
    """Return size and time of change of a file."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


@pytest.mark.parametrize("name", ["a:b.root", "a b.root", "glob*.root", "name.root:tree", "é.root"])
def test_names_that_mean_something_to_a_library(here: Path, name: str) -> None:
    events("plain.root", 2)
    shutil.move("plain.root", name)
    files(name)
    assert len(transform(maxEventsPerJob="1")) == 2


def test_a_place_for_results_that_cannot_be_made(here: Path) -> None:
    files("a.root")
    Path("wd").write_text("a file")
    with pytest.raises(WorkdirError, match="wd/output: cannot be made"):
        transform()


PYROOT = """\
class Tree:
    def GetEntries(self): return 3

class TFile:
    @staticmethod
    def Open(name):
        if 'broken' in name: return None
        made = TFile()
        made.name = name
        return made
    def IsZombie(self): return 'zombie' in self.name
    def Get(self, name): return None if 'other' in self.name else Tree()
    def GetSize(self): return 90 if 'cut' in self.name else 100
    def GetEND(self): return 100
    def Close(self): pass
"""


def test_pyroot_serves_where_uproot_is_not(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("modules").mkdir()
    Path("modules/ROOT.py").write_text(PYROOT)
    monkeypatch.syspath_prepend("modules")
    monkeypatch.setitem(sys.modules, "uproot", None)
    for name in ("a.root", "broken.root", "zombie.root", "other.root", "cut.root"):
        Path(name).touch()
    files("a.root")
    assert len(transform(maxEventsPerJob="2")) == 2
    for name, complaint in (
        ("broken.root", "PyROOT cannot open it"),
        ("zombie.root", "PyROOT cannot open it"),
        ("other.root", "has no CollectionTree"),
        ("cut.root", "is cut short: 90 of 100 bytes"),
    ):
        files("a.root", name)
        with pytest.raises(InputError, match=f"list:3: {name}: .*{complaint}"):
            transform(maxEventsPerJob="2")
    sys.modules.pop("ROOT")


def test_with_neither_the_extra_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uproot", None)
    monkeypatch.setitem(sys.modules, "ROOT", None)
    files("a.root")
    Path("a.root").touch()
    with pytest.raises(InputError, match=r"pip install 'taskfarmer\[atlas\]'"):
        transform(maxEventsPerJob="2")
    assert not os.path.exists("wd")


def test_files_are_read_several_at_a_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four readers meet: one after the other they would wait for ever, and fail."""
    import threading

    meeting = threading.Barrier(4, timeout=20)

    def read(_library: object, _file: str) -> int:
        meeting.wait()
        return 1

    monkeypatch.setattr(rootfiles, "_with_uproot", read)
    names = [f"{number}.root" for number in range(4)]
    for name in names:
        Path(name).touch()
    files(*names)
    assert len(transform(maxEventsPerJob="1")) == 4


def test_the_farmer_does_not_load_the_libraries(here: Path) -> None:
    Path("digi.ini").write_text(DIGI + "maxEventsPerJob = 2\n")
    files("a.root")
    events("a.root", 3)
    program = (
        "import sys; from taskfarmer.config import Config; from taskfarmer.definitions import find;"
        "from taskfarmer.tasklists import encoded_tasks; c = Config.read();"
        "n = sum(1 for _ in encoded_tasks(find('tasklist', 'digi', c), 'list', 'wd', c));"
        "sys.exit(n != 2 or 'uproot' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
