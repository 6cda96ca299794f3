"""Loss and accuracy of a network, and what is reported of a finished one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import Dataset
from utils.method.network import Blueprint, State
from utils.method.pruning import Masks, attention_apart, remaining_ratio, remaining_ratio_of_all, survivors
from utils.method.signed_mask import count_sign_flips
from utils.method.step import Batches, DivergedError, TrainingError, TrainStep, count_correct
from utils.training.distributed import gather, sum_over_processes, world_size
from utils.training.optimization import Recipe


@dataclass(frozen=True)
class Evaluation:
    """``loss``: mean cross-entropy in nats; ``accuracy``: top-1, in %."""

    loss: float
    accuracy: float

    @property
    def error(self) -> float:
        """Top-1 error in %."""
        return 100 - self.accuracy


class Tally:
    """Loss and hits of many batches, summed on the device and read once at the end. They may go on from the
    ``numbers`` of another tally. Of several processes, each has its own sums; ``images`` are those of all."""

    def __init__(self, device: torch.device, loss: float = 0.0, correct: int = 0, images: int = 0):
        self.loss = torch.full((), loss, dtype=torch.float64, device=device)
        self.correct = torch.full((), correct, dtype=torch.int64, device=device)
        self.images = images

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        self.loss += loss * images
        self.correct += correct
        self.images += images

    def numbers(self) -> dict[str, float]:
        return {"loss": self.loss.item(), "correct": self.correct.item(), "images": self.images}

    def evaluation(self, which: str = "test") -> Evaluation:
        """Of all processes. Raises DivergedError if the loss is not finite."""
        sums = torch.stack([self.loss, self.correct.double()])
        sum_over_processes([sums])
        loss, correct = sums.tolist()
        check_finite(loss, which)
        return Evaluation(loss / self.images, 100 * correct / self.images)


def check_finite(loss: float, which: str) -> None:
    """Raises DivergedError."""
    if not math.isfinite(loss):
        raise DivergedError(f"the {which} loss is no longer finite")


def train_one_epoch(
    network: nn.Module,
    step: TrainStep,
    batches: Batches,
    alphas: Tensor,
    advance: Callable[[int], None],
    tally: Tally | None = None,
) -> Evaluation:
    """Run ``step`` on every batch, or on what was drawn for it, with its own α; ``advance`` is told how many images
    were trained on, in all processes. ``tally`` continues an epoch that had begun.

    Returns loss and accuracy on the training batches, averaged over the epoch. Raises DivergedError.
    """
    network.train()
    tally = tally or Tally(alphas.device)
    for batch, alpha in zip(batches, alphas, strict=True):
        loss, correct = step(*batch, alpha)
        images = len(batch[0])
        tally.add(loss, correct, images)
        advance(images)
    return tally.evaluation("training")


@torch.no_grad()
def evaluate(network: nn.Module, batches: Batches, predict: Callable[[Tensor], Tensor] | None = None) -> Evaluation:
    """Loss and accuracy in evaluation mode; ``predict`` is the network or a faster way through it. Each
    process has its own ``batches``.

    Raises DivergedError.
    """
    network.eval()
    predict = predict or network
    tally = Tally(next(network.parameters()).device)
    for images, labels in batches:
        outputs = predict(images)
        tally.add(F.cross_entropy(outputs, labels), count_correct(outputs, labels), len(labels))
    tally.images = sum(gather(tally.images))
    return tally.evaluation()


def check_last_batch(blueprint: Blueprint, dataset: Dataset, recipe: Recipe) -> None:
    """Raises TrainingError if the last batch of an epoch is too small to train on: a batch norm over a single value has
    no variance, which torch would refuse only when that batch comes."""
    last = smallest_forward_pass(len(dataset.train), recipe)
    network = blueprint.build(torch.device("cpu")).train()
    # Two images stand for any larger batch.
    images = torch.zeros(min(last, 2), dataset.channels, dataset.image_size, dataset.image_size)
    try:
        network(images)
    except ValueError as error:
        raise TrainingError(
            f"the last batch of an epoch has {last} image in a forward pass, too few for this network's batch norm at "
            f"{dataset.image_size} pixels: choose another --batch-size"
        ) from error


def smallest_forward_pass(images: int, recipe: Recipe) -> int:
    """The fewest images that any process passes through the network at once in an epoch."""
    last, processes = images % recipe.batch_size or recipe.batch_size, world_size()
    parts = {recipe.batch_size // processes, last // processes, -(-last // processes)} - {0}
    return min(part % recipe.forward_size or recipe.forward_size for part in parts)


def describe_network(masks: Masks, blueprint: Blueprint, test: Evaluation, rows: Sequence[dict]) -> dict:
    """What is kept of every finished network; ``rows`` are its training's metrics. Accuracies and errors in %.

    Ratios are over the prunable weights, over those and the classifier's (as Gem-Miner counts), over all parameters.
    """
    unpruned = {name: torch.ones(shape, dtype=torch.bool) for name, shape in blueprint.shapes(blueprint.scored).items()}
    return {
        "epochs": len(rows),
        "remaining_ratio": remaining_ratio({name: masks[name] for name in blueprint.prunable}),
        "remaining_ratio_with_classifier": remaining_ratio(unpruned | masks),
        "remaining_ratio_of_all": remaining_ratio_of_all(blueprint.count(blueprint.learnable), masks),
        "test_accuracy": test.accuracy,
        "test_error": test.error,
        "test_loss": test.loss,
        "train_loss": rows[-1]["train_loss"] if rows else None,
        "train_accuracy": rows[-1]["train_accuracy"] if rows else None,
    }


def sign_statistics(trained: State, previous: State, initial: State, masks: Masks) -> dict:
    """Signs flipped since the last level and since initialization, as shares of the surviving weights, and the
    survivors of each layer, attention's Q, K and V apart."""
    return {
        "signs_flipped_since_last_level": flipped_share(trained, previous, masks),
        "signs_flipped_since_initialization": flipped_share(trained, initial, masks),
        "survivors": {name: int(mask.sum()) for name, mask in attention_apart(masks).items()},
    }


def flipped_share(trained: State, reference: State, masks: Masks) -> float:
    """Of the surviving weights, those whose sign differs."""
    return count_sign_flips(trained, reference, masks) / survivors(masks)


def describe_level(title: str, result: dict) -> str:
    """A finished level in one line, with the error at both ends of ψ's path."""
    at_initial = result.get("test_error_at_initial_norms")
    end = "" if at_initial is None else f" and {at_initial:.2f} % at ψ_init"
    return (
        f"{title}: {result['remaining_ratio']:.4f} of the prunable weights remain, test error "
        f"{result['test_error']:.2f} % at ψ{end}, {100 * result['signs_flipped_since_last_level']:.2f} % of the signs "
        "flipped"
    )
