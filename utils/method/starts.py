"""Where a final training starts: the transfers of sections 3.2, 4.2 and appendix A, and controls for them.

A network consists of a mask, the signs and magnitudes of the parameters outside normalization (φ), and the
normalization parameters ψ. A start names the source of each of these four in one word, and ``compose`` builds the
network from them.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from utils.method.network import State
from utils.method.pruning import Masks, shuffle_within_layers
from utils.method.signed_mask import (
    SignedMask,
    borrow_signs,
    draw_signs,
    extract_signed_mask,
    flip_signs,
    impose_signed_mask,
)
from utils.seeding import derive_seed

NONE, NEW, LEVEL, REWOUND = "none", "new", "level", "rewound"  # no mask; θ_init; θ_T; what IMP and WR rewind to
RANDOM, SHUFFLED, SHIFTED = "random", "shuffled", "shifted"  # random signs; mask shuffled in each layer; ψ*_init
CONSTANT = "constant"  # the mean magnitude of the layer's new initialization


class Start(NamedTuple):
    formula: str
    mask: str
    signs: str
    magnitudes: str
    norms: str
    holds_signs: bool = False  # whether no sign may change in the training
    factorizes: bool = False  # whether the weights are trained as products (utils/method/sign_in.py)

    @property
    def parts(self) -> dict[str, str]:
        """The source of each part."""
        return {part: getattr(self, part) for part in ("mask", "signs", "magnitudes", "norms")}

    @property
    def is_initial(self) -> bool:
        """Whether it is trained from a random initialization, or from what a method rewinds to."""
        return self.magnitudes in (NEW, CONSTANT, REWOUND)

    @property
    def transfers_signs(self) -> bool:
        """Whether a level's signs meet magnitudes that are not theirs."""
        return self.signs == LEVEL != self.magnitudes

    @property
    def needs_level(self) -> bool:
        """Whether it needs a finished level or a signed mask."""
        return self.mask != NONE

    @property
    def needs_trained(self) -> bool:
        """Whether it needs the level's trained values, so that a signed mask is not enough."""
        return bool({LEVEL, SHIFTED, REWOUND} & {self.magnitudes, self.norms})

    @property
    def new_initialization(self) -> bool:
        """Whether another initialization seed gives another network."""
        return bool({NEW, RANDOM, CONSTANT} & {self.signs, self.magnitudes, self.norms})


STARTS = {  # formula; sources of mask, signs, magnitudes and ψ
    "dense": Start("A(θ_init)", NONE, NEW, NEW, NEW),
    "subnetwork": Start("A(θ_T ⊙ m_T)", LEVEL, LEVEL, LEVEL, LEVEL),
    "signs": Start("A(abs(θ_init) ⊙ s_T)", LEVEL, LEVEL, NEW, NEW),
    "mask": Start("A(θ_init ⊙ m_T)", LEVEL, NEW, NEW, NEW),
    "signs-keep-norms": Start("A(abs([φ_init, ψ_T]) ⊙ s_T)", LEVEL, LEVEL, NEW, LEVEL),
    "signs-shifted-norms": Start("A(abs([φ_init, ψ*_init]) ⊙ s_T)", LEVEL, LEVEL, NEW, SHIFTED),
    "rewound": Start("A(θ_k ⊙ m_T)", LEVEL, REWOUND, REWOUND, REWOUND),  # the solution of IMP (k = 0) and WR
    # Controls: which part of a subnetwork carries what it has learned.
    "weights": Start("A([φ_T, ψ_init] ⊙ m_T)", LEVEL, LEVEL, LEVEL, NEW),
    "magnitudes": Start("A(abs([φ_T, ψ_init]) ⊙ ±m_T)", LEVEL, RANDOM, LEVEL, NEW),
    "magnitudes-keep-norms": Start("A(abs(θ_T) ⊙ ±m_T)", LEVEL, RANDOM, LEVEL, LEVEL),
    "mask-keep-norms": Start("A([φ_init, ψ_T] ⊙ m_T)", LEVEL, NEW, NEW, LEVEL),
    "random-signs": Start("A(abs(θ_init) ⊙ ±m_T)", LEVEL, RANDOM, NEW, NEW),
    "signs-constant": Start("A(mean(abs(θ_init)) ⊙ s_T)", LEVEL, LEVEL, CONSTANT, NEW),
    "signs-held": Start("A(abs(θ_init) ⊙ s_T), signs held", LEVEL, LEVEL, NEW, NEW, holds_signs=True),
    "sign-in": Start("A(θ_init ⊙ m_T), Sign-In", LEVEL, NEW, NEW, NEW, factorizes=True),
    "shuffled-mask": Start("A(θ_init ⊙ shuffled m_T)", SHUFFLED, NEW, NEW, NEW),
}


def compose(
    start: Start, sources: Mapping[str, State], masks: Masks, level_signs: SignedMask, norms: tuple[str, ...], seed: int
) -> tuple[State, Masks]:
    """abs(magnitudes) ⊙ signs ⊙ mask with the start's ψ, and the masks to keep during training.

    ``sources``: the states that NEW, LEVEL and REWOUND stand for. ``seed`` determines all random draws.
    """
    if start.mask == SHUFFLED:
        masks = shuffle_within_layers(masks, derive_seed(seed, "shuffled mask"))
    if start.signs == RANDOM:
        level_signs = draw_signs(level_signs, derive_seed(seed, "random signs"))
    # Batch-norm statistics start fresh unless all values come from one state.
    whole = start.signs == start.magnitudes == start.norms
    state = {name: tensor.clone() for name, tensor in sources[start.magnitudes if whole else NEW].items()}
    signs = level_signs
    if start.signs not in (LEVEL, RANDOM):
        signs = {name: torch.sign(sources[start.signs][name]) for name in level_signs}
    magnitudes = mean_magnitudes(sources[NEW], signs) if start.magnitudes == CONSTANT else sources[start.magnitudes]
    state |= impose_signed_mask({name: magnitudes[name] for name in signs}, signs)
    state |= {name: state[name] * mask for name, mask in masks.items()}
    if start.norms == SHIFTED:
        return state | shifted_norms(sources[LEVEL], norms), masks
    return state | {name: sources[start.norms][name].clone() for name in norms}, masks


def change_signs(
    level_signs: SignedMask, borrowed: SignedMask | None, flipped: float, new: State, seed: int
) -> SignedMask:
    """The signs of a transfer: ``borrowed`` from elsewhere, if they are, and the share ``flipped`` of them flipped."""
    if borrowed is not None:
        level_signs = borrow_signs(level_signs, borrowed, otherwise=new)
    return flip_signs(level_signs, flipped, derive_seed(seed, "flipped signs")) if flipped else level_signs


def mean_magnitudes(state: State, names: Iterable[str]) -> State:
    """Every value replaced by the mean magnitude of its tensor (Zhou et al., 2019; Brix et al., 2020)."""
    return {name: state[name].abs().mean().expand_as(state[name]) for name in names}


def shifted_norms(trained: State, norms: tuple[str, ...]) -> State:
    """ψ*_init of appendix A, with the level's signs: scale ±1 and shift ±0.1 (figure 5, purple)."""
    signs = extract_signed_mask(trained, {}, norms)
    return {name: sign * torch.tensor(0.1 if name.endswith("bias") else 1.0) for name, sign in signs.items()}
