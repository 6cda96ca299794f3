#!/usr/bin/env bash
# Usage: bash script/imagenet_resnet50_aws.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# AWS on ImageNet with ResNet-50 (table 1). Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset imagenet --arch resnet50_224 --method aws --optimizer adam --lr 0.001 --weight-decay 1e-5 --batch-size 256 \
    --warmup-epochs 20 --level-epochs 5 --levels 10 --final-levels 6 7 8 9 --final-epochs 120 --final-schedule cosine \
    --start dense subnetwork signs --seed 1 --final-seeds 2 "$@"
