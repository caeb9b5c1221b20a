#!/usr/bin/env bash
# Pereira et al. (RAPT), Table 2: standard, SMART and RAPT on the eight GLUE tasks, with the average over the twelve metric
# columns. The paper chooses learning rate and batch size on dev; RAPT's best eta is chosen there by
#   mtrobust report OUT/report/... --best_by TASK/METRIC
# from the runs with ETAS ("0.01 1.5 2.3 2.5" beside 2; with --small none). SMART_STEP (1e-3) is SMART's step size.
#
#   MTROBUST_DATA=DIR scripts/rapt_glue.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/rapt.sh"
paper_begin rapt bert-base-uncased "$@"
entries() {
    rapt_entries
    for eta in ${ETAS-$(small "" "0.01 1.5 2.3 2.5")}; do
        echo "rapt-eta$eta --perturb rapt --perturb.layers 1-3 --perturb.eta $eta"
    done
}
for task in mnli qqp rte qnli mrpc cola sst2 stsb; do rapt_cells "$task" entries; done
paper_report "$RAPT_COLUMNS" --average '*'
