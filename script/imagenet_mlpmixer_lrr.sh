#!/usr/bin/env bash
# Usage: bash script/imagenet_mlpmixer_lrr.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# LRR on ImageNet with MLP-Mixer (table 2): layer normalization only. Flags on the command line
# override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset imagenet --arch mlpmixer_224 --method lrr --optimizer adam --lr 0.001 --weight-decay 5e-5 --batch-size 512 \
    --warmup-epochs 20 --level-epochs 5 --levels 10 --final-levels 7 8 9 10 --final-epochs 200 --final-schedule cosine \
    --start dense subnetwork signs --seed 1 --final-seeds 2 "$@"
