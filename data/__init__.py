"""The data sets: one table from name to loader, statistics and augmentation.

A small data set is held in memory as uint8 on the training device and augmented there batch by batch; ImageNet stays on
disk, and worker processes decode it. The numbers of classes, channels and pixels come from the loader.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from data.augmentation import Augmentation
from data.cifar import load_cifar10, load_cifar100
from data.dataset import Dataset, Split, keep_images_per_class
from data.digits import load_digits
from data.fashion_mnist import load_fashion_mnist
from data.imagenet import load_imagenet
from data.tiny_imagenet import load_tiny_imagenet

__all__ = ["DATASETS", "Dataset", "load_dataset"]


class Source(NamedTuple):
    load: Callable[..., tuple[Split, Split, int]]  # from a folder: training split, test split, classes
    mean: tuple[float, ...]  # per channel, for pixels between 0 and 1
    std: tuple[float, ...]
    augmentation: Augmentation
    on_disk: bool = False  # whether ``load`` takes worker processes and a cache


IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_AND_FLIP = Augmentation(crop_padding=4, flip=True)
DATASETS = {
    "digits": Source(load_digits, (0.3054,), (0.3755,), Augmentation(crop_padding=1)),
    "fashion_mnist": Source(load_fashion_mnist, (0.2860,), (0.3530,), CROP_AND_FLIP),
    "cifar10": Source(load_cifar10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), CROP_AND_FLIP),
    "cifar100": Source(load_cifar100, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), CROP_AND_FLIP),
    "tiny_imagenet": Source(load_tiny_imagenet, *IMAGENET_STATISTICS, Augmentation(flip=True, crop_areas=(0.5, 1.0))),
    "imagenet": Source(
        load_imagenet, *IMAGENET_STATISTICS, Augmentation(flip=True, crop_areas=(0.08, 1.0)), on_disk=True
    ),
}


def load_dataset(
    name: str,
    root: Path,
    train_images_per_class: int | None = None,
    pixels: int | None = None,
    cache_short_side: int | None = None,
    workers: int | None = None,
) -> Dataset:
    """Load the data set ``name`` from the folder ``root``, with only the first training images of each class and with
    images of ``pixels`` a side if asked. Of images on disk, ``cache_short_side`` says which copies to train on, and
    ``workers`` how many processes decode them, by default one for each processor.

    Raises KeyError if ``name`` is not in ``DATASETS`` and UserError if files are missing or damaged.
    """
    source = DATASETS[name]
    load = partial(source.load, workers=workers, cache_short_side=cache_short_side) if source.on_disk else source.load
    train, test, classes = load(Path(root))
    if train_images_per_class is not None:
        train = keep_images_per_class(train, train_images_per_class, classes)
    augmentation = source.augmentation
    if pixels is not None:
        padding = round(augmentation.crop_padding * pixels / train.image_size)  # as far, seen from the image
        augmentation = replace(augmentation, crop_padding=padding)
        train, test = train.resized(pixels), test.resized(pixels)
    mean, std = torch.tensor(source.mean), torch.tensor(source.std)
    return Dataset(name, train, test, classes, mean, std, augmentation)
