"""Where a final training begins: the transfers of sections 3.2, 4.2 and appendix A, and the controls beside them.

A subnetwork is a mask, the signs and the magnitudes of the surviving parameters outside normalization (φ), and the
normalization parameters ψ. A start takes some of these from the level and the others from a new initialization θ_init,
or draws them at random. Each returns the state to train from; one that works from a signed-mask file does without θ_T.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from utils.blueprint import State
from utils.pruning import Masks, shuffle_within_layers
from utils.run_folder import level_name
from utils.seeding import derive_seed
from utils.signed_mask import SignedMask, draw_signs, impose_signed_mask

SHIFTED_SCALE = 1.0  # ψ*_init of appendix A
SHIFTED_SHIFT = 0.1


@dataclass(frozen=True)
class Origin:
    """What a final training may start from.

    ``initial``: θ_init; ``trained``: θ_T with its batch-norm statistics, empty where only a signed mask is known;
    ``rewound``: what IMP and weight rewinding set weights back to; ``norms``: the names of ψ; ``seed`` decides what a
    start draws at random.
    """

    initial: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]
    rewound: Mapping[str, Tensor]
    masks: Masks
    signed_mask: SignedMask
    norms: tuple[str, ...]
    seed: int

    def with_random_signs(self) -> "Origin":
        """The same mask with a sign drawn for every survivor."""
        return replace(self, signed_mask=draw_signs(self.signed_mask, derive_seed(self.seed, "random signs")))


class Start(NamedTuple):
    """A start and where it takes each part from; ``masks`` are those it trains under, the level's by default."""

    formula: str
    mask: str
    signs: str
    magnitudes: str
    norms: str
    state: Callable[[Origin], State]

    @property
    def needs_level(self) -> bool:
        """A finished level, or a signed mask."""
        return self.mask != NONE

    @property
    def needs_trained(self) -> bool:
        """The level's own values: a signed mask is not enough."""
        return bool({LEVEL, SHIFTED, REWOUND} & {self.magnitudes, self.norms})

    @property
    def new_initialization(self) -> bool:
        """Else it descends from the pruning run's own, and no seed but the order's makes another network."""
        return bool({NEW, RANDOM} & {self.signs, self.magnitudes, self.norms})


def choose_masks(start: str, origin: Origin) -> Masks:
    """The masks that a final training from ``start`` keeps: the level's, shuffled where the start says so."""
    if STARTS[start].mask == SHUFFLED:
        return shuffle_within_layers(origin.masks, derive_seed(origin.seed, "shuffled mask"))
    return origin.masks


def dense(origin: Origin) -> State:
    return _copy(origin.initial)


def subnetwork(origin: Origin) -> State:
    """The level's own weights, normalization and batch-norm statistics included."""
    return _copy(origin.trained)


def rewound(origin: Origin) -> State:
    """The winning ticket of IMP and weight rewinding: the level's zeros in the weights that it was rewound to."""
    return mask(replace(origin, initial=origin.rewound))


def mask(origin: Origin) -> State:
    """Only the zeros."""
    return {
        name: tensor * origin.masks[name] if name in origin.masks else tensor.clone()
        for name, tensor in origin.initial.items()
    }


def shuffled_mask(origin: Origin) -> State:
    """Only how many weights of each layer survive."""
    return mask(replace(origin, masks=choose_masks("shuffled-mask", origin)))


def signs(origin: Origin) -> State:
    """Signs and zeros; ψ freshly initialised."""
    return impose_signed_mask(origin.initial, origin.signed_mask)


def random_signs(origin: Origin) -> State:
    """The zeros, with signs drawn at random for everything that a sign transfer gives a sign."""
    return signs(origin.with_random_signs())


def weights(origin: Origin) -> State:
    """Zeros, signs and magnitudes; ψ freshly initialised."""
    return _copy(origin.initial) | {name: origin.trained[name].clone() for name in origin.signed_mask}


