"""ImageNet: files in the official layout, read by the list that ``data/prepare_imagenet.py`` makes of them.

With ``cache_short_side``, training uses smaller copies of the images, which that program also makes and which decode
faster. Test images are the official ones in any case.
"""

from pathlib import Path

import numpy as np
import torch

from data.image_files import ImageFiles, Stream
from utils.errors import UserError
from utils.files import naming_damage

FOLDER = Path("ILSVRC", "Data", "CLS-LOC")  # below the data root
LIST = "imagenet.npz"  # in the data root
IMAGE_SIZE = 224


def cache_folder(root: Path, short_side: int) -> Path:
    """Where copies of the training images with this shorter side are, with their own list."""
    return root / f"imagenet_short_side_{short_side}"


def load_imagenet(
    root: Path, workers: int | None = None, cache_short_side: int | None = None
) -> tuple[ImageFiles, ImageFiles, int]:
    """The training split, the validation images as the test split, and the number of classes. No image is read."""
    command = f"python data/prepare_imagenet.py --data-root {root}"
    stream = Stream(workers)
    need = f"put the official ILSVRC folder into {root} and run {command}"
    (train, test), classes = _read_list(root, root / FOLDER, ("train", "val"), stream, command, need)
    if cache_short_side:
        folder, names = cache_folder(root, cache_short_side), train.names
        command += f" --cache-short-side {cache_short_side}"
        ((train,), _) = _read_list(folder, folder, ("train",), stream, command, f"run {command}")
        if not np.array_equal(train.names, names):
            raise UserError(f"{folder} was made of other images: delete it and run {command} again")
    return train, test, classes


def _read_list(
    place: Path, folder: Path, splits: tuple[str, ...], stream: Stream, command: str, need: str
) -> tuple[list[ImageFiles], int]:
    """The splits in the list of a place, of images below ``folder``, and the number of classes. Raises UserError saying
    what the user needs to do."""
    path = place / LIST
    if not path.is_file():
        raise UserError(f"{path} is missing: {need}")
    with (
        naming_damage(path, f"is damaged: delete it and run {command} again"),
        np.load(path, allow_pickle=False) as file,
    ):
        classes = len(file["wnids"])
        return [_split(file, name, folder, stream, classes) for name in splits], classes


def _split(file: np.lib.npyio.NpzFile, name: str, folder: Path, stream: Stream, classes: int) -> ImageFiles:
    names, labels, sizes = (file[f"{name}_{part}"] for part in ("names", "labels", "bytes"))
    if not names.shape == labels.shape == sizes.shape == (len(names),) or names.dtype.kind != "S":
        raise ValueError("it is no list of images")
    if labels.dtype != np.int64 or not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"its labels are not whole numbers from 0 to {classes - 1}")
    return ImageFiles(names, torch.from_numpy(labels), torch.from_numpy(sizes), IMAGE_SIZE, folder, stream)
