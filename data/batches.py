"""Batches of normalized images from a data set held on the device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.augmentation import augment, draw_augmentation
from data.dataset import Dataset, LabelledImages

Batch = tuple[Tensor, Tensor]  # normalized images and their labels

EVALUATION_BATCH_SIZE = 500


def normalize(images: Tensor, dataset: Dataset, layout: torch.memory_format = torch.channels_last) -> Tensor:
    """Pixels (B, H, W, C) between 0 and 255 -> float32 (B, C, H, W) in the memory format ``layout``."""
    pixels = (images.float() / 255 - dataset.mean) / dataset.std
    return pixels.permute(0, 3, 1, 2).contiguous(memory_format=layout)


def draw_epoch(dataset: Dataset, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch of an epoch in random order: the indices of its images, int64 (B,), and their augmentation, int64
    (B, 5); the last batch may be smaller.

    The result depends only on ``seed`` (and on the kind of device).
    """
    count = len(dataset.train)
    generator = torch.Generator(dataset.train.images.device).manual_seed(seed)
    order = torch.randperm(count, generator=generator, device=generator.device)
    drawn = draw_augmentation(dataset.augmentation, count, dataset.image_size, generator)
    return zip(order.split(batch_size), drawn.split(batch_size), strict=True)


def make_batch(dataset: Dataset, chosen: Tensor, drawn: Tensor, layout=torch.channels_last) -> Batch:
    """The augmented training images and labels of one batch of ``draw_epoch``."""
    split = dataset.train
    images = augment(split.images[chosen], drawn, dataset.augmentation)
    return normalize(images, dataset, layout), split.labels[chosen]


def training_batches(dataset: Dataset, batch_size: int, seed: int, layout=torch.channels_last) -> Iterator[Batch]:
    """(images, labels) for each batch of ``draw_epoch``."""
    return (make_batch(dataset, *drawn, layout) for drawn in draw_epoch(dataset, batch_size, seed))


def evaluation_batches(dataset: Dataset, split: LabelledImages, layout=torch.channels_last) -> Iterator[Batch]:
    """(images, labels) for each batch of ``split``, in order and without augmentation."""
    size = EVALUATION_BATCH_SIZE
    for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
        yield normalize(images, dataset, layout), labels


def count_batches(images: int, batch_size: int) -> int:
    return -(-images // batch_size)
