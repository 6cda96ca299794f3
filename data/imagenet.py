"""ImageNet: files in the official layout, read by the list that ``data/prepare_imagenet.py`` makes of them."""

from pathlib import Path

import numpy as np
import torch

from data.image_files import ImageFiles, Stream
from utils.errors import UserError
from utils.files import naming_damage

FOLDER = Path("ILSVRC", "Data", "CLS-LOC")  # below the data root
LIST = "imagenet.npz"  # in the data root
IMAGE_SIZE = 224


def load_imagenet(root: Path, workers: int | None = None) -> tuple[ImageFiles, ImageFiles, int]:
    """The training split, the validation images as the test split, and the number of classes. No image is read."""
    path, command = root / LIST, f"python data/prepare_imagenet.py --data-root {root}"
    if not path.is_file():
        raise UserError(f"{path} is missing: put the official ILSVRC folder into {root} and run {command}")
    stream = Stream(root / FOLDER, workers)
    complaint = f"is damaged: delete it and run {command} again"
    with naming_damage(path, complaint), np.load(path, allow_pickle=False) as file:
        classes = len(file["wnids"])
        return _split(file, "train", stream, classes), _split(file, "val", stream, classes), classes


def _split(file: np.lib.npyio.NpzFile, name: str, stream: Stream, classes: int) -> ImageFiles:
    names, labels, sizes = (file[f"{name}_{part}"] for part in ("names", "labels", "bytes"))
    if not names.shape == labels.shape == sizes.shape == (len(names),) or names.dtype.kind != "S":
        raise ValueError("it is no list of images")
    if labels.dtype != np.int64 or not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"its labels are not whole numbers from 0 to {classes - 1}")
    return ImageFiles(names, torch.from_numpy(labels), torch.from_numpy(sizes), IMAGE_SIZE, stream)
