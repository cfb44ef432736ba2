"""Definitions from INI files, built in, and from entry points (spec: taskfarm 5)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from taskfarmer.config import Config
from taskfarmer.definitions import Definition, build, find, read_all
from taskfarmer.errors import InputError
from taskfarmer.runners import BasicRunner, ShifterRunner


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a configuration with a home and a current directory of its own, and undo changes of the import path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    return Config.read({"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}, tmp_path / "here")


def write(directory: Path, name: str, text: str) -> Path:
    """Write a file, and its directory if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(text)
    return path


def old_runners(config: Config) -> Path:
    """Return the directory of runners as PyTaskFarmer has it."""
    return config.runner_dirs[0]


MUON = """\
; the definition of PyTaskFarmer's manual
[mcc]
Runner: taskfarmer.runners.ShifterRunner
image: docker:registry/mucoll:1.5.1
setup: source ${HOME}/.bashrc.muc && source ${HOME}/setup.sh
"""


def test_a_section_of_the_manual_becomes_a_runner(config: Config) -> None:
    path = write(old_runners(config), "mcc.ini", MUON)
    definition = find("runner", "mcc", config)
    arguments = {
        "image": "docker:registry/mucoll:1.5.1",
        "setup": "source ${HOME}/.bashrc.muc && source ${HOME}/setup.sh",
    }
    assert definition == Definition("runner", "mcc", "taskfarmer.runners.ShifterRunner", arguments, str(path), 2)
    runner = build(definition)
    assert isinstance(runner, ShifterRunner)
    assert runner.image == "docker:registry/mucoll:1.5.1"


def test_keys_keep_their_case_and_either_sign_separates(config: Config) -> None:
    text = "[digi]\nTaskList = a.B\nmaxEventsPerJob = 5\npreExec : all:x = 1\nDCubeCfg=c\n"
    write(config.cwd, "digi.ini", text)
    assert find("tasklist", "digi", config).arguments == {
        "maxEventsPerJob": "5",
        "preExec": "all:x = 1",
        "DCubeCfg": "c",
    }


def test_interpolation_works_and_a_lone_percent_is_literal(config: Config) -> None:
    text = "[a]\nRunner = x.Y\nbase = /cvmfs\nsetup = source %(base)s/s.sh\nstamp = date +%H:%M\nhalf = 50%% of it\n"
    write(config.cwd, "a.ini", text)
    arguments = find("runner", "a", config).arguments
    assert arguments["setup"] == "source /cvmfs/s.sh"
    assert arguments["stamp"] == "date +%H:%M"
    assert arguments["half"] == "50% of it"


def test_several_sections_in_a_file_and_those_of_others(config: Config) -> None:
    """spec: taskfarm 2.3, 5"""
    text = "[pytest]\naddopts = -q\n[a]\nRunner = x.A\n[b]\nTaskList = x.B\n[c]\nRunner = x.C\n"
    write(config.cwd, "many.ini", text)
    runners, broken = read_all("runner", config)
    handlers, _ = read_all("tasklist", config)
    assert not broken
    assert {name: d.line for name, d in runners.items() if d.line} == {"a": 3, "c": 7}
    assert {name for name, d in handlers.items() if d.line} == {"b"}


def test_the_built_in_ones_are_there(config: Config) -> None:
    assert find("runner", "default", config).target == "taskfarmer.runners.BasicRunner"
    assert isinstance(build(find("runner", "default", config)), BasicRunner)
    handlers, _ = read_all("tasklist", config)
    assert {"default", "jsonl", "table"} <= set(handlers)
    assert handlers["default"].target == "taskfarmer.task.ListTaskList"


def test_later_files_win_the_current_directory_last_and_it_is_said(config: Config) -> None:
    first = write(old_runners(config), "a.ini", "[r]\nRunner = x.First\n")
    second = write(old_runners(config), "b.ini", "[r]\nRunner = x.Second\n")
    xdg = write(config.runner_dirs[2], "a.ini", "[r]\nRunner = x.Third\n")
    definition = find("runner", "r", config)
    assert (definition.target, definition.hides) == ("x.Third", f"{second}:1")
    write(config.cwd, "a.ini", "\n[r]\nRunner = x.Here\n[default]\nRunner = x.Mine\n")
    definition = find("runner", "r", config)
    assert (definition.target, definition.line, definition.hides) == ("x.Here", 2, f"{xdg}:1")
    assert find("runner", "default", config).hides == "built in"
    assert first.exists()


