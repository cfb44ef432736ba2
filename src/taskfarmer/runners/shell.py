"""Does a line need a shell? A line without shell syntax is started directly, which is faster and means the same.

The rule errs towards the shell: only words of plain characters and simply quoted strings are split here, and only where
the first word is not one that a shell treats in its own way (POSIX.1-2017, XCU 2.4 reserved words, 2.14 special
built-ins, 1.6 regular built-ins; and those that dash and bash add).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Container

_PLAIN = r"[A-Za-z0-9_./:,+@%=^\-]"
_QUOTED = r"'[^'\0]*'|\"[^\"$`\\\0]*\""
_SIMPLE = re.compile(rf"[A-Za-z0-9_./+\-]+(?:[ \t]+(?:{_PLAIN}|{_QUOTED})+)*[ \t]*")
_QUOTE = re.compile("['\"]")

LONGEST = 120_000
"""Bytes of one argument; Linux refuses 131,072."""

EXEC = """\
case $1 in
    */*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
esac || { echo "sh: $1: not found" >&2; exit 127; }
exec "$@"
"""
"""Ends a script that gives its place to a program, its arguments. Where that is missing it is said as a shell says it
of a task's line, without name and line of a script that the user has not written."""

SHELL_WORDS = frozenset(
    """
    . : [ alias bg bind break builtin caller case cd chdir command compgen complete compopt continue coproc declare
    dirs disown do done echo elif else enable esac eval exec exit export fc fg fi for function getopts hash help
    history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set
    shift shopt source suspend test then time times trap type typeset ulimit umask unalias unset until wait while
    """.split()
)
"""Words that mean something else to a shell than to `exec`. `true` and `false` are the same either way."""


def words_of(line: str) -> list[str] | None:
    """Return the words of a line that has no shell syntax, or None for one that a shell must read."""
    if _SIMPLE.fullmatch(line) is None:
        return None
    words = shlex.split(line) if _QUOTE.search(line) else line.split()
    return None if words[0] in SHELL_WORDS else words


def words_without_shell(line: str, shell: str, defined: Container[bytes]) -> list[str] | None:
    """Return the words of a line that need no shell, not even for what the environment tells a shell to do first.

    `shell`: `sh` or `bash`; `defined`: the names of the variables that it would find. None: a shell must read it.
    """
    words = words_of(line) if len(line) < LONGEST else None
    if words is None or (shell == "bash" and b"BASH_ENV" in defined):
        return None
    # An exported function, as `module` is at many sites: bash takes it in, also where it goes by the name of sh.
    return None if b"BASH_FUNC_%b%%%%" % words[0].encode() in defined else words
