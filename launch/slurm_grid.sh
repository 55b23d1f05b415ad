#!/usr/bin/env bash
#SBATCH --job-name=mixjax-grid
#SBATCH --ntasks=1                 # a run is one process ..
#SBATCH --gpus=1                   # .. on one GPU
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00            # of one start; a run that needs longer goes on by itself
#SBATCH --requeue                  # a lost host or a preemption puts the run back into the queue
#SBATCH --signal=TERM@90           # seconds before the time is over: the run saves and ends
#SBATCH --open-mode=append         # one log for all starts of a run
#SBATCH --output=slurm-%A_%a.log
#
# A grid of runs as an array. Arguments are those of mixjax grid, without --run:
#
#   launch/slurm_grid.sh configs/digits/grid.py --runs=/shared/runs/grid
#
# It counts the runs and hands itself to sbatch, AT_ONCE runs at a time. The lines above are its settings; Slurm's
# own variables change them, such as SBATCH_ACCOUNT, SBATCH_PARTITION and SBATCH_TIMELIMIT. INDICES=3,7-9 takes
# those runs only. Give the same command again whenever you like: finished runs are skipped.
#
# A run that was asked to stop puts itself back into the queue and goes on from its last checkpoint.

set -euo pipefail

PYTHON=${PYTHON:-python}           # of an environment with mixjax[cuda], on all hosts
AT_ONCE=${AT_ONCE:-16}             # runs at the same time
INDICES=${INDICES:-}               # of the runs; empty: all
MAX_RESTARTS=${MAX_RESTARTS:-50}   # then something else is wrong

case ${1:---help} in -h | --help)
    sed -n '/^#SBATCH/d; /^#!/d; /^#/!q; s/^#\( \|$\)//p' "$0"
    exit 0 ;;
esac
if [ -z "${SLURM_JOB_ID:-}" ]; then
    if [ -z "$INDICES" ]; then
        count=$("$PYTHON" -m mixjax grid "$@" --count)
        INDICES=0-$((count - 1))
    fi
    exec sbatch --array="$INDICES%$AT_ONCE" "$0" "$@"
fi

# srun does not take over the job's --cpus-per-task by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
status=0
srun "$PYTHON" -m mixjax grid "$@" --run auto || status=$?

# 42: stopped after a save. 143: ended by SIGTERM before it could.
if { [ "$status" = 42 ] || [ "$status" = 143 ]; } && [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ]; then
    echo "stopped with exit code $status; back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || exit "$status"
    exit 0
fi
exit "$status"
