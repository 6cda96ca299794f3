#!/usr/bin/env bash
# Usage: bash script/digits_resnet20_lrr.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# LRR on the embedded digits with ResNet-20, minutes on a CPU. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset digits --arch resnet20 --method lrr --lr 0.1 --warmup-epochs 5 --level-epochs 2 \
    --levels 15 --final-levels 15 --final-epochs 25 \
    --start subnetwork signs mask --seed 1 --final-seeds 2 "$@"
