"""Fashion-MNIST, read with torchvision's functions."""

from pathlib import Path

import torchvision
from torchvision.datasets.mnist import read_image_file, read_label_file

from data.dataset import LabelledImages
from data.download import download
from utils.errors import UserError

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def load_fashion_mnist(root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the test split and the number of classes. Downloads missing files."""
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
    except Exception as error:  # a truncated file can raise nearly anything
        raise UserError(
            f"{folder / images} or {labels} is damaged ({error}): delete {folder} to fetch it again"
        ) from error
