#!/usr/bin/env bash
# Usage: bash script/paper/transfer.sh [--dry-run | --list | --finish]
# With SCALE=small in front, runs a small version on the digits and Fashion-MNIST at 8 pixels, in minutes on a CPU.
# Another data set's signed mask: METHOD prunes ARCH on each of DATASETS, once for each of SEEDS; its mask and signs at
# LEVEL are then trained on every data set from each of STARTS. Rows of the table are where they were found, columns where
# they are trained, beside dense networks and random signs under the same mask. --dry-run only says what is to be done,
# --list prints plain commands: those of the transfers once none of a pruning is left. --finish trains nothing.
source "$(dirname "${BASH_SOURCE[0]}")/../pipeline.sh"

METHOD=${METHOD:-aws} STARTS=${STARTS:-subnetwork signs random-signs}
case ${SCALE:-paper} in
    paper)
        DATASETS=${DATASETS:-cifar10 cifar100 tiny_imagenet} ARCH=${ARCH:-resnet50} LEVEL=${LEVEL:-11}
        SEEDS=${SEEDS:-1 2 3} RECIPE=cifar100_$ARCH RUNS=$PROJECT/runs SMALL=""
        ;;
    small)
        DATASETS=${DATASETS:-digits fashion_mnist} ARCH=${ARCH:-resnet20} LEVEL=${LEVEL:-10}
        SEEDS=${SEEDS:-1 2} RECIPE=digits_$ARCH RUNS=$PROJECT/runs/small/transfer
        SMALL="--device cpu --pixels 8 --train-images-per-class 100 --test-every 25"
        ;;
    *) fail "SCALE=$SCALE should be small, or not set" ;;
esac
WHAT=${1:---all}
case $WHAT in --all | --dry-run | --list | --finish) ;; *) fail "$WHAT is none of --dry-run, --list and --finish" ;; esac
check_numbers SEEDS "$SEEDS"
check_numbers LEVEL "$LEVEL"
check_numbers PER_GPU "${PER_GPU:-}"
read -ra START_LIST <<<"$STARTS"
read -ra EXTRA <<<"$SMALL ${FLAGS:-}"
FOLDER=$RUNS/figures/transfer
FOLDERS=() # of all planned runs

# The flags of a run: recipe of method $1, name $2, data set $3, seed $4, then more flags.
flags() {
    local launcher=$PROJECT/script/${RECIPE}_$1.sh
    [ -f "$launcher" ] || fail "there is no recipe $(basename "$launcher"): write it, or choose another ARCH or METHOD"
    FOLDERS+=("$RUNS/$2")
    LIST_FLAGS=1 bash "$launcher" --dataset "$3" --seed "$4" --runs-dir "$RUNS" --name "$2" "${@:5}" "${EXTRA[@]}"
}

plan_own() {
    local seed dataset
    for seed in $SEEDS; do
        for dataset in $DATASETS; do
            flags lrr "${dataset}_${ARCH}_dense_seed$seed" "$dataset" "$seed" --method dense --start dense --final-seeds "$seed"
            flags "$METHOD" "${dataset}_${ARCH}_${METHOD}_seed$seed" "$dataset" "$seed" --final-seeds $((seed + 1)) \
                --levels "$LEVEL" --final-levels "$LEVEL" --start "${START_LIST[@]}"
        done
    done
}

# A level that is not there yet has transfers in --dry-run only.
plan_transfers() {
    local seed dataset source level
    for seed in $SEEDS; do
        for source in $DATASETS; do
            level=$RUNS/${source}_${ARCH}_${METHOD}_seed$seed/level_$(printf %02d "$LEVEL")/network.pt
            [ "$WHAT" = --dry-run ] || [ -f "$level" ] || continue
            for dataset in $DATASETS; do
                [ "$dataset" != "$source" ] || continue
                flags lrr "${dataset}_${ARCH}_${METHOD}_of_${source}_level_${LEVEL}_seed$seed" "$dataset" "$seed" --signed-mask "$level" \
                    --final-seeds $((seed + 1)) --start "${START_LIST[@]}"
            done
        done
    done
}

# The commands of kind $1, `runs` or `stages`, that the plan lacks.
missing() {
    [ ! -s "$PLAN" ] || "$PYTHON" "$PROJECT/report.py" --plan "$PLAN" --list "$1"
}

PLAN=$(mktemp)
trap 'rm -f "$PLAN"' EXIT
STATUS=0 KIND=$(kind_of_work)
plan_own >"$PLAN"
case $WHAT in
    --dry-run)
        plan_transfers >>"$PLAN"
        "$PYTHON" "$PROJECT/report.py" --plan "$PLAN" --dry-run
        exit
        ;;
    --list)
        commands=$(missing stages)
        plan_transfers >"$PLAN"
        [ -n "$commands" ] || commands=$(missing stages)
        [ -z "$commands" ] || echo "$commands"
        exit
        ;;
    --all) run_listed own missing "$KIND" ;;
esac
plan_transfers >"$PLAN"
[ "$WHAT" = --finish ] || run_listed transfers missing "$KIND"
THERE=()
for folder in "${FOLDERS[@]}"; do
    [ ! -f "$folder/config.json" ] || THERE+=("$folder")
done
[ ${#THERE[@]} -gt 0 ] || fail "nothing is trained yet: run this without --finish"
"$PYTHON" "$PROJECT/report.py" --transfers "${THERE[@]}" --out "$FOLDER"
exit $STATUS
