"""The optimizer and the learning rate of the protocol (section 4.1)."""

import math
from collections.abc import Sequence

import torch
from torch import nn

DECAY_FACTOR = 0.1


def sgd(network: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with weight decay on every parameter that is trained, normalization and biases included; fresh momentum."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def constant_rate(lr: float, epoch: int, epochs: int) -> float:
    """The warm-up's and the levels' schedule: none."""
    return lr


def decayed_rate(lr: float, epoch: int, epochs: int, decays_at: Sequence[float]) -> float:
    """The final trainings' rate in ``epoch`` (from 0) of ``epochs``, divided by ten at each share ``decays_at`` of the
    epochs; a single epoch trains at the full rate."""
    return lr * DECAY_FACTOR ** sum(epoch >= share * epochs for share in decays_at)


def cosine_rate(lr: float, epoch: int, epochs: int) -> float:
    """Half a cosine from ``lr`` to 0 (Gem-Miner's search)."""
    return lr * (1 + math.cos(math.pi * epoch / epochs)) / 2
