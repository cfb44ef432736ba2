#!/usr/bin/env python3
"""LSF's commands, as stand-ins: this file under their names. LSF_STANDIN names the directory of state; see dialect.py.

To play with: `export LSF_STANDIN=/tmp/lsf PATH=tests/standins/lsf:$PATH`, then bsub, bjobs, ...; `lsf-stop` ends it.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(f"{os.path.dirname(os.path.realpath(__file__))}/../../.."))

from tests.standins.miniature.ask import main

if __name__ == "__main__":
    sys.exit(main("LSF_STANDIN", "tests.standins.lsf.dialect:Lsf", reads="bsub"))
