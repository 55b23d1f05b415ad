#!/usr/bin/env bash
#SBATCH --job-name=mixjax
#SBATCH --nodes=1                  # hosts
#SBATCH --ntasks-per-node=4        # processes of a host: one for each of its GPUs ..
#SBATCH --gpus-per-node=4          # .. and every process sees them all: jax takes the one of its number
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00            # of one start; a run that needs longer goes on by itself
#SBATCH --requeue                  # a lost host or a preemption puts the job back into the queue
#SBATCH --signal=TERM@90           # seconds before the time is over: the run saves and ends
#SBATCH --open-mode=append         # one log for all starts
#SBATCH --output=slurm-%j.log
#
# One training job of several processes, on one host or more. Arguments are those of mixjax train:
#
#   launch/slurm_job.sh --config=configs/xmixup_dogs.py --workdir=/shared/runs/dogs
#
# It hands itself to sbatch. The lines above are its settings; Slurm's own variables change them, such as
# SBATCH_ACCOUNT, SBATCH_PARTITION and SBATCH_TIMELIMIT, and so does `sbatch --nodes=2 launch/slurm_job.sh ..`.
# The work directory must be on a disk that all hosts share.
#
# A job that was asked to stop puts itself back into the queue and goes on from its last checkpoint.

set -euo pipefail

PYTHON=${PYTHON:-python}           # of an environment with mixjax[cuda], on all hosts
MAX_RESTARTS=${MAX_RESTARTS:-50}   # then something else is wrong

case ${1:---help} in -h | --help)
    sed -n '/^#SBATCH/d; /^#!/d; /^#/!q; s/^#\( \|$\)//p' "$0"
    exit 0 ;;
esac
if [ -z "${SLURM_JOB_ID:-}" ]; then
    exec sbatch "$0" "$@"
fi

# srun does not take over the job's --cpus-per-task by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
status=0
# When a process ends, the others notice by themselves. Slurm gives them time, because those that it ends itself
# (SIGTERM) look as if the job had been asked to stop.
srun --kill-on-bad-exit=0 --wait=90 "$PYTHON" -m mixjax train "$@" || status=$?

# 42: stopped after a save. 143: ended by SIGTERM before it could.
if { [ "$status" = 42 ] || [ "$status" = 143 ]; } && [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ]; then
    echo "stopped with exit code $status; back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || exit "$status"
    exit 0
fi
exit "$status"
