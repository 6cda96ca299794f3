"""CIFAR-10 and CIFAR-100, read from the Python version of their official files."""

import pickle
from pathlib import Path

import numpy as np
import torch
import torchvision

from data.dataset import LabelledImages
from data.download import download
from utils.errors import UserError

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


def load_cifar10(root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the test split and the number of classes. Downloads missing files."""
    folder, names = root / "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)]
    return _load(torchvision.datasets.CIFAR10, folder, names, "test_batch", "batches.meta", "labels", "label_names")


def load_cifar100(root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the test split and the number of classes. Downloads missing files."""
    folder = root / "cifar-100-python"
    return _load(torchvision.datasets.CIFAR100, folder, ["train"], "test", "meta", "fine_labels", "fine_label_names")


def _load(source, folder: Path, train: list[str], test: str, meta: str, labels: str, class_names: str):
    missing = [name for name in (*train, test, meta) if not (folder / name).is_file()]
    if missing:
        download(source, folder.parent, folder, missing)
    classes = len(_read(folder / meta, [class_names])[class_names])
    return _split(folder, train, labels, classes), _split(folder, [test], labels, classes), classes


def _split(folder: Path, names: list[str], labels: str, classes: int) -> LabelledImages:
    contents = [_read(folder / name, ["data", labels]) for name in names]
    for name, content in zip(names, contents, strict=True):
        shape = np.shape(content["data"])
        values = np.asarray(content[labels])
        if len(shape) != 2 or shape != (len(values), 3 * 32 * 32) or not ((values >= 0) & (values < classes)).all():
            raise UserError(f"{folder / name} does not hold images with labels: delete {folder} to fetch it again")
    pixels = np.concatenate([content["data"] for content in contents]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    values = np.concatenate([content[labels] for content in contents])
    return LabelledImages(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(values).long())


def _read(path: Path, keys: list[str]) -> dict:
    try:
        with path.open("rb") as file:
            content = DataUnpickler(file, encoding="latin1").load()
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        return {key: content[key] for key in keys}
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is damaged ({error}): delete {path.parent} to fetch it again") from error
