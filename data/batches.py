"""Batches of normalized images on the device that trains."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.dataset import Dataset, Split

Batch = tuple[Tensor, Tensor]  # normalized images and their labels

EVALUATION_BATCH_SIZE = 500  # of images of 32 pixels, and of smaller ones


def normalize(images: Tensor, dataset: Dataset, layout: torch.memory_format = torch.channels_last) -> Tensor:
    """Pixels (B, H, W, C) between 0 and 255 -> float32 (B, C, H, W) in the memory format ``layout``."""
    pixels = (images.float() / 255 - dataset.mean) / dataset.std
    return pixels.permute(0, 3, 1, 2).contiguous(memory_format=layout)


def draw_epoch(dataset: Dataset, batch_size: int, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch of an epoch in random order, from the ``first`` on: two tensors, on the device, from which
    ``make_batch`` makes it. The first one has a row for each of the batch's B images, whichever process makes them; the
    last batch may be smaller.

    The result depends only on ``seed`` (and on the kind of device).
    """
    return dataset.train.draw_epoch(dataset.augmentation, batch_size, seed, first, dataset.part)


def make_batch(dataset: Dataset, chosen: Tensor, drawn: Tensor, layout=torch.channels_last) -> Batch:
    """The augmented training images and labels of the data set's part of one batch of ``draw_epoch``."""
    images, labels = dataset.train.make_batch(dataset.augmentation, chosen, drawn, dataset.part)
    return normalize(images, dataset, layout), labels


def training_batches(dataset: Dataset, batch_size: int, seed: int, layout=torch.channels_last) -> Iterator[Batch]:
    """(images, labels) for each batch of ``draw_epoch``."""
    return (make_batch(dataset, *drawn, layout) for drawn in draw_epoch(dataset, batch_size, seed))


def evaluation_batch_size(image_size: int) -> int:
    """Larger images come in batches of about as many pixels, but of at least 50 images."""
    return min(EVALUATION_BATCH_SIZE, max(50, EVALUATION_BATCH_SIZE * 32**2 // image_size**2))


def evaluation_batches(dataset: Dataset, split: Split, layout=torch.channels_last) -> Iterator[Batch]:
    """(images, labels) for each batch of ``split``, in order and without augmentation."""
    for images, labels in split.in_order(evaluation_batch_size(split.image_size)):
        yield normalize(images, dataset, layout), labels


def count_batches(images: int, batch_size: int) -> int:
    return -(-images // batch_size)
