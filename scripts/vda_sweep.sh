#!/usr/bin/env bash
# Zhou et al. (VDA), EMNLP 2021, Figure 3: the noise's variance and the number of virtual examples, on MR and MRPC.
#   SIGMAS   standard deviations ("0.0316 0.0632 0.1 0.2", the square roots of the paper's variances)
#   SAMPLES  numbers of virtual examples beside 1, at sigma 0.1 ("2 3 4 5"; with --small "3")
#   EXAMPLES, VECTORS as in vda_attack.sh.
#
#   MTROBUST_DATA=DIR scripts/vda_sweep.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/vda.sh"
paper_begin vda bert-base-uncased "$@"
vda_split=dev
entries() {
    echo "standard --perturb standard"
    for sigma in ${SIGMAS:-0.0316 0.0632 0.1 0.2}; do
        echo "vda-sigma$sigma --perturb vda --perturb.sigma $sigma $VDA_LINES"
    done
    for samples in ${SAMPLES:-$(small "3" "2 3 4 5")}; do
        echo "vda-samples$samples --perturb vda --perturb.sigma 0.1 --perturb.samples $samples $VDA_LINES"
    done
}
for task in mr mrpc; do vda_cells "$task" entries "$task"; done
paper_report --swept "$(vda_columns mr mrpc)" --gate task --sweep perturb.vda.sigma --sweep perturb.vda.samples
