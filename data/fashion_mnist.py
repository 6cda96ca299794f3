"""Fashion-MNIST, read with torchvision's functions."""

from pathlib import Path

from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from data.dataset import LabelledImages
from data.download import download_missing
from utils.files import naming_damage

TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def load_fashion_mnist(root: Path) -> tuple[LabelledImages, LabelledImages, int]:
    """The training split, the test split and the number of classes. Downloads missing files."""
    folder = root / "FashionMNIST" / "raw"
    download_missing(FashionMNIST, root, folder, [*TRAIN, *TEST])
    classes = len(FashionMNIST.classes)
    return _split(folder, *TRAIN, classes), _split(folder, *TEST, classes), classes


def _split(folder: Path, images: str, labels: str, classes: int) -> LabelledImages:
    complaint = f"is damaged: delete {folder} to fetch it again"
    with naming_damage(folder / images, complaint):
        pixels = read_image_file(str(folder / images))[..., None]
    with naming_damage(folder / labels, complaint):
        return LabelledImages(pixels, read_label_file(str(folder / labels))).check(classes, channels=1)
