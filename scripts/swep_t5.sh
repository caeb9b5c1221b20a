#!/usr/bin/env bash
# Lee et al. (SWEP), ACL 2021, Table 2: generative question answering with T5-small, trained on SQuAD and evaluated on SQuAD,
# SQuADShifts and BioASQ by the answers that a beam search of width 4 writes. The baseline SSMBA as in swep_qa.sh.
#
#   MTROBUST_DATA=DIR scripts/swep_t5.sh [--small] [--jobs N] [flags of mtrobust train]
# MODEL is a whole T5, decoder included (google-t5/t5-small, with --small too: there is no smaller pretrained one). The
# released T5 has seen SQuAD in its pretraining, so even the 200 questions of --small give answers.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/swep.sh"
paper_begin swep google-t5/t5-small "$@"
model=${MODEL:-google-t5/t5-small}
entries() {
    echo "standard --perturb standard"
    for method in adv_aug word_dropout gaussian_dropout bernoulli_dropout prior_aug swep; do
        echo "$method --perturb $method"
    done
    [ ! -e "$augmented/squad/train.jsonl" ] || echo "ssmba --perturb standard --data_dir @OUT@/ssmba"
}
swep_ssmba "${MTROBUST_MODELS:+$MTROBUST_MODELS/minilm-l6-h384-uncased}" # a BERT makes the new questions
if squad_rows; then
    # The paper's batch is 64; how the rate goes on it does not say.
    read -ra sizes <<<"$(small "--per_device_train_batch_size 8 --max_train_samples 200 --num_train_epochs 1 --max_eval_samples 100" \
        "--per_device_train_batch_size 16 --gradient_accumulation_steps 4 --num_train_epochs 4")"
    paper_cells squad_gen --task_def generation --train_tasks squad_gen --model_name_or_path "$model" --optim adafactor \
        --learning_rate 1e-4 --lr_scheduler_type constant --warmup_ratio 0 "${sizes[@]}" < <(entries)
fi
paper_report 'squad_gen/*'
