"""Batch-norm statistics estimated again for the weights at hand.

AWS trains under a random α, so the running statistics that it leaves belong to no single network; interpolated networks
have none of their own. Both need one pass over the training set.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth

from utils.method.network import Blueprint
from utils.training.distributed import sum_over_processes, world_size

# The layers that drop activations, and the name of the probability.
DROPPING_LAYERS = {nn.modules.dropout._DropoutNd: "p", StochasticDepth: "p", nn.MultiheadAttention: "dropout"}


@torch.no_grad()
def average_running_statistics(network: nn.Module) -> None:
    """Set the running statistics of every batch norm, which each process has of its own parts of the batches, to their
    mean over the processes, taken in float64."""
    if world_size() == 1:
        return
    buffers = [buffer for layer in AveragedStatistics(network).layers for buffer in layer.buffers()]
    means = [buffer.double() / world_size() for buffer in buffers]
    sum_over_processes(means)
    for buffer, mean in zip(buffers, means, strict=True):
        buffer.copy_(mean)


def deciding_processes(blueprint: Blueprint) -> dict:
    """The setting that the number of processes is, if there are several and it changes what is trained: by batch norms,
    which see a part of a batch, or by dropped activations, which each process draws."""
    if world_size() == 1:
        return {}
    network = blueprint.build(torch.device("cpu"))
    drops = any(probability > 0 for _, probability in _dropping_layers(network))
    return {"processes": world_size()} if drops or AveragedStatistics(network).layers else {}


class AveragedStatistics:
    """The average over batches of each batch's mean and variance, in every batch norm of ``network``. Of several
    processes, each counts its part of a batch as a batch.

    ``torch.optim.swa_utils.update_bn`` computes the same cumulative average, equal to rounding, but has every layer ask
    the device how many batches it has seen: a wait a layer and batch, which a CUDA graph cannot hold. Here each batch's
    statistics are summed on the device.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self.layers = [layer for layer in norms if layer.running_mean is not None]
        self.of_batch = [tensor for layer in self.layers for tensor in (layer.running_mean, layer.running_var)]
        self.sums = [torch.zeros_like(tensor) for tensor in self.of_batch]
        self.batches = torch.zeros((), device=next(network.parameters()).device)  # counted there, by a CUDA graph too

    @property
    def changed(self) -> list[Tensor]:
        """All that a batch changes: what a CUDA graph's warm-up runs have to leave as it was."""
        return [*self.network.buffers(), *self.sums, self.batches]

    def estimate(self, batches: Iterable[tuple[Tensor, Tensor]], see: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Average over ``batches``, each of which ``see`` is given. Without batch norm, no batch is read."""
        if not self.layers:
            return
        with self.gathering():
            for batch in batches:
                see(*batch)

    def see(self, images: Tensor) -> Tensor:
        """The network's outputs, with the images counted as a batch."""
        if not len(images):  # another process has all of a small last batch
            return images.new_zeros(())
        outputs = self.network(images)
        self.add()
        return outputs

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Within, the network is in training mode and ``add`` follows every batch; at the end its batch norms, of which
        there is one at least, hold the average."""
        momenta = [layer.momentum for layer in self.layers]
        counters = [layer.num_batches_tracked for layer in self.layers]
        torch._foreach_zero_([*self.sums, self.batches, *self.of_batch])  # all at once, for a GPU
        torch._foreach_add_([layer.running_var for layer in self.layers], 1)
        torch._foreach_zero_(counters)
        self.network.train()
        for layer, _ in _dropping_layers(self.network):
            layer.eval()
        for layer in self.layers:
            layer.momentum = 1.0  # only this batch
        try:
            with torch.no_grad():
                yield
                sum_over_processes([*self.sums, self.batches])
                sum_over_processes(counters)
                torch._foreach_copy_(self.of_batch, torch._foreach_div(self.sums, self.batches))
        finally:
            for layer, momentum in zip(self.layers, momenta, strict=True):
                layer.momentum = momentum

    def add(self) -> None:
        """Count the batch that the network has just seen."""
        torch._foreach_add_(self.sums, self.of_batch)
        self.batches += 1


def _dropping_layers(network: nn.Module) -> list[tuple[nn.Module, float]]:
    """Each with its probability."""
    return [
        (layer, getattr(layer, name))
        for layer in network.modules()
        for kind, name in DROPPING_LAYERS.items()
        if isinstance(layer, kind)
    ]
