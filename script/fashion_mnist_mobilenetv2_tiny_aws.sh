#!/usr/bin/env bash
# Usage: bash script/fashion_mnist_mobilenetv2_tiny_aws.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# AWS with a small depthwise network on 2,500 Fashion-MNIST images of 14 pixels: minutes on a CPU, with
# enough weight decay for ψ to leave ψ_init (the demonstration). Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset fashion_mnist --pixels 14 --train-images-per-class 250 --arch mobilenetv2_tiny --method aws --lr 0.1 \
    --weight-decay 2e-3 --batch-size 32 --warmup-epochs 4 --level-epochs 4 --levels 8 --final-levels 8 --final-epochs 8 \
    --test-every 10 \
    --start subnetwork signs mask --seed 1 --final-seeds 2 "$@"
