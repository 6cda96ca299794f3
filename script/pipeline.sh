#!/usr/bin/env bash
# Sourced by the launchers: set-up, then `train FLAGS`, which runs main.py from the project's folder.
# shellcheck source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up

train() {
    "$PYTHON" main.py "$@"
}
