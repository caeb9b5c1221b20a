#!/usr/bin/env bash
# Cells of Lee et al. (ACL 2021), common to the scripts swep_*.sh; sourced by them after lib/paper.sh.

SWEP_START='' # a run to start from, instead of the encoder

swep_ssmba() { # encoder: sets augmented, the folder of SQuAD with SSMBA's new questions; with --small, and no MLM given, they
    # come from a language model that is trained for the encoder
    local model=${1:-bert-base-uncased} set
    augmented=$GRID_OUT/ssmba
    chosen ssmba "${METHODS:-}" && squad_rows || return 0
    paper_mlm
    [ -e "$augmented/squad/train.jsonl" ] || "$mtrobust" prep ssmba --rows "$data/squad" --mlm "$mlm" --out "$augmented" \
        --samples "${SSMBA_SAMPLES:-$(small 1 8)}" >&2
    for set in "$data"/*/; do # the evaluation sets are the others'
        [ -e "$augmented/$(basename "$set")" ] || ln -s "$(cd "$set" && pwd)" "$augmented/$(basename "$set")"
    done
}

swep_cells() { # function that prints the entries, folder, further flags
    local entries=$1 folder=$2 common sizes
    shift 2
    squad_rows || return 0
    common=(--task_def squad --train_tasks squad --per_device_train_batch_size "$(small 16 8)")
    # The paper's sets beside SQuAD; of adversarial SQuAD what there are rows of.
    read -ra sizes <<<"$(small "--max_train_samples 1000 --num_train_epochs 1 --learning_rate 5e-5 --max_eval_samples 1000" \
        "--num_train_epochs 2 --learning_rate 3e-5")"
    if [ -n "$SWEP_START" ]; then
        start=(--init_from "$SWEP_START")
    else
        paper_start squad "${common[@]}"
    fi
    paper_cells "$folder" "${common[@]}" "${start[@]}" "${sizes[@]}" "$@" < <("$entries")
}
