"""The signed mask s = sign0(θ ⊙ m): extract it from a subnetwork, impose it on another network, keep it in a file.

In memory a signed mask is a dict from parameter name to an int8 tensor: 0 if pruned, −1 or +1 for the sign of a
survivor. It covers every parameter outside the normalization layers; those that are never pruned survive everywhere. A
surviving weight that is exactly 0 has the sign +1, so that 0 always means pruned.
"""

import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.files import FileError, check_entries, naming_damage, write
from utils.method.network import Blueprint, State, load_network
from utils.method.pruning import Masks

SignedMask = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]

FORMAT = 1
SMALL = 1000  # bytes that a shape or a name may have
NPY_HEADER = 128  # bytes before an array's own
MENTIONED_DIFFERENCES = 3  # tensors that an error lists before it only counts the rest


def extract_signed_mask(state: Mapping[str, Tensor], masks: Masks, names: Iterable[str]) -> SignedMask:
    """s = sign0(θ ⊙ m) of the parameters ``names`` (all except normalization), section 3.2."""
    signed_mask = {}
    for name in names:
        signs = torch.where(state[name] < 0, -1, 1).to(torch.int8)
        signed_mask[name] = signs * masks[name] if name in masks else signs
    return signed_mask


def impose_signed_mask(state: Mapping[str, Tensor], signed_mask: SignedMask) -> dict[str, Tensor]:
    """abs(θ) ⊙ s: the magnitudes of ``state`` with the signs and zeros of the mask; other tensors unchanged.

    What is exactly 0 stays 0 under any sign: a bias that starts at 0 loses the sign that is transferred to it
    (``count_lost_signs``).
    """
    return {
        name: tensor.abs() * signed_mask[name] if name in signed_mask else tensor.clone()
        for name, tensor in state.items()
    }


def count_lost_signs(state: Mapping[str, Tensor], signed_mask: SignedMask) -> int:
    """How many survivors are exactly 0 in ``state``, where they can have no sign."""
    return sum(int(((state[name] == 0) & (signs != 0)).sum()) for name, signs in signed_mask.items())


def draw_signs(signed_mask: SignedMask, seed: int) -> SignedMask:
    """The same zeros, with a random sign for every survivor: −1 or +1 with equal probability."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (2 * torch.randint(0, 2, signs.shape, generator=generator, dtype=torch.int8) - 1) * (signs != 0)
        for name, signs in signed_mask.items()
    }


def flip_signs(signed_mask: SignedMask, share: float, seed: int) -> SignedMask:
    """The same zeros, with round(share · survivors) of the signs flipped, drawn over all tensors."""
    flat = torch.cat([signs.flatten() for signs in signed_mask.values()])
    survivors = flat.nonzero().flatten()
    drawn = torch.randperm(len(survivors), generator=torch.Generator().manual_seed(seed))
    flat[survivors[drawn[: round(share * len(survivors))]]] *= -1
    parts = flat.split([signs.numel() for signs in signed_mask.values()])
    return {name: part.view_as(signs) for (name, signs), part in zip(signed_mask.items(), parts, strict=True)}


def borrow_signs(signed_mask: SignedMask, source: SignedMask, otherwise: Mapping[str, Tensor]) -> SignedMask:
    """The zeros of ``signed_mask`` with the signs of ``source``; what is pruned there has the sign of ``otherwise``,
    which tells nothing of the source, and so has another data set's classifier, which is not there."""
    own = extract_signed_mask(otherwise, {}, signed_mask)
    return {
        name: torch.where(source[name] == 0, own[name], source[name]) * (signs != 0) if name in source else own[name]
        for name, signs in signed_mask.items()
    }


def masks_of(signed_mask: SignedMask, prunable: Iterable[str]) -> Masks:
    """The mask m, True where the signed mask is not 0: for the prunable weights and every other tensor with zeros
    (Gem-Miner also prunes the classifier)."""
    prunable = set(prunable)
    return {name: signs != 0 for name, signs in signed_mask.items() if name in prunable or not signs.all()}


def count_sign_flips(state: Mapping[str, Tensor], reference: Mapping[str, Tensor], masks: Masks) -> int:
    """How many surviving weights have a different sign in ``reference``."""
    return sum(
        int(((torch.sign(state[name]) != torch.sign(reference[name])) & mask).sum()) for name, mask in masks.items()
    )


@dataclass(frozen=True)
class SignedMaskFile:
    """The content of a signed-mask file: the signed mask and where it comes from."""

    signed_mask: SignedMask
    arch: str
    dataset: str


def save_signed_mask(path: Path, signed_mask: SignedMask, arch: str, dataset: str) -> None:
    """Write two compressed bit planes per tensor, as README.md describes. Equal signed masks give equal files."""
    arrays = {"format": np.array(FORMAT), "arch": np.array(arch), "dataset": np.array(dataset)}
    for name, tensor in signed_mask.items():
        signs = tensor.cpu().numpy()
        arrays[f"{name}.shape"] = np.array(signs.shape, dtype=np.int64)
        arrays[f"{name}.survives"] = np.packbits(signs != 0)
        arrays[f"{name}.negative"] = np.packbits(signs[signs != 0] < 0)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write(path, buffer.getbuffer())


