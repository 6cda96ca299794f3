#!/usr/bin/env bash
# Usage: bash script/paper/parts.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# Which part of a subnetwork carries what it has learned: mask, signs, magnitudes or normalization parameters. Trains
# every combination with the mask, the mask shuffled within its layers, and the mask with Sign-In, which looks for signs.
FIGURE=parts
TITLE="Mask, signs, magnitudes and normalization parameters"
NETWORKS="cifar100_resnet50"
METHODS="lrr aws"
STARTS_lrr="subnetwork weights signs-keep-norms signs magnitudes-keep-norms magnitudes mask-keep-norms mask
    random-signs sign-in shuffled-mask"
STARTS_aws=$STARTS_lrr
LEVELS="11"
SEEDS="1 2 3"
PARTS=yes
COMPARISONS=""
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
