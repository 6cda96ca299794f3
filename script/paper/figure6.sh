#!/usr/bin/env bash
# Usage: bash script/paper/figure6.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# Figure 6: VGG11-bn, on which LRR's signed masks also transfer.
FIGURE=figure6
TITLE="Figure 6: signed masks of LRR and AWS, VGG11-bn"
NETWORKS="cifar100_vgg11_bn"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs mask"
STARTS_aws="subnetwork signs"
LEVELS="3 5 7 9 11 13 15"
SEEDS="1 2 3"
COMPARISONS="noise-signs lmc-signs"
BARRIER_LEVELS=11
REFERENCE="lrr noise-subnetwork" # in blue
SMALL=digits_vgg11_bn
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
