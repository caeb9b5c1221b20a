#!/usr/bin/env bash
# Lee et al. (SWEP), ACL 2021, Figure 4: two stages, first on generated question-answer pairs, then on SQuAD.
#   SYNTHETIC   generated pairs as a SQuAD JSON file; the paper's are those of Info-HCVAE on HarvestingQA. With --small
#               and without it SQuAD's own training questions stand in for generated ones: a test of the procedure.
#   PAIRS       how many of them, several numbers ("60000 120000 240000"; with --small "500 1000")
#
#   MTROBUST_DATA=DIR SYNTHETIC=FILE scripts/swep_synthetic.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/swep.sh"
paper_begin swep bert-base-uncased "$@"
squad_rows || { echo "swep_synthetic.sh: needs SQuAD" >&2; exit 2; }
pairs=${SYNTHETIC:-$(small "$raw/SQuAD-v1.1/train-subset-v1.1.json" "")}
: "${pairs:?set SYNTHETIC to a SQuAD JSON file of generated pairs (see --help)}"
prepared synthetic/train.jsonl "$pairs" squad --train_file "$pairs" --dev_file "$raw/SQuAD-v1.1/dev-v1.1.json" --task synthetic
batch='--per_device_train_batch_size 32'
for first in standard swep; do
    for number in ${PAIRS:-$(small "500 1000" "60000 120000 240000")}; do
        sed 's/^squad:/squad:\n  data: synthetic/' "$root/task_defs/squad.yml" >"$data/synthetic.yml"
        run_cell "pairs/$first-$number" 1 --task_def "$data/synthetic.yml" --data_dir "$data" --train_tasks squad \
            --eval_sets skip --model_name_or_path "$model" --perturb "$first" --max_train_samples "$number" \
            --per_device_train_batch_size "$(small 16 32)" --learning_rate "$(small 1e-4 2e-5)" \
            --num_train_epochs "$(small 1 2)" $(small "--max_eval_samples 500" "")
        grid_wait
        SWEP_START=$GRID_OUT/pairs/$first-$number-1
        [ -e "$SWEP_START/all_results.json" ] || continue
        entries() { echo "$first-pairs$number --perturb $first"; }
        swep_cells entries staged $(small "" "$batch")
    done
done
SWEP_START=''
entries() { for method in standard swep; do echo "$method --perturb $method"; done; }
swep_cells entries "$(small squad whole)" $(small "" "$batch") # the other tables' runs have batches of 8
kept=()
for run in "${GRID_RUNS[@]}"; do [[ "$run" == "$GRID_OUT/pairs/"* ]] || kept+=("$run"); done
GRID_RUNS=("${kept[@]}")
paper_report 'squad/em,squad/f1'
