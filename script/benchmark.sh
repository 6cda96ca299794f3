#!/usr/bin/env bash
# Usage: bash script/benchmark.sh [arch ...] [flags of utils/benchmark]      e.g. mobilenetv2 --share 1 2 4
# How fast training is on this machine, part by part, against the plain step; also in runs/benchmarks as CSV.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up

# Without -P, -m would first look for utils in the folder where this was started.
PYTHONPATH=$PROJECT${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -P -m utils.benchmark \
    --out "$PROJECT/runs/benchmarks/$(date +%Y%m%d_%H%M%S).csv" "$@"
