#!/bin/bash
# One process a node on all of its GPUs; a node that is lost leaves its share to the others.
#   sbatch --nodes=4 experiments/launch/slurm_nodes.sh STUDY.toml OUT
#SBATCH --job-name=bdjax
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@180
#SBATCH --output=bdjax-%j.log
set -u
srun --no-kill --kill-on-bad-exit=0 bdjax run "$1" --out "$2"
status=$?
if [ $status -eq 143 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
