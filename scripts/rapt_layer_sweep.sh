#!/usr/bin/env bash
# Pereira et al. (RAPT), Figures 2 and 3: the noise at the embedding output alone, or at a layer drawn from 1 to max_layer,
# for every max_layer of the encoder, on MNLI and MRPC (with --small MRPC alone).
#   LAYERS   the encoder's number of layers (12; with --small 6)
#
#   MTROBUST_DATA=DIR scripts/rapt_layer_sweep.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/rapt.sh"
paper_begin rapt bert-base-uncased "$@"
entries() {
    echo "standard --perturb standard"
    echo "rapt-embeddings --perturb rapt --perturb.layers embeddings"
    for ((n = 1; n <= ${LAYERS:-$(small 6 12)}; n++)); do
        if [ "$n" = 3 ]; then echo "rapt --perturb rapt --perturb.layers 1-3 --perturb.eta 2"; continue; fi
        echo "rapt-max$n --perturb rapt --perturb.layers $([ "$n" = 1 ] || echo 1-)$n"
    done
}
for task in $(small mrpc "mnli mrpc"); do rapt_cells "$task" entries; done
paper_report --swept "$RAPT_COLUMNS" --sweep perturb.rapt.layers
