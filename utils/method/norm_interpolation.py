"""AWS: random interpolation of the normalization parameters with their initial values (equation 2)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

NORMALIZATION_LAYERS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalization
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def normalization_names(network: nn.Module) -> Iterator[str]:
    """The names of ψ: the scale and shift of every normalization layer that learns them."""
    for module_name, module in network.named_modules():
        if isinstance(module, NORMALIZATION_LAYERS):
            for short_name, _ in module.named_parameters(recurse=False):
                yield f"{module_name}.{short_name}" if module_name else short_name


def normalization_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """ψ by name: the parameters themselves."""
    return {name: network.get_parameter(name) for name in normalization_names(network)}


def initial_normalization(network: nn.Module) -> dict[str, Tensor]:
    """A copy of ψ. For a freshly initialized network this is ψ_init, whatever values its layers start from."""
    return {name: parameter.detach().clone() for name, parameter in normalization_parameters(network).items()}


def interpolate_normalization(
    current: Mapping[str, Tensor], initial: Mapping[str, Tensor], alpha: Tensor
) -> dict[str, Tensor]:
    """(ψ, ψ_init)_α = α·ψ + (1−α)·ψ_init by name, equation 2; ``alpha`` is a 0-d tensor, one for all layers, or has one
    for each of ``layers_of(initial)``.

    Nothing is stored in the network: the caller passes the result to ``torch.func.functional_call``, so α cannot leak
    into evaluation or a checkpoint. At α = 1 the result equals ψ bit for bit.
    """
    layers = layers_of(initial)
    of_layer = dict(zip(layers, alpha.unbind() if alpha.dim() else [alpha] * len(layers), strict=True))
    return {name: torch.lerp(initial[name], current[name], of_layer[_layer(name)]) for name in initial}


def layers_of(norms: Iterable[str]) -> list[str]:
    """The normalization layers that ψ belongs to, by name."""
    return list(dict.fromkeys(map(_layer, norms)))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def draw_alphas(count: int, alpha_range: Sequence[float], seed: int, layers: int | None = None) -> Tensor:
    """One α ~ U(low, high) per step of an epoch, float32 (count,); for one a layer, (count, layers)."""
    low, high = alpha_range
    shape = (count,) if layers is None else (count, layers)
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
