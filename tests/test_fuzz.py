"""Hundreds of damaged and of wrong files: each is one line of our own, or read as if nothing had happened to it.

What a failing mutation was, its number tells: all random choices follow from that. THOROUGH=1 makes 10,000.
"""

import io
import pickle
import random
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from data import load_dataset
from tests.commands import BLUEPRINT, THOROUGH, save_fresh_network
from tests.fake_data import write_cifar100, write_fashion_mnist
from utils.errors import UserError
from utils.files import save
from utils.method.network import load_network
from utils.method.signed_mask import extract_signed_mask, load_signed_mask, save_signed_mask

MUTATIONS = (10_000 if THOROUGH else 350) // 7  # of each kind of file
MOST_SECONDS, MOST_KIBIBYTES = 5.0, 300_000  # that a mutation takes, and that all of them add to the peak of memory


@dataclass
class Kind:
    """A kind of file. ``read`` gives its tensors by name; ``make_wrong`` writes a wrong one with right checksums;
    ``protected``: whether its bytes have checksums, so that no flipped bit may change a value."""

    path: Path
    read: Callable[[], dict[str, torch.Tensor]]
    make_wrong: Callable[[random.Random], None]
    protected: bool = True


def network(folder: Path, sealed: bool) -> Kind:
    path = folder / "network.pt"
    save_fresh_network(path, settings={"data": "digits"}, result={"level": 0})
    content = torch.load(path, weights_only=True)
    if not sealed:
        torch.save(content, path)

    def read() -> dict[str, torch.Tensor]:
        _, found = load_network(path)
        return {
            f"{part} {name}": found[part][name] for part in ("model", "masks", "initial_norms") for name in found[part]
        }

    def make_wrong(rng: random.Random) -> None:
        wrong = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
        part = rng.choice(list(wrong))
        inside = wrong[part] if isinstance(wrong[part], dict) and wrong[part] and rng.random() < 0.7 else wrong
        replace_one(inside, WRONG_TENSORS, rng)
        save(path, wrong)

    return Kind(path, read, make_wrong)


def signed_mask(folder: Path) -> Kind:
    path = folder / "signed_mask.npz"
    signs = extract_signed_mask(BLUEPRINT.initialize(0), BLUEPRINT.dense_masks(), BLUEPRINT.signed)
    save_signed_mask(path, signs, "resnet20", "digits")
    return Kind(path, lambda: load_signed_mask(path, BLUEPRINT).signed_mask, wrong_arrays(path))


def prepared(folder: Path) -> Kind:
    path, labels = folder / "tiny_imagenet.npz", np.array([0, 1, 0, 1], np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    splits = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    np.savez(path, wnids=np.array(["a", "b"]), **splits)
    return Kind(path, lambda: tensors_of("tiny_imagenet", folder), wrong_arrays(path))


def cifar(folder: Path) -> Kind:
    path = write_cifar100(folder) / "train"
    content = pickle.loads(path.read_bytes())

    def make_wrong(rng: random.Random) -> None:
        wrong = dict(content)
        replace_one(wrong, WRONG_ARRAYS, rng)
        path.write_bytes(pickle.dumps(wrong, protocol=rng.randrange(6)))

    return Kind(path, lambda: tensors_of("cifar100", folder), make_wrong, protected=False)


def fashion(folder: Path, file: str) -> Kind:
    path = write_fashion_mnist(folder) / file
    whole = path.read_bytes()

    def make_wrong(rng: random.Random) -> None:
        position, value = rng.randrange(16), rng.choice([0, 1, 3, 8, 13, 28, 255])
        path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])

    return Kind(path, lambda: tensors_of("fashion_mnist", folder), make_wrong, protected=False)


def tensors_of(dataset: str, folder: Path) -> dict[str, torch.Tensor]:
    """A data set's tensors, whose labels and shapes are right whatever they hold."""
    loaded = load_dataset(dataset, folder)
    splits = {"train": loaded.train, "test": loaded.test}
    for split in splits.values():
        assert 0 <= split.labels.min() <= split.labels.max() < loaded.classes
        assert split.images.shape[1:] == (loaded.image_size, loaded.image_size, loaded.channels)
    return {f"{name} {part}": tensor for name, split in splits.items() for part, tensor in vars(split).items()}


