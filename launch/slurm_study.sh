#!/usr/bin/env bash
#SBATCH --job-name=soda_study
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%A_%a.log
# A study's runs under Slurm: each task of an array job takes runs, one after the other, until none is left.
#
#     sbatch launch/slurm_study.sh --study=modulation --size=gpu --workdir=/shared/modulation [flags of tools.study]
#     sbatch --array=0-15 --partition=gpu launch/slurm_study.sh ...    (options of sbatch override those above)
#
# Submit it from the checkout, in the environment that soda_jax is installed in. The workdir must be on a file system
# that every node sees: locks in it give each run to one task. Three minutes before the time limit, and when a task is
# preempted, its run saves and ends, and the task is put into the queue again.
#
# Environment: PYTHON (python).
set -euo pipefail

python="${PYTHON:-python}"
case " $* " in
    *" --workdir="*) ;;
    *)
        echo "usage: sbatch launch/slurm_study.sh --study=... --workdir=... [flags of soda_jax.tools.study]" >&2
        exit 2
        ;;
esac

srun --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$python" -m soda_jax.tools.study "$@" &
step=$!
# The signals of --signal and of a preemption reach the task; this shell only has to outlive them.
trap : TERM
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended the wait, not the step
    status=0
    wait "$step" || status=$?
done

# 143 says that the runner was stopped, with runs left to do.
if ((status == 143)); then
    echo "launch/slurm_study.sh: stopped before its end; queued again"
    scontrol requeue "$SLURM_JOB_ID"
    status=0
fi
exit "$status"
