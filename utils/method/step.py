"""One training step, which combines the parts of the method: interpolated normalization parameters in the forward pass
(α = 1 is ordinary training), and the masks after the optimizer step."""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from utils.errors import UserError
from utils.method.norm_interpolation import interpolate_normalization, normalization_parameters
from utils.method.pruning import Masks, apply_masks

Batches = Iterable[tuple[Tensor, Tensor]]
ForwardPass = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
TrainStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Accelerate = Callable[[ForwardPass], ForwardPass]


class TrainingError(UserError):
    """Training cannot start or has diverged; the message says where."""


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

    ``initial_norms`` is ψ_init; if it is empty, ψ is not interpolated. Parameters are looked up by name here, once, so
    that a step neither walks over modules nor waits for the device. ``accelerate`` makes the forward pass faster
    (``utils/training/fast_path.py``) without changing its meaning.
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


def count_correct(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.detach().argmax(dim=1) == labels).sum()
