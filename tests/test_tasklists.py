"""Task lists: lines, JSON lines, tables, sweeps, and third parties' handlers (spec: taskfarm 3)."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskfarmer import tasklists
from taskfarmer.config import Config
from taskfarmer.core.model import Task, decode_task, encode_text
from taskfarmer.definitions import Definition, find
from taskfarmer.errors import InputError
from taskfarmer.task import ListTaskList, TaskList
from taskfarmer.tasklists import encoded_tasks, list_digest, parse_bytes, read_lines
from taskfarmer.tasklists.graph import Graph
from taskfarmer.tasklists.lockfile import LockFile
from taskfarmer.tasklists.sweep import sweep
from taskfarmer.tasklists.template import Template


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory, which is the current one; changes of the import path are undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config() -> Config:
    """Return the configuration of the current directory."""
    return Config.read()


def tasks_of(name: str, path: str, workdir: str = "wd", **arguments: str) -> list[Task]:
    """Return the tasks that the handler `name` makes of a list, through their encoded form."""
    definition = find("tasklist", name, config())
    if arguments:
        definition = Definition("tasklist", name, definition.target, arguments, definition.source, definition.line)
    return [decode_task(line) for line in encoded_tasks(definition, path, workdir, config())]


def refused(name: str, path: str, **arguments: str) -> str:
    """Return the message with which the handler refuses the list, raised before there is anything to iterate over."""
    definition = find("tasklist", name, config())
    if arguments:
        definition = Definition("tasklist", name, definition.target, arguments, definition.source, definition.line)
    with pytest.raises(InputError) as caught:
        encoded_tasks(definition, path, "wd", config())
    message = str(caught.value)
    assert "\n" not in message
    assert not os.path.exists("wd")
    return message


# lines


LINES = b"""\
echo one

# a comment
   \t
  echo two  \t
 # an indented one is a task
