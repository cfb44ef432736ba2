#!/bin/bash
# One job on several nodes, with a farmer on each; all work on the same list.
#
#   sbatch multinode.sh tasks.txt [options of `taskfarmer run`]
#   sbatch -N 8 multinode.sh tasks.txt
#
# A minute before the end Slurm warns the script, which tells srun, which tells every farmer to stop at once: tasks that
# run are ended, and go back to the list. Exit status: the highest of the farmers'.

#SBATCH --job-name=farm
#SBATCH --output=slurm-%j.out
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=00:30:00
#SBATCH --signal=B:USR1@60

if [ $# -eq 0 ]; then
    echo "usage: sbatch multinode.sh TASKLIST [OPTION...]" >&2
    exit 2
fi

# A farmer that finds nothing to do may leave long before the others: neither its end nor its status ends theirs.
srun -N "$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    --wait=0 --kill-on-bad-exit=0 taskfarmer run "$@" &
farmers=$!

# bash runs a trap only while it waits for something in the background; a signal ends the `wait`, not the farmers.
heard=
trap 'heard=1; echo "$(date): stopping the farmers"; kill -s USR1 "$farmers"' USR1 INT
trap 'heard=1' TERM # from `scancel`, which has told srun and the farmers, too: let them leave

wait "$farmers"
status=$?
while [ -n "$heard" ]; do
    heard=
    wait "$farmers"
    status=$?
done
exit "$status"
