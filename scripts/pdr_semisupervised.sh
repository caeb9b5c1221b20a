#!/usr/bin/env bash
# Cheng et al., NAACL 2021, Table 5: half of the labels held out. RPT and VAT use the other rows in the regulariser; `half`
# is standard training, which leaves them out, `standard` the same with all labels (a run of pdr_indomain.sh).
#
#   MTROBUST_DATA=DIR scripts/pdr_semisupervised.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/pdr.sh"
paper_begin pdr bert-base-uncased "$@"
full() { pdr_entries | sed -n 1p; }
entries() { { echo "half --perturb standard"; pdr_divergences; } | sed 's/$/ --label_fraction 0.5/'; }
for task in sst2 mnli; do
    pdr_cells "$task" full "$task"
    pdr_cells "$task" entries "half/$task"
done
baseline=()
! chosen half "${METHODS:-}" || baseline=(--baseline half)
paper_report 'sst2/acc,sst2/imdb/acc,mnli/acc,mnli/hans/acc' --gate task ${baseline[@]+"${baseline[@]}"}
