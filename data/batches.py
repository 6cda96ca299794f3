"""Batches of normalized images from a data set that lies on the device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.augmentation import augment, draw_augmentation
from data.dataset import Dataset, LabelledImages

EVALUATION_BATCH_SIZE = 500


def normalize(images: Tensor, dataset: Dataset) -> Tensor:
    """(B, H, W, C) pixels between 0 and 255 -> float32 (B, C, H, W), channels-last in memory."""
    pixels = (images.float() / 255 - dataset.mean) / dataset.std
    return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def draw_epoch(dataset: Dataset, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, by what decides its batches: the images' indices, int64 (B,), and their augmentation,
    int64 (B, 5); the last batch smaller where it must be.

    Depends on ``seed`` alone (and on the kind of device).
    """
    count = len(dataset.train)
    generator = torch.Generator(dataset.train.images.device).manual_seed(seed)
    order = torch.randperm(count, generator=generator, device=generator.device)
    drawn = draw_augmentation(dataset.augmentation, count, dataset.image_size, generator)
    return zip(order.split(batch_size), drawn.split(batch_size), strict=True)


def make_batch(dataset: Dataset, chosen: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Augmented training images and their labels."""
    split = dataset.train
    images = augment(split.images[chosen], drawn, dataset.augmentation)
    return normalize(images, dataset), split.labels[chosen]


def training_batches(dataset: Dataset, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of ``draw_epoch``: (images, labels)."""
    return (make_batch(dataset, *drawn) for drawn in draw_epoch(dataset, batch_size, seed))


def evaluation_batches(dataset: Dataset, split: LabelledImages) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of ``split`` as they are, in order: (images, labels)."""
    for images, labels in zip(
        split.images.split(EVALUATION_BATCH_SIZE), split.labels.split(EVALUATION_BATCH_SIZE), strict=True
    ):
        yield normalize(images, dataset), labels


def count_batches(images: int, batch_size: int) -> int:
    return -(-images // batch_size)
