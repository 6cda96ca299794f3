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
TrainStep = Callable[..., tuple[Tensor, Tensor]]
Accelerate = Callable[[ForwardPass], ForwardPass]
SumGradients = Callable[[Iterable[nn.Parameter]], None]


class TrainingError(UserError):
    """Training cannot start or go on; the message says where."""


class DivergedError(TrainingError):
    """The loss is no longer finite."""


def as_it_is(forward_pass: ForwardPass) -> ForwardPass:
    return forward_pass


def of_one_process(parameters: Iterable[nn.Parameter]) -> None:
    """Its gradients are the sums already."""


def make_train_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, masks: Masks, initial_norms: Mapping[str, Tensor],
    accelerate: Accelerate = as_it_is, label_smoothing: float = 0.0, clip_norm: float | None = None,
    micro_batch_size: int | None = None, held_signs: Mapping[str, Tensor] | None = None,
    sum_gradients: SumGradients = of_one_process,
) -> TrainStep:  # fmt: skip
    """One step of training a subnetwork: ``step(images, labels, alpha) -> (loss, correct)``, 0-d tensors on the device.

    ``initial_norms`` is ψ_init; if it is empty, ψ is not interpolated. Parameters are looked up by name here, once: a
    step neither walks over modules nor waits for the device. ``accelerate`` makes the forward pass faster, with the
    same meaning. With ``micro_batch_size``, a step takes so many images in one forward pass after the other, under one
    α: without batch norm, the gradients are the whole batch's to rounding. ``held_signs``: ±1 is kept, 0 is free.
    If other processes have the rest of the batch, ``step`` is told how many images there are ``in_all``, and
    ``sum_gradients`` adds up all processes' gradients; their losses and hits are still to be added up.
    """
    norms = normalization_parameters(network)
    pruned_weights, weight_masks = [network.get_parameter(name) for name in masks], list(masks.values())

    @accelerate
    def forward_pass(images: Tensor, labels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        norms_of_this_step = interpolate_normalization(norms, initial_norms, alpha)
        outputs = functional_call(network, norms_of_this_step, (images,), tie_weights=False)
        # In float32: CUDA's autocast would leave the logarithm of the softmax in bf16.
        return F.cross_entropy(outputs.float(), labels, label_smoothing=label_smoothing), outputs

    def train_step(images: Tensor, labels: Tensor, alpha: Tensor, in_all: int | None = None) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        result = accumulate_gradients(forward_pass, images, labels, alpha, micro_batch_size, in_all)
        sum_gradients(optimized(optimizer))
        if clip_norm is not None:
            clip_gradients(optimizer, pruned_weights, weight_masks, clip_norm)
        optimizer.step()
        apply_masks(pruned_weights, weight_masks)
        if held_signs:
            hold_signs(network, held_signs)
        return result

    return train_step


def optimized(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def clip_gradients(
    optimizer: torch.optim.Optimizer, pruned_weights: list[Tensor], weight_masks: list[Tensor], norm: float
) -> None:
    """Scale all gradients down to ``norm`` together. As if masked in the forward pass, those of pruned weights do not
    count."""
    apply_masks([weight.grad for weight in pruned_weights], weight_masks)
    nn.utils.clip_grad_norm_(optimized(optimizer), norm)


@torch.no_grad()
def hold_signs(network: nn.Module, held_signs: Mapping[str, Tensor]) -> None:
    """s ⊙ abs(W) where a sign s is held: a weight that would have crossed 0 is reflected there."""
    for name, signs in held_signs.items():
        weight = network.get_parameter(name)
        weight.copy_(torch.where(signs == 0, weight, signs * weight.abs()))


def accumulate_gradients(
    forward_pass: ForwardPass, images: Tensor, labels: Tensor, alpha: Tensor, micro_batch_size: int | None,
    in_all: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Add the gradients of these images' share in the mean loss of ``in_all`` images, some of them in a forward pass
    after the other; returns that share and the hits. By default, these images are all, in one pass."""
    if not len(images):  # which batch norms refuse
        return images.new_zeros(()), labels.new_zeros(())
    losses, corrects = [], []
    size, in_all = micro_batch_size or len(images), in_all or len(images)
    for some_images, some_labels in zip(images.split(size), labels.split(size), strict=True):
        loss, outputs = forward_pass(some_images, some_labels, alpha)
        share = loss * (len(some_images) / in_all)
        share.backward()
        losses.append(share.detach())
        corrects.append(count_correct(outputs, some_labels))
    return torch.stack(losses).sum(), torch.stack(corrects).sum()


def count_correct(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.detach().argmax(dim=1) == labels).sum()
