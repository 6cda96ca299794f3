#!/usr/bin/env bash
# Usage: bash script/demonstration.sh [--dry-run | --list | --finish] [--seeds ".."] [--finals N] [--levels ".."]
# What AWS is for, on a CPU: a small depthwise network on 2,500 Fashion-MNIST images of 14 pixels, pruned to a sixth by
# LRR, by AWS, and by AWS with α = 0 (ψ held at ψ_init) as control. About 16 minutes on 2 cores, two processes at once.
#
# Predicted before it was run, for differences paired by seed:
#   1. In the valley, the test error at ψ_init minus that at ψ is positive for LRR, and larger than for AWS.
#   2. The barrier between mask transfer and solution is larger than that between sign transfer and solution, for each
#      method.
#   3. The final errors of LRR's and AWS's sign transfers do not differ by more than their interval.
FIGURE=demonstration
TITLE="Demonstration: the valley of ψ, and signs against masks"
NETWORKS="fashion_mnist_mobilenetv2_tiny"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs mask"
STARTS_aws=$STARTS_lrr
SWEEP=alpha-range
VALUES_aws="
--alpha-range 0 0"
LEVELS="8"
SEEDS="1 2 3"
COMPARISONS="valley lmc-signs lmc-mask"
BARRIER_LEVELS=8
POINTS=6
export PER_GPU=${PER_GPU:-2}
source "$(dirname "${BASH_SOURCE[0]}")/paper/figure.sh"
