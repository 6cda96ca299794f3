#!/usr/bin/env bash
# Usage: bash script/paper/when.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# When the signs are decided: sign transfers under one level's mask, with the signs of the dense network (level 0) or of
# earlier levels. The signs of another run take its file: FLAGS="--signs-from runs/RUN/level_11/signed_mask.npz".
FIGURE=when
TITLE="Signs of earlier levels under one level's mask"
NETWORKS="cifar100_mobilenetv2"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs mask"
STARTS_aws=$STARTS_lrr
MORE="--signs-from 0 3 6 own"
LEVELS="11"
SEEDS="1 2 3"
COMPARISONS="lmc-signs"
BARRIER_LEVELS=11
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
