"""How HTCondor is asked: the words of its commands, or those of `condor_calls`, which puts them to the bindings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..errors import InputError
from .base import Needs
from .calls import Call, about_jobs
from .condor_description import for_any_job, our_key

DESCRIPTION = "job.submit"
SINCE = "EnteredCurrentStatus < time() - 30 * 86400"
"""Where a look into the history stops: it is read from its end, and may be gigabytes."""

_OTHER_SCHEDD = ("-name", "-remote", "-pool", "-addr")
_OTHER_ANSWER = ("-interactive", "-dry-run", "-dump", "-verbose", "-help", "-version", "-capabilities")


class Commands:
    """HTCondor's commands for what there is to ask."""

    def submit(self, *native: str) -> tuple[str, ...]:
        """Submit the description in the current directory; prints the range of its jobs."""
        return ("condor_submit", "-terse", *native, DESCRIPTION)

    def queue(self, text: str, attributes: Sequence[str], limit: int | None = None) -> Call:
        """Ask for jobs in the queue."""
        # Without -allusers those of ours are left out whose owner has another name there.
        few = () if limit is None else ("-limit", str(limit))
        words = ("condor_q", "-allusers", "-json", "-attributes", ",".join(attributes), *few)
        return about_jobs(*words, "-constraint", text)

    def factories(self, text: str, attributes: Sequence[str]) -> Call:
        """Ask for clusters that still make jobs."""
        words = ("condor_q", "-allusers", "-factory", "-json", "-attributes", ",".join(attributes))
        return about_jobs(*words, "-constraint", text)

    def history(self, text: str, attributes: Sequence[str], count: int | None) -> Call:
        """Ask for jobs that left the queue, `count` at most."""
        few = () if count is None else ("-match", str(count))
        words = ("condor_history", "-json", "-attributes", ",".join(attributes), *few, "-since", SINCE)
        return about_jobs(*words, "-constraint", text)

    def remove(self, text: str) -> Call:
        """Remove jobs."""
        return Call(argv=("condor_rm", "-constraint", text))

    def settings(self, *names: str) -> Call:
        """Ask for settings, each of which is printed on a line."""
        return Call(argv=("condor_config_val", *names))

    def version(self) -> Call:
        """Ask for the version."""
        return Call(argv=("condor_version",))


class Bindings(Commands):
    """The same by the bindings, in a process of their own."""

    def submit(self, *native: str) -> tuple[str, ...]:
        """Submit the description in the current directory."""
        return _program("submit", DESCRIPTION)

    def queue(self, text: str, attributes: Sequence[str], limit: int | None = None) -> Call:
        """Ask for jobs in the queue."""
        return about_jobs(*_program("queue", text, ",".join(attributes), "-1" if limit is None else str(limit)))

    def factories(self, text: str, attributes: Sequence[str]) -> Call:
        """Ask for clusters that still make jobs."""
        return about_jobs(*_program("factories", text, ",".join(attributes)))

    def history(self, text: str, attributes: Sequence[str], count: int | None) -> Call:
        """Ask for jobs that left the queue."""
        return about_jobs(*_program("history", text, ",".join(attributes), str(-1 if count is None else count), SINCE))

    def remove(self, text: str) -> Call:
        """Remove jobs."""
        return Call(argv=_program("remove", text))

    def settings(self, *names: str) -> Call:
        """Ask for settings."""
        return Call(argv=_program("settings", *names))

    def version(self) -> Call:
        """Ask for the version."""
        return Call(argv=_program("version"))


def _program(*words: str) -> tuple[str, ...]:
    # -P: what lies in the directory of the submission is not to be imported.
    return (sys.executable, "-P", "-m", "taskfarmer.batch.condor_calls", *words)


def checked(native: Sequence[str]) -> Sequence[str]:
    """Return words for condor_submit.

    Raises:
        InputError: one would leave the other commands without the jobs, or us without an answer.
    """
    for before, word in zip(("", *native), native, strict=False):
        appended = _appends(before)
        if (appended or "=" in word) and not word.startswith("-") and (key := our_key(word)):
            raise InputError(f"condor_submit {word}: the setting {key} is taskfarmer's own", hint="leave it out")
        short = word.startswith("-") and len(word) > 2
        if short and any(option.startswith(word) for option in _OTHER_SCHEDD):
            raise InputError(
                f"condor_submit {word} would submit where the other commands do not look",
                hint="set _CONDOR_SCHEDD_HOST or _CONDOR_COLLECTOR_HOST in the environment, which all of them heed",
            )
        if short and any(option.startswith(word) for option in _OTHER_ANSWER):
            raise InputError(f"condor_submit {word} cannot be used here", hint="run condor_submit yourself for that")
    return native


def _appends(word: str) -> bool:
    """Whether the word behind this one is a line of the description."""
    return len(word) > 1 and "-append".startswith(word)


def beside(needs: Needs) -> Needs:
    """Return what a small job may have of the settings and the words: see `BatchSystem.beside`."""
    settings = {key: value for key, value in needs.settings.items() if for_any_job(key)}
    return replace(needs, settings=settings, native=tuple(_beside(needs.native)))


def _beside(native: Sequence[str]) -> Iterator[str]:
    for before, word in zip(("", *native), native, strict=False):
        if _appends(before) and for_any_job(word):
            yield from (before, word)
        elif not _appends(before) and "=" in word and not word.startswith("-") and for_any_job(word):
            yield word
