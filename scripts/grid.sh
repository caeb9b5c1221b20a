#!/usr/bin/env bash
# Methods x seeds x tasks, each cell a run folder of its own, and the report on them. Started again, it goes on where it
# was stopped; a cell that fails does not stop the others and is named at the end.
#
#   DATA_DIR=DIR TASKS="mr mrpc" METHODS="standard; rapt --perturb.layers 1-3" scripts/grid.sh [--small] [flags]
#
# Variables, with their defaults:
#   DATA_DIR   folder with <task>/<split>.jsonl
#   TASK_DEF   task definitions (glue,squad,textcls)
#   TASKS      tasks, each with runs of its own; tasks joined by commas are trained jointly
#   METHODS    entries separated by `;`: NAME, or NAME=METHOD to give a run another name, with flags after it
#              (standard)
#   SEEDS      ("1 2 3")
#   MODEL      encoder: folder or hub name (bert-base-uncased)
#   FLAGS      flags of every `mtrobust train`; --small, those of an entry and the arguments go before them
#   OUT        where the runs go, as OUT/<task>/<name>-<seed> (runs/grid in the checkout)
#   REPORT     further flags of `mtrobust report`, such as "--best_by mr/acc"
#   JOBS       cells at a time (1)
#   MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
# Arguments: --small: 200 training and dev rows, one epoch, 64 tokens, in OUT/small; --jobs N; all others, such as
# --max_steps 5 or --learning_rate 2e-5, are given to every `mtrobust train`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case "${1:-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
data=${DATA_DIR:?set DATA_DIR to the folder with the rows (see --help)}
tasks=${TASKS:?set TASKS to the tasks to train on (see --help)}
seeds=${SEEDS:-1 2 3}

python=$("$root/scripts/install.sh" | tail -n 1)
mtrobust="$(dirname "$python")/mtrobust"
# shellcheck source=scripts/lib/grid.sh
source "$root/scripts/lib/grid.sh"
grid_begin "${OUT:-$root/runs/grid}" "$@"
read -ra sizes <<<"$(small "--max_train_samples 200 --max_eval_samples 200 --num_train_epochs 1 --max_seq_length 64" "")"

read -ra flags <<<"${FLAGS:-}"
entries=$(tr ';' '\n' <<<"${METHODS:-standard}")
# Seed by seed, so that an early look has every method.
for seed in $seeds; do
    for task in $tasks; do
        while read -ra words; do
            [ ${#words[@]} -gt 0 ] || continue
            name=${words[0]%%=*} method=${words[0]#*=}
            run_cell "$task/$name" "$seed" --task_def "${TASK_DEF:-glue,squad,textcls}" --data_dir "$data" \
                --train_tasks "$task" --model_name_or_path "${MODEL:-bert-base-uncased}" --perturb "$method" \
                ${flags[@]+"${flags[@]}"} ${sizes[@]+"${sizes[@]}"} "${words[@]:1}" </dev/null
        done <<<"$entries"
    done
done
grid_wait
runs=()
for task in $tasks; do runs+=("$GRID_OUT/$task"); done
read -ra more <<<"${REPORT:-}"
grid_report "${runs[@]}" ${more[@]+"${more[@]}"} || status=$?
grid_end
exit "${status:-0}"
