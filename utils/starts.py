"""Where a final training begins: the transfers of sections 3.2, 4.2 and appendix A.

Each start takes the new random initialisation θ_init, the level's state θ_T, its mask m_T and its signed mask s_T, and
returns the state to train from. A start that works from a signed-mask file alone does without θ_T.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from utils.blueprint import State
from utils.pruning import Masks
from utils.run_folder import level_name
from utils.signed_mask import SignedMask, impose_signed_mask

SHIFTED_SCALE = 1.0  # ψ*_init of appendix A
SHIFTED_SHIFT = 0.1


@dataclass(frozen=True)
class Origin:
    """What a final training may start from.

    ``initial``: θ_init; ``trained``: θ_T with its batch-norm statistics, empty where only a signed mask is known;
    ``norms``: the names of ψ.
    """

    initial: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]
    masks: Masks
    signed_mask: SignedMask
    norms: tuple[str, ...]


class Start(NamedTuple):
    formula: str
    needs_level: bool  # a finished level or a signed mask
    needs_trained: bool  # the level's own values: a signed mask is not enough
    new_initialization: bool  # else it descends from the pruning run's own
    state: Callable[[Origin], State]


def dense(origin: Origin) -> State:
    return {name: tensor.clone() for name, tensor in origin.initial.items()}


def subnetwork(origin: Origin) -> State:
    """The level's own weights, normalization and batch-norm statistics included."""
    return {name: tensor.clone() for name, tensor in origin.trained.items()}


def mask(origin: Origin) -> State:
    """Only the zeros."""
    return {
        name: tensor * origin.masks[name] if name in origin.masks else tensor.clone()
        for name, tensor in origin.initial.items()
    }


def signs(origin: Origin) -> State:
    """Signs and zeros; ψ freshly initialised."""
    return impose_signed_mask(origin.initial, origin.signed_mask)


def signs_keep_norms(origin: Origin) -> State:
    """Sign transfer with the level's ψ (figure 2, red); batch-norm statistics start anew."""
    return signs(origin) | {name: origin.trained[name].clone() for name in origin.norms}


def signs_shifted_norms(origin: Origin) -> State:
    """Sign transfer with scale 1 and shift 0.1, the shift's signs taken from the level (figure 5, purple)."""
    shifted = {}
    for name in origin.norms:
        if name.endswith("bias"):
            shifted[name] = SHIFTED_SHIFT * torch.sign(origin.trained[name])
        else:
            shifted[name] = torch.full_like(origin.trained[name], SHIFTED_SCALE)
    return signs(origin) | shifted


STARTS = {
    # formula, needs a level, needs its trained values, draws a new initialization, state
    "dense": Start("A(θ_init)", False, False, True, dense),
    "subnetwork": Start("A(θ_T ⊙ m_T)", True, True, False, subnetwork),
    "signs": Start("A(abs(θ_init) ⊙ s_T)", True, False, True, signs),
    "mask": Start("A(θ_init ⊙ m_T)", True, False, True, mask),
    "signs-keep-norms": Start("A(abs([φ_init, ψ_T]) ⊙ s_T)", True, True, True, signs_keep_norms),
    "signs-shifted-norms": Start("A(abs([φ_init, ψ*_init]) ⊙ s_T)", True, True, True, signs_shifted_norms),
}


def final_name(start: str, level: int | None, init_seed: int, order_seed: int) -> str:
    """The folder of a final training; the initialization is named where its seed is not the order's."""
    prefix = "" if level is None else f"{level_name(level)}_"
    usual = init_seed == order_seed or not STARTS[start].new_initialization
    return f"{prefix}{start}_seed{order_seed}" + ("" if usual else f"_init{init_seed}")
