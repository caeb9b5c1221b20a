#!/usr/bin/env bash
# Cheng et al., NAACL 2021, Table 2: standard training, Jacobian regularisation, RPT and VAT with three divergences on the
# dev sets of SQuAD v1.1 and v2.0, MNLI and SST-2. ALPHA (1) is the weight of RPT and VAT, LAMBDA (0.01) that of Jacobian.
#
#   MTROBUST_DATA=DIR scripts/pdr_indomain.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/pdr.sh"
paper_begin pdr bert-base-uncased "$@"
for task in squad squad2 mnli sst2; do pdr_cells "$task" pdr_entries "$task"; done
paper_report 'squad/f1,squad2/f1,mnli/acc,sst2/acc' --average '*'
