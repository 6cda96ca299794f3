"""The training step, an epoch of it, and evaluation.

``make_train_step`` is where the method is told: the forward pass with interpolated normalization (AWS; for LRR there is
nothing to interpolate), and the masks after the optimizer's step.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from utils.norm_interpolation import interpolate_normalization, normalization_parameters
from utils.pruning import Masks, apply_masks

Batches = Iterable[tuple[Tensor, Tensor]]
ForwardPass = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
TrainStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Accelerate = Callable[[ForwardPass], ForwardPass]


class TrainingError(Exception):
    """A training that cannot begin or has diverged; the message says where."""


@dataclass(frozen=True)
class Evaluation:
    """``loss``: mean cross-entropy in nats; ``accuracy``: top-1, in %."""

    loss: float
    accuracy: float

    @property
    def error(self) -> float:
        """Top-1 error in %."""
        return 100 - self.accuracy


def as_it_is(forward_pass: ForwardPass) -> ForwardPass:
    return forward_pass


def make_train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    masks: Masks,
    initial_norms: Mapping[str, Tensor],
    accelerate: Accelerate = as_it_is,
) -> TrainStep:
    """One step of training a subnetwork: ``step(images, labels, alpha) -> (loss, correct)``, 0-d tensors on the device.

    ``initial_norms`` is ψ_init for AWS and empty for normal training. The names are looked up here, once: a step walks
    over no module and waits for no device. ``accelerate`` makes the forward pass faster (``utils/fast_path.py``) and
    changes nothing of what it means.
    """
    norms = normalization_parameters(network)
    pruned_weights = [network.get_parameter(name) for name in masks]
    weight_masks = list(masks.values())

    @accelerate
    def forward_pass(images: Tensor, labels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        norms_of_this_step = interpolate_normalization(norms, initial_norms, alpha)
        outputs = functional_call(network, norms_of_this_step, (images,), tie_weights=False)
        return F.cross_entropy(outputs, labels), outputs

    def train_step(images: Tensor, labels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        loss, outputs = forward_pass(images, labels, alpha)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        apply_masks(pruned_weights, weight_masks)
        return loss.detach(), count_correct(outputs, labels)

    return train_step


def check_batch(network: nn.Module, images: Tensor) -> None:
    """Raises TrainingError for a batch too small to train on: a batch norm over a single value has no variance, which
    torch would refuse only when the last batch of the first epoch comes."""
    was_training = network.training
    try:
        network.train()
        network(images)
    except ValueError as error:
        raise TrainingError(
            f"the last batch of an epoch has {len(images)} image, too few for this network's batch norm at "
            f"{images.shape[-1]} pixels: choose another --batch-size"
        ) from error
    finally:
        network.train(was_training)


def count_correct(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.detach().argmax(dim=1) == labels).sum()


class Tally:
    """Loss and hits of many batches, summed on the device and read once at the end."""

    def __init__(self, device: torch.device):
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        self.loss += loss * images
        self.correct += correct
        self.images += images

    def add_outputs(self, outputs: Tensor, labels: Tensor) -> None:
        self.add(F.cross_entropy(outputs, labels), count_correct(outputs, labels), len(labels))

    def evaluation(self) -> Evaluation:
        return Evaluation(self.loss.item() / self.images, 100 * self.correct.item() / self.images)


def train_one_epoch(
    network: nn.Module, step: TrainStep, batches: Batches, alphas: Tensor, advance: Callable[[int], None]
) -> Evaluation:
    """Run ``step`` on every batch, or on what was drawn for it, with its own α; ``advance`` is told how many images
    were trained on.

    Returns loss and accuracy on the training batches, averaged over the epoch. Raises TrainingError.
    """
    network.train()
    tally = Tally(alphas.device)
    for batch, alpha in zip(batches, alphas, strict=True):
        loss, correct = step(*batch, alpha)
        images = len(batch[0])
        tally.add(loss, correct, images)
        advance(images)
    result = tally.evaluation()
    if not math.isfinite(result.loss):
        raise TrainingError("the training loss is no longer finite")
    return result


@torch.no_grad()
def evaluate(network: nn.Module, batches: Batches, predict: Callable[[Tensor], Tensor] | None = None) -> Evaluation:
    """Loss and accuracy in evaluation mode, float32; ``predict`` is the network or a faster way through it. Raises
    TrainingError."""
    network.eval()
    predict = predict or network
    tally = Tally(next(network.parameters()).device)
    for images, labels in batches:
        tally.add_outputs(predict(images), labels)
    result = tally.evaluation()
    if not math.isfinite(result.loss):
        raise TrainingError("the test loss is no longer finite")
    return result
