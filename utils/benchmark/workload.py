"""What the benchmark trains: one architecture on random images."""

from dataclasses import dataclass
from functools import cache

import torch

from data import DATASETS, Dataset
from data.dataset import LabelledImages
from utils.method.network import Blueprint
from utils.method.pruning import Masks
from utils.training.optimization import Recipe

CLASSES = {32: 100, 64: 200}  # by the images' size
EPOCH_IMAGES = {32: 50_000, 64: 100_000}
TEST_IMAGES = 10_000
BATCH_SIZE, LR = 128, 0.01
RECIPE = Recipe(BATCH_SIZE, momentum=0.9, weight_decay=5e-4)


@dataclass(frozen=True)
class Workload:
    """``size``: of the images, in pixels; ``workers``: processes of the plain arm's data loader."""

    arch: str
    size: int
    images: int
    device: torch.device
    workers: int

    @property
    def blueprint(self) -> Blueprint:
        return Blueprint(self.arch, "random", CLASSES[self.size], channels=3, image_size=self.size)

    def masks(self) -> Masks:
        """A random tenth of the weights survives."""
        generator = torch.Generator().manual_seed(0)
        dense = self.blueprint.dense_masks()
        return {name: torch.rand(mask.shape, generator=generator) < 0.1 for name, mask in dense.items()}

    @property
    def dataset(self) -> Dataset:
        """On the CPU."""
        return random_dataset(self.size, self.images)


@cache
def random_dataset(size: int, images: int) -> Dataset:
    """Random images with the classes, statistics and augmentation of CIFAR-100 or Tiny-ImageNet."""
    source = DATASETS["cifar100" if size == 32 else "tiny_imagenet"]
    generator = torch.Generator().manual_seed(0)
    splits = []
    for count in (images, min(TEST_IMAGES, images)):
        pixels = torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
        splits.append(LabelledImages(pixels, torch.randint(0, CLASSES[size], (count,), generator=generator)))
    mean, std = torch.tensor(source.mean), torch.tensor(source.std)
    return Dataset("random", *splits, CLASSES[size], mean, std, source.augmentation)
