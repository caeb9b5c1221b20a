#!/usr/bin/env bash
# Runs the tests.
#
#   scripts/test.sh [unit|matrix|golden|cli|slow|all] [pytest arguments]
#
#   unit    everything quick (the default; under 2 minutes on 2 cores)
#   matrix  methods x task types x encoder families x layers
#   golden  recorded reference cases (needs MTROBUST_GOLDEN)
#   cli     the commands as a user runs them, with the corpus of broken inputs
#   slow    further processes: kill and resume, torchrun, the built wheel; small trainings
#   all     all of these, with the coverage of mtrobust/, which must reach the figure in pyproject.toml
#
# Variables: WORKERS          processes side by side (default 2)
#            MTROBUST_DATA, MTROBUST_MODELS, MTROBUST_GOLDEN
#                             folders with the benchmark files, a folder minilm-l6-h384-uncased, and the recorded
#                             cases; tests that need one that is not set are skipped and say so
#            MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tier=${1:-unit}
[ $# -eq 0 ] || shift
case "$tier" in
    unit) select=(-m "not matrix and not golden and not cli and not slow") ;;
    matrix | golden | cli | slow) select=(-m "$tier") ;;
    all) select=(--cov --cov-report=term) ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "test.sh: unknown tier '$tier' (allowed: unit, matrix, golden, cli, slow, all)" >&2; exit 2 ;;
esac

python=$(scripts/install.sh dev | tail -n 1)
workers=${WORKERS:-2}
# One thread a process: two processes with two threads each would fight for two cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
exec "$python" -m pytest "${select[@]}" -n "$workers" --dist worksteal "$@"
