"""Error barriers along the straight line between two networks (equation 1, section 3.1)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.batch_statistics import reestimate_batch_statistics
from utils.training import Batches, Evaluation, Tally, evaluate

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Barrier:
    """``height``: the largest E_α in percentage points of error, ``alpha``: where it is."""

    height: float
    alpha: float


def positions(points: int) -> list[float]:
    """``points`` values of α from 0 to 1. At α = 1 stands the first network, at α = 0 the second (equation 1)."""
    return [index / (points - 1) for index in range(points)]


def interpolate_states(first: State, second: State, learnable: Iterable[str], alpha: float) -> dict[str, Tensor]:
    """αθ + (1−α)θ' of every learnable tensor by name, whatever its layer; the ends are exact. Everything else, such as
    batch-norm statistics, is the first network's and has to be estimated anew."""
    learnable = set(learnable)
    weight = torch.tensor(alpha)
    return {
        name: torch.lerp(second[name], tensor, weight) if name in learnable else tensor.clone()
        for name, tensor in first.items()
    }


def error_barrier(alphas: Sequence[float], errors: Sequence[float]) -> Barrier:
    """sup_α E(αθ + (1−α)θ') − (E(θ) + E(θ'))/2, equation 1; the first and the last position are the two ends."""
    return _highest(alphas, [error - (errors[0] + errors[-1]) / 2 for error in errors])


def barrier_above_line(alphas: Sequence[float], errors: Sequence[float]) -> Barrier:
    """The same against the straight line between the ends' errors, αE(θ) + (1−α)E(θ'): never negative."""
    line = [alpha * errors[-1] + (1 - alpha) * errors[0] for alpha in alphas]
    return _highest(alphas, [error - level for error, level in zip(errors, line, strict=True)])


def _highest(alphas: Sequence[float], heights: Sequence[float]) -> Barrier:
    index = max(range(len(heights)), key=heights.__getitem__)
    return Barrier(heights[index], alphas[index])


def pass_with_own_statistics(network: nn.Module, batches: Batches) -> Evaluation:
    """Loss and error of a network whose batch-norm statistics are estimated on the way, by one forward pass.

    They are therefore under each batch's own statistics, as a training's are; nothing is dropped.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return evaluate(network, batches)
    tally = Tally(next(network.parameters()).device)
    labels_of_pass: list[Tensor] = []

    def remember_labels() -> Iterator[Tensor]:
        for images, labels in batches:
            labels_of_pass.append(labels)
            yield images

    def count_outputs(module: nn.Module, inputs: tuple, outputs: Tensor) -> None:
        tally.add_outputs(outputs, labels_of_pass.pop())

    hook = network.register_forward_hook(count_outputs)
    try:
        reestimate_batch_statistics(network, remember_labels())
    finally:
        hook.remove()
    return tally.evaluation()
