#!/usr/bin/env bash
# Usage: bash script/calculate_error_barrier.sh [LEVEL [RUN_FOLDER ...]]      default: level 11 of every run in runs/
# The paper's comparisons (figures 2, 3 and 6, b and c) of each method's runs, whose seeds are the trials:
#   linear mode connectivity of the sign transfer and the solution, and SGD-noise stability of the sign transfer, of the
#   subnetwork and of the sign transfer that keeps ψ (two order seeds from one initialization).
# It first trains the final trainings that are missing, with the run's own settings; one figure overlays the methods.
# After an interruption the same command continues. COMPARISONS="..." chooses other comparisons
# (calculate_error_barrier.py --help), DEVICE=cpu another device.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

LEVEL=${1:-11}
RUNS=("${@:2}")
if [ ${#RUNS[@]} = 0 ]; then
    shopt -s nullglob
    for config in "$PROJECT"/runs/*/config.json; do
        RUNS+=("$(dirname "$config")")
    done
    [ ${#RUNS[@]} -gt 0 ] || fail "there is no run in $PROJECT/runs: train one first, for example by script/cifar100_resnet50_aws.sh"
fi
read -ra CHOSEN <<<"${COMPARISONS:-}"
barriers() {
    "$PYTHON" "$PROJECT/calculate_error_barrier.py" --runs "${RUNS[@]}" --level "$LEVEL" \
        ${COMPARISONS:+--comparisons "${CHOSEN[@]}"} --device "${DEVICE:-auto}" --data-root "$PROJECT/data" "$@"
}

missing=$(barriers --list-missing)
eval "$missing"
barriers
