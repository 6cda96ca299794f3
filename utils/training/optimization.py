"""The optimizer and the learning-rate schedules of the protocol (section 4.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

DECAY_FACTOR = 0.1


@dataclass(frozen=True)
class Recipe:
    """What decides a training step beside the learning rate."""

    batch_size: int
    momentum: float
    weight_decay: float


def sgd(network: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with weight decay on every trained parameter, including normalization and biases; with fresh momentum."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def rate_tensor(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep the learning rate in a tensor, which a CUDA graph reads at every replay."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def momenta(optimizer: torch.optim.Optimizer) -> list[torch.Tensor | None]:
    """The momentum buffer of every trained parameter, in order; None before its first step."""
    return [optimizer.state[parameter].get("momentum_buffer") for parameter in _trained(optimizer)]


@torch.no_grad()
def set_momenta(optimizer: torch.optim.Optimizer, values: Sequence[torch.Tensor | None] | None = None) -> None:
    """Restore what ``momenta`` returned, in place if buffers exist; by default, a fresh optimizer's. None means no
    momentum: an existing buffer is set to zero, which is equivalent.

    Raises ValueError if the momenta belong to another network.
    """
    parameters = _trained(optimizer)
    pairs = list(zip(parameters, values or [None] * len(parameters), strict=True))
    for parameter, value in pairs:
        if value is not None and value.shape != parameter.shape:
            raise ValueError(f"a momentum of {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
    for parameter, value in pairs:
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is None and value is not None:
            # In the parameter's own memory format, which fused SGD relies on.
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value)
        elif buffer is not None:
            buffer.copy_(torch.zeros_like(buffer) if value is None else value)


def _trained(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# A schedule is a list of learning rates, one per epoch; the paper's for the warm-up and the levels is a constant.


def decayed_rates(lr: float, epochs: int, decays_at: Sequence[float]) -> list[float]:
    """The schedule of a final training: divided by ten after each share ``decays_at`` of the epochs; a single epoch has
    the full rate."""
    return [lr * DECAY_FACTOR ** sum(epoch >= share * epochs for share in decays_at) for epoch in range(epochs)]


def cosine_rates(lr: float, epochs: int) -> list[float]:
    """Half a cosine from ``lr`` towards 0 (Gem-Miner's search)."""
    return [lr * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]
