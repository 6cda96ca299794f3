#!/usr/bin/env bash
# Usage: bash script/paper/normalization.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# What AWS needs of its interpolation: LRR (α = 1), LRR with ψ set back to ψ_init at every level (Gadhikar and Burkholz,
# ICLR 2024), ψ held at ψ_init (α = 0), α uniform from the whole range or either half, and an α of its own for each layer.
FIGURE=normalization
TITLE="LRR and AWS by what happens to ψ"
NETWORKS="cifar100_mobilenetv2"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs"
STARTS_aws=$STARTS_lrr
SWEEP="alpha-range alpha-per-layer rewind-norms"
VALUES_lrr="
--rewind-norms"
VALUES_aws="
--alpha-range 0 0
--alpha-range 0 0.5
--alpha-range 0.5 1
--alpha-per-layer"
LEVELS="3 7 11 15"
SEEDS="1 2 3"
COMPARISONS="valley lmc-signs"
BARRIER_LEVELS=11
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
