#!/bin/bash
# An array of jobs, each of which is one farmer; all work on the same list, and share it by themselves.
#
#   tasks=tasks.txt bsub < array.sh
#   tasks=tasks.txt bsub -J "farm[1-20]%5" < array.sh      as many as you like, also more of them later
#
# Exit status: that of `taskfarmer run`. `bkill JOBID` ends all of them: what runs goes back to the list.

#BSUB -J farm[1-4]
#BSUB -o lsf-%J.%I.out
#BSUB -n 2
#BSUB -R "span[hosts=1]"
#BSUB -W 0:30

if [ -z "${tasks:-}" ]; then
    echo "usage: tasks=TASKLIST [options=...] bsub < array.sh" >&2
    exit 2
fi

# shellcheck disable=SC2086 # options are several words
exec taskfarmer run "$tasks" -n "$LSB_DJOB_NUMPROC" ${options:-}
