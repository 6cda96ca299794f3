"""The 1,797 handwritten digits of UCI's optical-digits set, 8x8 pixels, embedded in the project."""

from pathlib import Path

import numpy as np
import torch

from data.dataset import LabelledImages

FILE = Path(__file__).with_name("digits.npz")
BRIGHTEST = 16  # the original integers count the set pixels of 4x4 blocks


def load_digits(root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the test split and the number of classes; ``root`` is ignored."""
    with np.load(FILE, allow_pickle=False) as file:
        splits = [_split(file[f"{name}_images"], file[f"{name}_labels"]) for name in ("train", "test")]
    return splits[0], splits[1], 10


def _split(images: np.ndarray, labels: np.ndarray) -> LabelledImages:
    pixels = torch.from_numpy(images).float() * (255 / BRIGHTEST)
    return LabelledImages(pixels.round().to(torch.uint8)[..., None], torch.from_numpy(labels).long())
