"""Tiny-ImageNet, read from the file that ``data/preprocess_tiny_imagenet.py`` makes from the official archive."""

from pathlib import Path

import numpy as np
import torch

from data.dataset import LabelledImages
from utils.errors import UserError
from utils.files import naming_damage

PREPARED_FILE = "tiny_imagenet.npz"
IMAGE_SIZE = 64


def load_tiny_imagenet(root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the validation images as the test split, and the number of classes."""
    path, command = root / PREPARED_FILE, f"python data/preprocess_tiny_imagenet.py --data-root {root}"
    if not path.is_file():
        raise UserError(f"{path} is missing: put tiny-imagenet-200.zip into {root} and run {command}")
    complaint = f"is damaged: delete it and run {command} again"
    with naming_damage(path, complaint), np.load(path, allow_pickle=False) as file:
        classes = len(file["wnids"])
        return _split(file, "train", classes), _split(file, "test", classes), classes


def _split(file: np.lib.npyio.NpzFile, name: str, classes: int) -> LabelledImages:
    labels = file[f"{name}_labels"].astype(np.int64, casting="safe")  # bytes, in files of earlier versions
    return LabelledImages(torch.from_numpy(file[f"{name}_images"]), torch.from_numpy(labels)).check(classes, channels=3)
