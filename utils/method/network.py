"""What defines a network apart from its values: enough to build it, name its parts and save it."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from models import ARCHITECTURES, build_network
from utils.files import FileError, load, save
from utils.method.norm_interpolation import normalization_names
from utils.method.pruning import Masks, apply_masks, prunable_names
from utils.seeding import derive_seed, seed_global_generators

State = dict[str, Tensor]
NETWORK_PARTS = ("model", "masks", "initial_norms", "settings", "result")  # in a network.pt, beside the blueprint


@dataclass(frozen=True)
class Blueprint:
    """An architecture for a data set. Names are the network's own parameter names, in the network's order."""

    arch: str
    dataset: str
    classes: int
    channels: int
    # In pixels. Networks for any size are equal whatever it is; files of earlier versions, with no others, lack it.
    image_size: int = field(default=32, compare=False)

    def _construct(self) -> nn.Module:
        return build_network(self.arch, self.classes, self.channels, self.image_size)

    @cached_property
    def _outline(self) -> nn.Module:
        with torch.device("meta"):  # names and shapes without values
            return self._construct()

    @cached_property
    def prunable(self) -> tuple[str, ...]:
        """The weights that pruning may remove."""
        architecture = ARCHITECTURES[self.arch]
        return tuple(prunable_names(self._outline, architecture.classifier, architecture.unpruned))

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """ψ: scale and shift of the normalization layers."""
        return tuple(normalization_names(self._outline))

    @cached_property
    def learnable(self) -> tuple[str, ...]:
        """θ: every parameter."""
        return tuple(name for name, _ in self._outline.named_parameters())

    @cached_property
    def signed(self) -> tuple[str, ...]:
        """φ: the parameters that a signed mask covers, all except ψ."""
        return tuple(name for name in self.learnable if name not in self.norms)

    @cached_property
    def classifier(self) -> tuple[str, ...]:
        """The parameters of the layer that computes the class scores."""
        prefix = ARCHITECTURES[self.arch].classifier
        return tuple(name for name in self.learnable if name.startswith(f"{prefix}."))

    @property
    def scored(self) -> tuple[str, ...]:
        """The weights that Gem-Miner prunes: the prunable weights and the classifier's."""
        return (*self.prunable, *(name for name in self.classifier if name.endswith(".weight")))

    @property
    def prunable_count(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes(self.prunable).values())

    def shapes(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self._outline.get_parameter(name).shape) for name in names}

    def initialize(self, seed: int) -> State:
        """θ_init, determined by ``seed`` alone, with fresh batch-norm statistics; on the CPU."""
        seed_global_generators(derive_seed(seed, "initialization"))
        return self._construct().state_dict()

    def dense_masks(self) -> Masks:
        """Masks under which every prunable weight survives."""
        return {name: torch.ones(shape, dtype=torch.bool) for name, shape in self.shapes(self.prunable).items()}

    def build(self, state: Mapping[str, Tensor], masks: Masks, device: torch.device) -> nn.Module:
        """The network θ ⊙ m on the device, in channels-last memory format."""
        network = copy.deepcopy(self._outline)
        # Assigning the values skips a random initialization that they would replace.
        network.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
        apply_masks([network.get_parameter(name) for name in masks], list(masks.values()))
        return network.to(device, memory_format=torch.channels_last)

    def save_network(self, path: Path, state: State, masks: Masks, initial_norms: State, **about: dict) -> None:
        """Write a ``network.pt``: ``model`` loads strictly into the bare network; ``about`` holds the run's
        ``settings`` and the network's ``result``. README.md describes the rest."""
        version = {"network_version": ARCHITECTURES[self.arch].version}
        save(path, {"model": state, "masks": masks, "initial_norms": initial_norms, **about, **asdict(self), **version})


def plain_state(network: nn.Module) -> State:
    """A copy of the network's state dict that any code can load: on the CPU and contiguous."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def load_network(path: Path) -> tuple[Blueprint, dict]:
    """The blueprint and the content of a ``network.pt``, on the CPU: ``model``, ``masks``, ``initial_norms``,
    ``settings``, ``result``. Raises FileError if the file is damaged or holds no network.
    """
    content = {"image_size": Blueprint.image_size} | load(path)
    fields = Blueprint.__dataclass_fields__
    missing = {*NETWORK_PARTS, *fields} - content.keys()
    if missing:
        raise FileError(f"{path} is no network of this program: it has no {', '.join(sorted(missing))}")
    if content["arch"] not in ARCHITECTURES:
        raise FileError(f"{path} holds a network that this program does not know, {content['arch']}")
    version, ours = content.get("network_version", 1), ARCHITECTURES[content["arch"]].version
    if version != ours:
        raise FileError(
            f"{path} holds version {version} of {content['arch']}, and this program builds version {ours}: use the "
            "version of the program that made the file, or train the network again"
        )
    return Blueprint(**{name: content[name] for name in fields}), content
