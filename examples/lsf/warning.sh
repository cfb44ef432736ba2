#!/bin/bash
# A job that LSF warns a minute before its end, by a signal to all of its processes.
#
#   tasks=tasks.txt bsub < warning.sh
#
# A farmer knows the end of its job by itself and needs no warning; this is for sites where `bjobs` cannot be asked from
# within a job. SIGUSR1 tells the farmer to stop at once. Tasks that do not handle it die of it, and go back to the list:
# that the farmer was told as well makes them stopped, not failed. LSF counts the warning in minutes, from the end.

#BSUB -J farm
#BSUB -o lsf-%J.out
#BSUB -n 4
#BSUB -R "span[hosts=1]"
#BSUB -W 0:30
#BSUB -wa USR1
#BSUB -wt 1

if [ -z "${tasks:-}" ]; then
    echo "usage: tasks=TASKLIST [options=...] bsub < warning.sh" >&2
    exit 2
fi

# shellcheck disable=SC2086 # options are several words
exec taskfarmer run "$tasks" -n "$LSB_DJOB_NUMPROC" ${options:-}
