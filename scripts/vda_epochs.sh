#!/usr/bin/env bash
# Zhou et al. (VDA), EMNLP 2021, Figure 4: accuracy before and under attack after 1, 2, ... epochs, standard and VDA, on AG
# News and MRPC. Each number of epochs is a run of its own with its whole learning-rate schedule, where the paper looks at
# one run epoch by epoch. EPOCHS ("1 2 3 4 5 6 7 8"; with --small "1 2"). Texts of dev; EXAMPLES, VECTORS as in vda_attack.sh.
#
#   MTROBUST_DATA=DIR scripts/vda_epochs.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/vda.sh"
paper_begin vda bert-base-uncased "$@"
vda_split=dev
entries() {
    for epochs in ${EPOCHS:-$(small "1 2" "1 2 3 4 5 6 7 8")}; do
        echo "standard-epochs$epochs --perturb standard --num_train_epochs $epochs"
        echo "vda-epochs$epochs --perturb vda $VDA_LINES --num_train_epochs $epochs"
    done
}
for task in agnews mrpc; do vda_cells "$task" entries "$task"; done
paper_report --swept "$(vda_columns agnews mrpc)" --gate task --sweep num_train_epochs
