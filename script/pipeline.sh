#!/usr/bin/env bash
# Sourced by the launchers: sets up Python and defines `train FLAGS`, which runs main.py. Data and runs are in the
# project folder unless a flag says otherwise; a relative path in a flag is relative to the current folder. With
# LIST_FLAGS=1 nothing is trained: the flags are printed, one line per job, in the form that report.py --plan reads.
# TORCHRUN="--standalone --nproc-per-node=8" trains in as many processes, a GPU each; it holds torchrun's flags.
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
[ -n "${LIST_FLAGS:-}" ] || set_up

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
