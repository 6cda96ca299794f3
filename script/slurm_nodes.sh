#!/usr/bin/env bash
# Usage: sbatch --nodes=2 --gres=gpu:8 [flags of sbatch] script/slurm_nodes.sh LAUNCHER [flags of main.py]
#   e.g. sbatch --nodes=2 --gres=gpu:8 --cpus-per-task=64 --time=24:00:00 script/slurm_nodes.sh script/imagenet_vit_aws.sh
# One training on all GPUs of several nodes, by torchrun. Submit it in the project's folder, which must be the same on
# every node. A requeued job continues where it was; one that reached its time limit does when it is submitted again.
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
cd "${SLURM_SUBMIT_DIR:-.}" # Slurm runs a copy of this file
source script/setup.sh

[ $# -gt 0 ] && [ -f "$1" ] || fail "give a launcher, for example script/imagenet_vit_aws.sh"
[ -n "${SLURM_JOB_ID:-}" ] || fail "submit this with sbatch"
set_up # once, for all nodes
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export TORCHRUN="--nnodes=$SLURM_NNODES --nproc-per-node=auto --max-restarts=3 --rdzv-backend=c10d \
--rdzv-id=$SLURM_JOB_ID --rdzv-endpoint=${nodes%%$'\n'*}:$((20000 + SLURM_JOB_ID % 10000))"
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take sbatch's flag over
srun --kill-on-bad-exit=1 bash "$@"
