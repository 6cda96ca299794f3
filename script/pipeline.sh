#!/usr/bin/env bash
# Sourced by the launchers: set-up, then `train FLAGS`, which runs main.py. Data and runs are in the project's folder
# unless a flag says otherwise; a relative path in a flag is relative to where the user is. With LIST_FLAGS=1 nothing is
# trained: the flags are printed, a line for each job, as report.py --plan reads them.
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
