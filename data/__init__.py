"""The data sets: one table from name to loader, statistics and augmentation.

A data set is held in memory as uint8 on the training device and augmented there batch by batch. The numbers of classes,
channels and pixels are read from the data, never hard-coded.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from data.augmentation import Augmentation
from data.cifar import load_cifar10, load_cifar100
from data.dataset import Dataset, LabelledImages, average_pixels, keep_images_per_class
from data.digits import load_digits
from data.fashion_mnist import load_fashion_mnist
from data.tiny_imagenet import load_tiny_imagenet

__all__ = ["DATASETS", "Dataset", "load_dataset"]


class Source(NamedTuple):
    load: Callable[[Path], tuple[LabelledImages, LabelledImages, int]]  # -> training split, test split, classes
    mean: tuple[float, ...]  # per channel, for pixels between 0 and 1
    std: tuple[float, ...]
    augmentation: Augmentation


CROP_AND_FLIP = Augmentation(crop_padding=4, flip=True)
DATASETS = {
    "digits": Source(load_digits, (0.3054,), (0.3755,), Augmentation(crop_padding=1)),
    "fashion_mnist": Source(load_fashion_mnist, (0.2860,), (0.3530,), CROP_AND_FLIP),
    "cifar10": Source(load_cifar10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), CROP_AND_FLIP),
    "cifar100": Source(load_cifar100, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), CROP_AND_FLIP),
    "tiny_imagenet": Source(
        load_tiny_imagenet, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), Augmentation(flip=True, crop_areas=(0.5, 1.0))
    ),
}


def load_dataset(
    name: str, root: Path, train_images_per_class: int | None = None, pixels: int | None = None
) -> Dataset:
    """Load the data set ``name`` from the folder ``root``, with only the first training images of each class and with
    images of ``pixels`` a side if asked.

    Raises KeyError if ``name`` is not in ``DATASETS`` and UserError if files are missing or damaged.
    """
    source = DATASETS[name]
    train, test, classes = source.load(Path(root))
    if train_images_per_class is not None:
        train = keep_images_per_class(train, train_images_per_class, classes)
    augmentation = source.augmentation
    if pixels is not None:
        padding = round(augmentation.crop_padding * pixels / train.images.shape[1])  # as far, seen from the image
        augmentation = replace(augmentation, crop_padding=padding)
        train, test = average_pixels(train, pixels), average_pixels(test, pixels)
    mean, std = torch.tensor(source.mean), torch.tensor(source.std)
    return Dataset(name, train, test, classes, mean, std, augmentation)
