#!/usr/bin/env bash
# One run over the GPUs of several nodes: sbatch launch/slurm.sh CONFIG WORKDIR [--config.KEY=VALUE ...]
# Other numbers of nodes and GPUs: sbatch --nodes=4 --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh ...
#SBATCH --job-name=qsdt
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM comes three minutes before the end: all processes stop at one step and save. The job, started again
# by hand or by Slurm after a failed node, goes on from there, on another number of GPUs if need be.
set -euo pipefail

if (($# < 2)); then
  echo "usage: sbatch launch/slurm.sh CONFIG WORKDIR [FLAGS]" >&2
  exit 2
fi
config=$1 workdir=$2
shift 2

# Since Slurm 22.05 srun does not take over --cpus-per-task of sbatch: each process would have one core.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

# One process for each GPU; who is who JAX reads from Slurm. The workdir is on a file system that all nodes see.
exec srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m launch \
  --config "$config" --workdir "$workdir" --coordinator=auto "$@"
