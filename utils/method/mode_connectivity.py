"""Error barriers along the straight line between two networks (equation 1, section 3.1)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Barrier:
    """``height``: the largest rise in error along the line, in percentage points; ``alpha``: where it occurs."""

    height: float
    alpha: float


def positions(points: int) -> list[float]:
    """``points`` evenly spaced values of α: 1 is the first network, 0 the second (equation 1)."""
    return [index / (points - 1) for index in range(points)]


def interpolate_states(first: State, second: State, learnable: Iterable[str], alpha: float) -> dict[str, Tensor]:
    """αθ + (1−α)θ' of every learnable tensor by name, in any layer; exact at both ends. All other tensors, such as
    batch-norm statistics, are copied from the first network and have to be re-estimated."""
    learnable = set(learnable)
    weight = torch.tensor(alpha)
    return {
        name: torch.lerp(second[name], tensor, weight) if name in learnable else tensor.clone()
        for name, tensor in first.items()
    }


def error_barrier(alphas: Sequence[float], errors: Sequence[float]) -> Barrier:
    """sup_α E(αθ + (1−α)θ') − (E(θ) + E(θ'))/2, equation 1; the first and last positions are the two ends."""
    return _highest(alphas, [error - (errors[0] + errors[-1]) / 2 for error in errors])


def barrier_above_line(alphas: Sequence[float], errors: Sequence[float]) -> Barrier:
    """sup_α of the error above the straight line between the ends' errors, αE(θ) + (1−α)E(θ'): never negative."""
    line = [alpha * errors[-1] + (1 - alpha) * errors[0] for alpha in alphas]
    return _highest(alphas, [error - level for error, level in zip(errors, line, strict=True)])


def _highest(alphas: Sequence[float], heights: Sequence[float]) -> Barrier:
    index = max(range(len(heights)), key=heights.__getitem__)
    return Barrier(heights[index], alphas[index])
