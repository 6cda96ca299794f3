#!/usr/bin/env bash
# Usage: bash script/paper/baselines.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# What masks and signs are worth by pruning method: iterative magnitude pruning (IMP), weight rewinding (WR), LRR, AWS.
FIGURE=baselines
TITLE="IMP, weight rewinding, LRR and AWS"
NETWORKS="cifar100_resnet50"
METHODS="imp wr lrr aws"
STARTS_imp="rewound subnetwork signs mask"
STARTS_wr=$STARTS_imp
STARTS_lrr="subnetwork signs mask"
STARTS_aws=$STARTS_lrr
LEVELS="3 5 7 9 11 13 15"
SEEDS="1 2 3"
COMPARISONS=""
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
