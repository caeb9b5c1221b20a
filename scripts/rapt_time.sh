#!/usr/bin/env bash
# Pereira et al. (RAPT), Table 3: training time of standard, SMART and RAPT on each task; the paper's RAPT takes 0.78 of
# SMART's time. Cells run one at a time, since time is what is measured, and STEPS (200) steps each; the columns "time" of
# the report are multiples of standard training. scripts/bench/methods.py measures the same side by side in one process.
#
#   MTROBUST_DATA=DIR scripts/rapt_time.sh [--small] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/rapt.sh"
paper_begin rapt bert-base-uncased "$@"
[ "$GRID_JOBS" = 1 ] || { echo "rapt_time.sh: --jobs $GRID_JOBS: cells that share the machine say nothing of time; allowed: 1" >&2; exit 2; }
entries() { rapt_entries | grep -v '^rapt-embeddings'; }
for task in mnli qqp rte qnli mrpc cola sst2 stsb; do rapt_cells "$task" entries time/ --max_steps "${STEPS:-200}"; done
paper_report "$RAPT_COLUMNS"
