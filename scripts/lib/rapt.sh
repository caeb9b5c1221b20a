#!/usr/bin/env bash
# Cells of Pereira et al., common to the scripts rapt_*.sh; sourced by them after lib/paper.sh.

RAPT_COLUMNS='mnli/acc,mnli/mismatched_dev/acc,qqp/acc,qqp/f1,rte/acc,qnli/acc,mrpc/acc,mrpc/f1,cola/mcc,sst2/acc,stsb/pearson,stsb/spearman'

rapt_entries() {
    echo "standard --perturb standard"
    # The paper's radius, 1e-5, leaves so little of SMART that a small comparison would be one with standard training.
    echo "smart --perturb smart $(small "" "--perturb.preset published ")--perturb.step_size ${SMART_STEP:-1e-3}"
    echo "rapt-embeddings --perturb rapt --perturb.layers embeddings"
    echo "rapt --perturb rapt --perturb.layers 1-3 --perturb.eta 2"
}

rapt_cells() { # task, function that prints the entries, prefix of the folder, further flags
    local task=$1 entries=$2 prefix=${3:-} folder sizes
    shift 2
    [ $# = 0 ] || shift
    chosen "$task" "${TASKS:-}" || return 0
    folder=$(case "$task" in
        cola) echo CoLA ;; sst2) echo SST-2 ;; stsb) echo STS-B ;; *) tr '[:lower:]' '[:upper:]' <<<"$task" ;;
    esac)
    if [ "$task" = mnli ] && [ ! -e "$raw/MNLI/dev_matched.tsv" ]; then
        echo "left out: $raw/MNLI/dev_matched.tsv is not there" >&2
        return 0
    fi
    glue_rows "$task" "$folder" || return 0
    read -ra sizes <<<"$(small "--max_train_samples 3200 --num_train_epochs 2 --learning_rate 1e-4 --per_device_train_batch_size 16" \
        "--num_train_epochs 6 --learning_rate 2e-5 --per_device_train_batch_size 32")"
    paper_cells "$prefix$task" --task_def glue --train_tasks "$task" --eval_sets skip --max_seq_length \
        "$(small 128 512)" --model_name_or_path "$model" "${sizes[@]}" "$@" < <("$entries")
}
