"""Does a line need a shell? A line without shell syntax is started directly, which is faster and means the same.

The rule errs towards the shell: only words of plain characters and simply quoted strings are split here, and only where
the first word is not one that a shell treats in its own way (POSIX.1-2017, XCU 2.4 reserved words, 2.14 special
built-ins, 1.6 regular built-ins; and those that dash and bash add).
"""

from __future__ import annotations

import re
import shlex

_PLAIN = r"[A-Za-z0-9_./:,+@%=^\-]"
_QUOTED = r"'[^'\0]*'|\"[^\"$`\\\0]*\""
_SIMPLE = re.compile(rf"[A-Za-z0-9_./+\-]+(?:[ \t]+(?:{_PLAIN}|{_QUOTED})+)*[ \t]*")
_QUOTE = re.compile("['\"]")

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
