"""Lines without shell syntax: what is started directly means the same as in a shell."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from taskfarmer.runners.shell import SHELL_WORDS, words_of

SIMPLE = [
    ("true", ["true"]),
    ("sim --seed 5 -o out.root", ["sim", "--seed", "5", "-o", "out.root"]),
    ("sim  \t a\tb ", ["sim", "a", "b"]),
    ("/opt/x/bin/run-1.2 a=b c:d,e @f 10% +x ^y", ["/opt/x/bin/run-1.2", "a=b", "c:d,e", "@f", "10%", "+x", "^y"]),
    ("p 'a b' \"c d\" e'f'g", ["p", "a b", "c d", "efg"]),
    ("p '' \"\"", ["p", "", ""]),
    ('p \'it "is"\' "it\'s"', ["p", 'it "is"', "it's"]),
    ("p '$HOME `x` \\n *?[]{}~!#;&|<>()'", ["p", "$HOME `x` \\n *?[]{}~!#;&|<>()"]),
    ("p 'two\nlines' 'ä\udcff'", ["p", "two\nlines", "ä\udcff"]),
]

FOR_A_SHELL = [
    "",
    " ",
    "a | b",
    "a && b",
    "a; b",
    "a &",
    "a > b",
    "a 2>&1",
    "a < b",
    "a $B",
    "a `b`",
    "a $(b)",
    'a "$B"',
    'a "`b`"',
    'a "\\n"',
    "a \\n",
    "a *",
    "a ?",
    "a [b]",
    "a {b,c}",
    "a ~",
    "a ~/b",
    "a # b",
    "a !b",
    "a (b)",
    "a 'b",
    'a "b',
    "A=b c",
    "'a b' c",
    '"a" b',
    "$A b",
    "{ a; }",
    "! a",
    "a\nb",
    "a ä",
    "a 'b\0'",
    "a\u00a0b",
    "echo hello",
    "cd /tmp",
    "exit 3",
    "time a",
    "exec a",
    ". a",
    ": a",
    "test -e a",
]


@pytest.mark.parametrize(("line", "words"), SIMPLE)
def test_simple_lines_are_split(line: str, words: list[str]) -> None:
    assert words_of(line) == words


@pytest.mark.parametrize("line", FOR_A_SHELL)
def test_all_others_are_for_a_shell(line: str) -> None:
    assert words_of(line) is None


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_all_builtins_and_keywords_are_for_a_shell(shell: str) -> None:
    """Asked of the shells that are installed, so that a new word of theirs is noticed."""
    if shell == "bash":
        said = subprocess.run(
            ["bash", "-c", "compgen -b; compgen -k"], capture_output=True, text=True, check=True
        ).stdout
        words = set(said.split())
    else:
        candidates = sorted(SHELL_WORDS | {*os.listdir("/bin"), *os.listdir("/usr/bin"), "false", "true"})
        program = (
            'for word; do case $(command -V "$word") in *"shell builtin"|*"shell keyword") echo "$word";; esac; done'
        )
        done = subprocess.run(["sh", "-c", program, "sh", *candidates], capture_output=True, text=True, check=False)
        words = set(done.stdout.split())
        assert "cd" in words
    missing = {word for word in words if words_of(f"{word} x") is not None}
    assert missing <= {"true", "false"}


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a program `show` that prints its arguments, each followed by a NUL."""
    place = tmp_path_factory.mktemp("bin")
    (place / "show").write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    (place / "show").chmod(0o755)
    return place


MARKS = [*"=-'\" \t\\$`~*#!^%@:,;&{}[]()<>?+\n"]
PIECES = st.sampled_from([*MARKS, "a", "b1", "--", "  ", "x y", "'q r'", '"s t"', "''", '""', "ä", "\udcff"])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(pieces=st.lists(PIECES, max_size=12))
@example(pieces=["'q r'", "a", '""', " ", "^", "=", "~"])
def test_the_words_are_those_that_a_shell_makes(show: Path, pieces: list[str]) -> None:
    line = "show " + "".join(pieces)
    words = words_of(line)
    assume(words is not None)
    assert words is not None
    for shell in ("sh", "bash"):
        done = subprocess.run(
            [shell, "-c", line], capture_output=True, env={"PATH": f"{show}:{os.environ['PATH']}"}, check=True
        )
        got = done.stdout.split(b"\0")[:-1]
        assert got == [os.fsencode(word) for word in words[1:]] or (words[1:] == [] and got == [b""])


@given(text=st.text(max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    words = words_of(text)
    assert words is None or (words and all("\0" not in word for word in words))


@pytest.mark.parametrize(
    "line", ["a " + "'" * 99_999, "a " + "b" * 100_000 + "$", "a" + " " * 100_000 + "$", "a '' " * 20_000 + "'"]
)
def test_long_lines_take_no_long_time(line: str) -> None:
    start = time.process_time()
    assert words_of(line) is None
    assert time.process_time() - start < 1.0
