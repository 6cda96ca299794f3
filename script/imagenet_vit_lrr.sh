#!/usr/bin/env bash
# Usage: bash script/imagenet_vit_lrr.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# LRR on ImageNet with ViT-S/16: layer normalization only. The recipe is usual for plain ViTs, but without
# RandAugment and mixup; the ramp of the rate in every level is not the paper's. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset imagenet --arch vit_224 --method lrr --optimizer adamw --lr 0.001 --weight-decay 1e-4 --batch-size 1024 \
    --clip-norm 1 --level-ramp-epochs 1 --final-ramp-epochs 8 \
    --warmup-epochs 20 --level-epochs 5 --levels 10 --final-levels 7 8 9 10 --final-epochs 90 --final-schedule cosine \
    --start dense subnetwork signs --seed 1 --final-seeds 2 "$@"
