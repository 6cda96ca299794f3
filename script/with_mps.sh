#!/usr/bin/env bash
# Usage: bash script/with_mps.sh COMMAND ...      e.g. PER_GPU=4 bash script/with_mps.sh bash script/paper/figure3.sh
# Runs the command under NVIDIA's multi-process service, with which processes on one GPU run their kernels concurrently;
# without it they take turns. The service is private to this user and ends with the command. If a process faults on the
# GPU, the others there end too; run the same command again and they continue from their last save.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

[ $# -gt 0 ] || fail "give the command to run, for example bash script/paper/figure3.sh"
command -v nvidia-cuda-mps-control >/dev/null ||
    fail "there is no nvidia-cuda-mps-control, which comes with NVIDIA's driver: run the command without it"
CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d)
CUDA_MPS_LOG_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY
export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
nvidia-cuda-mps-control -d || fail "the multi-process service did not start (see above): run the command without it"
trap 'echo quit | nvidia-cuda-mps-control; rm -rf "$CUDA_MPS_PIPE_DIRECTORY"' EXIT
"$@"
