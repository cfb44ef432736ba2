#!/bin/bash
# One job on several hosts, with a farmer on each; all work on the same list.
#
#   tasks=tasks.txt bsub < multihost.sh
#   tasks=tasks.txt bsub -n 16 -R "span[ptile=4]" < multihost.sh
#
# An array (array.sh) does the same and starts sooner, since its jobs need not wait for each other; this is for queues
# that take large jobs only. `blaunch` starts the farmers, and LSF signals and ends what it started. Its exit status does
# not tell those of all farmers: look with `taskfarmer status`.

#BSUB -J farm
#BSUB -o lsf-%J.out
#BSUB -n 8
#BSUB -R "span[ptile=4]"
#BSUB -W 0:30

if [ -z "${tasks:-}" ]; then
    echo "usage: tasks=TASKLIST [options=...] bsub < multihost.sh" >&2
    exit 2
fi

hosts=$(sort -u "$LSB_DJOB_HOSTFILE")
slots=$((LSB_DJOB_NUMPROC / $(echo "$hosts" | wc -l)))
# shellcheck disable=SC2086 # options are several words
exec blaunch -z "$hosts" taskfarmer run "$tasks" -n "$slots" ${options:-}
