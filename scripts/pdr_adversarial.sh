#!/usr/bin/env bash
# Cheng et al., NAACL 2021, Table 4: models of SQuAD v1.1 on AddSent and AddOneSent (worst case of a question's variants,
# and the mean over all rows), models of MNLI on HANS, whole and by heuristic. The runs are those of pdr_indomain.sh.
#
#   MTROBUST_DATA=DIR scripts/pdr_adversarial.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/pdr.sh"
paper_begin pdr bert-base-uncased "$@"
for task in squad mnli; do pdr_cells "$task" pdr_entries "$task"; done
paper_report 'squad/f1,squad/add*,mnli/acc,mnli/hans/*' --gate task
