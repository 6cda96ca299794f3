"""Batch-norm statistics gathered anew for the weights at hand.

AWS trains under a random α, so the running statistics it leaves belong to no single network; interpolated networks have
none of their own. Both need one pass over the training set.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torchvision.ops import StochasticDepth

# The layers that drop activations, and the name of the probability.
DROPPING_LAYERS = {nn.modules.dropout._DropoutNd: "p", StochasticDepth: "p", nn.MultiheadAttention: "dropout"}


def reestimate_batch_statistics(network: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set the running statistics of every batch norm to their cumulative average over ``batches``, from scratch,
    without dropout and stochastic depth. A network without batch norm is left as it is, and no batch is read."""
    with _nothing_dropped(network):
        update_bn(batches, network)


@contextmanager
def _nothing_dropped(network: nn.Module) -> Iterator[None]:
    """``update_bn`` puts the network in training mode, where these layers would drop activations."""
    probabilities = [
        (layer, name, getattr(layer, name))
        for layer in network.modules()
        for kind, name in DROPPING_LAYERS.items()
        if isinstance(layer, kind)
    ]
    for layer, name, _ in probabilities:
        setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, name, probability in probabilities:
            setattr(layer, name, probability)
