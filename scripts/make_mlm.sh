#!/usr/bin/env bash
# A masked language model for an encoder that has none: its family's LM head is trained on plain text, its output matrix
# tied to the encoder's word embeddings, and written as a plain Hugging Face folder.
#
#   TEXT="a.txt b.txt" MODEL=ENCODER scripts/make_mlm.sh
#
# Variables, with their defaults:
#   TEXT             plain-text files, one paragraph a line ($MTROBUST_DATA/wikitext-2-raw/wiki.valid.raw)
#   DEV_TEXT         the same, for dev; empty: one row in twenty of TEXT ($MTROBUST_DATA/wikitext-2-raw/wiki.test.raw)
#   ROWS             .jsonl rows of other tasks whose texts are used too, such as mr/train.jsonl (none)
#   MODEL            encoder: folder or hub name ($MTROBUST_MODELS/minilm-l6-h384-uncased; else bert-base-uncased)
#   OUT              where rows, run and model go (runs/mlm in the checkout); the model is in $OUT/model
#   FREEZE           1: only the head learns, embeddings and layers stay as they are. 0: they learn too, at ENCODER_LR;
#                    the language model is better, but its encoder is no longer the one given (0)
#   STEPS            (2500)   BATCH (16)   MAX_LEN (64)   SEED (1)
#   LR               of the head (5e-4)    ENCODER_LR (1e-4)
#   EVAL_SAMPLES     dev rows (400)        WHOLE_WORDS 1: all tokens of a word are masked together (0)
#   MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
# Further arguments are given to `mtrobust train`, such as --bf16.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case "${1:-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
wikitext=${MTROBUST_DATA:+$MTROBUST_DATA/wikitext-2-raw}
if [ -z "${TEXT:-}${ROWS:-}" ]; then
    : "${wikitext:?set TEXT to plain-text files, or MTROBUST_DATA to the folder with wikitext-2-raw (see --help)}"
    TEXT=$wikitext/wiki.valid.raw
    DEV_TEXT=${DEV_TEXT-$wikitext/wiki.test.raw}
fi
read -r -a text <<<"${TEXT:-}"
read -r -a rows <<<"${ROWS:-}"
read -r -a dev_text <<<"${DEV_TEXT:-}"
model=${MODEL:-${MTROBUST_MODELS:+$MTROBUST_MODELS/minilm-l6-h384-uncased}}
model=${model:-bert-base-uncased}
out=${OUT:-$root/runs/mlm}
if [ -e "$out/model" ]; then
    echo "make_mlm.sh: $out/model is there already; set OUT to another folder" >&2
    exit 2
fi

python=$("$root/scripts/install.sh" | tail -n 1)
mtrobust="$(dirname "$python")/mtrobust"

echo "== rows in $out/data"
mkdir -p "$out"
"$mtrobust" prep text ${text[@]+--file "${text[@]}"} ${rows[@]+--rows "${rows[@]}"} \
    ${dev_text[@]+--dev_file "${dev_text[@]}"} --out "$out/data" --task mlm
[ "${WHOLE_WORDS:-0}" = 1 ] && words=true || words=false
sed "s/whole_word_masking: false/whole_word_masking: $words/" "$root/task_defs/mlm.yml" >"$out/task_def.yml"

rates=(--learning_rate "${ENCODER_LR:-1e-4}" --head_learning_rate "${LR:-5e-4}")
if [ "${FREEZE:-0}" = 1 ]; then
    count='import sys, transformers; print(transformers.AutoConfig.from_pretrained(sys.argv[1]).num_hidden_layers)'
    layers=$("$python" -c "$count" "$model")
    rates=(--freeze_layers "$layers" --learning_rate "${LR:-5e-4}")
fi
echo "== training"
"$mtrobust" train --task_def "$out/task_def.yml" --data_dir "$out/data" --train_tasks mlm \
    --model_name_or_path "$model" --output_dir "$out/run" --overwrite_output_dir --max_seq_length "${MAX_LEN:-64}" \
    --per_device_train_batch_size "${BATCH:-16}" --max_steps "${STEPS:-2500}" \
    --max_eval_samples "${EVAL_SAMPLES:-400}" --eval_steps 500 --save_steps 500 \
    --warmup_ratio 0.1 --seed "${SEED:-1}" --weight_decay 0.01 \
    "${rates[@]}" "$@"

echo "== $out/model"
"$mtrobust" export "$out/run" --task mlm --out "$out/model"
