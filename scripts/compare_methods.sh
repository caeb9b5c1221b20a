#!/usr/bin/env bash
# Every method at its default settings on one task, several seeds, the same rows and epochs: accuracy and time.
#
#   MTROBUST_DATA=DIR MTROBUST_MODELS=DIR MLM=DIR scripts/compare_methods.sh
#
# Each (method, seed) is a run folder of its own: started again, the script goes on where it was stopped.
# Variables, with their defaults:
#   TASK             mr or mrpc (mr)
#   METHODS          methods (all that `mtrobust methods` lists)
#   SEEDS            ("1 2 3")
#   MTROBUST_DATA    folder with MR/ (and TextFooler/mr, whose texts are kept out of the training rows), MRPC/
#   MODEL            encoder: folder or hub name ($MTROBUST_MODELS/minilm-l6-h384-uncased; else bert-base-uncased)
#   MLM              masked language model for vda (scripts/make_mlm.sh makes one); without it vda is left out
#   OUT              where rows and runs go (runs/methods in the checkout)
#   SAMPLES          training rows (2000)
#   EPOCHS           (2)    LR (1e-4)    BATCH (16)    MAX_LEN (128)
#   JOBS             runs at a time, each with one thread (1)
#   MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
# Arguments: as of scripts/grid.sh, which does the work; further ones are given to every `mtrobust train`, such as --bf16.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case "${1:-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
raw=${MTROBUST_DATA:?set MTROBUST_DATA to the folder with the benchmark files (see --help)}
model=${MODEL:-${MTROBUST_MODELS:+$MTROBUST_MODELS/minilm-l6-h384-uncased}}
out=${OUT:-$root/runs/methods} task=${TASK:-mr}

python=$("$root/scripts/install.sh" | tail -n 1)
mtrobust="$(dirname "$python")/mtrobust"

mkdir -p "$out"
if [ ! -e "$out/data/$task/train.jsonl" ]; then
    case "$task" in
        mr) "$mtrobust" prep textcls --dataset mr --raw "$raw/MR" --hold_out "$raw/TextFooler/mr" --out "$out/data" ;;
        mrpc) "$mtrobust" prep glue --raw "$raw" --tasks mrpc --out "$out/data" ;;
        *) echo "compare_methods.sh: TASK=$task: mr or mrpc" >&2; exit 2 ;;
    esac
fi

entries=''
for method in ${METHODS:-$("$mtrobust" methods | sed -n 's/^\([a-z0-9_]*\): .*/\1/p')}; do
    case "$method" in
        vda)
            [ -n "${MLM:-}" ] || { echo "vda is left out: set MLM" >&2; continue; }
            entries+="vda --perturb.mlm $MLM;"
            ;;
        *) entries+="$method;" ;;
    esac
done

flags="--max_train_samples ${SAMPLES:-2000} --max_seq_length ${MAX_LEN:-128}"
flags+=" --per_device_train_batch_size ${BATCH:-16} --num_train_epochs ${EPOCHS:-2} --learning_rate ${LR:-1e-4}"
flags+=" --warmup_ratio 0.1 --eval_steps 1000000 --save_steps 1000000"
DATA_DIR="$out/data" TASK_DEF=glue,textcls TASKS="$task" METHODS="$entries" MODEL="${model:-bert-base-uncased}" \
    FLAGS="$flags" OUT="$out" exec "$root/scripts/grid.sh" "$@"
