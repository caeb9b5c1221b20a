#!/usr/bin/env bash
# Cells of Zhou et al. (EMNLP 2021), common to the scripts vda_*.sh; sourced by them after lib/paper.sh.
#   EXAMPLES   texts to attack (the paper's 1000, 300 for Yelp and IMDB; with --small 100)
#   VECTORS    file of counter-fitted vectors, for the attack's filter (none)

vda_split=test # whose texts are attacked where there are labelled ones; the paper's further tables take dev
VDA_LINES='--perturb.vda.mlm @MLM@'

vda_plain() {
    echo "standard --perturb standard"
    echo "vda --perturb vda $VDA_LINES"
}

vda_entries() { # the paper's methods, each with and without VDA
    local method
    vda_plain
    for method in freelb smart smix; do
        echo "$method --perturb $method"
        echo "$method+vda --perturb vda,$method $VDA_LINES"
    done
}

vda_task() { # task: makes its rows, sets split and examples; fails where there are no raw files
    split=$vda_split examples=${EXAMPLES:-$(small 100 1000)}
    case "$1" in
        mr) mr_rows ;;
        agnews) prepared agnews/train.jsonl "$raw/AG-News" textcls --dataset agnews --raw "$raw/AG-News" ;;
        imdb | yelp)
            examples=${EXAMPLES:-$(small 100 300)}
            local folder
            folder=$([ "$1" = imdb ] && echo IMDB || echo Yelp)
            prepared "$1/train.jsonl" "$raw/$folder" textcls --dataset "$1" --raw "$raw/$folder"
            ;;
        mrpc) split=dev && glue_rows mrpc MRPC ;;
        qnli) split=dev && glue_rows qnli QNLI ;;
    esac
}

vda_cells() { # task, function that prints the entries, folder, further flags: the runs, and an attack on each
    local task=$1 entries=$2 folder=$3 rows='' sizes
    shift 3
    chosen "$task" "${TASKS:-}" || return 0
    vda_task "$task" || return 0
    paper_mlm
    case "$task" in yelp) rows=25000 ;; qnli) rows=100000 ;; esac # as in the paper's Table 1
    read -ra sizes <<<"$(small "--max_train_samples 2000 --num_train_epochs 2 --learning_rate 1e-4 --max_eval_samples 2000" \
        "--num_train_epochs 5 --learning_rate 1e-5${rows:+ --max_train_samples $rows}")"
    paper_cells "$folder" --task_def glue,textcls --train_tasks "$task" --eval_sets skip --model_name_or_path "$model" \
        --per_device_train_batch_size "$(small 16 32)" --warmup_ratio 0.05 "${sizes[@]}" "$@" < <("$entries")
    paper_attacks "$folder" "$task" "$split" "$examples" ${VECTORS:+--vectors "$VECTORS"} < <("$entries")
}

VDA_FIGURES='original_accuracy,attack_accuracy,query_number,perturbed_percentage'

vda_columns() { # tasks: columns of the report
    local task figure split
    for task in "$@"; do
        case "$task" in mrpc | qnli) split=dev ;; *) split=$vda_split ;; esac
        for figure in ${VDA_FIGURES//,/ }; do printf '%s/attack/%s/%s,' "$task" "$split" "$figure"; done
    done | sed 's/,$//'
}
