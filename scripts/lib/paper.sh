#!/usr/bin/env bash
# Variables of all scripts of papers, with their defaults:
#   MTROBUST_DATA    folder with the raw files: SST-2/, MNLI/, SQuAD-v1.1/, ... as docs/data.md names them; what is
#                    missing there is left out and said
#   MODEL            encoder: folder or hub name (the paper's; with --small $MTROBUST_MODELS/minilm-l6-h384-uncased)
#   MLM              masked language model with the encoder's vocabulary, where the script needs one
#                    (bert-base-uncased; with --small one that scripts/make_mlm.sh trains in $MLM_STEPS steps, 2500)
#   SEEDS            ("1 2 3")
#   METHODS, TASKS   only these of the script's methods and tasks (all)
#   OUT              where rows, runs and reports go; scripts of a paper share it and their common runs (runs/PAPER)
#   MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
# Arguments: --small: sizes for two CPU cores and a small encoder, in OUT/small; --jobs N: cells at a time, one thread
# each; all others, such as --bf16 or --max_steps 5, are given to every `mtrobust train`. A script that is started again
# goes on where it was stopped. The report stands in OUT/report/SCRIPT, the figures of the paper's table beside ours.

# To be sourced by those scripts. A script prepares rows (`prepared`), names its cells (`paper_cells`, one line for each
# method) and ends with `paper_report`.
PAPER_LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

paper_begin() { # FAMILY of scripts with common runs, encoder of the paper, arguments of the script
    local family=$1 encoder=$2
    shift 2
    root=$(cd "$PAPER_LIB/../.." && pwd)
    case "${1:-}" in
        -h | --help) _paper_header "$0"; echo; _paper_header "$PAPER_LIB/paper.sh"; exit 0 ;;
    esac
    raw=${MTROBUST_DATA:?set MTROBUST_DATA to the folder with the raw files (see --help)}
    mtrobust="$(dirname "$("$root/scripts/install.sh" | tail -n 1)")/mtrobust"
    # shellcheck source=scripts/lib/grid.sh
    source "$PAPER_LIB/grid.sh"
    grid_begin "${OUT:-$root/runs/$family}" "$@"
    GRID_NAME=$(basename "$0" .sh)
    data=$GRID_OUT/data seeds=${SEEDS:-1 2 3} names=() mlm=${MLM:-bert-base-uncased}
    [ -z "$GRID_SMALL" ] || encoder=${MTROBUST_MODELS:+$MTROBUST_MODELS/minilm-l6-h384-uncased}
    model=${MODEL:-${encoder:-bert-base-uncased}}
}

_paper_header() { # the comment at the head of a file
    sed -n '2,/^[^#]/{/^[^#]/d;/^$/q;s/^# \{0,1\}//p;}' "$1"
}

chosen() { # name, list of wanted names (empty: all)
    [ -z "$2" ] || [[ " $2 " == *" $1 "* ]]
}

# Rows that cannot be made although their raw file is there are a failure of the script, named at its end.
prepared() { # file below the rows' folder that it makes, raw file or folder that it needs, flags of mtrobust prep
    local name=$1
    local file=$data/$1 needed=$2
    shift 2
    [ ! -e "$file" ] || return 0
    if [ ! -e "$needed" ]; then
        echo "left out: $needed is not there" >&2
        return 1
    fi
    "$mtrobust" prep "$@" --out "$data" >&2 || { _grid_failed "rows of $name: see the lines above"; return 1; }
}

glue_rows() { # GLUE task, its folder
    prepared "$1/train.jsonl" "$raw/$2/train.tsv" glue --raw "$raw" --tasks "$1"
}

mr_rows() {
    local held=()
    [ ! -e "$raw/TextFooler/mr" ] || held=(--hold_out "$raw/TextFooler/mr")
    prepared mr/train.jsonl "$raw/MR" textcls --dataset mr --raw "$raw/MR" ${held[@]+"${held[@]}"}
}

squad_rows() { # the whole training file, or the subset where only that is there
    local train=$raw/SQuAD-v1.1/train-v1.1.json
    [ -e "$train" ] || train=$raw/SQuAD-v1.1/train-subset-v1.1.json
    prepared squad/train.jsonl "$train" squad --train_file "$train" --dev_file "$raw/SQuAD-v1.1/dev-v1.1.json" || return 1
    prepared addonesent/dev.jsonl "$raw/SQuAD-adversarial" squad_adversarial --raw "$raw/SQuAD-adversarial" || true
    prepared squadshifts_new_wiki/dev.jsonl "$raw/SQuADShifts" squadshifts --raw "$raw/SQuADShifts" || true
    bioasq_rows
}

