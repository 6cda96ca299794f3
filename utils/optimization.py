"""The optimizer and the learning rate of the protocol (section 4.1)."""

import torch
from torch import nn

# Final trainings: the rate is divided by ten at half and at three quarters of the epochs.
DECAY_FACTOR = 0.1
DECAYS_AT = (0.5, 0.75)


def sgd(network: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with weight decay on every parameter, normalization and biases included; fresh momentum."""
    return torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def constant_rate(lr: float, epoch: int, epochs: int) -> float:
    """The warm-up's and the levels' schedule: none."""
    return lr


def decayed_rate(lr: float, epoch: int, epochs: int) -> float:
    """The final trainings' rate in ``epoch`` (from 0) of ``epochs``; a single epoch trains at the full rate."""
    return lr * DECAY_FACTOR ** sum(epoch >= share * epochs for share in DECAYS_AT)