echo one
echo a \\
echo last, without an end"""


def test_the_rules_of_lines(here: Path) -> None:
    Path("list").write_bytes(LINES)
    expected = [
        *[(1, "echo one"), (5, "echo two"), (6, "# an indented one is a task"), (7, "echo one")],
        *[(8, "echo a \\"), (9, "echo last, without an end")],
    ]
    assert list(read_lines("list")) == expected
    assert [task.text for task in tasks_of("default", "list")] == [text for _, text in expected]
    assert ListTaskList("list", "wd").tasks == [text for _, text in expected]


def test_crlf_and_a_byte_order_mark(here: Path) -> None:
    Path("list").write_bytes(b"\xef\xbb\xbf# c\r\na\r\n\r\nb\r\n")
    assert list(read_lines("list")) == [(2, "a"), (4, "b")]
    assert tasks_of("default", "list") == [Task(text="a"), Task(text="b")]


def test_bytes_that_are_no_utf8_come_back(here: Path) -> None:
    Path("list").write_bytes(b"echo \xff\xc3\xa9\n")
    (task,) = tasks_of("default", "list")
    assert os.fsencode(task.text) == b"echo \xff\xc3\xa9"


@pytest.mark.parametrize("name", ["default", "mine"])
def test_a_nul_is_refused_with_its_line_before_anything_is_made(here: Path, name: str) -> None:
    Path("l.ini").write_text("[mine]\nTaskList = taskfarmer.tasklists.base.ListTaskList\n")
    Path("list").write_bytes(b"a\n# \0 in a comment\nb\0c\n")
    assert refused(name, "list") == "list:3: a command cannot carry a NUL byte; remove the byte"


def test_a_nul_in_a_comment_harms_nobody(here: Path) -> None:
    Path("list").write_bytes(b"a\n# \0\nb\n")
    assert [task.text for task in tasks_of("default", "list")] == ["a", "b"]


@pytest.mark.parametrize("name", ["default", "jsonl", "table"])
def test_lists_that_cannot_be_read(here: Path, name: str) -> None:
    Path("directory").mkdir()
    os.mkfifo("fifo")
    assert refused(name, "missing") == "missing: no such task list; check the path"
    assert refused(name, "directory").startswith("directory: is a directory")
    assert refused(name, "fifo").startswith("fifo: is not a regular file")
    assert refused(name, "a\0b").endswith("embedded null byte")
    for path in ("missing", "directory"):
        with pytest.raises(InputError, match=path):
            list_digest(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_list_that_may_not_be_read(here: Path) -> None:
    Path("list").write_text("a\n")
    Path("list").chmod(0)
    assert refused("default", "list") == "list: the task list cannot be read: Permission denied"


def test_an_empty_list_has_no_tasks(here: Path) -> None:
    Path("list").write_text("# nothing\n")
    assert tasks_of("default", "list") == []


def test_the_digest_is_that_of_the_bytes(here: Path) -> None:
    Path("list").write_bytes(LINES)
    assert list_digest("list") == hashlib.sha256(LINES).hexdigest()


@given(st.lists(st.text(st.characters(blacklist_characters="\0\r\n", blacklist_categories=["Cs"])), max_size=6))
def test_the_fast_way_gives_what_the_plain_way_gives(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.mktemp("fast") / "list"
    path.write_text("\n".join(lines), newline="")
    default = Definition("tasklist", "default", "taskfarmer.task.ListTaskList", {}, "built in", 0)
    fast = list(encoded_tasks(default, str(path), "wd", config()))
    assert fast == [encode_text(text) for _, text in read_lines(str(path))]
    kept = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "\ufeff"))]
    assert [json.loads(line) for line in fast] == kept or any("\ufeff" in line for line in lines)


def test_a_million_lines_in_seconds_and_little_memory(here: Path) -> None:
    with open("list", "w") as stream:
        stream.writelines(f"simulate --seed {number}\n" for number in range(1_000_000))
    program = (
        "import re, time; from taskfarmer.config import Config; from taskfarmer.definitions import find;"
        "from taskfarmer.tasklists import encoded_tasks, read_lines; t = time.process_time();"
        "n = sum(1 for _ in encoded_tasks(find('tasklist', 'default', Config.read()), 'list', 'wd', Config.read()));"
        "a = time.process_time() - t; t = time.process_time(); m = sum(1 for _ in read_lines('list'));"
        # Not getrusage: its maximum includes that of the parent, from before exec.
        "print(n, m, a, time.process_time() - t, re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, same, encode_s, read_s, memory_kib = map(float, done.stdout.split())
    assert count == same == 1_000_000
    # Measured: 0.7 s, 0.5 s, 25 MB. CPU time and wide margins, since other tests run at the same time.
    assert encode_s < 3
    assert read_s < 2
    assert memory_kib < 60_000


def test_the_public_names_are_sorted_and_there() -> None:
    assert sorted(tasklists.__all__) == tasklists.__all__
    assert all(hasattr(tasklists, name) for name in tasklists.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        tasklists.nothing  # noqa: B018


# jsonl


def json_list(*values: Any) -> None:
    """Write the values as `list`, with a comment above them."""
    Path("list").write_text("# tasks\n\n" + "".join(json.dumps(value) + "\n" for value in values))


def test_every_key_of_a_json_task(here: Path) -> None:
    first = {"command": " a | b ", "name": "first", "cwd": "/tmp", "env": {"X": "1"}, "cpus": 2, "memory": "2GB"}
    second = {"argv": ["sim", "a b"], "gpus": 1, "timeout": 1.5, "retries": 0, "after": ["first", 2], "memory": 5}
    json_list(first, second, {"command": "c\nd", "after": [0, 0]})
    assert tasks_of("jsonl", "list") == [
        Task(text="a | b", name="first", cwd="/tmp", env={"X": "1"}, cpus=2, memory_bytes=2_000_000_000),
        Task(
            text="sim 'a b'",
            argv=("sim", "a b"),
            gpus=1,
            timeout_s=1.5,
            retries=0,
            after=(0, 2),  # type: ignore[arg-type]
            memory_bytes=5,
        ),
        Task(text="c d", command="c\nd", after=(0,)),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"command": "a", "cpu": 1}, "unknown key 'cpu'; did you mean 'cpus'?"),
        ({"command": "a", "zzz": 1}, "unknown key 'zzz'; the keys are command, argv,"),
        ({}, "a task has either 'command' or 'argv'"),
        ({"command": "a", "argv": ["a"]}, "a task has either 'command' or 'argv'"),
        ({"command": ""}, "'command' is \"\"; it must be a text that is not empty"),
        ({"command": 3}, "'command' is 3"),
        ({"command": "a\0b"}, "a command cannot carry a NUL byte"),
        ({"argv": []}, "'argv' is []"),
        ({"argv": ["", "a"]}, "'argv' is"),
        ({"argv": ["a", 1]}, "'argv' is"),
        ({"argv": "a b"}, "'argv' is"),
        ({"argv": ["a", "\0"]}, "NUL"),
        ({"command": "a", "env": {"A": 1}}, "'env' is"),
        ({"command": "a", "env": {"A=B": "1"}}, "'env' is"),
        ({"command": "a", "env": ["A"]}, "'env' is"),
        ({"command": "a", "cpus": 0}, "'cpus' is 0; it must be a whole number from 1"),
        ({"command": "a", "cpus": True}, "'cpus' is true"),
        ({"command": "a", "cpus": 1.5}, "'cpus' is 1.5"),
        ({"command": "a", "gpus": -1}, "'gpus' is -1; it must be a whole number from 0"),
        ({"command": "a", "retries": "2"}, "'retries' is \"2\""),
        ({"command": "a", "memory": "2 bananas"}, "'2 bananas' is no amount of memory"),
        ({"command": "a", "memory": -1}, "'memory' is -1"),
        ({"command": "a", "timeout": 0}, "'timeout' is 0; it must be a number of seconds, more than 0"),
        ({"command": "a", "timeout": "1"}, "'timeout' is \"1\""),
        ({"command": "a", "timeout": float("inf")}, "'timeout' is Infinity"),
        ({"command": "a", "after": 0}, "'after' must be a list"),
        ({"command": "a", "after": [-1]}, "'after' has -1: ids count from 0"),
        ({"command": "a", "after": [1.0]}, "'after' has 1.0"),
        ({"command": "a", "after": ["nobody"]}, "'after' has 'nobody': no task above has that name"),
        ({"command": "a", "after": ["twice"]}, "several tasks above have that name"),
        ({"command": "a", "after": [2]}, "task 2 waits for itself"),
        ({"command": "a", "after": [7]}, "task 2 waits for task 7, but the last one is 2; mend its 'after'"),
        (["a"], 'not a JSON object; write {"command": "..."}'),
    ],
)
def test_what_is_wrong_with_a_json_task_is_said_with_its_line(here: Path, value: Any, complaint: str) -> None:
    json_list({"command": "x", "name": "twice"}, {"command": "y", "name": "twice"}, value)
    message = refused("jsonl", "list")
    assert message.startswith("list:5: ")
    assert complaint in message


def test_what_is_no_json_is_said_with_its_column(here: Path) -> None:
    Path("list").write_text('{"command": "a"}\n{"command": }\n')
    assert refused("jsonl", "list").startswith("list:2: not JSON: Expecting value at column 13")
    Path("list").write_text("[" * 100_000)
    assert refused("jsonl", "list").startswith("list:1: ")


def test_a_circle_is_refused_and_shown(here: Path) -> None:
    after = [[], [3], [1], [2, 0]]
    json_list(*({"command": "c", "after": ids} for ids in after))
    assert refused("jsonl", "list") == (
        "list:4: tasks wait for each other in a circle: 1 -> 3 -> 2 -> 1; mend its 'after'"
    )


def test_a_reference_forward_that_makes_no_circle_is_fine(here: Path) -> None:
    json_list({"command": "a", "after": [1, 2]}, {"command": "b"}, {"command": "c", "after": [1]})
    assert [task.after for task in tasks_of("jsonl", "list")] == [(1, 2), (), (1,)]


def test_a_long_chain_forward_needs_no_recursion() -> None:
    graph = Graph()
    for number in range(50_000):
        graph.add([number + 1] if number < 49_999 else None)
    assert graph.fault() is None


@given(st.lists(st.sets(st.integers(0, 6)), min_size=1, max_size=7))
def test_a_fault_is_found_if_and_only_if_some_task_can_never_run(after: list[set[int]]) -> None:
    after = [ids - {taskid} for taskid, ids in enumerate(after)]
    graph = Graph()
    for ids in after:
        graph.add(sorted(ids))
    ran: set[int] = set()
    for _ in after:
        ran |= {taskid for taskid, ids in enumerate(after) if ids <= ran}
    fault = graph.fault()
    assert (fault is None) == (len(ran) == len(after))
    assert fault is None or fault[0] not in ran


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("500M", 500 << 20),
        ("2GB", 2 * 10**9),
        ("2GiB", 2 << 30),
        ("1.5 kib", 1536),
        ("1t", 1 << 40),
        ("3B", 3),
    ],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "2 GBs", "1,5G", "٣"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="no amount of memory"):
        parse_bytes(text)


# templates, tables, sweeps


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_a_value_arrives_as_one_argument(value: str) -> None:
    assert shlex.split(Template("sim {x} end").fill({"x": value})) == ["sim", value, "end"]


def test_raw_values_braces_and_formats() -> None:
    template = Template("a {x!r} {{b}} ${{HOME}} {n:0>4} {x}")
    assert template.names == ("x", "n")
    assert template.fill({"x": "1 2", "n": "7"}) == "a 1 2 {b} ${HOME} 0007 '1 2'"


@pytest.mark.parametrize("text", ["", " ", "a {", "a }", "a {}", "a {x!s}", "a {x:{y}}", "awk '{print $1'"])
def test_a_template_that_is_none(text: str) -> None:
    with pytest.raises(InputError):
        Template(text)


def test_a_row_a_task(here: Path) -> None:
    rows = [["seed", " file ", "opts"], ["1", "a b.root", "-x 1"], [], ["2", 'q"', ""]]
    with open("table.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    command = "sim --seed {seed} {file} {opts!r}"
    assert [task.text for task in tasks_of("table", "table.csv", command=command)] == [
        "sim --seed 1 'a b.root' -x 1",
        "sim --seed 2 'q\"' ",
    ]


@pytest.mark.parametrize("name", ["t.tsv", "t.tab", "t.txt"])
def test_a_table_with_tabs(here: Path, name: str) -> None:
    Path(name).write_bytes(b"a\tb\r\n1,5\tx\r\n")
    assert [task.text for task in tasks_of("table", name, command="{b} {a}")] == ["x 1,5"]


def test_a_value_of_several_lines_is_one_task(here: Path) -> None:
    Path("t.csv").write_text('a,b\n"x\ny",z\n')
    assert tasks_of("table", "t.csv", command="{a} {b}") == [Task(text="'x y' z", command="'x\ny' z")]


@pytest.mark.parametrize(
    ("text", "command", "complaint"),
    [
        ("a,b\n1,2\n", "{c}", "t.csv:1: there is no column 'c', which the command asks for; the columns are a, b"),
        ("", "{c}", "t.csv:1: there is no column 'c', which the command asks for; the columns are none"),
        ("a,b\n1,2\n\n1\n", "{a}", "t.csv:4: 1 value for 2 columns: no value for 'b'"),
        ("a,b\n1,2,3\n", "{a}", "t.csv:2: 3 values for 2 columns"),
        ("a,a\n1,2\n", "{a}", "t.csv:1: the column 'a' is there twice"),
        ('a\n"1"2\n', "{a}", "t.csv:2: not a table"),
        ("a\nb\0\n", "{a}", "t.csv:2: "),
        ("a\n1\n", "{a:d}", "task list handler table (built in): {a:d}: Unknown format code"),
    ],
)
def test_what_is_wrong_with_a_table(here: Path, text: str, command: str, complaint: str) -> None:
    Path("t.csv").write_text(text)
    assert refused("table", "t.csv", command=command).startswith(complaint)


def test_a_table_needs_a_command(here: Path) -> None:
    Path("t.csv").write_text("a\n1\n")
    assert "missing a required argument: 'command'; it takes command" in refused("table", "t.csv")
    Path("t.ini").write_text("[scan]\nTaskList = taskfarmer.tasklists.TableTaskList\ncommand = sim {\n")
    assert refused("scan", "t.csv").startswith(f"{here}/t.ini:1: [scan] command 'sim {{'")


def test_a_table_from_an_ini_file(here: Path) -> None:
    Path("t.ini").write_text("[scan]\nTaskList = taskfarmer.tasklists.TableTaskList\ncommand = sim --a {a}\n")
    Path("t.csv").write_text("a\n1\n")
    assert tasks_of("scan", "t.csv") == [Task(text="sim --a 1")]


def test_the_first_parameter_is_the_slowest() -> None:
    found = [task.text for task in sweep("s {seed} {e}", ["seed=0..1", "e=1,x y,5..6"])]
    assert found == [f"s {seed} {e}" for seed in "01" for e in ("1", "'x y'", "5", "6")]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("0..3", "0 1 2 3"),
        ("-1..1", "-1 0 1"),
        ("0..1..0.25", "0 0.25 0.5 0.75 1"),
        ("0..0.3..0.1", "0 0.1 0.2 0.3"),
        ("0..1..0.3", "0 0.3 0.6 0.9"),
        ("3..1..-1", "3 2 1"),
        ("10..30..10", "10 20 30"),
        ("5..5", "5"),
        ("../a,1..b", "../a 1..b"),
        ("a=b", "a=b"),
    ],
)
def test_values_of_a_parameter(values: str, expected: str) -> None:
    assert [task.text for task in sweep("{x!r}", [f"x={values}"])] == expected.split()


def test_values_from_a_file(here: Path) -> None:
    Path("files").write_text("# mine\na b\n\nc\n")
    assert [task.text for task in sweep("f {x}", ["x=@files"])] == ["f 'a b'", "f c"]


@pytest.mark.parametrize(
    ("command", "params", "complaint"),
    [
        ("s {x}", [], "nothing says what {x} in the command is; add --param x=..."),
        ("s {x}", ["x=1", "y=2"], "--param y does not occur in the command; put {y} into it"),
        ("s {x}", ["x=1", "x=2"], "--param x is given twice"),
        ("s {x}", ["x"], "--param x: not name=values"),
        ("s {x}", ["=1"], "--param =1: not name=values"),
        ("s {x}", ["x="], "--param x= has no values"),
        ("s {x}", ["x=3..1"], "write 3..1..-1 to count down"),
        ("s {x}", ["x=1..3..0"], "the step does not lead from the first to the last"),
        ("s {x}", ["x=1..3..-1"], "the step does not lead from the first to the last"),
        ("s {x}", ["x=0..99999999999"], "are more than"),
        ("s {x}", ["x=@missing"], "missing: no such task list"),
        ("s {x}", ["x=@empty"], "empty: --param x: the file has no values"),
        ("s {x}", ["x=a\0"], "NUL"),
        ("s {x:d}", ["x=1"], "{x:d}: Unknown format code"),
        ("s {x", ["x=1"], "expected '}'"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_at_once(
    here: Path, command: str, params: list[str], complaint: str
) -> None:
    Path("empty").write_text("")
    with pytest.raises(InputError) as caught:
        sweep(command, params)
    assert complaint in str(caught.value)


# third parties' handlers


def handler(source: str, arguments: str = "") -> None:
    """Write a module with the class `Mine`, an INI file that names it `mine`, and a list of two lines."""
    Path("mylists.py").write_text(source)
    Path("mylists.ini").write_text(f"# mine\n[mine]\nTaskList = mylists.Mine\n{arguments}")
    Path("list").write_text("a\nb\n")


OLD = """\
import os
import sys
from taskfarmer.task import ListTaskList