KINDS = {
    "network": lambda folder: network(folder, sealed=True),
    "network of an earlier version": lambda folder: network(folder, sealed=False),
    "signed mask": signed_mask,
    "prepared Tiny-ImageNet": prepared,
    "CIFAR-100": cifar,
    "Fashion-MNIST's images": lambda folder: fashion(folder, "train-images-idx3-ubyte"),
    "Fashion-MNIST's labels": lambda folder: fashion(folder, "train-labels-idx1-ubyte"),
}
WRONG_VALUES = (None, [], {}, "text", -1, 0.5, 2**70, ["a"], [[1]], True, b"bytes")
WRONG_TENSORS = (
    *WRONG_VALUES,
    torch.tensor(float("nan")),
    torch.zeros(3),
    torch.zeros(1).expand(10**9),
    torch.zeros(64, dtype=torch.complex64),
    torch.zeros(10, dtype=torch.float64),
    torch.full((10,), float("inf")),
    torch.zeros(0),
)
WRONG_ARRAYS = (
    *WRONG_VALUES,
    np.array([3_000_000_000]),
    np.array([2**40, 2**40]),
    np.array([-1, 8]),
    np.zeros(0, np.uint8),
    np.zeros((2, 2), np.uint8),
    np.zeros(10**7, np.uint8),
    np.zeros(20, np.float32),
    np.array(["a", "b"]),
    np.full(20, 99, np.uint8),
)


def replace_one(content: dict, wrong: tuple, rng: random.Random) -> None:
    """Replace, remove or add an entry."""
    key = rng.choice(list(content))
    if rng.random() < 0.2:
        content.pop(key)
    content["another" if rng.random() < 0.2 else key] = rng.choice(wrong)


def wrong_arrays(path: Path) -> Callable[[random.Random], None]:
    with np.load(path) as file:
        arrays = dict(file)

    def make_wrong(rng: random.Random) -> None:
        wrong = dict(arrays)
        replace_one(wrong, WRONG_ARRAYS, rng)
        (np.savez_compressed if rng.random() < 0.5 else np.savez)(path, **wrong)

    return make_wrong


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Cut, without a piece, with another one, or with a flipped bit: anywhere, or where a zip archive has its index."""
    start, size = rng.randrange(len(whole)), rng.choice([1, 16, 4096])
    ways = ["cut", "removed", "zeroed", "repeated", "flipped", "flipped in the index", "flipped in the index"]
    way = rng.choice(ways)
    if way == "cut":
        return whole[:start]
    if way == "removed":
        return whole[:start] + whole[start + size :]
    if way == "zeroed":
        return whole[:start] + bytes(len(whole[start : start + size])) + whole[start + size :]
    if way == "repeated":
        return whole[: start + size] + whole[start:]
    if way == "flipped in the index" and whole[:2] == b"PK":
        start = rng.randrange(zipfile.ZipFile(io.BytesIO(whole)).start_dir, len(whole))
    return whole[:start] + bytes([whole[start] ^ (1 << rng.randrange(8))]) + whole[start + 1 :]


def peak_of_memory() -> int:
    """In KiB, since it was last forgotten."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def forget_peak_of_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_no_file_does_more_than_say_what_is_wrong(kind, tmp_path):
    file = KINDS[kind](tmp_path)
    whole, expected = file.path.read_bytes(), file.read()
    forget_peak_of_memory()
    memory, refused = peak_of_memory(), 0
    for number in range(MUTATIONS):
        rng = random.Random(f"{kind} {number}")
        wrong = rng.random() < 0.4
        if wrong:
            file.make_wrong(rng)
        else:
            file.path.write_bytes(damaged(whole, rng))
        started = time.monotonic()
        try:
            found = file.read()
            assert wrong or not file.protected or equal(found, expected), f"mutation {number} changed what is read"
        except UserError as error:
            refused += 1
            assert str(error).count("\n") == 0, f"mutation {number}: {error}"
            assert str(tmp_path) in str(error) or "fetch" in str(error), f"mutation {number}: {error}"
        except Exception as error:
            raise AssertionError(f"mutation {number} is a {type(error).__name__}: {error}") from error
        assert time.monotonic() - started < MOST_SECONDS, f"mutation {number} takes too long"
    assert refused > MUTATIONS // 4
    assert peak_of_memory() - memory < MOST_KIBIBYTES
