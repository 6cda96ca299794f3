"""What defines a network apart from its values: enough to build it, name its parts and save it."""

import copy
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from models import ARCHITECTURES, build_network
from utils.files import FileError, advising, load, naming_damage, save
from utils.method.norm_interpolation import normalization_names
from utils.method.pruning import Masks, prunable_names
from utils.seeding import derive_seed

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

    def count(self, names: Iterable[str]) -> int:
        """How many values the parameters have together."""
        return sum(math.prod(shape) for shape in self.shapes(names).values())

    @cached_property
    def tensors(self) -> State:
        """The state dict, without values."""
        return self._outline.state_dict()

    def shapes(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self._outline.get_parameter(name).shape) for name in names}

    def initialize(self, seed: int) -> State:
        """θ_init, determined by ``seed`` alone, with fresh batch-norm statistics; on the CPU."""
        torch.manual_seed(derive_seed(seed, "initialization"))
        return self._construct().state_dict()

    def dense_masks(self) -> Masks:
        """Masks under which every prunable weight survives."""
        return {name: torch.ones(shape, dtype=torch.bool) for name, shape in self.shapes(self.prunable).items()}

    def build(self, device: torch.device, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The network on the device, in channels-last memory format, with the values of ``state`` or with some that
        are to be replaced."""
        network, state = copy.deepcopy(self._outline), state or self.initialize(0)
        # Assigning the values skips a random initialization that they would replace.
        network.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
        return network.to(device, memory_format=torch.channels_last)

    def save_network(self, path: Path, state: State, masks: Masks, initial_norms: State, **about: dict) -> None:
        """Write a ``network.pt``: ``model`` loads strictly into the bare network; ``about`` holds the run's
        ``settings`` and the network's ``result``. utils/runs/README.md describes the rest."""
        version = {"network_version": ARCHITECTURES[self.arch].version}
        save(path, {"model": state, "masks": masks, "initial_norms": initial_norms, **about, **asdict(self), **version})


def plain_state(network: nn.Module) -> State:
    """A copy of the network's state dict that any code can load: on the CPU and contiguous."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def load_network(path: Path, remedy: str = "copy it again or name another file") -> tuple[Blueprint, dict]:
    """The blueprint and the content of a ``network.pt``, on the CPU: ``model``, ``masks``, ``initial_norms``,
    ``settings``, ``result``.

    Raises FileError, ending with ``remedy``, if the file is damaged, holds no network, or one whose parts do not fit
    together; FileNotFoundError if there is none.
    """
    with advising(remedy):
        content = {"image_size": Blueprint.image_size} | load(path)
        with naming_damage(path, "is no network of this program"):  # which may have anything in the place of a part
            return _read_blueprint(path, content), content


def _read_blueprint(path: Path, content: dict) -> Blueprint:
    """Raises an exception unless all parts of the content are there and fit together."""
    fields = Blueprint.__dataclass_fields__
    missing = {*NETWORK_PARTS, *fields} - content.keys()
    if missing:
        raise FileError(f"{path} is no network of this program: it has no {', '.join(sorted(missing))}")
    version = content.get("network_version", 1)
    if [type(content[name]) for name in fields] != [str, str, int, int, int] or type(version) is not int:
        raise ValueError(f"its {', '.join(fields)} or version are no names and numbers")
    if content["arch"] not in ARCHITECTURES:
        raise FileError(f"{path} holds a network that this program does not know, {content['arch']}")
    ours = ARCHITECTURES[content["arch"]].version
    if version != ours:
        raise FileError(
            f"{path} holds version {version} of {content['arch']}, and this program builds version {ours}: use the "
            "version of the program that made the file, or train the network again"
        )
    blueprint = Blueprint(**{name: content[name] for name in fields})
    _check_tensors("model", content["model"], blueprint.tensors)
    norms = {name: blueprint.tensors[name] for name in blueprint.norms}
    _check_tensors("initial_norms", content["initial_norms"], norms)
    _check_masks(content["masks"], content["model"], blueprint)
    if not isinstance(content["settings"], dict) or not isinstance(content["result"], dict | None):
        raise ValueError("its settings or its result are no dict")
    json.dumps([content["settings"], content["result"]])  # raises unless they are plain values
    return blueprint


def _check_tensors(part: str, found: Mapping[str, Tensor], expected: State) -> None:
    """Raises ValueError unless the tensors are finite and have the expected names, shapes and types."""
    if found.keys() != expected.keys():
        raise ValueError(f"its {part} has not the names of such a network's tensors")
    for name, like in expected.items():
        tensor = found[name]
        if tensor.shape != like.shape or tensor.dtype != like.dtype or not _is_whole(tensor):
            raise ValueError(f"{name} in its {part} is not {like.dtype} of {tuple(like.shape)}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} in its {part} is not finite")


def _check_masks(masks: Masks, state: State, blueprint: Blueprint) -> None:
    """Raises ValueError unless every prunable weight has a mask, and what a mask prunes is 0."""
    if not set(blueprint.prunable) <= masks.keys() <= set(blueprint.signed):
        raise ValueError("its masks have not the names of such a network's weights")
    for name, mask in masks.items():
        if mask.shape != state[name].shape or mask.dtype != torch.bool or not _is_whole(mask):
            raise ValueError(f"the mask of {name} is not bool of {tuple(state[name].shape)}")
        if (state[name] * ~mask).any():
            raise ValueError(f"{name} is not 0 where its mask prunes")


def _is_whole(tensor: Tensor) -> bool:
    """Whether it is an ordinary tensor with memory for every value: one that is expanded can claim any size."""
    ordinary = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.device.type == "cpu"
    return ordinary and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
