#!/usr/bin/env bash
# Sourced by the launchers: sets up Python and defines `train FLAGS`, which runs main.py. Data and runs are in the
# project folder unless a flag says otherwise; a relative path in a flag is relative to the current folder. With
# LIST_FLAGS=1 nothing is trained: the flags are printed, one line per job, in the form that report.py --plan reads.
# TORCHRUN="--standalone --nproc-per-node=8" trains in as many processes, a GPU each; it holds torchrun's flags.
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
[ -n "${LIST_FLAGS:-}" ] || set_up

# `runs` if one process at a time makes what is missing, else `stages`, which several can share.
kind_of_work() {
    if [ "$(wc -w <<<"${GPUS:-}")" -le 1 ] && [ "${PER_GPU:-1}" = 1 ]; then echo runs; else echo stages; fi
}

# Run the commands that "${@:2}" lists, with their logs in $FOLDER under the name $1; STATUS keeps a failure.
run_listed() {
    local commands
    commands=$("${@:2}")
    export LOGS=$FOLDER/logs/$(date +%Y%m%d_%H%M%S)_$$_$1
    [ -z "$commands" ] || bash "$PROJECT/script/run_commands.sh" <<<"$commands" || STATUS=$?
    case $STATUS in 130 | 143) exit "$STATUS" ;; esac # interrupted
}

train() {
    local flags=(--data-root "$PROJECT/data" --runs-dir "$PROJECT/runs" "$@")
    if [ -n "${LIST_FLAGS:-}" ]; then
        printf "'%s' " "${flags[@]//\'/\'\\\'\'}"
        echo
    else
        local several=()
        read -ra several <<<"${TORCHRUN:+-m torch.distributed.run $TORCHRUN --}" # else it takes --start for its own
        "$PYTHON" "${several[@]}" "$PROJECT/main.py" "${flags[@]}"
    fi
}
