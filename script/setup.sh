#!/usr/bin/env bash
# Usage: bash script/setup.sh [package ...]
# Finds a Python that has what requirements.txt asks for, and the extra packages named; where python3 lacks any of it,
# installs it all into .venv. Sourced, it gives $PROJECT, the project's folder, and `set_up`, which leaves the
# interpreter in $PYTHON.
set -euo pipefail
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ENVIRONMENT=$PROJECT/.venv

fail() {
    echo "$(basename "$0"): error: $1" >&2
    exit 2
}

# Whether the interpreter $1 has every requirement in the version asked for, and the packages named after it.
has_packages() {
    command -v "$1" >/dev/null && "$1" - "$PROJECT/requirements.txt" "${@:2}" 2>/dev/null <<'PYTHON_CODE'
import importlib.metadata
import sys

from pip._vendor.packaging.requirements import Requirement

with open(sys.argv[1]) as file:
    requirements = [Requirement(line) for line in [*file, *sys.argv[2:]] if line.strip()]
for requirement in requirements:
    if not requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True):
        sys.exit(1)
import torchvision  # it is installed for one version of torch, and fails to import with another
PYTHON_CODE
}

make_environment() {
    command -v python3 >/dev/null || fail "there is no python3: install Python 3.10 or newer"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "python3 is $(python3 --version | cut -d" " -f2): install Python 3.10 or newer"
    echo "installing into .venv (once; torch is large)" >&2
    [ -x "$ENVIRONMENT/bin/pip" ] || python3 -m venv "$ENVIRONMENT" ||
        fail "python3 cannot make a virtual environment: install its venv package (Debian: apt install python3-venv)"
    "$ENVIRONMENT/bin/pip" install --quiet --disable-pip-version-check -r "$PROJECT/requirements.txt" "$@" ||
        fail "pip could not install the packages: see above, then run the same command again"
}

set_up() {
    # Within a script that a checked one runs, the seconds of another check are saved.
    [ $# -gt 0 ] || [ -z "${CHECKED_PYTHON:-}" ] || [ "$CHECKED_PYTHON" != "${PYTHON:-}" ] || return 0
    PYTHON=${PYTHON:-python3}
    if ! has_packages "$PYTHON" "$@"; then
        PYTHON=$ENVIRONMENT/bin/python
        has_packages "$PYTHON" "$@" || make_environment "$@"
        has_packages "$PYTHON" "$@" || fail "the packages in .venv do not work together: delete .venv and run this again"
    fi
    PYTHON=$(command -v "$PYTHON") # whatever PATH is later
    export PYTHON CHECKED_PYTHON=$PYTHON
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set_up "$@"
    echo "ready: $PYTHON has every package"
fi
