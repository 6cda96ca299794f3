"""How a run finds masks and signs: one row per method.

Learning-rate rewinding (LRR, and AWS, which builds on it) keeps the weights of the previous level; weight rewinding
(WR) resets them to their values early in training, iterative magnitude pruning (IMP) to the initialization (Renda et
al., ICLR 2020; Frankle and Carbin, ICLR 2019). Gem-Miner searches for a mask at initialization.
"""

from typing import NamedTuple

INITIALIZATION, WARM_UP = "initialization", "warm-up"


class Method(NamedTuple):
    label: str  # in tables
    color: str | None  # of its curves
    description: str  # of what a level does, once its smallest weights are pruned
    prunes: bool = True  # whether it has levels
    interpolates: bool = False  # whether it interpolates ψ in every step of the warm-up and the levels
    rewinds_to: str | None = None  # what a level resets its surviving weights to; None: they keep their values
    searches: bool = False  # whether every level is a separate search at initialization

    @property
    def solution(self) -> str:
        """The start of its own solution: where a level's subnetwork is trained from in the method's paper."""
        return "subnetwork" if self.rewinds_to is None else "rewound"


# fmt: off
METHODS = {  # in the order of the tables
    "dense": Method("dense", None, "no level: trains the whole network", prunes=False),
    "imp": Method("IMP", "tab:olive",
        "iterative magnitude pruning: resets survivors to the initialization, then trains", rewinds_to=INITIALIZATION),
    "wr": Method("WR", "tab:cyan", "weight rewinding: resets survivors to what they were at the end of the warm-up, "
        "or after its epoch --rewind-epoch, then trains", rewinds_to=WARM_UP),
    "lrr": Method("LRR", "royalblue", "learning-rate rewinding: trains on from the weights as they are"),
    "aws": Method("AWS", "limegreen", "learning-rate rewinding with ψ interpolated in every training step",
        interpolates=True),
    "gm": Method("GM", "tab:gray", "Gem-Miner: a separate search at initialization for every level in --final-levels",
        searches=True),
    "signed_mask": Method("signed mask", "black", "no level: takes a subnetwork or its signs from the file "
        "--signed-mask", prunes=False),
}
# fmt: on
