#!/usr/bin/env bash
# Usage: bash script/quickstart.sh [flags of main.py, except data set, network, seeds and folders]
# The paper's central comparison in small: dense, LRR and AWS on 1,797 embedded digits, three trials, on the CPU.
# After an interruption the same command continues; finished work is skipped.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up

RUNS=$PROJECT/runs/quickstart

plan() {
    local seed method
    export LIST_FLAGS=1
    for seed in 1 2 3; do
        local place=(--seed "$seed" --device cpu --runs-dir "$RUNS")
        bash "$PROJECT/script/digits_resnet20_lrr.sh" "$@" --method dense --start dense --final-seeds "$seed" "${place[@]}"
        for method in lrr aws; do
            bash "$PROJECT/script/digits_resnet20_$method.sh" "$@" --final-seeds $((seed + 1)) "${place[@]}"
        done
    done
}

missing=$("$PYTHON" "$PROJECT/report.py" --plan <(plan "$@") --list next --levels 15 --comparisons lmc-signs)
if [ -n "$missing" ] || ! compgen -G "$RUNS/barriers/digits_resnet20_level_*/comparisons.json" >/dev/null; then
    [ -z "$missing" ] || bash "$PROJECT/script/run_commands.sh" <<<"$missing"
    echo
    echo "error barriers between the sign transfer and the solution of the same level:"
    "$PYTHON" "$PROJECT/calculate_error_barrier.py" --runs "$RUNS"/digits_resnet20_{lrr,aws}_seed* --level 15 \
        --comparisons lmc-signs --device cpu
fi
echo
echo "test accuracy on the digits and error barrier to the solution, mean ± standard deviation of three trials:"
"$PYTHON" "$PROJECT/report.py" --runs-dir "$RUNS"
