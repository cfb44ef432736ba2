"""The documentation says what the code does: names, states, options and examples that it mentions exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import click
import pytest

from taskfarmer import definitions
from taskfarmer.cli import COMMANDS, dropin, main
from taskfarmer.config import Config
from taskfarmer.core.entries import Body
from taskfarmer.core.state import STATES
from taskfarmer.farm.workdir import Workdir
from taskfarmer.tasklists import jsonl

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def page(name: str) -> str:
    """Return the text of a page of the documentation."""
    return (DOCS / name).read_text()


def blocks(text: str, language: str) -> Iterator[str]:
    """Yield the fenced blocks of that language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def command(name: str) -> click.Command:
    """Return the command of that name; the group loads it when it is asked for."""
    found = main.get_command(click.Context(main), name)
    assert found is not None, f"there is no command {name}"
    return found


def options(found: click.Command) -> list[str]:
    """Return the options of a command that its help shows."""
    shown = [parameter for parameter in found.params if isinstance(parameter, click.Option) and not parameter.hidden]
    return [name for option in shown for name in option.opts]


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_explained(state: str) -> None:
    assert f"| `{state}` |" in page("tasks.md")


@pytest.mark.parametrize("body", get_args(Body))
def test_every_entry_of_the_log_is_explained(body: type[Body]) -> None:
    table = page("ledger.md").partition("| entry | says |")[2]
    assert f"`{body.kind}`" in table


@pytest.mark.parametrize("key", jsonl.KEYS)
def test_every_key_of_a_json_line_is_explained(key: str) -> None:
    assert f"| `{key}` |" in page("tasks.md")


def test_every_variable_is_explained() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for_tests = {"TASKFARMER_FAULT"}
    names = set(re.findall(r"\bTASKFARMER_[A-Z][A-Z_]*[A-Z]\b", sources)) - for_tests
    assert "TASKFARMER_TASK_ID" in names
    assert names <= set(re.findall(r"TASKFARMER_[A-Z_]*[A-Z]", page("environment.md")))


