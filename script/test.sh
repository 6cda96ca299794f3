#!/usr/bin/env bash
# Usage: bash script/test.sh [flags of pytest]      e.g. bash script/test.sh -m "not slow"
# Set-up, then the tests, one process for each processor.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up pytest pytest-xdist
cd "$PROJECT"
exec "$PYTHON" -m pytest -n "$(nproc)" --dist worksteal "$@"
