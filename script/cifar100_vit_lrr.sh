#!/usr/bin/env bash
# Usage: bash script/cifar100_vit_lrr.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# LRR on CIFAR-100 with a small ViT: layer normalization only. The recipe is usual for small ViTs; the
# ramp of the rate in every level is not the paper's. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset cifar100 --arch vit --method lrr --optimizer adamw --lr 0.001 --weight-decay 0.05 --clip-norm 1 \
    --level-ramp-epochs 1 --final-ramp-epochs 10 --final-schedule cosine \
    --levels 15 --final-levels 3 5 7 9 11 13 15 --final-epochs 100 \
    --start dense subnetwork signs mask --seed 1 --final-seeds 2 "$@"
