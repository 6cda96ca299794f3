#!/usr/bin/env bash
# Usage: bash script/benchmark.sh [arch ...] [flags of benchmark.py]      e.g. mobilenetv2 --share 1 2 4
# How fast training is on this machine, part by part, against the plain step; also in runs/benchmarks as CSV.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up

"$PYTHON" "$PROJECT/benchmark.py" --out "$PROJECT/runs/benchmarks/$(date +%Y%m%d_%H%M%S).csv" "$@"
