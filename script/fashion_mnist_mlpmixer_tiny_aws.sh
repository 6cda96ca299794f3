#!/usr/bin/env bash
# Usage: bash script/fashion_mnist_mlpmixer_tiny_aws.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# AWS with a small MLP-Mixer (layer normalization only) on 5,000 Fashion-MNIST images of 8 pixels: a minute or two on a
# CPU. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset fashion_mnist --pixels 8 --train-images-per-class 500 --arch mlpmixer_tiny --method aws --lr 0.1 \
    --weight-decay 5e-4 --batch-size 64 --warmup-epochs 3 --level-epochs 2 --levels 8 --final-levels 8 --final-epochs 6 \
    --test-every 10 \
    --start subnetwork signs mask --seed 1 --final-seeds 2 "$@"
