#!/usr/bin/env bash
# Usage: bash script/fashion_mnist_resnet20_lrr.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# LRR on Fashion-MNIST with ResNet-20. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset fashion_mnist --arch resnet20 --method lrr --lr 0.1 \
    --levels 15 --final-levels 3 5 7 9 11 13 15 --final-epochs 100 \
    --start subnetwork signs mask --seed 1 --final-seeds 2 "$@"
