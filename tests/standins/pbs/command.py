#!/usr/bin/env python3
"""PBS's commands, as stand-ins: this file under their names. PBS_STANDIN names the directory of state; see dialect.py.

To play with: `export PBS_STANDIN=/tmp/pbs PATH=tests/standins/pbs:$PATH`, then qsub, qstat, ...; `pbs-stop` ends it.
"""

import os
import sys

sys.path.insert(0, os.path.abspath(f"{os.path.dirname(os.path.realpath(__file__))}/../../.."))

from tests.standins.miniature.ask import main

if __name__ == "__main__":
    sys.exit(main("PBS_STANDIN", "tests.standins.pbs.dialect:Pbs"))
