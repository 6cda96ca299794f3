#!/usr/bin/env bash
# Usage: bash script/cifar100_resnet32_lrr.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# LRR on CIFAR-100 with ResNet-32 (figure 4). Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset cifar100 --arch resnet32 --method lrr --lr 0.1 \
    --levels 15 --final-levels 3 5 7 9 11 13 15 --final-epochs 100 \
    --start dense subnetwork signs mask --seed 1 --final-seeds 2 "$@"
