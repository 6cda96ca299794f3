#!/usr/bin/env bash
# Usage: bash script/paper/figure3.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# Figure 3, the paper's main results: solutions of LRR and AWS, and random networks trained with their signed masks.
FIGURE=figure3
TITLE="Figure 3: signed masks of LRR and AWS on random initializations"
NETWORKS="cifar100_resnet50 cifar100_mobilenetv2 cifar100_shufflenet cifar100_efficientnet
    tiny_imagenet_resnet50 tiny_imagenet_mobilenetv2 tiny_imagenet_shufflenet tiny_imagenet_efficientnet"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs mask"
STARTS_aws="subnetwork signs"
LEVELS="3 5 7 9 11 13 15"
SEEDS="1 2 3"
COMPARISONS="noise-signs lmc-signs"
BARRIER_LEVELS=11
REFERENCE="lrr noise-subnetwork" # in blue
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
