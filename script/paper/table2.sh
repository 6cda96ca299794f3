#!/usr/bin/env bash
# Usage: bash script/paper/table2.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version, a tiny Mixer on Fashion-MNIST, in minutes on a CPU.
# Table 2: MLP-Mixer, a network with layer normalization only, on ImageNet.
FIGURE=table2
TITLE="Table 2: ImageNet, MLP-Mixer"
NETWORKS="imagenet_mlpmixer"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs"
STARTS_aws=$STARTS_lrr
LEVELS="7 8 9 10"
SEEDS="1 2 3"
COMPARISONS=""
SMALL=fashion_mnist_mlpmixer_tiny
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
