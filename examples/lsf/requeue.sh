#!/bin/bash
# A job that goes back into the queue until its list is done.
#
#   tasks=tasks.txt bsub < requeue.sh
#
# `taskfarmer run` ends with 3 when it was stopped, or ran out of time, with work left, and -Q "3" has LSF queue the job
# once more for it; with -r also if its host is lost. Any other status is for you to look at (1: tasks have failed). The
# job keeps its id. `bkill` ends it for good. MAX_JOB_REQUEUE of the queue says how often.

#BSUB -J farm
#BSUB -o lsf-%J.out
#BSUB -n 4
#BSUB -R "span[hosts=1]"
#BSUB -W 0:30
#BSUB -Q "3"
#BSUB -r

if [ -z "${tasks:-}" ]; then
    echo "usage: tasks=TASKLIST [options=...] bsub < requeue.sh" >&2
    exit 2
fi

# shellcheck disable=SC2086 # options are several words
exec taskfarmer run "$tasks" -n "$LSB_DJOB_NUMPROC" ${options:-}
