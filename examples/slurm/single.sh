#!/bin/bash
# One job with one farmer, which works through a task list on the CPUs of the job.
#
#   sbatch single.sh tasks.txt [options of `taskfarmer run`]
#
# The farmer knows when the job ends: it starts nothing that cannot end before, and leaves in time. Submit the same line
# again for what is left, also while other jobs work on the list. Exit status: that of `taskfarmer run`.

#SBATCH --job-name=farm
#SBATCH --output=slurm-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=00:30:00

if [ $# -eq 0 ]; then
    echo "usage: sbatch single.sh TASKLIST [OPTION...]" >&2
    exit 2
fi

# `exec`: what Slurm tells the job, it tells the farmer.
exec taskfarmer run "$@"
