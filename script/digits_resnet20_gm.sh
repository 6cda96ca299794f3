#!/usr/bin/env bash
# Usage: bash script/digits_resnet20_gm.sh [flags of main.py]      e.g. --seed 2 --final-seeds 3 for another trial
# Gem-Miner on the embedded digits with ResNet-20, minutes on a CPU. Flags on the command line override these.
source "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh"

train --dataset digits --arch resnet20 --method gm --search-lr 0.1 --score-penalty 1e-5 --level-epochs 26 \
    --levels 15 --final-levels 15 --lr 0.01 --weight-decay 1e-4 --final-epochs 25 --decays-at 0.5333 0.8 \
    --start subnetwork --seed 1 --final-seeds 2 "$@"
