"""CIFAR-10 and CIFAR-100, read from the Python version of their official files."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from data.dataset import LabelledImages
from data.download import download_missing
from utils.files import naming_damage

# The only names that pickled arrays need. Any other name is refused, so that loading a file cannot run code.
HARMLESS = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class DataUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not data")
        return super().find_class(module, name)


def load_cifar(source: type[CIFAR10], labels: str, root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the test split and the number of classes; ``labels``: what the files call the labels.

    Downloads missing files; torchvision's ``source`` knows their names.
    """
    folder, meta = root / source.base_folder, source.meta["filename"]
    train, test = ([name for name, _ in files] for files in (source.train_list, source.test_list))
    download_missing(source, root, folder, [*train, *test, meta])
    with _content(folder / meta) as content:
        classes = len(content[source.meta["key"]])
    return _split(folder, train, labels, classes), _split(folder, test, labels, classes), classes


load_cifar10 = partial(load_cifar, CIFAR10, "labels")
load_cifar100 = partial(load_cifar, CIFAR100, "fine_labels")


def _split(folder: Path, names: list[str], labels: str, classes: int) -> LabelledImages:
    parts = []
    for name in names:
        with _content(folder / name) as content:
            pixels = np.reshape(content["data"], (-1, 3, 32, 32)).transpose(0, 2, 3, 1)
            part = LabelledImages(torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor(content[labels]))
            parts.append(part.check(classes, channels=3))
    return LabelledImages(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


@contextmanager
def _content(path: Path) -> Iterator[dict]:
    """What a file holds, for use in this context, where what does not fit is a FileError."""
    with naming_damage(path, f"is damaged: delete {path.parent} to fetch it again"), path.open("rb") as file:
        content = DataUnpickler(file, encoding="latin1").load()
        yield {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
