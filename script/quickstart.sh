#!/usr/bin/env bash
# Usage: bash script/quickstart.sh [flags of main.py, but for the data set, the network, seeds and folders]
# The paper's central comparison in small: dense, LRR and AWS on 1,797 embedded digits, three trials, on the CPU.
# Interrupted, it goes on where it was.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up

RUNS=$PROJECT/runs/quickstart

for seed in 1 2 3; do
    PLACE=(--seed "$seed" --device cpu --runs-dir "$RUNS")
    bash "$PROJECT/script/digits_resnet20_lrr.sh" "$@" --method dense --start dense --final-seeds "$seed" "${PLACE[@]}"
    for method in lrr aws; do
        bash "$PROJECT/script/digits_resnet20_$method.sh" "$@" --final-seeds $((seed + 1)) "${PLACE[@]}"
    done
done

echo
echo "error barriers between the sign transfer and the solution of the same level:"
"$PYTHON" "$PROJECT/calculate_error_barrier.py" --runs "$RUNS"/digits_resnet20_{lrr,aws}_seed* --level 15 \
    --comparisons lmc-signs --device cpu

echo
echo "test accuracy on the digits and error barrier to the solution, mean ± standard deviation of three trials:"
"$PYTHON" "$PROJECT/report.py" --runs-dir "$RUNS"
