#!/usr/bin/env bash
# Usage: bash script/cifar100_mlpmixer_aws.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# AWS on CIFAR-100 with a small MLP-Mixer: layer normalization only. Optimizer and schedule are those of the
# paper's MLP-Mixer on ImageNet (table 2), for fewer epochs. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset cifar100 --arch mlpmixer --method aws --optimizer adam --lr 0.001 --weight-decay 5e-5 --final-schedule cosine \
    --levels 15 --final-levels 3 5 7 9 11 13 15 --final-epochs 100 \
    --start subnetwork signs mask --seed 1 --final-seeds 2 "$@"
