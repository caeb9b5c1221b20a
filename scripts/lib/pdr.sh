#!/usr/bin/env bash
# Cells of Cheng et al. (NAACL 2021), common to the scripts pdr_*.sh; sourced by them after lib/paper.sh.
# The paper chooses learning rate, epochs and weight on dev; here they are one setting each, ALPHA and LAMBDA by variable.

pdr_entries() { # rows of the paper's tables
    echo "standard --perturb standard"
    echo "jacobian --perturb jacobian --perturb.alpha ${LAMBDA:-0.01}"
    pdr_divergences
}

pdr_divergences() {
    local method divergence
    for method in rpt vat; do
        for divergence in kl shl jsd; do
            echo "$method-$divergence --perturb $method --perturb.divergence $divergence --perturb.alpha ${ALPHA:-1}"
        done
    done
}

pdr_rows() { # task: its rows and those of its evaluation sets, so that scripts can share runs
    case "$1" in
        sst2)
            glue_rows sst2 SST-2 || return 1
            prepared imdb/test.jsonl "$raw/IMDB" textcls --dataset imdb --raw "$raw/IMDB" || true
            ;;
        mnli)
            _pdr_mnli || return 1
            prepared hans/dev.jsonl "$raw/HANS" hans --raw "$raw/HANS" || true
            ;;
        squad) squad_rows ;;
        squad2)
            prepared squad2/train.jsonl "$raw/SQuAD-v2.0/train-v2.0.json" squad --raw "$raw/SQuAD-v2.0" --version 2.0 || return 1
            bioasq_rows
            ;;
    esac
}

_pdr_mnli() { # without the official dev sets a sample with a dev part of its own (dev_from_train.tsv) is taken
    definitions=glue
    [ ! -e "$raw/MNLI/dev_matched.tsv" ] || { glue_rows mnli MNLI; return; }
    local files="$raw/MNLI/dev_from_train.tsv" columns=(--text_column sentence1 --text_pair_column sentence2)
    prepared mnli/train.jsonl "$files" textcls --dataset file --task mnli --train_file "$raw/MNLI/train.tsv" \
        --dev_file "$files" "${columns[@]}" --label_column gold_label --labels contradiction,neutral,entailment || return 1
    echo "mnli: no official dev set in $raw/MNLI: its dev figures are on dev_from_train.tsv" >&2
    definitions=$data/mnli.yml
    [ -e "$definitions" ] || sed -n '/^mnli:/,/^[a-z]*:$/{/^mnli:/p;/^ /p;}' "$root/task_defs/glue.yml" |
        sed 's/split_names: .*/split_names: [train, dev]/' >"$definitions"
}

pdr_cells() { # task, function that prints the entries, folder, further flags
    local task=$1 entries=$2 folder=$3 sizes
    shift 3
    chosen "$task" "${TASKS:-}" || return 0
    definitions=glue,squad
    pdr_rows "$task" || return 0
    local common=(--task_def "$definitions" --train_tasks "$task" --max_seq_length 128)
    case "$task" in
        sst2) read -ra sizes <<<"$(small "--max_train_samples 4000 --num_train_epochs 2 --learning_rate 1e-4" "$PDR_TEXTS")" ;;
        mnli) read -ra sizes <<<"$(small "--max_train_samples 6000 --num_train_epochs 2 --learning_rate 1e-4" "$PDR_TEXTS")" ;;
        *) read -ra sizes <<<"$(small "--max_train_samples 1000 --num_train_epochs 1 --learning_rate 5e-5" "$PDR_QUESTIONS")" ;;
    esac
    sizes+=($(small "--max_eval_samples 1000 --per_device_train_batch_size 16" ""))
    start=(--model_name_or_path "$model")
    case "$task" in
        squad*) paper_start "$task" "${common[@]}" ;;
    esac
    paper_cells "$folder" "${common[@]}" "${start[@]}" "${sizes[@]}" "$@" < <("$entries")
}

PDR_TEXTS="--num_train_epochs 3 --learning_rate 2e-5 --per_device_train_batch_size 32"
PDR_QUESTIONS="--num_train_epochs 2 --learning_rate 3e-5 --per_device_train_batch_size 32"
