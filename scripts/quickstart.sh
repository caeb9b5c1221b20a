#!/usr/bin/env bash
# The first five minutes: installs, makes the sample benchmark, trains a tiny encoder jointly on its five tasks with
# `standard` and with `rapt`, and compares the two. Downloads nothing but the packages.
#
#   scripts/quickstart.sh
#
# Variables: OUT     where everything goes (default quickstart/ in the checkout; an earlier result there is replaced)
#            EPOCHS  passes over the sample (default 3)
#            SEED    of data, encoder and training (default 1)
#            MTROBUST_VENV, PYTHON, CONSTRAINTS: as in scripts/install.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${OUT:-$root/quickstart}
epochs=${EPOCHS:-3} seed=${SEED:-1}
case "${1:-}" in
    "") ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "quickstart.sh: takes no arguments, see --help" >&2; exit 2 ;;
esac

if [ -e "$out" ] && [ ! -e "$out/.quickstart" ] && [ -n "$(ls -A "$out" 2>/dev/null)" ]; then
    echo "quickstart.sh: $out is not empty and not an earlier quickstart; set OUT to another folder" >&2
    exit 2
fi

echo "== install"
python=$("$root/scripts/install.sh" | tail -n 1)
mtrobust="$(dirname "$python")/mtrobust"
start=$SECONDS

echo "== sample benchmark and tiny encoder in $out"
rm -rf "$out"
mkdir -p "$out"
touch "$out/.quickstart"
"$mtrobust" prep sample --out "$out/data" --seed "$seed"
"$mtrobust" prep tiny_encoder --corpus "$out/data/corpus.txt" --out "$out/encoder" --seed "$seed"

# Two runs at once, one core each: an encoder this small gains nothing from a second one.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_DISABLE_PROGRESS_BARS=1
train() { # name of the run, learning rate, further flags; called in a subshell, whose place the program takes
    local name=$1 lr=$2
    shift 2
    exec "$mtrobust" train --task_def "$out/data/task_def.yml" --data_dir "$out/data" --seed "$seed" \
        --model_name_or_path "$out/encoder" --output_dir "$out/$name" --learning_rate "$lr" \
        --per_device_train_batch_size 32 --num_train_epochs "$epochs" --logging_steps 200 --progress lines "$@"
}

echo "== untrained (the level to beat)"
(train untrained 1e-12 --perturb standard --max_steps 1)

echo "== standard and rapt, side by side"
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
pids=()
# An encoder that starts from random weights learns slowly under the noise that suits a pretrained one (eta 2).
for method in "standard" "rapt --perturb.eta 0.5"; do
    read -ra words <<<"$method"
    train "${words[0]}" 1e-3 --perturb "${words[@]}" > >(sed -u "s/^/${words[0]}: /") 2>&1 &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
trap - EXIT

echo "== domain-shifted and adversarial sets"
for name in untrained standard rapt; do
    for split in dev_shift dev_adv; do
        "$mtrobust" evaluate "$out/$name" --split "$split" >/dev/null
    done
done

echo "== comparison"
"$mtrobust" report "$out/standard" "$out/rapt" --untrained "$out/untrained" --out "$out/report"

cat <<END

Done in $((SECONDS - start)) s (installation not counted).
A sample this small and an encoder this tiny show how the parts work together, not what a method is worth.
  Tables:   $out/report/report.html
  Curves:   $(dirname "$python")/tensorboard --logdir $out
  Predict:  $mtrobust predict $out/rapt --help
  Further:  the README's real example: the same commands with bert-base-uncased and your data
END
