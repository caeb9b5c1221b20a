#!/usr/bin/env bash
# Zhou et al. (VDA), EMNLP 2021, Table 5: VDA and adversarial data augmentation. The successful texts of an attack on the
# training rows, made with the standard run of the first seed, are added to the training rows. EXAMPLES, VECTORS as in
# vda_attack.sh. TRAIN_EXAMPLES: training rows to attack (2000; with --small 200).
#
#   MTROBUST_DATA=DIR scripts/vda_ada.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/vda.sh"
paper_begin vda bert-base-uncased "$@"
vda_split=dev
augmented() { vda_plain | sed 's/^\([a-z]*\)/\1+ada/'; }
all=$data plain=$data folder='' augmented=$GRID_OUT/augmented${TRAIN_EXAMPLES:+-$TRAIN_EXAMPLES}
if [ -n "$GRID_SMALL" ]; then plain=$GRID_OUT/ada/rows folder=ada/; fi

# With --small the runs have rows of their own, so that they see all texts that are added and not a share of them.
small_rows() { # task
    local from=$all/$1/train.jsonl to=$plain/$1
    [ -n "$GRID_SMALL" ] && [ ! -e "$to" ] || return 0
    data=$all
    vda_task "$1" || return 0
    mkdir -p "$to.part"
    cp "$all/$1"/*.jsonl "$to.part"
    awk -v n=2000 -v all="$(wc -l <"$from")" 'int(NR * n / all) > int((NR - 1) * n / all)' "$from" >"$to.part/train.jsonl"
    mv "$to.part" "$to"
}

for task in mr mrpc; do
    chosen "$task" "${TASKS:-}" || continue
    small_rows "$task"
    data=$plain
    vda_cells "$task" vda_plain "$folder$task"
    first=$GRID_OUT/$folder$task/standard-${seeds%% *}
    [ -e "$first/all_results.json" ] || continue
    "$mtrobust" attack "$first" --task "$task" --split train --mlm "$mlm" --progress lines \
        --examples "${TRAIN_EXAMPLES:-$(small 200 2000)}" ${VECTORS:+--vectors "$VECTORS"} >&2
    if ! grep -q '"success": true' "$first/attack/$task.train.jsonl"; then
        echo "vda_ada.sh: no adversarial texts for $task, so no runs on them" >&2
        continue
    fi
    [ -e "$augmented/$task/train.jsonl" ] || "$mtrobust" prep augment --rows "$plain/$task" \
        --adversarial "$first/attack/$task.train.jsonl" --out "$augmented" >&2
    data=$augmented
    # The rows of vda_task are there already: augmenting copies all splits.
    vda_cells "$task" augmented "$folder$task" $(small "--max_train_samples 4000" "")
done
paper_report "$(vda_columns mr mrpc)" --gate task
