#!/usr/bin/env bash
# Zhou et al. (VDA), EMNLP 2021, Table 3: the methods of vda_attack.sh on the pairs of MRPC and QNLI; the second text is
# attacked. EXAMPLES, VECTORS as there.
#
#   MTROBUST_DATA=DIR scripts/vda_pairs.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/vda.sh"
paper_begin vda bert-base-uncased "$@"
for task in mrpc qnli; do vda_cells "$task" vda_entries "$task"; done
paper_report "$(vda_columns mrpc qnli)" --gate task
