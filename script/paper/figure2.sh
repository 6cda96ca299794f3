#!/usr/bin/env bash
# Usage: bash script/paper/figure2.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# Figure 2: LRR's subnetwork from a new initialization with its signs preserved, with and without its ψ.
FIGURE=figure2
TITLE="Figure 2: the signs of LRR's subnetwork, with and without its normalization parameters"
NETWORKS="cifar100_resnet50 cifar100_mobilenetv2 cifar100_shufflenet cifar100_efficientnet"
METHODS="lrr"
STARTS_lrr="subnetwork signs signs-keep-norms mask"
LEVELS="3 5 7 9 11 13 15"
SEEDS="1 2 3"
COMPARISONS="noise-subnetwork noise-signs noise-signs-keep-norms lmc-signs lmc-signs-keep-norms"
BARRIER_LEVELS=11
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
