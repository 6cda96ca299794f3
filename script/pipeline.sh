#!/usr/bin/env bash
# Sourced by the launchers: set-up, then `train FLAGS`, which runs main.py. Data and runs are in the project's folder
# unless a flag says otherwise; a relative path in a flag is relative to where the user is.
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up

train() {
    "$PYTHON" "$PROJECT/main.py" --data-root "$PROJECT/data" --runs-dir "$PROJECT/runs" "$@"
}
