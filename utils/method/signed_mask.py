"""The signed mask s = sign0(θ ⊙ m): extract it from a subnetwork, impose it on another network, keep it in a file.

In memory a signed mask is a dict from parameter name to an int8 tensor: 0 if pruned, −1 or +1 for the sign of a
survivor. It covers every parameter outside the normalization layers; those that are never pruned survive everywhere. A
surviving weight that is exactly 0 has the sign +1, so that 0 always means pruned.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import FileError, naming_damage, write
from utils.method.network import Blueprint, State, load_network
from utils.method.pruning import Masks

SignedMask = dict[str, Tensor]

FORMAT = 1
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


def load_signed_mask(path: Path) -> SignedMaskFile:
    """Read a file written by ``save_signed_mask``, as data only.

    Raises FileError if it is damaged or not such a file, FileNotFoundError if it does not exist.
    """
    complaint = "is damaged or no signed-mask file: copy or create it again"
    with naming_damage(path, complaint), np.load(path, allow_pickle=False) as file:
        if file["format"] != FORMAT:
            raise FileError(f"{path} has format {file['format']}; this program reads {FORMAT}: update the program")
        names = [key.removesuffix(".shape") for key in file.files if key.endswith(".shape")]
        signed_mask = {name: torch.from_numpy(_unpack(file, name)) for name in names}
        return SignedMaskFile(signed_mask, arch=str(file["arch"]), dataset=str(file["dataset"]))


def has_values(path: Path) -> bool:
    """Whether a file is a network, which has more than its signs."""
    return path.suffix == ".pt"


def load_subnetwork(path: Path, blueprint: Blueprint) -> tuple[State, SignedMask]:
    """The values and the signed mask of a ``network.pt``, or no values and a signed-mask file's, for a network.

    From another data set they come without the classifier. Raises FileError, and UserError as ``fit_signed_mask``.
    """
    if not has_values(path):
        return {}, fit_signed_mask(load_signed_mask(path), blueprint, str(path))
    found, content = load_network(path)
    signs = extract_signed_mask(content["model"], content["masks"], found.signed)
    signed_mask = fit_signed_mask(SignedMaskFile(signs, found.arch, found.dataset), blueprint, str(path))
    fresh = signs.keys() - signed_mask.keys()
    return {name: value for name, value in content["model"].items() if name not in fresh}, signed_mask


def _unpack(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    shape = file[f"{name}.shape"]
    survives = np.unpackbits(file[f"{name}.survives"], count=int(shape.prod())).astype(bool)
    negative = np.unpackbits(file[f"{name}.negative"], count=int(survives.sum())).astype(np.int8)
    signs = np.zeros(survives.shape, dtype=np.int8)
    signs[survives] = 1 - 2 * negative
    return signs.reshape(shape)


def fit_signed_mask(file: SignedMaskFile, blueprint: Blueprint, source: str) -> SignedMask:
    """The file's signed mask for a network, without the classifier if the data sets differ: it then starts fresh.

    Raises UserError, naming the first tensors that differ, if the file belongs to another network.
    """
    classifier = blueprint.classifier if file.dataset != blueprint.dataset else ()
    signed_mask = {name: signs for name, signs in file.signed_mask.items() if name not in classifier}
    shapes = blueprint.shapes(name for name in blueprint.signed if name not in classifier)
    found = {name: tuple(tensor.shape) for name, tensor in signed_mask.items()}
    differences = [
        f"{name} is {found.get(name, 'absent')} in the file and {shapes.get(name, 'absent')} in the network"
        for name in dict.fromkeys([*shapes, *found])
        if shapes.get(name) != found.get(name)
    ]
    if differences:
        more = len(differences) - MENTIONED_DIFFERENCES
        listed = "; ".join(differences[:MENTIONED_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(
            f"{source} ({file.arch} on {file.dataset}) belongs to another network: {listed}. Choose its --arch or "
            "another file"
        )
    return signed_mask
