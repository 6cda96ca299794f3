#!/usr/bin/env bash
# The figures source this file after they have said what they need:
#   FIGURE TITLE        the name of its files, and the title of the picture
#   NETWORKS            <dataset>_<arch>, with recipes in script/<dataset>_<arch>_<method>.sh
#   SEEDS               the trials; the final trainings of a trial have the seed after its own
#   LEVELS              where final trainings begin; LEVELS_<network> for one network, if it has others
#   METHODS STARTS_<method>
#   COMPARISONS BARRIER_LEVELS   error barriers (calculate_error_barrier.py --help); COMPARISONS="" for none
#   POINTS              positions of each error barrier, if not 11
#   REFERENCE           a method and a comparison that all panels of barriers show; not set for none
#   PARTS               yes for tables that say where each part of a subnetwork comes from; not set for none
#   SWEEP VALUES_<method>    a sweep: settings of main.py, and for each of its runs a line of flags; not set for none
#   MORE                further flags of main.py for every pruning run
#   SMALL               the network of SCALE=small, if it is not digits_resnet20
# `bash script/paper/figureN.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--finals N]
# [--levels ".."] [--barrier-levels ".."]` trains and measures what is missing and draws the figure. --dry-run only says
# what that is, --list prints its plain commands, --finish trains nothing, measures missing barriers and draws what is
# there. --finals N makes N final trainings from initializations of their own in each trial; their seeds are 1000 apart,
# so that no other trial has them. script/README.md explains SCALE, FLAGS, POINTS, GPUS and PER_GPU.
source "$(dirname "${BASH_SOURCE[0]}")/../pipeline.sh"

# What a figure does not set is not set: it must not come from the environment.
OPTIONAL=(BARRIER_LEVELS REFERENCE PARTS SWEEP MORE SMALL)
[ -z "$(printenv "${OPTIONAL[@]}")" ] || exec env "${OPTIONAL[@]/#/-u}" bash "$0" "$@"

RUNS=$PROJECT/runs
read -ra EXTRA <<<"${FLAGS:-}"
if [ "${SCALE:-paper}" = small ]; then
    RUNS=$PROJECT/runs/small
    NETWORKS=${SMALL:-digits_resnet20} SEEDS="1 2"
    case $LEVELS in *" "*) LEVELS="5 10 15" ;; *) LEVELS=10 ;; esac # several, or the one that a figure looks at
    BARRIER_LEVELS=${BARRIER_LEVELS:+10}
    EXTRA=(--device cpu "${EXTRA[@]}")
elif [ "${SCALE:-paper}" != paper ]; then
    fail "SCALE=$SCALE should be small, or not set"
fi
WHAT=all networks="" seeds="" finals="" levels="" barrier_levels=""
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run | --list | --finish) WHAT=${1#--} && shift ;;
        --networks | --seeds | --finals | --levels | --barrier-levels)
            [ $# -gt 1 ] || fail "$1 wants a value; a list in quotes"
            name=${1#--}
            declare "${name//-/_}=$2" && shift 2
            ;;
        *) fail "$1 is none of --dry-run, --list, --finish, --networks, --seeds, --finals, --levels and --barrier-levels" ;;
    esac
done
NETWORKS=${networks:-$NETWORKS} SEEDS=${seeds:-$SEEDS} LEVELS=${levels:-$LEVELS}
check_numbers --seeds "$SEEDS"
finals=${finals:-1}
[[ $finals =~ ^[1-9][0-9]?$ ]] || fail "--finals \"$finals\" should be a whole number from 1, such as 3"
check_numbers --levels "$LEVELS"
check_numbers --barrier-levels "$barrier_levels"
check_numbers PER_GPU "${PER_GPU:-}"
read -ra LEVEL_LIST <<<"$LEVELS"
read -ra COMPARISON_LIST <<<"${COMPARISONS:-}"
read -ra BARRIER_LEVEL_LIST <<<"${barrier_levels:-${BARRIER_LEVELS:-0}}"
read -ra SWEEP_LIST <<<"${SWEEP:-}"
read -ra MORE_FLAGS <<<"${MORE:-}"
read -ra REFERENCE_PAIR <<<"${REFERENCE:-}"
FOLDER=$RUNS/figures/$FIGURE

last_of() { printf '%s\n' "$@" | sort -n | tail -n 1; }

# The flags of one run: method $1, network $2, seed $3, then more flags.
flags() {
    local launcher=$PROJECT/script/$2_$1.sh
    [ "$1" != dense ] || launcher=$PROJECT/script/$2_lrr.sh # whose final trainings a dense network's are like
    [ -f "$launcher" ] || fail "$2 has no recipe for $1: write script/$(basename "$launcher"), or correct the networks"
    LIST_FLAGS=1 bash "$launcher" --method "$1" --seed "$3" --runs-dir "$RUNS" "${@:4}" "${EXTRA[@]}"
}

# The flags of a method's runs: method $1, network $2, seed $3, then more flags.
method_flags() {
    local starts=STARTS_$1
    read -ra starts -d '' <<<"${!starts}" || true # all its lines
    local own=LEVELS_$2 list=("${LEVEL_LIST[@]}")
    [ -n "$levels" ] || [ -z "${!own:-}" ] || read -ra list <<<"${!own}"
    flags "$@" --final-seeds $(seq $(($3 + 1)) 1000 $(($3 + 1000 * finals))) --levels "$(last_of "${list[@]}" "${BARRIER_LEVEL_LIST[@]}")" \
        --final-levels "${list[@]}" --start "${starts[@]}" "${MORE_FLAGS[@]}"
}

plan() {
    local seed network method values value words
    for seed in $SEEDS; do
        for network in $NETWORKS; do
            flags dense "$network" "$seed" --start dense --final-seeds "$seed"
            for method in $METHODS; do
                values=VALUES_$method
                if [ -z "${!values:-}" ]; then
                    method_flags "$method" "$network" "$seed"
                    continue
                fi
                while read -ra words; do
                    value=$(IFS=_ && echo "${words[*]#--}")
                    method_flags "$method" "$network" "$seed" "${words[@]}" \
                        --name "${network}_${method}_${value:+${value}_}seed$seed"
                done <<<"${!values}"
            done
        done
    done
}

report() {
    "$PYTHON" "$PROJECT/report.py" --plan "$PLAN" --name "$FIGURE" --title "$TITLE" --out "$FOLDER" \
        --levels "${BARRIER_LEVEL_LIST[@]}" --comparisons "${COMPARISON_LIST[@]}" ${SWEEP:+--by "${SWEEP_LIST[@]}"} ${POINTS:+--points "$POINTS"} \
        ${REFERENCE:+--reference "${REFERENCE_PAIR[@]}"} ${PARTS:+--parts} "$@"
}

PLAN=$(mktemp) # of this command alone: another may be at work on the same figure
trap 'rm -f "$PLAN"' EXIT
plan >"$PLAN"
STATUS=0
case $WHAT in
    dry-run) report --dry-run ;;
    list) report --list stages ;;
    *)
        KIND=$(kind_of_work)
        [ $WHAT = finish ] || run_listed "$KIND" report --list "$KIND"
        [ ${#COMPARISON_LIST[@]} = 0 ] || run_listed barriers report --list barriers
        report
        cp "$PLAN" "$FOLDER/plan.txt"
        exit $STATUS
        ;;
esac
