"""HTCondor's Python bindings as commands: `python -m taskfarmer.batch.condor_calls VERB WORD...`, one call, one answer.

A process of its own, since a call may hang, which the loop of a farmer must not (see `htcondor`). It prints what
HTCondor's own commands would print, and ends with status 1 and a line on stderr if they would.

    submit FILE                                     -> CLUSTER.FIRST - CLUSTER.LAST
    queue CONSTRAINT ATTRIBUTES LIMIT               -> JSON; LIMIT and COUNT -1: all
    factories CONSTRAINT ATTRIBUTES                 -> JSON
    history CONSTRAINT ATTRIBUTES COUNT SINCE       -> JSON
    remove CONSTRAINT
    settings NAME...                                -> a line each
    version
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any


def main(words: list[str]) -> int:
    """Do what the words say; return the exit status."""
    # What a submit description has in excess is no error, and would stand before the answer.
    warnings.simplefilter("ignore")
    try:
        _do(*words)
    except Exception as error:  # HTCondorException is nothing more special, and the bindings raise others as well
        sys.stderr.write(f"ERROR: {' '.join(str(error).split()) or type(error).__name__}\n")
        return 1
    return 0


def _do(verb: str, *words: str) -> None:
    htcondor2 = import_module("htcondor2")  # it has no types
    match verb, *words:
        case "submit", file:
            made = htcondor2.Schedd().submit(htcondor2.Submit(Path(file).read_text()))
            first = made.first_proc()
            _say(f"{made.cluster()}.{first} - {made.cluster()}.{first + made.num_procs() - 1}")
        case "queue", text, attributes, limit:
            _show(htcondor2.Schedd().query(text, attributes.split(","), limit=int(limit)))
        case "factories", text, attributes:
            everything = htcondor2.QueryOpts.IncludeClusterAd
            ads = htcondor2.Schedd().query(text, [*attributes.split(","), "ProcId"], opts=everything)
            _show(ad for ad in ads if "ProcId" not in ad)
        case "history", text, attributes, count, since:
            _show(htcondor2.Schedd().history(text, attributes.split(","), match=int(count), since=since))
        case "remove", text:
            htcondor2.Schedd().act(htcondor2.JobAction.Remove, text)
        case "settings", *names:
            for name in names:
                _say(htcondor2.param[name])
        case ("version",):
            _say(htcondor2.version())
        case _:
            raise ValueError(f"{verb} is no call, or has other words")


def _show(ads: Iterable[Mapping[str, Any]]) -> None:
    """Print ads as `condor_q -json` does, one a line; of their values those that JSON has."""
    between = "["
    for ad in ads:
        plain = {key: value for key, value in ad.items() if isinstance(value, bool | int | float | str)}
        _say(between, json.dumps(plain))
        between = ","
    _say(*("]" if between == "," else "[]"))


def _say(*lines: object) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