bioasq_rows() { # comes with MRQA's other sets, so the folder is read where its file is there
    if [ -n "$(find "$raw/MRQA" -iname '*bioasq*' 2>/dev/null)" ]; then
        prepared mrqa_bioasq/dev.jsonl "$raw/MRQA" mrqa --raw "$raw/MRQA" || true
    else
        echo "left out: BioASQ is not in $raw/MRQA" >&2
    fi
}

paper_mlm() { # sets mlm; with --small, and no MLM given, trains one for the encoder
    [ -n "$GRID_SMALL" ] && [ -z "${MLM:-}" ] || return 0
    mlm=$GRID_OUT/mlm/model
    [ -e "$mlm" ] || MODEL=$model OUT=$GRID_OUT/mlm STEPS=${MLM_STEPS:-2500} "$root/scripts/make_mlm.sh" >&2
}

paper_start() { # task, flags: sets start, the flags with which all cells of a question task begin. With --small that is
    # one run with `standard` on 8,000 questions, so that the methods compare on a model that has learned its task
    local task=$1
    shift
    start=(--model_name_or_path "$model")
    [ -n "$GRID_SMALL" ] || return 0
    run_cell "start/$task" 1 --data_dir "$data" --train_tasks "$task" --model_name_or_path "$model" \
        --perturb standard --eval_sets skip "$@" --per_device_train_batch_size 16 --max_train_samples 8000 \
        --num_train_epochs 2 --learning_rate 2e-4 --max_eval_samples 1000
    grid_wait
    start=(--init_from "$GRID_OUT/start/$task-1")
}

paper_cells() { # folder, common flags; entries `NAME flags` on standard input; in them @MLM@ is the language
    # model, @OUT@ the folder of the runs (paths may have blanks)
    local folder=$1 entries line words name seed
    shift
    mapfile -t entries
    for line in "${entries[@]}"; do names+=("${line%% *}"); done
    for seed in $seeds; do # seed by seed, so that an early look has every method
        for line in "${entries[@]}"; do
            read -ra words <<<"$line"
            name=${words[0]}
            chosen "$name" "${METHODS:-}" || continue
            words=("${words[@]//@MLM@/$mlm}")
            words=("${words[@]//@OUT@/$GRID_OUT}")
            run_cell "$folder/$name" "$seed" --data_dir "$data" "$@" "${words[@]:1}" </dev/null
        done
    done
}

paper_attacks() { # folder, task, split, number of texts, further flags of mtrobust attack; for the entries on standard input
    local folder=$1 task=$2 split=$3 examples=$4 line name seed run
    shift 4
    grid_wait
    while read -r line; do
        name=${line%% *}
        chosen "$name" "${METHODS:-}" || continue
        for seed in $seeds; do
            run=$GRID_OUT/$folder/$name-$seed
            # An attack that is done answers at once; one of other settings refuses, one of fewer texts goes on.
            run_step "$run/attack/$task.$split.done" "$folder/$name" "$seed" "$mtrobust" attack "$run" --task "$task" \
                --split "$split" --mlm "$mlm" --examples "$examples" --progress lines "$@" </dev/null
        done
    done
}

paper_report() { # columns, further flags of mtrobust report; after --swept rows are told apart by settings, not by names
    grid_wait
    local swept=''
    if [ "$1" = --swept ]; then swept=yes; shift; fi
    local columns=$1 runs=() run name flags=(--columns "$1") published=$root/scripts/published/$GRID_NAME.yml
    for run in ${GRID_RUNS[@]+"${GRID_RUNS[@]}"}; do
        case "$run" in "$GRID_OUT/start/"*) continue ;; esac
        [ ! -e "$run/all_results.json" ] || runs+=("$run")
    done
    if [ ${#runs[@]} = 0 ]; then
        grid_end || exit 1
        echo "$GRID_NAME: no run: none of its data is in $raw" >&2
        exit 2
    fi
    shift
    [ -n "$swept" ] || while read -r name; do
        [[ " ${runs[*]} " != *"/$name-"[0-9]* ]] || flags+=(--label "*/$name-[0-9]*=$name")
    done < <(printf '%s\n' "${names[@]}" | sort -u)
    GRID_COLUMNS=$(sed 's/[^,]*/"&"/g' <<<"$columns")
    [ ! -e "$published" ] || flags+=(--published "$published")
    local status=0
    grid_report "${runs[@]}" --data_dir "$data" "${flags[@]}" "$@" || status=$?
    grid_end
    exit "$status"
}
