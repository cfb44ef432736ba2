#!/usr/bin/env python3
"""A stand-in for an ATLAS transform: takes `--KEY VALUE...`, checks them, writes them as JSON into the output file.

`EXPECT`, a JSON object in the environment, says which keys must have which values; no other keys may be there.
"""

import argparse
import json
import os
import sys


def refuse(message: str) -> None:
    sys.exit(f"Reco_tf.py: {message}")


def main() -> None:
    given: dict[str, list[str]] = {}
    key = ""
    for word in sys.argv[1:]:
        if word.startswith("--"):
            key = word[2:]
            if key in given:
                refuse(f"--{key} is given twice")
            given[key] = []
        elif not key:
            refuse(f"{word!r} belongs to no option")
        else:
            given[key].append(word)
    expected = json.loads(os.environ["EXPECT"])
    rest = {name: values for name, values in given.items() if name not in expected}
    for name, values in expected.items():
        if given.get(name) != values:
            refuse(f"--{name} is {given.get(name)}, not {values}")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--inputHITSFile", required=True)
    parser.add_argument("--outputRDOFile", required=True)
    parser.add_argument("--skipEvents", type=int)
    parser.add_argument("--maxEvents", type=int)
    options = parser.parse_args([word for name, values in rest.items() for word in (f"--{name}", *values)])
    if not os.path.isfile(options.inputHITSFile):
        refuse(f"no input file {options.inputHITSFile}")
    if (options.skipEvents is None) != (options.maxEvents is None):
        refuse("--skipEvents and --maxEvents belong together")
    with open(options.outputRDOFile, "x") as stream:
        json.dump(vars(options), stream)


if __name__ == "__main__":
    main()
