#!/usr/bin/env bash
# Usage: bash script/with_mps.sh COMMAND ...      e.g. PER_GPU=4 bash script/with_mps.sh bash script/paper/figure3.sh
# Runs the command while NVIDIA's multi-process service is on, in which the processes on one GPU run their kernels side by
# side; without it they take turns. It is this user's own and ends with the command. A process that faults on the GPU ends
# the others there too; they go on from their last save when the same command runs again.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[ $# -gt 0 ] || fail "name the command to run, for example bash script/paper/figure3.sh"
command -v nvidia-cuda-mps-control >/dev/null ||
    fail "there is no nvidia-cuda-mps-control, which comes with NVIDIA's driver: run the command without it"
CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d)
CUDA_MPS_LOG_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY
export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
nvidia-cuda-mps-control -d || fail "the multi-process service does not start, see above: run the command without it"
trap 'echo quit | nvidia-cuda-mps-control; rm -rf "$CUDA_MPS_PIPE_DIRECTORY"' EXIT
"$@"