def test_a_directory_that_is_also_the_current_one_hides_nothing(config: Config, tmp_path: Path) -> None:
    directory = old_runners(config)
    write(directory, "a.ini", "[r]\nRunner = x.Y\n")
    there = Config.read({"HOME": str(tmp_path / "home")}, directory)
    assert find("runner", "r", there).hides == ""


def test_an_unknown_name_gets_the_nearest_all_and_the_places(config: Config) -> None:
    write(config.cwd, "a.ini", "[shifter22]\nRunner = x.Y\n")
    with pytest.raises(InputError) as caught:
        find("runner", "shifter2", config)
    message = str(caught.value)
    assert "no runner 'shifter2'; did you mean shifter22?; there are: default, shifter22;" in message
    assert str(old_runners(config)) in message
    assert str(config.cwd) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a]\nRunner = x.Y\nnonsense\n", ":3: this line is neither [section] nor key = value"),
        ("Runner = x.Y\n", ":1: there is no [section] above this line"),
        ("[a]\nx = 1\n[a]\n", ":3: the section [a] stands here for the second time"),
        ("[a]\nx = 1\nx = 2\n", ":3: the key x stands twice in [a]"),
    ],
)
def test_a_broken_file_matters_only_to_who_finds_nothing_else(config: Config, text: str, complaint: str) -> None:
    path = write(config.cwd, "broken.ini", text)
    write(old_runners(config), "good.ini", "[good]\nRunner = x.Y\n")
    assert find("runner", "good", config).target == "x.Y"
    assert find("runner", "default", config).source == "built in"
    with pytest.raises(InputError, match="there is no runner 'a'") as caught:
        find("runner", "a", config)
    assert f"could not read {path}{complaint}" in str(caught.value)
    _, broken = read_all("runner", config)
    assert [str(item) for item in broken] == [f"{path}{complaint}"]


def test_bytes_that_are_no_utf8_are_named_by_line(config: Config) -> None:
    path = config.cwd / "latin.ini"
    path.write_bytes(b"[a]\nRunner = x.Y\nname = M\xfcller\n")
    _, broken = read_all("runner", config)
    assert [str(item) for item in broken] == [f"{path}:3: is not UTF-8"]


