#!/usr/bin/env python3
"""A stand-in for athena: checks its arguments and writes them as JSON into `OUT.root` of the current directory.

`EXPECT`, a JSON object in the environment, says which further options must have which values.
"""

import argparse
import json
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    expected = json.loads(os.environ["EXPECT"])
    for name in expected:
        parser.add_argument(f"--{name}", nargs="+", required=True)
    parser.add_argument("--filesInput", required=True)
    parser.add_argument("--skipEvents", type=int)
    parser.add_argument("--evtMax", type=int)
    parser.add_argument("jobOptions")
    options = vars(parser.parse_args())
    for name, values in expected.items():
        if options[name] != values:
            sys.exit(f"athena.py: --{name} is {options[name]}, not {values}")
    if not os.path.isfile(options["filesInput"]):
        sys.exit(f"athena.py: no input file {options['filesInput']}")
    if (options["skipEvents"] is None) != (options["evtMax"] is None):
        sys.exit("athena.py: --skipEvents and --evtMax belong together")
    with open("OUT.root", "w") as stream:
        json.dump(options, stream)


if __name__ == "__main__":
    main()
