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


def rate_tensor(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep the learning rate in a tensor, which a CUDA graph reads anew at every replay."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def momenta(optimizer: torch.optim.Optimizer) -> list[torch.Tensor | None]:
    """The momentum of every trained parameter, in their order; None before its first step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [optimizer.state[parameter].get("momentum_buffer") for parameter in parameters]


@torch.no_grad()
def set_momenta(optimizer: torch.optim.Optimizer, values: Sequence[torch.Tensor | None]) -> None:
    """What ``momenta`` gave, in place where there are buffers: None is no momentum, and zero there, which is the same.

    Raises ValueError for those of another network.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    pairs = list(zip(parameters, values, strict=True))
    for parameter, value in pairs:
        if value is not None and value.shape != parameter.shape:
            raise ValueError(f"a momentum of {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
    for parameter, value in pairs:
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is None and value is not None:
            # In the parameter's own order in memory, which fused SGD relies on.
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value)
        elif buffer is not None:
            buffer.copy_(torch.zeros_like(buffer) if value is None else value)


def reset_momenta(optimizer: torch.optim.Optimizer) -> None:
    """A fresh optimizer's."""
    set_momenta(optimizer, [None] * len(momenta(optimizer)))


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
