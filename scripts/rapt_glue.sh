#!/usr/bin/env bash
# Pereira et al. (RAPT), Table 2: standard, SMART and RAPT on the eight GLUE tasks, with the average over the twelve metric
# columns. The paper chooses learning rate and batch size on dev, which this script does not. ETAS ("0.01 1.5 2.3 2.5";
# with --small none) are further etas beside 2, a row each; for the paper's row "best eta", task by task:
#   mtrobust report 'OUT/mrpc/rapt-[1-9]*' 'OUT/mrpc/rapt-eta*' --best_by mrpc/acc --out DIR
# SMART_STEP (1e-3) is SMART's step size.
#
#   MTROBUST_DATA=DIR scripts/rapt_glue.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/rapt.sh"
paper_begin rapt bert-base-uncased "$@"
[ -n "${SEEDS:-}" ] || seeds=$(small "1 2 3" "1 2 3 4 5")
entries() {
    rapt_entries
    for eta in ${ETAS-$(small "" "0.01 1.5 2.3 2.5")}; do
        echo "rapt-eta$eta --perturb rapt --perturb.layers 1-3 --perturb.eta $eta"
    done
}
for task in mnli qqp rte qnli mrpc cola sst2 stsb; do rapt_cells "$task" entries; done
paper_report "$RAPT_COLUMNS" --average '*'
