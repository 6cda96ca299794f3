#!/usr/bin/env bash
# Usage: bash script/paper/layer_norm.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# Signs against masks in a network with layer normalization only, on a CPU: a small Mixer on 5,000 Fashion-MNIST images of
# 8 pixels, pruned to a sixth. Sign transfers with 10 % of the signs flipped lie between, with half of them, which is
# random signs, at the other end. About half an hour on one core.
#
# Predicted before it was run, for differences paired by seed, but after one pilot of LRR with another seed:
#   1. The barrier between mask transfer and solution is larger than that between sign transfer and solution, for each
#      method: above 10 points against below 5.
#   2. The final error rises from signs to 10 % flipped to half of them flipped, which is no better than the mask.
#   3. Before training, the sign transfer's error is below the mask transfer's, which is that of chance (90 %).
#   4. LRR and AWS do not differ by more than their intervals: weight decay hardly moves ψ here (the negative control).
FIGURE=layer_norm
TITLE="A network with layer normalization only: signs against masks"
NETWORKS="fashion_mnist_mlpmixer_tiny"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs mask"
STARTS_aws=$STARTS_lrr
MORE="--flip-signs 0 0.1 0.5"
LEVELS="8"
SEEDS="1 2 3 4 5"
COMPARISONS="lmc-signs lmc-mask"
BARRIER_LEVELS=8
POINTS=6
SMALL=$NETWORKS
export FLAGS="--device cpu ${FLAGS:-}"
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
