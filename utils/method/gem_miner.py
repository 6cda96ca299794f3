"""Gem-Miner, a search for a mask at initialization (the baseline of figure 4).

Sreenivasan et al., "Rare Gems: Finding Lottery Tickets at Initialization", NeurIPS 2022. The weights stay frozen at
w0 = ±sqrt(2 / fan_in). Each has a trained score p between 0 and 1, and the forward pass uses the weights with p > 1/2
that are not frozen out (q): w0 · 1[p > 1/2] · q. After the sixth epoch and every five after that, the smallest active
scores are frozen out. The classifier is pruned like every other layer. Gem-Miner's networks have no normalization
parameters and no biases; here they stay at scale 1, shift 0 and bias 0.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from utils.errors import UserError
from utils.method.pruning import Masks, prune_by_magnitude
from utils.method.step import Accelerate, TrainStep, as_it_is, count_correct

FREEZE_INTERVAL = 5  # epochs
THRESHOLD = 0.5


def count_freezes(epochs: int) -> int:
    """N: how many times a search of ``epochs`` freezes scores out."""
    return (epochs - 1) // FREEZE_INTERVAL


def freezes_after(epochs_done: int) -> bool:
    """Whether scores are frozen out after ``epochs_done`` epochs of a search: 6, 11, 16 .. as in the published code."""
    return epochs_done > 1 and epochs_done % FREEZE_INTERVAL == 1


def freeze_rate(remaining: float, epochs: int) -> float:
    """ρ = 1 − s^(1/N): the share of the active scores that each freeze takes to leave s = ``remaining`` at the end.

    Raises UserError if the search is too short to freeze anything.
    """
    if count_freezes(epochs) < 1:
        raise UserError(
            f"Gem-Miner freezes weights every {FREEZE_INTERVAL} epochs and {epochs} are too few: give at least "
            f"--level-epochs {FREEZE_INTERVAL + 1}"
        )
    return 1 - remaining ** (1 / count_freezes(epochs))


def signed_constants(initial: Mapping[str, Tensor], scored: Iterable[str], norms: Iterable[str]) -> dict[str, Tensor]:
    """w0: ±sqrt(2 / fan_in) with the signs of ``initial`` for the weights ``scored``; scale 1, shift 0 and biases 0."""
    scored, norms = set(scored), set(norms)
    state = {}
    for name, tensor in initial.items():
        if name in scored:
            state[name] = torch.sign(tensor) * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith(".bias"):
            state[name] = torch.zeros_like(tensor)
        elif name in norms:
            state[name] = torch.ones_like(tensor)
        else:
            state[name] = tensor.clone()
    return state


class _ThresholdStraightThrough(torch.autograd.Function):
    """1[p > 1/2] with the gradient of the identity (straight-through)."""

    @staticmethod
    def forward(ctx, scores: Tensor) -> Tensor:
        return (scores > THRESHOLD).to(scores.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class GemMiner(nn.Module):
    """A network of frozen weights with a trained score for every weight in ``scored``, which ``start`` draws."""

    def __init__(self, network: nn.Module, scored: Iterable[str]):
        super().__init__()
        self.network = network.requires_grad_(False)
        self.scored = tuple(scored)
        self.weights = [network.get_parameter(name) for name in self.scored]
        self.scores = nn.ParameterList(torch.empty_like(weight) for weight in self.weights)
        for index, weight in enumerate(self.weights):
            self.register_buffer(f"active_{index}", torch.ones_like(weight, dtype=torch.bool))

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """Draw new scores in place and make every weight active."""
        generator = torch.Generator().manual_seed(seed)
        for score, active in zip(self.scores, self._active(), strict=True):
            score.copy_(torch.rand(score.shape, generator=generator))
            active.fill_(True)

    def forward(self, images: Tensor) -> Tensor:
        chosen = {
            name: weight * _ThresholdStraightThrough.apply(score) * active
            for name, weight, score, active in zip(self.scored, self.weights, self.scores, self._active(), strict=True)
        }
        return functional_call(self.network, chosen, (images,), tie_weights=False)

    def _active(self) -> list[Tensor]:
        return [self.get_buffer(f"active_{index}") for index in range(len(self.scored))]

    def masks(self) -> Masks:
        """q by name, on the CPU: True where a weight is not frozen out. At the end of the search this is the mask."""
        return {name: active.to("cpu", copy=True) for name, active in zip(self.scored, self._active(), strict=True)}

    @torch.no_grad()
    def clip_scores(self) -> None:
        for score in self.scores:
            score.clamp_(0, 1)

    def penalty(self) -> Tensor:
        """Σ p² over all layers."""
        return torch.stack([score.square().sum() for score in self.scores]).sum()

    def freeze_smallest(self, rate: float) -> None:
        """Freeze out the share ``rate`` of the active weights: those with the smallest scores, ranked globally."""
        self.clip_scores()
        scores = {name: score.cpu() for name, score in zip(self.scored, self.scores, strict=True)}
        masks = prune_by_magnitude(scores, self.masks(), rate)
        for active, mask in zip(self._active(), masks.values(), strict=True):
            active.copy_(mask)


def make_search_step(
    miner: GemMiner, optimizer: torch.optim.Optimizer, penalty_weight: float | Tensor, accelerate: Accelerate = as_it_is
) -> TrainStep:
    """One step of the search: clip the scores, then minimize cross-entropy + λ Σ p². ``alpha`` and ``in_all`` have no
    effect: one process has every image.

    ``penalty_weight``: λ; as a tensor, it is read at every step. ``accelerate``: as in ``make_train_step``.
    """

    @accelerate
    def forward_pass(images: Tensor, labels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        outputs = miner(images)
        return F.cross_entropy(outputs.float(), labels), outputs  # as in make_train_step

    def search_step(images: Tensor, labels: Tensor, alpha: Tensor, in_all: int | None = None) -> tuple[Tensor, Tensor]:
        miner.clip_scores()
        loss, outputs = forward_pass(images, labels, alpha)
        optimizer.zero_grad(set_to_none=True)
        (loss + penalty_weight * miner.penalty()).backward()
        optimizer.step()
        return loss.detach(), count_correct(outputs, labels)

    return search_step
