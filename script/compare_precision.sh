#!/usr/bin/env bash
# Usage: bash script/compare_precision.sh [launcher [flags of main.py]]      default: digits_resnet20_aws
# Checks whether the fast path trains as well as float32. Runs a launcher's recipe with five seeds and five sign
# transfers each, once with the readable step in float32 and once with the flags in FAST, and prints the differences
# pair by pair. By default FAST="--precision bf16"; on CUDA, compilation and CUDA graphs are on as well, and
# FAST="--precision fp32" tests them alone. SEEDS="1 2 3" chooses other seeds. If interrupted, run the same command
# again to continue.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up

LAUNCHER=$PROJECT/script/${1:-digits_resnet20_aws}.sh
[ -f "$LAUNCHER" ] || fail "there is no $LAUNCHER: give the name of a launcher without .sh"
RUNS=$PROJECT/runs/precision/$(basename "$LAUNCHER" .sh)
FAST=${FAST:---precision bf16}
read -ra FAST_FLAGS <<<"$FAST"
FAST_RUNS=$RUNS/$(tr -cs 'a-z0-9' _ <<<"${FAST#--}")
FAST_RUNS=${FAST_RUNS%_}

check_numbers SEEDS "${SEEDS:-}"
for seed in ${SEEDS:-1 2 3 4 5}; do
    TRIAL=(--seed "$seed" --start signs --final-seeds $((seed + 1)) 10 11 12 13 "${@:2}")
    bash "$LAUNCHER" "${TRIAL[@]}" --precision fp32 --no-compile --no-cuda-graph --runs-dir "$RUNS/fp32"
    bash "$LAUNCHER" "${TRIAL[@]}" "${FAST_FLAGS[@]}" --runs-dir "$FAST_RUNS"
done

echo
echo "first: the readable step in float32; second: $FAST"
"$PYTHON" "$PROJECT/report.py" --paired "$RUNS/fp32" "$FAST_RUNS"
