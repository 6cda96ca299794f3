#!/usr/bin/env bash
# Sourced by the launchers: sets up Python and defines `train FLAGS`, which runs main.py. Data and runs are in the
# project folder unless a flag says otherwise; a relative path in a flag is relative to the current folder. With
# LIST_FLAGS=1 nothing is trained: the flags are printed, one line per job, in the form that report.py --plan reads.
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
[ -n "${LIST_FLAGS:-}" ] || set_up

train() {
    local flags=(--data-root "$PROJECT/data" --runs-dir "$PROJECT/runs" "$@")
    if [ -n "${LIST_FLAGS:-}" ]; then
        printf "'%s' " "${flags[@]//\'/\'\\\'\'}"
        echo
    else
        "$PYTHON" "$PROJECT/main.py" "${flags[@]}"
    fi
}
