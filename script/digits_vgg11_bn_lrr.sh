#!/usr/bin/env bash
# Usage: bash script/digits_vgg11_bn_lrr.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# LRR on the embedded digits with VGG11-bn, for figure 6 in small. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset digits --arch vgg11_bn --method lrr --lr 0.1 --warmup-epochs 5 --level-epochs 2 \
    --levels 15 --final-levels 15 --final-epochs 10 \
    --start subnetwork signs mask --seed 1 --final-seeds 2 "$@"
