#!/usr/bin/env bash
# Usage: bash script/digits_resnet20_imp.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# Iterative magnitude pruning on the embedded digits with ResNet-20: each level resets the surviving weights to the
# initialization and trains for as long as a dense network. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset digits --arch resnet20 --method imp --lr 0.1 \
    --warmup-epochs 10 --level-epochs 10 --pruning-schedule dense --levels 15 --final-levels 15 --final-epochs 25 \
    --start rewound signs mask --seed 1 --final-seeds 2 "$@"