def test_every_directory_of_a_workdir_is_explained(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    directories = set(workdir.directories()) - {workdir.path, workdir.ledger}
    names = [str(path.relative_to(tmp_path)) for path in directories]
    assert [name for name in names if f"`{name}/" not in page("workdir.md")] == []


@pytest.mark.parametrize("kind", get_args(definitions.Kind))
def test_every_built_in_definition_is_explained(kind: definitions.Kind, tmp_path: Path) -> None:
    known, _ = definitions.read_all(kind, Config.read({"HOME": str(tmp_path)}, tmp_path))
    built_in = [item for item in known.values() if item.source == "built in"]
    assert built_in
    assert [item.name for item in built_in if f"`{item.target}` (`{item.name}`)" not in page(_DEFINITIONS)] == []


_DEFINITIONS = "writing-runners-and-handlers.md"


def test_the_map_of_the_code_names_files_that_exist() -> None:
    named = re.findall(r"`((?:core|farm)/\w+\.py)`", page("design.md"))
    assert named
    assert [name for name in named if not (ROOT / "src/taskfarmer" / name).is_file()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_in_the_documentation_compiles(path: Path) -> None:
    for block in blocks(path.read_text(), "python"):
        compile(block, path.name, "exec")


def _calls() -> Iterator[tuple[str, str, list[str]]]:
    """Yield page, command and options of every call of taskfarmer in a block of shell."""
    for path in PAGES:
        for block in blocks(path.read_text(), "sh"):
            for line in re.findall(r"^taskfarmer [a-z].*", block.replace("\\\n", " "), re.MULTILINE):
                _, name, *words = shlex.split(line, comments=True)
                words = words[: words.index("--")] if "--" in words else words
                yield path.name, name, [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]


@pytest.mark.parametrize(("where", "name", "used"), list(_calls()))
def test_commands_in_the_documentation_exist(where: str, name: str, used: list[str]) -> None:
    known = options(command(name))
    assert [option for option in used if option not in known] == [], f"{where}: taskfarmer {name}"


def test_the_recipes_for_a_site_like_nersc_are_taken(tmp_path: Path) -> None:
    """The first one is submitted; of the others it is asked what would be."""
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct", "shifter"):
        (tmp_path / name).write_text("#!/bin/sh\n" + ("echo 7\n" if name == "sbatch" else ""))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "tasks.txt").write_text("true\n" * 1000)
    section = page("slurm.md").partition("## A site like NERSC")[2].replace("/scratch/me", str(tmp_path))
    (definition,) = blocks(section, "ini")
    (tmp_path / "runners.ini").write_text(definition)
    shells = "".join([*blocks(section, "sh"), *blocks(section, "text")]).replace("\\\n", " ")
    first, *others = (shlex.split(line) for line in re.findall(r"taskfarmer submit (.*)", shells))
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}

    def submit(*words: str) -> str:
        command = [sys.executable, "-m", "taskfarmer", "submit", *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    assert submit(*first).startswith("submitted 4 pilots to Slurm")
    flex, kept = (submit("--dry-run", *words) for words in others)
    assert "--time=10:00:00 --time-min=1:30:00 --cpus-per-task=128" in flex
    assert "scontrol requeue" in flex
    for shown in (flex, kept):
        assert " --account=m1234 " in shown
        assert " -C cpu --qos=" in shown


def _json(name: str, *words: str | Path) -> Any:
    command = [sys.executable, "-m", "taskfarmer", name, "--json", *words]
    return json.loads(subprocess.run(command, capture_output=True, check=False).stdout)


@pytest.fixture
def ran(tmp_path: Path) -> tuple[Path, Any]:
    """The workdir of a small farm of which one task failed, and what `run` said at its end."""
    tasks = tmp_path / "tasks.txt"
    tasks.write_text("true\nfalse\n")
    said = _json("run", tasks)
    return Path(said["workdir"]), said


def _keys(value: Any) -> Iterator[str]:
    """Yield all keys of objects within a value, but not the names of states, nor of users' variables."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in STATES:
                yield key
            yield from () if key in ("env", "arguments") else _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


_CALLS = (
    "status {}", "tasks {}", "tasks {} --sort id", "show {} 0,1", "logs {} 0", "why {} 0,1", "timeline {}",
    "add {} -- true", "export {} --output {}/table.csv", "retry {}", "cancel {} --all", "stop {}", "drain {}",
    "runners", "tasklists",
)  # fmt: skip


@pytest.mark.parametrize("call", ["run", *_CALLS])
def test_every_key_of_the_json_is_explained(call: str, ran: tuple[Path, Any]) -> None:
    workdir, said = ran
    name, *rest = [word.replace("{}", str(workdir)) for word in call.split()]
    if name != "run":
        said = _json(name, *rest)
    assert said["command"] == name
    sections = re.split(r"^## ", page("json.md"), flags=re.MULTILINE)
    relevant = [text for text in sections if text.startswith(("# ", "Tables")) or f"`{name}`" in text.splitlines()[0]]
    assert len(relevant) == 3
    assert {key for key in _keys(said) if f"`{key}`" not in "".join(relevant)} == set()


def _hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("commands_hook", DOCS / "hooks/commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> str:
    """The page of the commands, as the site has it."""
    where = SimpleNamespace(file=SimpleNamespace(src_uri="commands.md"))
    text = _hook().on_page_markdown(page("commands.md"), page=where)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_every_command_and_option(name: str, reference: str) -> None:
    section = reference.partition(f"## taskfarmer {name} {{")[2].partition("\n## ")[0]
    assert section
    assert [option for option in options(command(name)) if option not in section] == []


def test_the_reference_has_the_drop_in(reference: str) -> None:
    section = reference.partition("## pytaskfarmer.py {")[2]
    assert section
    assert [option for option in options(dropin.command) if option not in section] == []


def test_the_hook_leaves_other_pages_alone() -> None:
    where = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    assert _hook().on_page_markdown("<!-- commands -->", page=where) == "<!-- commands -->"
