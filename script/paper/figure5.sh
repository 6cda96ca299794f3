#!/usr/bin/env bash
# Usage: bash script/paper/figure5.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# Figure 5: whether the signs of the normalization parameters help if the shift starts at ±0.1 instead of 0.
FIGURE=figure5
TITLE="Figure 5: the signs of LRR's normalization parameters"
NETWORKS="cifar100_resnet50 cifar100_mobilenetv2 cifar100_shufflenet cifar100_efficientnet"
METHODS="lrr"
STARTS_lrr="subnetwork signs signs-shifted-norms"
LEVELS="3 5 7 9 11 13 15"
SEEDS="1 2 3"
COMPARISONS=""
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
