#!/usr/bin/env bash
#SBATCH --job-name=soda_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log
# Multi-node GPU training under Slurm: one process for each GPU.
#
#     sbatch launch/slurm.sh --config=configs/imagenet.py --workdir=/shared/imagenet [flags of soda_jax.main]
#     sbatch --nodes=4 --partition=gpu launch/slurm.sh ...    (options of sbatch override those above)
#
# Submit it from the checkout, in the environment that soda_jax is installed in. The workdir must be on a file system
# that every node sees. The tasks of a node must equal its GPUs. Three minutes before the time limit, and when the job
# is preempted, the run saves and ends; a run that has not come to its end is then put into the queue again.
#
# Environment: PYTHON (python).
set -euo pipefail

python="${PYTHON:-python}"
workdir=""
for argument in "$@"; do
    case "$argument" in --workdir=*) workdir="${argument#--workdir=}" ;; esac
done
if [[ -z "$workdir" ]]; then
    echo "usage: sbatch launch/slurm.sh --config=... --workdir=... [flags of soda_jax.main]" >&2
    exit 2
fi

# A worker for each core of a task but two, which feed the GPU. A flag of the caller's stands after it and wins.
cpus="${SLURM_CPUS_PER_TASK:-1}"
workers=$((cpus > 2 ? cpus - 2 : 0))

# --kill-on-bad-exit: a process that is left alone would hold its node until its heartbeat ends it.
srun --kill-on-bad-exit=1 --cpus-per-task="$cpus" \
    "$python" -m soda_jax.main --distributed "--config.data.num_workers=$workers" "$@" &
step=$!
# The signals of --signal and of a preemption reach the tasks; this shell only has to outlive them.
trap : TERM
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended the wait, not the step
    status=0
    wait "$step" || status=$?
done

# 143 is the same signal before the run could heed it: its imports alone can take minutes on a shared file system.
if ((status == 0 || status == 143)) && ! "$python" -m soda_jax.tools.finished "--workdir=$workdir"; then
    echo "launch/slurm.sh: stopped before its end; queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
