"""Tiny-ImageNet, read from the file that ``data/preprocess_tiny_imagenet.py`` makes from the official archive."""

from pathlib import Path

import numpy as np
import torch

from data.dataset import LabelledImages
from utils.errors import UserError

PREPARED_FILE = "tiny_imagenet.npz"
IMAGE_SIZE = 64


def load_tiny_imagenet(root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the validation images as the test split, and the number of classes."""
    path = root / PREPARED_FILE
    if not path.is_file():
        raise UserError(
            f"{path} is missing: put tiny-imagenet-200.zip into {root} and run "
            f"python data/preprocess_tiny_imagenet.py --data-root {root}"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            splits = [_split(file, name) for name in ("train", "test")]
            classes = len(file["wnids"])
    except OSError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(
            f"{path} is damaged ({error}): delete it and run python data/preprocess_tiny_imagenet.py "
            f"--data-root {root} again"
        ) from error
    return splits[0], splits[1], classes


def _split(file: np.lib.npyio.NpzFile, name: str) -> LabelledImages:
    return LabelledImages(torch.from_numpy(file[f"{name}_images"]), torch.from_numpy(file[f"{name}_labels"]).long())
