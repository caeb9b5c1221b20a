#!/usr/bin/env bash
# Makes the virtual environment that the other scripts use and installs this checkout into it (editable).
#
#   scripts/install.sh [EXTRAS]        EXTRAS: extras of setup.cfg, such as dev
#
# Variables: MTROBUST_VENV  folder of the environment (default .venv in the checkout; made if missing)
#            PYTHON         interpreter that makes it (default python3; needs 3.11 or newer)
#            CONSTRAINTS    pip constraints file (default scripts/constraints.txt; "none": newest versions)
# The last line printed is the path of the environment's python.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${MTROBUST_VENV:-$root/.venv}
python=${PYTHON:-python3}
constraints=${CONSTRAINTS:-$root/scripts/constraints.txt}
extras=${1:-}

if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "install.sh: $("$python" --version 2>&1) is too old: mtrobust needs Python 3.11 or newer (set PYTHON)" >&2
        exit 2
    }
    "$python" -m venv "$venv" >&2
fi
options=(--quiet --disable-pip-version-check)
[ "$constraints" = none ] || options+=(--constraint "$constraints")
# Packages are asked for only when something is missing, so that a second start needs no network.
stamp="$venv/.mtrobust-${extras:-plain}"
if [ ! -e "$stamp" ] || [ "$root/setup.cfg" -nt "$stamp" ] || [ "$root/scripts/constraints.txt" -nt "$stamp" ]; then
    "$venv/bin/python" -m pip install "${options[@]}" --editable "$root${extras:+[$extras]}" >&2
    touch "$stamp"
fi
echo "$venv/bin/python"
