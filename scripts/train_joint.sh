#!/usr/bin/env bash
# Joint training on MRPC, CoLA, SST-2, STS-B, MR, AG News and SQuAD v1.1, with `standard` and with `rapt`.
#
#   MTROBUST_DATA=DIR MTROBUST_MODELS=DIR scripts/train_joint.sh
#
# Variables, with their defaults:
#   MTROBUST_DATA    folder with MRPC/ CoLA/ SST-2/ STS-B/ MR/ AG-News/ SQuAD-v1.1/ in their original formats
#   MODEL            encoder: folder or hub name ($MTROBUST_MODELS/minilm-l6-h384-uncased; else bert-base-uncased)
#   OUT              where rows and runs go (runs/joint in the checkout)
#   METHODS          methods to train with ("standard rapt")
#   SAMPLES          training rows of each task (2000)
#   COLA_SAMPLES     training rows of CoLA, whose short sentences need more of them (8551, all)
#   EVAL_SAMPLES     dev rows of each task (2000)
#   EPOCHS           (2)    LR (1e-4)    BATCH (16)    MAX_LEN (128)    SEED (1)
#   MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
# Further arguments are given to every `mtrobust train`, such as --bf16.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case "${1:-}" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
raw=${MTROBUST_DATA:?set MTROBUST_DATA to the folder with the benchmark files (see --help)}
model=${MODEL:-${MTROBUST_MODELS:+$MTROBUST_MODELS/minilm-l6-h384-uncased}}
model=${model:-bert-base-uncased}
out=${OUT:-$root/runs/joint}
samples=${SAMPLES:-2000} eval_samples=${EVAL_SAMPLES:-2000}
tasks=mrpc,cola,sst2,stsb,mr,agnews,squad

python=$("$root/scripts/install.sh" | tail -n 1)
mtrobust="$(dirname "$python")/mtrobust"

echo "== rows in $out/data"
mkdir -p "$out"
"$mtrobust" prep glue --raw "$raw" --tasks mrpc,cola,sst2,stsb --out "$out/data"
"$mtrobust" prep textcls --dataset mr --raw "$raw/MR" --out "$out/data"
"$mtrobust" prep textcls --dataset agnews --raw "$raw/AG-News" --out "$out/data"
squad_train=$raw/SQuAD-v1.1/train-v1.1.json
[ -e "$squad_train" ] || squad_train=$raw/SQuAD-v1.1/train-subset-v1.1.json
"$mtrobust" prep squad --train_file "$squad_train" --dev_file "$raw/SQuAD-v1.1/dev-v1.1.json" --out "$out/data"

# The shipped definitions, with CoLA's own number of training rows.
awk -v rows="${COLA_SAMPLES:-8551}" '{ print } /^cola:$/ { print "  max_train_samples: " rows }' \
    "$root"/task_defs/{glue,squad,textcls}.yml >"$out/task_def.yml"

train() { # name of the run, learning rate, further flags
    local name=$1 lr=$2
    shift 2
    echo "== $name"
    "$mtrobust" train --task_def "$out/task_def.yml" --data_dir "$out/data" --train_tasks "$tasks" \
        --model_name_or_path "$model" --output_dir "$out/$name" --overwrite_output_dir \
        --max_train_samples "$samples" --max_eval_samples "$eval_samples" --max_seq_length "${MAX_LEN:-128}" \
        --per_device_train_batch_size "${BATCH:-16}" --num_train_epochs "${EPOCHS:-2}" \
        --learning_rate "$lr" --warmup_ratio 0.1 --seed "${SEED:-1}" "$@"
}

train untrained 1e-12 --perturb standard --max_steps 1 --progress off
runs=()
for method in ${METHODS:-standard rapt}; do
    options=()
    [ "$method" != rapt ] || options=(--perturb.layers 1-3 --perturb.eta 2)
    train "$method" "${LR:-1e-4}" --perturb "$method" ${options[@]+"${options[@]}"} "$@"
    runs+=("$out/$method")
done

echo "== comparison"
"$mtrobust" report "${runs[@]}" --untrained "$out/untrained" --out "$out/report"