def magnitudes(origin: Origin) -> State:
    """Zeros and magnitudes, with random signs; ψ freshly initialised."""
    return impose_signed_mask(weights(origin), origin.with_random_signs().signed_mask)


def signs_shifted_norms(origin: Origin) -> State:
    """Sign transfer with scale 1 and shift 0.1, the shift's signs taken from the level (figure 5, purple)."""
    shifted = {}
    for name in origin.norms:
        if name.endswith("bias"):
            shifted[name] = SHIFTED_SHIFT * torch.sign(origin.trained[name])
        else:
            shifted[name] = torch.full_like(origin.trained[name], SHIFTED_SCALE)
    return signs(origin) | shifted


def keeping_norms(start: Callable[[Origin], State]) -> Callable[[Origin], State]:
    """The same start with the level's ψ (figure 2, red: the sign transfer's); batch-norm statistics start anew."""
    return lambda origin: start(origin) | {name: origin.trained[name].clone() for name in origin.norms}


def _copy(state: Mapping[str, Tensor]) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


LEVEL, NEW, RANDOM, SHUFFLED = "level", "new", "random", "shuffled"
SHIFTED, REWOUND, NONE = "shifted", "rewound", "none"

STARTS = {
    # formula, and from where: mask, signs, magnitudes, ψ; state
    "dense": Start("A(θ_init)", NONE, NEW, NEW, NEW, dense),
    "subnetwork": Start("A(θ_T ⊙ m_T)", LEVEL, LEVEL, LEVEL, LEVEL, subnetwork),
    "signs": Start("A(abs(θ_init) ⊙ s_T)", LEVEL, LEVEL, NEW, NEW, signs),
    "mask": Start("A(θ_init ⊙ m_T)", LEVEL, NEW, NEW, NEW, mask),
    "signs-keep-norms": Start("A(abs([φ_init, ψ_T]) ⊙ s_T)", LEVEL, LEVEL, NEW, LEVEL, keeping_norms(signs)),
    "signs-shifted-norms": Start("A(abs([φ_init, ψ*_init]) ⊙ s_T)", LEVEL, LEVEL, NEW, SHIFTED, signs_shifted_norms),
    "rewound": Start("A(θ_k ⊙ m_T)", LEVEL, REWOUND, REWOUND, REWOUND, rewound),
    # Controls: which part of a subnetwork carries what it knows.
    "weights": Start("A([φ_T, ψ_init] ⊙ m_T)", LEVEL, LEVEL, LEVEL, NEW, weights),
    "magnitudes": Start("A(abs([φ_T, ψ_init]) ⊙ ±m_T)", LEVEL, RANDOM, LEVEL, NEW, magnitudes),
    "magnitudes-keep-norms": Start("A(abs(θ_T) ⊙ ±m_T)", LEVEL, RANDOM, LEVEL, LEVEL, keeping_norms(magnitudes)),
    "mask-keep-norms": Start("A([φ_init, ψ_T] ⊙ m_T)", LEVEL, NEW, NEW, LEVEL, keeping_norms(mask)),
    "random-signs": Start("A(abs(θ_init) ⊙ ±m_T)", LEVEL, RANDOM, NEW, NEW, random_signs),
    "shuffled-mask": Start("A(θ_init ⊙ shuffled m_T)", SHUFFLED, NEW, NEW, NEW, shuffled_mask),
}


@dataclass(frozen=True)
class FinalTraining:
    """A final training of a run, by what decides it; ``level`` is None where the start needs no level of this run."""

    start: str
    level: int | None
    init_seed: int
    order_seed: int

    @property
    def name(self) -> str:
        """Its folder; the initialization is named where its seed is not the order's."""
        prefix = "" if self.level is None else f"{level_name(self.level)}_"
        usual = self.init_seed == self.order_seed or not STARTS[self.start].new_initialization
        return f"{prefix}{self.start}_seed{self.order_seed}" + ("" if usual else f"_init{self.init_seed}")

    @property
    def stage(self) -> str:
        """Its folder below the run's."""
        return f"final/{self.name}"
