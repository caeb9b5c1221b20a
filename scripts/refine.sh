#!/usr/bin/env bash
# Two stages: one joint run on many tasks, then a run of each target task from its encoder (and its head, where the task
# was among them), beside runs that start from the plain encoder. scripts/adapt.sh takes a joint run to new tasks.
#
#   DATA_DIR=DIR TASKS="mnli sst2 mrpc" TARGETS="mrpc" scripts/refine.sh [--small] [--jobs N] [flags]
#
# Variables, with their defaults:
#   DATA_DIR   folder with <task>/<split>.jsonl
#   TASK_DEF   task definitions (glue,squad,textcls,nli)
#   TASKS      tasks of the joint run
#   TARGETS    tasks of the second stage (TASKS)
#   FRACTIONS  shares of a target's training rows (1)
#   JOINT, REFINE  settings of the two stages (scripts/recipes/joint.yml, scripts/recipes/refine.yml)
#   METHOD     of all runs, with its flags ("standard")
#   SEEDS      ("1 2 3"); the joint run has the first
#   MODEL      encoder: folder or hub name (bert-base-uncased)
#   FLAGS      flags of every `mtrobust train`; --small and the arguments go before them
#   OUT        OUT/joint-SEED, OUT/<target>/{plain,refined}-FRACTION-SEED, OUT/report/fraction-FRACTION (runs/refine)
#   JOBS       cells at a time (1)
#   MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
# Arguments: --small: 200 training and dev rows, one epoch, 64 tokens, in OUT/small; --jobs N; all others are given to
# every `mtrobust train`. Started again it goes on where it was stopped.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case "${1:-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
data=${DATA_DIR:?set DATA_DIR to the folder with the rows (see --help)}
tasks=${TASKS:?set TASKS to the tasks of the joint run (see --help)}
targets=${TARGETS:-$tasks} seeds=${SEEDS:-1 2 3}

mtrobust="$(dirname "$("$root/scripts/install.sh" | tail -n 1)")/mtrobust"
# shellcheck source=scripts/lib/grid.sh
source "$root/scripts/lib/grid.sh"
grid_begin "${OUT:-$root/runs/refine}" "$@"
read -ra sizes <<<"$(small "--max_train_samples 200 --max_eval_samples 200 --num_train_epochs 1 --max_seq_length 64" "")"
read -ra flags <<<"${FLAGS:-}"
read -ra method <<<"${METHOD:-standard}"
common=(--task_def "${TASK_DEF:-glue,squad,textcls,nli}" --data_dir "$data" --perturb "${method[@]}"
    ${flags[@]+"${flags[@]}"} ${sizes[@]+"${sizes[@]}"})
plain=(--model_name_or_path "${MODEL:-bert-base-uncased}")

first=${seeds%% *}
run_cell joint "$first" "${JOINT:-$root/scripts/recipes/joint.yml}" "${common[@]}" "${plain[@]}" --train_tasks "$(tr ' ' ',' <<<"$tasks")"
grid_wait
for seed in $seeds; do
    for task in $targets; do
        for fraction in ${FRACTIONS:-1}; do
            cell=("${REFINE:-$root/scripts/recipes/refine.yml}" "${common[@]}" --train_tasks "$task" --data_fraction "$fraction")
            run_cell "$task/plain-$fraction" "$seed" "${cell[@]}" "${plain[@]}"
            [ ! -e "$GRID_OUT/joint-$first/all_results.json" ] ||
                run_cell "$task/refined-$fraction" "$seed" "${cell[@]}" --init_from "$GRID_OUT/joint-$first"
        done
    done
done
grid_wait
status=0
for fraction in ${FRACTIONS:-1}; do # a report each: runs are compared with those on as many rows
    runs=()
    for run in "${GRID_RUNS[@]}"; do
        [[ "$run" != */*-"$fraction"-[0-9]* ]] || [ ! -e "$run/all_results.json" ] || runs+=("$run")
    done
    [ ${#runs[@]} -gt 0 ] || continue
    GRID_NAME=fraction-$fraction
    grid_report "${runs[@]}" --label "*/plain-*=plain" --label "*/refined-*=refined" --baseline plain || status=$?
done
grid_end
exit "$status"
