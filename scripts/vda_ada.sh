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
entries() { vda_entries | head -n 2; }
augmented() { entries | sed 's/^\([a-z]*\)/\1+ada/'; }
plain=$data
for task in mr mrpc; do
    chosen "$task" "${TASKS:-}" || continue
    vda_cells "$task" entries "$task"
    first=$GRID_OUT/$task/standard-${seeds%% *}
    [ -e "$first/all_results.json" ] || continue
    "$mtrobust" attack "$first" --task "$task" --split train --mlm "$mlm" --progress lines \
        --examples "${TRAIN_EXAMPLES:-$(small 200 2000)}" >&2
    if ! grep -q '"success": true' "$first/attack/$task.train.jsonl"; then
        echo "vda_ada.sh: no adversarial texts for $task, so no runs on them" >&2
        continue
    fi
    [ -e "$GRID_OUT/augmented/$task/train.jsonl" ] || "$mtrobust" prep augment --rows "$plain/$task" \
        --adversarial "$first/attack/$task.train.jsonl" --out "$GRID_OUT/augmented" >&2
    data=$GRID_OUT/augmented
    # The rows of vda_task are there already: augmenting copies all splits.
    vda_cells "$task" augmented "$task"
    data=$plain
done
paper_report "$(vda_columns mr mrpc)" --gate task
