#!/usr/bin/env bash
# Zhou et al. (VDA), EMNLP 2021, Table 4, on AG News and QNLI: without noise, with cross entropy, the likeliest word, a word
# drawn; beyond the paper the two other readings of the mixture (Eq. 4, the released code). EXAMPLES, VECTORS as in
# vda_attack.sh. With --small on AG News, MR and MRPC.
#
#   MTROBUST_DATA=DIR scripts/vda_ablation.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/vda.sh"
paper_begin vda bert-base-uncased "$@"
vda_split=dev
entries() {
    vda_plain
    echo "vda-no_noise --perturb vda --perturb.sigma 0 $VDA_LINES"
    echo "vda-ce --perturb vda --perturb.objective labels $VDA_LINES"
    echo "vda-argmax --perturb vda --perturb.take argmax $VDA_LINES"
    echo "vda-sample --perturb vda --perturb.take sample $VDA_LINES"
    echo "vda-eq4 --perturb vda --perturb.mixture eq4 $VDA_LINES"
    echo "vda-repo --perturb vda --perturb.mixture repo --perturb.factor half_mean $VDA_LINES"
}
for task in agnews $(small "mr mrpc" qnli); do vda_cells "$task" entries "$task"; done
paper_report "$(vda_columns agnews qnli mr mrpc)" --gate task
