#!/usr/bin/env bash
# Usage: bash script/cifar100_efficientnet_aws.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# AWS on CIFAR-100 with EfficientNet-B0 (figure 3). Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset cifar100 --arch efficientnet --method aws --lr 0.1 \
    --levels 15 --final-levels 3 5 7 9 11 13 15 --final-epochs 100 \
    --start subnetwork signs mask --seed 1 --final-seeds 2 "$@"
