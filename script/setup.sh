#!/usr/bin/env bash
# Usage: bash script/setup.sh [package ...]
# Finds a Python that has what requirements.txt asks for and the packages named. If python3 lacks any of it, everything is
# installed into .venv. A script that sources this file gets $PROJECT, the project's folder, and the function `set_up`,
# which leaves the interpreter in $PYTHON.
set -euo pipefail
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ENVIRONMENT=$PROJECT/.venv

fail() {
    echo "$(basename "$0"): error: $1" >&2
    exit 2
}

# Refuse the list $2, called $1, unless it is of whole numbers: bash computes with what is written there, 08 is octal to
# it, and it would run commands that stand in an index.
check_numbers() {
    local number
    for number in $2; do
        [[ $number =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail "$1 \"$2\" should be whole numbers, such as \"1 2 3\""
    done
}

# Whether the interpreter $1 is new enough and has every requirement in the version asked for, and the packages named
# after it. A torchvision fits one version of torch only, and one kind of build (CUDA, CPU).
has_packages() {
    command -v "$1" >/dev/null && "$1" - "$PROJECT/requirements.txt" "${@:2}" 2>/dev/null <<'PYTHON_CODE'
import sys
from importlib.metadata import requires, version

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.version import Version

with open(sys.argv[1]) as file:
    requirements = [Requirement(line) for line in [*file, *sys.argv[2:]] if line.strip()]
fitting = [Requirement(line) for line in requires("torchvision")]
requirements += [requirement for requirement in fitting if requirement.name == "torch"]
same_build = Version(version("torch")).local == Version(version("torchvision")).local
good = [needed.specifier.contains(version(needed.name), prereleases=True) for needed in requirements]
sys.exit(not (sys.version_info >= (3, 11) and same_build and all(good)))
PYTHON_CODE
}

make_environment() {
    command -v python3 >/dev/null || fail "there is no python3: install Python 3.11 or newer"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "python3 is $(python3 --version | cut -d" " -f2): install Python 3.11 or newer"
    echo "installing into .venv (once; torch is large)" >&2
    [ -x "$ENVIRONMENT/bin/pip" ] || python3 -m venv "$ENVIRONMENT" ||
        fail "python3 cannot make a virtual environment: install its venv package (Debian: apt install python3-venv)"
    "$ENVIRONMENT/bin/pip" install --quiet --disable-pip-version-check -r "$PROJECT/requirements.txt" "$@" ||
        fail "pip could not install the packages: see above, then run the same command again"
}

set_up() {
    # A script that runs inside a checked one need not check again.
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
    if [ "$PYTHON" = "$ENVIRONMENT/bin/python" ]; then
        echo "ready: type 'source .venv/bin/activate' before commands that begin with python"
    else
        echo "ready: $PYTHON has every package"
    fi
fi
