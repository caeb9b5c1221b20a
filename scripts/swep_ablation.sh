#!/usr/bin/env bash
# Lee et al. (SWEP), ACL 2021, Table 3: what each part of SWEP is worth, on ELECTRA-small.
#
#   MTROBUST_DATA=DIR scripts/swep_ablation.sh [--small] [--jobs N] [flags of mtrobust train]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/paper.sh"
source "$PAPER_LIB/swep.sh"
paper_begin swep-electra google/electra-small-discriminator "$@"
entries() {
    echo "standard --perturb standard"
    for method in prior_aug swep; do echo "$method --perturb $method"; done
    for part in additive fixed_mu fixed_sigma no_epsilon no_kl no_clean; do
        echo "swep-$part --perturb swep --perturb.ablation $part"
    done
}
swep_cells entries squad
paper_report 'squad/*'
