#!/usr/bin/env bash
# Zhou et al. (VDA), EMNLP 2021, Table 2: standard, FreeLB, SMART and SMix with and without VDA on Yelp, IMDB, AG News and
# MR: accuracy before and under BERT-Attack, queries, changed words. For RoBERTa set MODEL and MLM to it, and OUT.
#   EXAMPLES   texts to attack (1000, 300 for Yelp and IMDB; with --small 100)
#   VECTORS    file of counter-fitted vectors, for the attack's filter (none)
#
#   MTROBUST_DATA=DIR scripts/vda_attack.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/vda.sh"
paper_begin vda bert-base-uncased "$@"
for task in $(small "mr" "yelp imdb agnews mr"); do vda_cells "$task" vda_entries "$task"; done
paper_report "$(vda_columns yelp imdb agnews mr)" --gate task
