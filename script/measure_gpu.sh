#!/usr/bin/env bash
# Usage: bash script/measure_gpu.sh [FOLDER [PART ...]]      default: runs/benchmarks/gpu, and the part that is called first
# What only a GPU can show, each part in about ten minutes. All tables go into FOLDER/summary.md; the rows measured
# so far are also in CSV files; errors and warnings are in log.txt. If a part fails, the others still run; the exit
# status is 1. The parts:
#   first      a smoke test; then the paper's networks at 32 pixels: the default path, with and without combo kernels,
#              against the plain step, with an epoch and its evaluation; where a step's time goes, by kind of kernel
#   64         the same networks at 64 pixels
#   arms       the fast path part by part, with start-ups as a first process has them, and the cost of --deterministic
#   layouts    ShuffleNet's three: its own, channels-last, and channels-last with its groups made dense
#   sharing    several trainings at once
#   mps        the same with NVIDIA's multi-process service
#   positions  positions of error barriers
#   tests      all tests of the CUDA path
#   precision  the whole fast path, in bf16 and in float32, in pairs against the readable float32 step
# NETWORKS, DEVICE and FLAGS (of utils/benchmark) make it smaller: DEVICE=cpu NETWORKS=resnet20 FLAGS="--images 128"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up pytest

DEVICE=${DEVICE:-cuda}
[ "$DEVICE" = cpu ] || "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    fail "there is no CUDA device: run this where there is one"
FOLDER=${1:-$PROJECT/runs/benchmarks/gpu}
PARTS=("${@:2}")
[ ${#PARTS[@]} -gt 0 ] || PARTS=(first)
for part in "${PARTS[@]}"; do
    [[ $part =~ ^(first|64|arms|layouts|sharing|mps|positions|tests|precision)$ ]] || fail "no part is called $part: see this file"
done
mkdir -p "$FOLDER"
FOLDER=$(cd "$FOLDER" && pwd)
read -ra NETWORKS <<<"${NETWORKS:-resnet50 mobilenetv2 shufflenet efficientnet}"
read -ra FLAGS <<<"${FLAGS:-}"
FASTEST=(--arms graph "combo kernels" --cached)
ALL=(--arms "data on device" "precision, layout" compile graph deterministic)
LAYOUTS=(--arms graph "channels last" "dense groups" --cached)
SHARING=(--share 1 2 4 --seconds 10)
STATUS=0
cd "$PROJECT"

part() {
    printf '\n## %s\n\n' "$1" | tee -a "$FOLDER/summary.md"
    "${@:2}" 2> >(tee -a "$FOLDER/log.txt" >&2) | tee -a "$FOLDER/summary.md" || STATUS=1
}

benchmark() {
    "$PYTHON" -m utils.benchmark "${@:2}" --device "$DEVICE" --out "$FOLDER/$1.csv" "${FLAGS[@]}"
}

# All networks at once, because compilers leave a GPU idle; what follows finds their code in PyTorch's cache.
fill_cache() {
    local network
    for network in "${NETWORKS[@]}"; do
        "$PYTHON" -m utils.benchmark "$network" --size "$1" "${FASTEST[@]}" --device "$DEVICE" \
            --images 128 --rounds 1 --steps 1 --workers 0 >/dev/null 2>>"$FOLDER/log.txt" &
    done
    wait
}

# 16 worker processes make the plain step's batches, as in the published code.
steps() {
    fill_cache "$1"
    part "steps of $1 pixels" benchmark "steps_$1" "${NETWORKS[@]}" --size "$1" "${FASTEST[@]}" --workers 16 --rounds 5
}

for part in "${PARTS[@]}"; do
    case $part in
    first)
        part "smoke test" "$PYTHON" -m pytest -p no:cacheprovider tests/test_fast_path.py -k captured_step_on_cuda
        steps 32
        part profile benchmark profile "${NETWORKS[@]}" --profile
        ;;
    64) steps 64 ;;
    arms) part arms benchmark arms "${NETWORKS[@]}" "${ALL[@]}" ;;
    layouts) part layouts benchmark layouts shufflenet "${LAYOUTS[@]}" ;;
    sharing) part sharing benchmark sharing "${NETWORKS[@]}" "${SHARING[@]}" ;;
    mps)
        part mps bash script/with_mps.sh "$PYTHON" -m utils.benchmark "${NETWORKS[@]}" "${SHARING[@]}" \
            --device "$DEVICE" --out "$FOLDER/mps.csv" "${FLAGS[@]}"
        ;;
    positions) part positions benchmark positions "${NETWORKS[@]}" --positions --rounds 3 --cached ;;
    tests) part tests "$PYTHON" -m pytest tests -k cuda ;;
    precision)
        part precision bash script/compare_precision.sh
        FAST="--precision fp32" part compile bash script/compare_precision.sh
        ;;
    esac
done
exit $STATUS
