#!/usr/bin/env bash
# Usage: bash script/paper/table1.sh [--dry-run | --list | --finish] [--networks ".."] [--seeds ".."] [--levels ".."]
# With SCALE=small in front, runs a small version on the embedded digits, in minutes on a CPU.
# Table 1: ResNet-50 and MobileNetV2 on ImageNet, each at its own four levels.
FIGURE=table1
TITLE="Table 1: ImageNet, ResNet-50 and MobileNetV2"
NETWORKS="imagenet_resnet50 imagenet_mobilenetv2"
METHODS="lrr aws"
STARTS_lrr="subnetwork signs"
STARTS_aws=$STARTS_lrr
LEVELS="6 7 8 9"
LEVELS_imagenet_mobilenetv2="4 5 6 7"
SEEDS="1 2 3"
COMPARISONS=""
source "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
