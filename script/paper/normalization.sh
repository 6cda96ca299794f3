#!/usr/bin/env bash
# Usage: bash script/paper/normalization.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# Which α AWS needs: LRR (always 1), ψ held at ψ_init (always 0), and uniform from the whole range or either half of it.
FIGURE=normalization
TITLE="The range of α in AWS"
NETWORKS="cifar100_mobilenetv2"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs"
STARTS_aws=$STARTS_lrr
SWEEP=alpha-range
VALUES_aws="0 0
0 0.5
0.5 1
0 1"
LEVELS="3 7 11 15"
SEEDS="1 2 3"
COMPARISONS="lmc-signs"
BARRIER_LEVELS=11
PARTS=""
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
