#!/usr/bin/env bash
# Usage: bash script/cifar100_resnet50_wr.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# Weight rewinding on CIFAR-100 with ResNet-50: each level resets the surviving weights to their values after the tenth
# epoch and trains for the rest of a dense schedule. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset cifar100 --arch resnet50 --method wr --rewind-epoch 10 --lr 0.1 \
    --warmup-epochs 100 --level-epochs 90 --pruning-schedule dense --levels 15 --final-levels 3 5 7 9 11 13 15 --final-epochs 100 \
    --start rewound signs mask --seed 1 --final-seeds 2 "$@"
