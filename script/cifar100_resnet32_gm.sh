#!/usr/bin/env bash
# Usage: bash script/cifar100_resnet32_gm.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# Gem-Miner on CIFAR-100 with ResNet-32 (figure 4): each level is a search of 150 epochs, whose subnetwork is then
# trained for 150 epochs, with the learning rate divided by ten after epochs 80 and 120. Flags on the command line
# override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset cifar100 --arch resnet32 --method gm --search-lr 0.1 --score-penalty 1e-5 --level-epochs 150 \
    --levels 15 --final-levels 3 5 7 9 11 13 15 --lr 0.01 --weight-decay 1e-4 --final-epochs 150 --decays-at 0.5333 0.8 \
    --start subnetwork --seed 1 --final-seeds 2 "$@"
