#!/usr/bin/env bash
# Usage: bash script/paper/flips.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# How many signs matter: sign transfers in which a share of the signs is flipped, up to a half, which is random signs.
FIGURE=flips
TITLE="Sign transfers with flipped signs"
NETWORKS="cifar100_mobilenetv2"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs"
STARTS_aws=$STARTS_lrr
MORE="--flip-signs 0 0.01 0.03 0.1 0.3 0.5"
LEVELS="11"
SEEDS="1 2 3"
COMPARISONS="lmc-signs"
BARRIER_LEVELS=11
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
