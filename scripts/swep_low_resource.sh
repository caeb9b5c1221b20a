#!/usr/bin/env bash
# Lee et al. (SWEP), ACL 2021, Figure 3: 10, 30, 50, 80 and 100 % of SQuAD's questions, standard and SWEP. With --small
# FRACTIONS are "0.02 0.04 0.08", which is 240 to 950 questions of the training subset.
#
#   MTROBUST_DATA=DIR scripts/swep_low_resource.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/swep.sh"
paper_begin swep bert-base-uncased "$@"
entries() {
    for fraction in ${FRACTIONS:-$(small "0.02 0.04 0.08" "0.1 0.3 0.5 0.8 1")}; do
        for method in standard swep; do
            echo "$method-$fraction --perturb $method --data_fraction $fraction"
        done
    done
}
swep_cells entries low
paper_report --swept 'squad/em,squad/f1,squad/squadshifts_amazon/*' --sweep data_fraction