def test_entry_points_are_found_and_looked_for_last(config: Config, tmp_path: Path) -> None:
    site = tmp_path / "site"
    write(site / "plug-1.dist-info", "METADATA", "Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    points = "[taskfarmer.runners]\npodman = plug.runner:Podman\ndefault = plug.runner:Evil\n"
    write(site / "plug-1.dist-info", "entry_points.txt", points)
    sys.path.append(str(site))
    definition = find("runner", "podman", config)
    assert definition == Definition("runner", "podman", "plug.runner.Podman", {}, "entry point", 0)
    runners, _ = read_all("runner", config)
    assert runners["podman"] == definition
    assert runners["default"].source == "built in"


def test_a_known_name_costs_no_look_at_installed_packages(config: Config) -> None:
    program = (
        "import sys; from taskfarmer.config import Config; from taskfarmer.definitions import find;"
        "find('runner', 'default', Config.read()); find('tasklist', 'default', Config.read());"
        "sys.exit('importlib.metadata' in sys.modules or 'configparser' in sys.modules)"
    )
    # -S: an editable installation may itself import these modules at the start.
    path = ":".join(item for item in sys.path if item)
    environ = {**config.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=config.cwd, env=environ, check=False)
    assert done.returncode == 0


def test_a_definition_comes_back_from_json(config: Config) -> None:
    write(config.cwd, "mcc.ini", MUON)
    definition = find("runner", "mcc", config)
    assert Definition.from_json({**definition.to_json(), "later": 1}) == definition


# build


def test_the_current_directory_is_importable_but_hides_nothing_of_python(config: Config) -> None:
    write(config.cwd, "cwdrunner.py", "import colorsys\nclass R:\n    def run(self): return colorsys.__file__\n")
    write(config.cwd, "colorsys.py", "")
    write(config.cwd, "r.ini", "[r]\nRunner = cwdrunner.R\n")
    runner = build(find("runner", "r", config), cwd=config.cwd)
    assert not runner.run().startswith(str(config.cwd))


def test_a_module_beside_the_ini_file_is_found_from_anywhere(config: Config, tmp_path: Path) -> None:
    write(config.cwd, "besiderunner.py", "class R:\n    def run(self): return 7\n")
    write(config.cwd, "r.ini", "[r]\nRunner = besiderunner.R\n")
    definition = find("runner", "r", config)
    assert build(definition, cwd=tmp_path).run() == 7


CLASSES = """\
class NeedsImage:
    def __init__(self, image, setup=''): pass
    def run(self): pass
class Fails:
    def __init__(self): raise OSError('no\\nlicence')
    def run(self): pass
class Exits:
    def __init__(self): raise SystemExit(3)
    def run(self): pass
class NoRunner:
    pass
number = 3
"""


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("Runner = nowhere.at.all.R", "cannot import nowhere.at.all.R: ModuleNotFoundError: No module named 'nowhere'"),
        ("Runner = brokenmodule.R", "cannot import brokenmodule.R: SyntaxError"),
        ("Runner = someclasses.Missing", "the module someclasses has no class Missing"),
        ("Runner = someclasses.number", "the module someclasses has no class number"),
        ("Runner = Runner", "'Runner' is not package.module.Class"),
        ("Runner =", "'' is not package.module.Class"),
        ("Runner = someclasses.NeedsImage", "missing a required argument: 'image'; it takes image, setup"),
        (
            "Runner = someclasses.NeedsImage\nimage = i\nimgae = j",
            "unexpected keyword argument 'imgae'; it takes image, setup",
        ),
        ("Runner = someclasses.NoRunner\nx = 1", "it takes none"),
        ("Runner = someclasses.NoRunner", "someclasses.NoRunner is no runner: it has neither prepare nor run"),
        ("Runner = someclasses.Fails", "someclasses.Fails failed: OSError: no licence ("),
        ("Runner = someclasses.Exits", "someclasses.Exits failed: SystemExit: 3"),
        ("Runner = taskfarmer.runners.BasicRunner\nshell = zsh", "shell = zsh: there are none, sh and bash"),
    ],
)
def test_a_class_that_cannot_be_made_is_one_line_with_its_place(config: Config, section: str, complaint: str) -> None:
    write(config.cwd, "someclasses.py", CLASSES)
    write(config.cwd, "brokenmodule.py", "class R(:\n")
    path = write(config.cwd, "r.ini", f"# mine\n[r]\n{section}\n")
    with pytest.raises(InputError) as caught:
        build(find("runner", "r", config), cwd=config.cwd)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: [r] ")
    assert complaint in message
    assert "\n" not in message


def test_an_error_of_the_class_names_the_line_of_its_source(config: Config) -> None:
    source = write(config.cwd, "someclasses2.py", CLASSES)
    write(config.cwd, "r.ini", "[r]\nRunner = someclasses2.Fails\n")
    with pytest.raises(InputError, match="no licence") as caught:
        build(find("runner", "r", config), cwd=config.cwd)
    assert f"({source}:5)" in str(caught.value)


def test_arguments_may_have_any_name(config: Config) -> None:
    """spec: taskfarm 7, the handlers have keywords named input, output and anything else."""
    text = "class L:\n    def __init__(self, path, workdir, input, **kwargs): self.tasks = [path, input, kwargs]\n"
    write(config.cwd, "anylist.py", text)
    write(config.cwd, "l.ini", "[l]\nTaskList = anylist.L\ninput = HITS\ncls = a\ndefinition = b\nargs = c\n")
    made = build(find("tasklist", "l", config), "list", "wd", cwd=config.cwd)
    assert made.tasks == ["list", "HITS", {"cls": "a", "definition": "b", "args": "c"}]
