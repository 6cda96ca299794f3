#!/usr/bin/env bash
# Usage: bash script/test.sh [flags of pytest]      e.g. bash script/test.sh -m "not slow"
# Sets up Python and runs the tests.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up pytest
cd "$PROJECT"
exec "$PYTHON" -m pytest "$@"
