#!/usr/bin/env bash
# Cheng et al., NAACL 2021, Table 3: models of SQuAD v2.0 on BioASQ, models of SST-2 on IMDB. The runs are those of
# pdr_indomain.sh. With --small, where no SQuAD v2.0 is there, SST-2 alone.
#
#   MTROBUST_DATA=DIR scripts/pdr_domain_shift.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/pdr.sh"
paper_begin pdr bert-base-uncased "$@"
for task in squad2 sst2; do pdr_cells "$task" pdr_entries "$task"; done
paper_report 'squad2/mrqa_bioasq/*,sst2/acc,sst2/imdb/acc'
