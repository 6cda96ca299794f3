"""Which weights may be pruned, and pruning by magnitude.

A mask is a value: a dict from a prunable weight's name (the network's own parameter name) to a bool tensor of its
shape, True where the weight survives. Masks are applied to the plain parameters after every optimizer step.
"""

from collections.abc import Mapping
from decimal import Decimal

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.method.norm_interpolation import normalization_names

Masks = dict[str, Tensor]

# Weights that are pruned and parameters that never are, by kind of layer. Except for normalization layers, a parameter
# in neither table is an error.
PRUNABLE = {
    nn.modules.conv._ConvNd: ("weight",),
    nn.Linear: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}
NEVER_PRUNED = {
    nn.modules.conv._ConvNd: ("bias",),
    nn.Linear: ("bias",),
    nn.MultiheadAttention: ("in_proj_bias", "bias_k", "bias_v"),
}
PACKED = ("in_proj_weight", "in_proj.weight")  # queries, keys and values, one below the other: torch's, and our ViT's


def prunable_names(network: nn.Module, classifier: str, unpruned: tuple[str, ...] = ()) -> list[str]:
    """The weights of every convolution, linear and attention layer except the classifier, in the network's order.

    ``classifier`` is the module that makes the class scores; ``unpruned`` names further parameters to leave dense,
    such as position embeddings. Raises UserError if the classifier does not exist, or if a parameter is in neither
    table, so that no weight stays dense unnoticed.
    """
    if classifier not in dict(network.named_modules()):
        raise UserError(f"the network has no module {classifier!r} to use as its classifier")
    normalization = set(normalization_names(network))
    names = []
    for module_name, module in network.named_modules():
        for short_name, _ in module.named_parameters(recurse=False):
            name = f"{module_name}.{short_name}" if module_name else short_name
            if name in normalization or name in unpruned or _listed(NEVER_PRUNED, module, short_name):
                continue
            if not _listed(PRUNABLE, module, short_name):
                raise UserError(
                    f"{name} is a parameter of a {type(module).__name__}, a kind of layer that pruning does not cover: "
                    "add it to PRUNABLE in utils/method/pruning.py, or list it in unpruned"
                )
            if module_name != classifier:
                names.append(name)
    return names


def attention_apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by name for reports, but attention's queries, keys and values apart: ``PREFIX.Q``, ``.K`` and ``.V``."""
    apart = {}
    for name, tensor in tensors.items():
        prefix = next((name.removesuffix(packed) for packed in PACKED if name.endswith(packed)), None)
        parts = {name: tensor}
        if prefix is not None:
            parts = {prefix + part: third for part, third in zip("QKV", tensor.chunk(3), strict=True)}
        apart |= parts
    return apart


def _listed(table: Mapping[type, tuple[str, ...]], module: nn.Module, short_name: str) -> bool:
    return any(isinstance(module, kind) and short_name in names for kind, names in table.items())


def amount_to_prune(survivors: int, prune_rate: float) -> int:
    """floor(prune_rate · survivors), computed in decimals: 0.29 of 100 is 29, but 28 in floating point."""
    return int(Decimal(str(prune_rate)) * survivors)


def planned_survivors(prunable: int, prune_rate: float, levels: int) -> list[int]:
    """How many prunable weights survive after levels 0, 1 .. ``levels``.

    Raises UserError if a level would prune nothing or everything.
    """
    counts = [prunable]
    for level in range(1, levels + 1):
        amount = amount_to_prune(counts[-1], prune_rate)
        if not 0 < amount < counts[-1]:
            raise UserError(
                f"level {level} would prune {amount} of the {counts[-1]} weights left at --prune-rate "
                f"{prune_rate}: choose a rate between 0 and 1, or fewer --levels"
            )
        counts.append(counts[-1] - amount)
    return counts


def prune_by_magnitude(weights: Mapping[str, Tensor], masks: Masks, prune_rate: float) -> Masks:
    """New masks without the ``floor(prune_rate · survivors)`` surviving weights of smallest magnitude, ranked globally
    (section 3.1).

    The number is exact: of equal magnitudes the first are pruned (by layer, then by position). Raises UserError if
    nothing or everything would be pruned.
    """
    magnitudes = torch.cat([weights[name].detach().abs().flatten()[mask.flatten()] for name, mask in masks.items()])
    _, left = planned_survivors(len(magnitudes), prune_rate, levels=1)
    amount = len(magnitudes) - left
    threshold = magnitudes.kthvalue(amount).values
    tied = magnitudes == threshold
    pruned_ties = amount - (magnitudes < threshold).sum()
    survives = (magnitudes > threshold) | (tied & (tied.cumsum(0) > pruned_ties))
    pruned = {}
    parts = survives.split([int(mask.sum()) for mask in masks.values()])
    for (name, mask), part in zip(masks.items(), parts, strict=True):
        pruned[name] = mask.clone()
        pruned[name][mask] = part
    return pruned


def shuffle_within_layers(masks: Masks, seed: int) -> Masks:
    """Masks with as many survivors per layer at random positions: a control that keeps only the layers' densities."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)
        for name, mask in masks.items()
    }


@torch.no_grad()
def apply_masks(weights: list[Tensor], masks: list[Tensor]) -> None:
    """Set the pruned weights to zero, in place. Done after every optimizer step, this gives the surviving weights the
    same bits as masking in the forward pass, and neither momentum nor weight decay can revive a pruned weight."""
    if weights:  # a dense network may have no masks
        torch._foreach_mul_(weights, masks)


def survivors(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def remaining_ratio(masks: Masks) -> float:
    """Surviving prunable weights over all prunable weights; 0.8^t after level t in the paper."""
    return survivors(masks) / sum(mask.numel() for mask in masks.values())


def remaining_ratio_of_all(parameters: int, masks: Masks) -> float:
    """Unpruned parameters over all ``parameters``, including biases, normalization and classifier."""
    pruned = sum(mask.numel() for mask in masks.values()) - survivors(masks)
    return (parameters - pruned) / parameters