def load_signed_mask(path: Path, blueprint: Blueprint | None = None) -> SignedMaskFile:
    """Read a file written by ``save_signed_mask``, as data only: of the tensors that the network of ``blueprint`` takes
    from it, or of all. Nothing is unpacked before its size is known to fit.

    Raises FileError if the file is damaged, not such a file or of another network, FileNotFoundError if it does not
    exist.
    """
    with naming_damage(path, "is damaged or no signed-mask file: copy or create it again"):
        archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        check_entries(archive, {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
        found = _read_array(archive, "format", SMALL)
        if found != FORMAT:
            raise FileError(f"{path} has format {found}; this program reads {FORMAT}: update the program")
        arch, dataset = (str(_read_array(archive, key, SMALL)) for key in ("arch", "dataset"))
        ending = ".shape.npy"
        names = [entry.removesuffix(ending) for entry in archive.namelist() if entry.endswith(ending)]
        shapes = {name: _read_shape(archive, name) for name in names}
        if blueprint is not None:
            fresh = _fresh_names(shapes, arch, dataset, blueprint, path)
            shapes = {name: shape for name, shape in shapes.items() if name not in fresh}
        signed_mask = {name: torch.from_numpy(_unpack(archive, name, shape)) for name, shape in shapes.items()}
        return SignedMaskFile(signed_mask, arch, dataset)


def _read_array(archive: zipfile.ZipFile, key: str, largest: int) -> np.ndarray:
    """An array of the archive, whole, so that its checksum is compared. Raises ValueError, with nothing unpacked, if it
    has more than ``largest`` bytes."""
    entry = archive.getinfo(f"{key}.npy")
    if entry.file_size > largest + NPY_HEADER:
        raise ValueError(f"its {key} has {entry.file_size} bytes, more than {largest}")
    return np.lib.format.read_array(io.BytesIO(archive.read(entry)), allow_pickle=False)


def _read_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    shape = _read_array(archive, f"{name}.shape", SMALL)
    if shape.dtype != np.int64 or shape.ndim != 1 or (shape < 0).any():
        raise ValueError(f"its {name}.shape is no shape")
    return tuple(shape.tolist())


def _unpack(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    survives = _read_bits(archive, f"{name}.survives", math.prod(shape)).astype(bool)
    negative = _read_bits(archive, f"{name}.negative", int(survives.sum())).astype(np.int8)
    signs = np.zeros(survives.shape, dtype=np.int8)
    signs[survives] = 1 - 2 * negative
    return signs.reshape(shape)


def _read_bits(archive: zipfile.ZipFile, key: str, count: int) -> np.ndarray:
    size = -(-count // 8)
    plane = _read_array(archive, key, size)
    if plane.dtype != np.uint8 or plane.shape != (size,):
        raise ValueError(f"its {key} is not the {size} bytes of {count} bits")
    return np.unpackbits(plane, count=count)


def has_values(path: Path) -> bool:
    """Whether a file is a network, which has more than its signs."""
    return path.suffix == ".pt"


class Subnetwork(NamedTuple):
    """What a file has for a network: values, none if it is a signed-mask file; a signed mask; and where that was found:
    ``dataset``, and ``method`` and ``level``, which are None unless it is a level's ``network.pt``. Nothing without a
    file."""

    values: State
    signed_mask: SignedMask | None
    source: dict[str, str | int | None] | None


def load_subnetwork(path: Path | None, blueprint: Blueprint) -> Subnetwork:
    """What a ``network.pt`` or a signed-mask file, if there is one, has for a network.

    From another data set it comes without the classifier: that starts fresh. Raises FileError.
    """
    if path is None:
        return Subnetwork({}, None, None)
    if not has_values(path):
        file = load_signed_mask(path, blueprint)
        return Subnetwork({}, file.signed_mask, {"dataset": file.dataset, "method": None, "level": None})
    found, content = load_network(path)
    result = content["result"] or {}
    of_level = result if result.get("kind") == "level" else {}
    source = {"dataset": found.dataset, "method": of_level.get("method"), "level": of_level.get("level")}
    signed_mask = extract_signed_mask(content["model"], content["masks"], found.signed)
    fresh = _fresh_names(found.shapes(found.signed), found.arch, found.dataset, blueprint, path)
    values, signed_mask = (
        {name: tensor for name, tensor in tensors.items() if name not in fresh}
        for tensors in (content["model"], signed_mask)
    )
    return Subnetwork(values, signed_mask, source)


def _fresh_names(found: Shapes, arch: str, dataset: str, blueprint: Blueprint, path: Path) -> tuple[str, ...]:
    """The parameters that a network has to itself: the classifier, if the file is of another data set.

    Raises FileError, naming the first tensors that differ, if the file belongs to another network.
    """
    fresh = blueprint.classifier if dataset != blueprint.dataset else ()
    shapes = blueprint.shapes(name for name in blueprint.signed if name not in fresh)
    differences = [
        f"{name} is {found.get(name, 'absent')} in the file and {shapes.get(name, 'absent')} in the network"
        for name in dict.fromkeys([*shapes, *found])
        if name not in fresh and shapes.get(name) != found.get(name)
    ]
    if differences:
        more = len(differences) - MENTIONED_DIFFERENCES
        listed = "; ".join(differences[:MENTIONED_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise FileError(
            f"{path} ({arch} on {dataset}) belongs to another network: {listed}. Choose its --arch or another file"
        )
    return fresh
