"""Where the weights of a level begin, once pruned: the one thing in which LRR, weight rewinding and IMP differ.

Learning-rate rewinding (LRR, and AWS with it) keeps the weights as the level before left them; weight rewinding (WR)
sets them back to what they were early in training, iterative magnitude pruning (IMP) to the initialization. (Renda et
al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020; Frankle and Carbin, ICLR 2019.)
"""

INITIALIZATION_EPOCH = 0


def rewinding_epoch(method: str, warmup_epochs: int, asked: int | None = None) -> int | None:
    """The epoch of the warm-up whose end the surviving weights are set back to, 0 for the initialization; None where
    they are kept. ``asked`` is the user's own for WR, the warm-up's end by default.

    Raises ValueError for an epoch that the warm-up does not have, or that the method does not want.
    """
    if asked is not None and method != "wr":
        raise ValueError("only weight rewinding (--method wr) goes back to an epoch of choice")
    if method == "imp":
        return INITIALIZATION_EPOCH
    if method != "wr":
        return None
    if asked is not None and not 0 <= asked <= warmup_epochs:
        raise ValueError(f"the warm-up has epochs 0 to {warmup_epochs}, and {asked} is none of them")
    return warmup_epochs if asked is None else asked
