"""Fashion-MNIST, read by torchvision."""

from pathlib import Path

import torchvision
from torchvision.datasets.mnist import read_image_file, read_label_file

from data.dataset import DataError, LabelledImages
from data.download import download

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def load_fashion_mnist(root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the test split and the number of classes. Downloads what is missing."""
    folder = root / "FashionMNIST" / "raw"
    missing = [name for names in FILES.values() for name in names if not (folder / name).is_file()]
    if missing:
        download(torchvision.datasets.FashionMNIST, root, folder, missing)
    train, test = (_split(folder, *FILES[split]) for split in ("train", "test"))
    return train, test, len(torchvision.datasets.FashionMNIST.classes)


def _split(folder: Path, images: str, labels: str) -> LabelledImages:
    try:
        return LabelledImages(
            read_image_file(str(folder / images))[..., None], read_label_file(str(folder / labels)).long()
        )
    except OSError:
        raise
    except Exception as error:  # the reader asserts and slices: a file cut short raises nearly anything
        raise DataError(
            f"{folder / images} or {labels} is damaged ({error}): delete {folder}, fetch it again"
        ) from error
