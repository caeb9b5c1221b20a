#!/usr/bin/env bash
# Adaptation to new tasks with few rows: shares of a task's training rows, from a joint run's encoder and, beside it,
# from the encoder that the joint run started with. At the end a table and a curve over the shares.
#
#   RUN=runs/joint DATA_DIR=DIR TASKS="scitail snli" scripts/adapt.sh [--small] [--jobs N] [flags]
#
# Variables, with their defaults:
#   RUN        folder of a finished joint run
#   DATA_DIR   folder with <task>/<split>.jsonl
#   TASK_DEF   task definitions (glue,squad,textcls,nli)
#   TASKS      the new tasks
#   FRACTIONS  shares of a task's training rows ("0.001 0.01 0.1 1"; with --small "0.1 1")
#   RECIPE     settings of all runs (scripts/recipes/adapt.yml)
#   SEEDS      ("1 2 3"); each draws rows of its own, the same for both starts
#   MODEL      the encoder that is compared with (the one that RUN started from)
#   FLAGS      flags of every `mtrobust train`; --small and the arguments go before them
#   OUT        OUT/<task>/{plain,adapted}-FRACTION-SEED; OUT/report/<task>: all shares, OUT/report/<task>-FRACTION: one,
#              with differences (runs/adapt)
#   JOBS       cells at a time (1)
#   MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
# Arguments: --small: at most 200 training and dev rows, one epoch, 64 tokens, in OUT/small; --jobs N; all others are
# given to every `mtrobust train`. Started again it goes on where it was stopped.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case "${1:-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
run=${RUN:?set RUN to the folder of a finished joint run (see --help)}
data=${DATA_DIR:?set DATA_DIR to the folder with the rows (see --help)}
tasks=${TASKS:?set TASKS to the new tasks (see --help)}
[ -e "$run/all_results.json" ] || { echo "RUN: $run: no finished run (no all_results.json)" >&2; exit 2; }

python=$("$root/scripts/install.sh" | tail -n 1)
mtrobust="$(dirname "$python")/mtrobust"
# shellcheck source=scripts/lib/grid.sh
source "$root/scripts/lib/grid.sh"
grid_begin "${OUT:-$root/runs/adapt}" "$@"
read -ra sizes <<<"$(small "--max_train_samples 200 --max_eval_samples 200 --num_train_epochs 1 --max_seq_length 64" "")"
read -ra flags <<<"${FLAGS:-}"
read -ra fractions <<<"${FRACTIONS:-$(small "0.1 1" "0.001 0.01 0.1 1")}"
model=${MODEL:-$("$python" -c "import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))['model_name_or_path'])" \
    "$run/config.yml")}

for seed in ${SEEDS:-1 2 3}; do # seed by seed, so that an early look has every share
    for task in $tasks; do
        for fraction in "${fractions[@]}"; do
            cell=("${RECIPE:-$root/scripts/recipes/adapt.yml}" --task_def "${TASK_DEF:-glue,squad,textcls,nli}"
                --data_dir "$data" --train_tasks "$task" --data_fraction "$fraction"
                ${flags[@]+"${flags[@]}"} ${sizes[@]+"${sizes[@]}"})
            run_cell "$task/plain-$fraction" "$seed" "${cell[@]}" --model_name_or_path "$model"
            run_cell "$task/adapted-$fraction" "$seed" "${cell[@]}" --init_from "$run"
        done
    done
done
grid_wait
status=0
report() { # name, pattern of run folders, flags: of the finished ones
    local runs=() found
    for found in "${GRID_RUNS[@]}"; do
        # shellcheck disable=SC2053
        [[ "$found" != $2 ]] || [ ! -e "$found/all_results.json" ] || runs+=("$found")
    done
    [ ${#runs[@]} -gt 0 ] || return 0
    GRID_NAME=$1
    grid_report "${runs[@]}" "${@:3}" || status=$?
}
for task in $tasks; do
    for fraction in "${fractions[@]}"; do # differences are between runs on as many rows
        report "$task-$fraction" "*/$task/*-$fraction-[0-9]*" \
            --label '*/plain-*=plain' --label '*/adapted-*=adapted' --baseline plain
    done
    report "$task" "*/$task/*" --sweep data_fraction
done
grid_end
exit "$status"
