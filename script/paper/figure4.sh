#!/usr/bin/env bash
# Usage: bash script/paper/figure4.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# Figure 4: AWS's signed masks compared with Gem-Miner's masks (GM), which are trained from the weights of the search.
FIGURE=figure4
TITLE="Figure 4: AWS and Gem-Miner"
NETWORKS="cifar100_resnet32"
METHODS="aws gm"
STARTS_aws="subnetwork signs"
STARTS_gm="subnetwork"
LEVELS="3 5 7 9 11 13 15"
SEEDS="1 2 3"
COMPARISONS=""
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
