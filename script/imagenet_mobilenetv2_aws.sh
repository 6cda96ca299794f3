#!/usr/bin/env bash
# Usage: bash script/imagenet_mobilenetv2_aws.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# AWS on ImageNet with MobileNetV2 (table 1). Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset imagenet --arch mobilenetv2_224 --method aws --lr 0.05 --weight-decay 5e-5 --batch-size 256 \
    --warmup-epochs 20 --level-epochs 5 --levels 10 --final-levels 4 5 6 7 --final-epochs 120 --final-schedule cosine \
    --start dense subnetwork signs --seed 1 --final-seeds 2 "$@"
