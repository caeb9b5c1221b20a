#!/usr/bin/env bash
# Lee et al. (SWEP), ACL 2021, Table 1: extractive question answering, trained on SQuAD and evaluated on SQuAD, SQuADShifts
# and BioASQ. The baseline SSMBA trains on SQuAD and SSMBA_SAMPLES (8; with --small 1) new questions for each of its own.
#
#   MTROBUST_DATA=DIR scripts/swep_qa.sh [--small] [--jobs N] [flags of mtrobust train]
#   MODEL=google/electra-small-discriminator OUT=runs/swep-electra ... is the second half of the table.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/swep.sh"
paper_begin swep bert-base-uncased "$@"
entries() {
    echo "standard --perturb standard"
    for method in adv_aug word_dropout gaussian_dropout bernoulli_dropout prior_aug swep; do
        echo "$method --perturb $method"
    done
    [ -z "$GRID_SMALL" ] || echo "vat --perturb vat"
    [ ! -e "$augmented/squad/train.jsonl" ] || echo "ssmba --perturb standard --data_dir @OUT@/ssmba"
}
swep_ssmba "$model"
swep_cells entries squad
paper_report 'squad/*'
