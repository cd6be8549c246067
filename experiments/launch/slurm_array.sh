#!/bin/bash
# One task a GPU, each with a share of the work that is fixed: a task that is run again does what its share lacks.
#   sbatch --array=1-8 experiments/launch/slurm_array.sh STUDY.toml OUT 8
# A lost task runs again alone with `--array=3` and the same 8.
#SBATCH --job-name=bdjax
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@180
#SBATCH --output=bdjax-%A-%a.log
set -u
study=$1 out=$2 count=$3

bdjax run "$study" --out "$out" --share "${SLURM_ARRAY_TASK_ID:-1}/$count" &
task=$!
# The shell gets the signal, three minutes before the end, and passes it on: bdjax makes a checkpoint and stops.
trap 'kill -TERM $task' TERM
wait $task
status=$?
if kill -0 $task 2>/dev/null; then # it was the signal that ended the wait
    wait $task
    status=$?
fi
if [ $status -eq 143 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
