#!/usr/bin/env bash
# Usage: bash script/measure_gpu.sh [FOLDER]      default: runs/benchmarks/gpu
# Everything that only a GPU can show, by one command: the tests of the CUDA path, every network of the paper part by
# part at 32 and 64 pixels with the cost of --deterministic, positions of error barriers, several trainings at once with
# and without NVIDIA's multi-process service, and the whole fast path, in bf16 and in float32, in pairs against the
# readable float32 step. Each part keeps its log in FOLDER. If a part fails, the others still run; the exit status is 1.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up pytest

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    fail "there is no CUDA device: run this where there is one"
FOLDER=${1:-$PROJECT/runs/benchmarks/gpu}
mkdir -p "$FOLDER"
FOLDER=$(cd "$FOLDER" && pwd)
STATUS=0

part() {
    echo "== $1"
    "${@:2}" 2>&1 | tee "$FOLDER/$1.log" || STATUS=1
}

cd "$PROJECT"
part tests "$PYTHON" -m pytest tests -k cuda
part steps_32 "$PYTHON" -m utils.benchmark --size 32 --out "$FOLDER/steps_32.csv"
part steps_64 "$PYTHON" -m utils.benchmark --size 64 --out "$FOLDER/steps_64.csv"
part positions "$PYTHON" -m utils.benchmark --positions --out "$FOLDER/positions.csv"
part sharing "$PYTHON" -m utils.benchmark --share 1 2 4 8 --out "$FOLDER/sharing.csv"
if command -v nvidia-cuda-mps-control >/dev/null; then
    part sharing_with_mps bash script/with_mps.sh \
        "$PYTHON" -m utils.benchmark --share 1 2 4 8 --out "$FOLDER/sharing_with_mps.csv"
fi
part precision bash script/compare_precision.sh
FAST="--precision fp32" part compile bash script/compare_precision.sh
exit $STATUS