class Mine(ListTaskList):
    def __init__(self, path, workdir, suffix, **kwargs):
        super().__init__(path, workdir)
        self.suffix = suffix
        self.kwargs = kwargs
        print('noise on standard output')
        sys.stdout.write('"more"\\n')
        self.lock()
        self.lock()
        os.mkdir(os.path.join(workdir, 'output'))
        self.unlock()
        self.unlock()
        self.tasks = [task.upper() for task in self.tasks]

    def __getitem__(self, taskid):
        return f'run {self.tasks[taskid]}{self.suffix} in {os.path.basename(self.workdir)} {self.kwargs}'
"""


def test_an_old_handler_runs_unchanged_in_a_child(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handler(OLD, "suffix = .x\nmoreArgs = 1\n")
    assert tasks_of("mine", "list") == [
        Task(text="A", command="run A.x in wd {'moreArgs': '1'}"),
        Task(text="B", command="run B.x in wd {'moreArgs': '1'}"),
    ]
    assert "mylists" not in sys.modules
    assert os.listdir("wd") == ["output"]
    said = capfd.readouterr()
    assert said.out == ""
    assert 'noise on standard output\n"more"\n' in said.err


def test_a_handler_of_the_new_style_gives_records(here: Path) -> None:
    handler(
        "from taskfarmer.core.model import Task\n"
        "class Mine:\n"
        "    def __init__(self, path, workdir): pass\n"
        "    def records(self):\n"
        "        for n in range(3): yield Task(text=f't{n}', cpus=n + 1)\n"
    )
    assert tasks_of("mine", "list") == [Task(text=f"t{n}", cpus=n + 1) for n in range(3)]


HEAD = "from taskfarmer.task import ListTaskList\nclass Mine(ListTaskList):\n"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (HEAD + "    def __getitem__(self, i): return i\n", "handler[0] is int, not a text"),
        (
            HEAD + "    def __getitem__(self, i): return 1 / i\n",
            "failed at task 0: ZeroDivisionError: division by zero (",
        ),
        (HEAD + "    def __getitem__(self, i): return 'a\\0b'\n", "task 0: a command cannot carry a NUL byte"),
        (HEAD + "    def __len__(self): return 'x'\n", "has no length: TypeError"),
        (HEAD + "    def __len__(self): return 3\n", "failed at task 2: IndexError"),
        (
            HEAD + "    def __init__(self, p, w):\n        self.tasks = [b'a']\n",
            "tasks[0] is bytes, not a text",
        ),
        (HEAD + "    def __init__(self, p, w): raise KeyError('x')\n", "mylists.Mine failed: KeyError: 'x' ("),
        (
            HEAD + "    def __init__(self, p, w, needed): pass\n",
            "missing a required argument: 'needed'; it takes needed",
        ),
        (HEAD + "    def records(self): yield 'a'\n", "record 0 is str, not a Task"),
        (HEAD + "    def records(self): raise OSError('no\\ndb')\n", "failed at task 0: OSError: no db ("),
        ("x = 1\n", "the module mylists has no class Mine"),
        ("import nowhere\n", "cannot import mylists.Mine: ModuleNotFoundError"),
        ("class Mine:\n    def __init__(self, p, w): pass\n", "mylists.Mine is no task list handler"),
        (
            HEAD
            + "    def __init__(self, p, w):\n        super().__init__(p, w)\n        self.lock()\n        1 / 0\n",
            "mylists.Mine failed: ZeroDivisionError",
        ),
    ],
)
def test_a_handler_that_fails_is_one_line_and_leaves_nothing(here: Path, source: str, complaint: str) -> None:
    handler(source)
    message = refused("mine", "list")
    assert message.startswith(f"{here}/mylists.ini:2: ")
    assert complaint in message


def test_an_input_error_of_a_handler_keeps_its_place_and_its_hint(here: Path) -> None:
    handler(
        "from taskfarmer.errors import InputError\n"
        + HEAD
        + "    def __init__(self, p, w): raise InputError('bad', file=p, line=2, hint='mend it')\n"
    )
    with pytest.raises(InputError) as caught:
        encoded_tasks(find("tasklist", "mine", config()), "list", "wd", config())
    error = caught.value
    assert (str(error), error.hint, error.file, error.line) == ("list:2: bad; mend it", "mend it", "list", 2)


@pytest.mark.parametrize(
    ("end", "said"), [("os.kill(os.getpid(), 9)", "killed by signal 9"), ("os._exit(3)", "status 3")]
)
def test_a_handler_that_dies_gives_no_tasks(here: Path, end: str, said: str) -> None:
    handler(HEAD + f"    def __getitem__(self, i):\n        import os\n        return 'x' if i == 0 else {end}\n")
    definition = find("tasklist", "mine", config())
    with pytest.raises(InputError) as caught:
        encoded_tasks(definition, "list", "wd", config())
    assert str(caught.value) == f"mylists.Mine ({here}/mylists.ini:2) ended without an answer: {said}".replace(
        ": status", ": exit status"
    )


def test_a_workdir_that_cannot_be_made_is_said(here: Path) -> None:
    handler(HEAD + "    pass\n")
    from taskfarmer.errors import WorkdirError

    with pytest.raises(WorkdirError, match="no/such/wd: the workdir cannot be made: No such file or directory"):
        encoded_tasks(find("tasklist", "mine", config()), "list", "no/such/wd", config())


def test_arguments_for_the_plain_handler_are_refused(here: Path) -> None:
    Path("l.ini").write_text("[mine]\nTaskList = taskfarmer.task.ListTaskList\nshell = none\n")
    Path("list").write_text("a\n")
    assert "unexpected keyword argument 'shell'; it takes none" in refused("mine", "list")


# the methods that users' subclasses rely on


@pytest.fixture
def small(here: Path) -> ListTaskList:
    """Return a list of four tasks with a workdir."""
    Path("list").write_text("a\nb\nc\nd\n")
    Path("wd").mkdir()
    return ListTaskList("list", "wd")


def test_the_members_are_there_and_true(small: ListTaskList) -> None:
    assert isinstance(small, TaskList)
    assert (small.path, small.workdir, len(small), small[1]) == ("list", "wd", 4, "b")
    assert small.read_toprocess() == {0, 1, 2, 3}
    assert small.pop_task() == 0
    assert Path("wd/toprocess").read_text() == "1 b\n2 c\n3 d\n"
    small.record_done_task(0, 0)
    assert small.pop_task() == 1
    small.record_done_task(1, 7)
    assert (Path("wd/finished").read_text(), Path("wd/failed").read_text()) == ("0 a\n", "1 b\n")
    assert small.get_finished() == small.read_finished() == {0}
    assert small.pop_task() == 2
    small.record_toprocess_task(2)
    assert small.read_toprocess() == {2, 3}
    small.write_toprocess([])
    assert small.pop_task() is None
    assert sorted(os.listdir("wd")) == ["failed", "finished", "toprocess"]


def test_without_toprocess_what_is_done_does_not_remain(small: ListTaskList) -> None:
    Path("wd/finished").write_text("1 b\n")
    Path("wd/failed").write_text("0 a\n3 ")  # cut in the middle
    assert small.read_toprocess() == {2, 3}


def test_views_with_nonsense_are_read_as_far_as_they_go(small: ListTaskList) -> None:
    Path("wd/toprocess").write_bytes(b"1 b\n\n99 x\n-1 y\nz\n3 \xff\n2")
    assert small.read_toprocess() == {1, 3}


def test_one_process_at_a_time_holds_the_lock(small: ListTaskList) -> None:
    small.lock()
    small.lock()
    got: list[str] = []
    other = LockFile("wd/handler.lock")

    def wait() -> None:
        other.acquire()
        got.append("got it")
        other.release()

    thread = threading.Thread(target=wait)
    thread.start()
    small.unlock()
    time.sleep(0.2)
    assert got == []
    small.unlock()
    thread.join(10)
    assert got == ["got it"]
    assert os.listdir("wd") == []
    with pytest.raises(RuntimeError, match="unlocked more often"):
        small.unlock()


def test_a_lock_whose_holder_died_is_broken_after_the_lease(here: Path) -> None:
    Path("lock").write_text("a host that is gone")
    os.utime("lock", (2**31, 2**31))  # its clock was wrong, too
    lock = LockFile("lock", lease_s=0.3)
    started = time.monotonic()
    lock.acquire()
    assert time.monotonic() - started >= 0.3
    assert Path("lock").read_text() != "a host that is gone"
    lock.release()
    assert os.listdir() == []


def test_a_lock_whose_holder_lives_is_waited_for(here: Path) -> None:
    Path("lock").write_text("alive")
    done = threading.Event()

    def live() -> None:
        for number in range(12):
            os.utime("lock", ns=(number, number))
            time.sleep(0.05)
        done.set()
        os.unlink("lock")

    threading.Thread(target=live).start()
    lock = LockFile("lock", lease_s=0.3)
    lock.acquire()
    assert done.is_set()
    lock.release()


def test_a_lock_that_was_broken_is_not_taken_from_its_new_holder(here: Path) -> None:
    first, second = LockFile("lock"), LockFile("lock", lease_s=0.1)
    first.acquire()
    second.acquire()  # the first has not touched the file for the lease of the second
    first.release()
    assert os.path.exists("lock")
    second.release()
    assert os.listdir() == []


def test_the_lock_ends_with_its_process(here: Path) -> None:
    program = "from taskfarmer.tasklists.lockfile import LockFile; LockFile('lock').acquire()"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert os.listdir() == []


def test_the_lock_can_guard_the_making_of_the_workdir(here: Path) -> None:
    Path("list").write_text("a\n")
    handlers = ListTaskList("list", "wd/")
    handlers.lock()
    assert sorted(os.listdir()) == ["list", "wd.handler.lock"]
    os.mkdir("wd")
    handlers.unlock()
    assert sorted(os.listdir()) == ["list", "wd"]


def test_a_lock_where_nothing_can_be_made_says_so(here: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LockFile("no/lock").acquire()
