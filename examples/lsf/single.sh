#!/bin/bash
# One job with one farmer, which works through a task list on the slots of the job.
#
#   tasks=tasks.txt bsub < single.sh
#   tasks=tasks.txt options="--retries 2" bsub -n 8 -W 2:00 < single.sh
#
# The farmer knows when the job ends (it asks `bjobs`): it starts nothing that cannot end before, and leaves in time.
# Submit the same line again for what is left, also while other jobs work on the list. Exit status: that of
# `taskfarmer run`. LSF brings the output when the job has ended; `taskfarmer watch tasks.txt_workdir` shows it before.

#BSUB -J farm
#BSUB -o lsf-%J.out
#BSUB -n 4
#BSUB -R "span[hosts=1]"
#BSUB -W 0:30

if [ -z "${tasks:-}" ]; then
    echo "usage: tasks=TASKLIST [options=...] bsub < single.sh" >&2
    exit 2
fi

# `exec`: what LSF tells the job, it tells the farmer.
# shellcheck disable=SC2086 # options are several words
exec taskfarmer run "$tasks" -n "$LSB_DJOB_NUMPROC" ${options:-}
