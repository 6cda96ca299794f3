"""A loaded data set: its training and test images, and how to augment them."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augmentation import Augmentation, augment, draw_augmentation
from data.image_files import ImageFiles
from data.part import WHOLE, Part
from utils.errors import UserError


@dataclass(frozen=True)
class LabelledImages:
    """``images``: uint8, (N, H, W, C), so that a gathered batch is channels-last; ``labels``: int64, (N,)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.dim() != 4 or labels.shape != images.shape[:1]:
            raise UserError(f"{len(labels)} labels do not fit images of {tuple(images.shape)}, {images.dtype}")

    def check(self, classes: int, channels: int) -> "LabelledImages":
        """Itself. Raises ValueError unless there are square images of so many channels, and each has one of the
        labels."""
        _, height, width, depth = self.images.shape
        if not self.images.numel() or height != width or depth != channels:
            raise ValueError(f"images of {tuple(self.images.shape)} are none, or not square with {channels} channels")
        if self.labels.dtype != torch.int64 or self.labels.min() < 0 or self.labels.max() >= classes:
            raise ValueError(f"its labels are not whole numbers from 0 to {classes - 1}")
        return self

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return tuple(self.images.shape[1:])

    @property
    def image_size(self) -> int:
        return self.shape[0]

    @property
    def waited(self) -> float:
        """Seconds: images in memory are always there."""
        return 0.0

    def to(self, device) -> "LabelledImages":
        return LabelledImages(self.images.to(device), self.labels.to(device))

    def select(self, kept: Tensor) -> "LabelledImages":
        return LabelledImages(self.images[kept], self.labels[kept])

    def checksum(self, begun: int) -> int:
        for tensor in (self.images, self.labels):
            begun = zlib.crc32(tensor.cpu().contiguous().numpy(), begun)
        return begun

    def draw_epoch(
        self, augmentation: Augmentation, batch_size: int, seed: int, first: int, part: Part = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch from the ``first`` on: the indices of its images, int64 (B,), and their augmentation, int64
        (B, 5), of the whole batch whatever the ``part``. They depend on the kind of device, too."""
        generator = torch.Generator(self.images.device).manual_seed(seed)
        order = torch.randperm(len(self), generator=generator, device=generator.device)
        drawn = draw_augmentation(augmentation, len(self), self.image_size, generator)
        return zip(order.split(batch_size)[first:], drawn.split(batch_size)[first:], strict=True)

    def make_batch(
        self, augmentation: Augmentation, chosen: Tensor, drawn: Tensor, part: Part
    ) -> tuple[Tensor, Tensor]:
        """The augmented images, pixels (B, H, W, C) from 0 to 255, and labels of the part of one batch of
        ``draw_epoch``."""
        chosen, drawn = part.of(chosen), part.of(drawn)
        return augment(self.images[chosen], drawn, augmentation), self.labels[chosen]

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True)

    def resized(self, pixels: int) -> "LabelledImages":
        """Smaller images, (N, ``pixels``, ``pixels``, C), whose pixels are averages over areas. Raises UserError if
        they would be larger."""
        if pixels > self.image_size:
            raise UserError(
                f"--pixels {pixels} is more than the {self.image_size} of this data set's images: choose fewer"
            )
        parts = self.images.permute(0, 3, 1, 2).split(10_000)  # a part at a time, because pixels become floats
        pooled = [F.adaptive_avg_pool2d(part.float(), pixels).round().to(torch.uint8) for part in parts]
        return LabelledImages(torch.cat(pooled).permute(0, 2, 3, 1).contiguous(), self.labels)


Split = LabelledImages | ImageFiles


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in memory or in files. ``mean`` and ``std``: float32 (C,), for pixels between 0 and 1, on the device that
    trains. ``part``: the share of every training batch that this process makes."""

    name: str
    train: Split
    test: Split
    classes: int
    mean: Tensor
    std: Tensor
    augmentation: Augmentation
    part: Part = WHOLE

    def __post_init__(self):
        sizes = [split.shape for split in (self.train, self.test)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{self.name} has training images of {sizes[0]} and test images of {sizes[1]}: fetch it again"
            )

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def image_size(self) -> int:
        return self.train.image_size

    @property
    def channels(self) -> int:
        return self.train.shape[2]

    def description(self) -> str:
        """Identifies the data: counts and a checksum of images (of files, names and sizes) and labels."""
        checksum = self.test.checksum(self.train.checksum(0))
        counts = f"{self.classes} classes, {len(self.train)} training and {len(self.test)} test images"
        return f"{counts}, checksum {checksum:08x}"

    def to(self, device) -> "Dataset":
        moved = {name: getattr(self, name).to(device) for name in ("train", "test", "mean", "std")}
        return replace(self, **moved)

    def divided(self, part: Part) -> "Dataset":
        """For one of several processes: its part of every training batch, and of the test images."""
        return replace(self, test=self.test.select(part.of(torch.arange(len(self.test)))), part=part)


def keep_images_per_class(split: Split, count: int, classes: int) -> Split:
    """The first ``count`` images of every class, in their original order. Raises UserError if a class has fewer."""
    by_class = torch.sort(split.labels, stable=True).indices
    available = torch.bincount(split.labels, minlength=classes)
    if available.min() < count:
        raise UserError(
            f"class {int(available.argmin())} has {int(available.min())} training images, "
            f"fewer than --train-images-per-class {count}: choose a smaller number"
        )
    first = available.cumsum(0) - available
    kept = torch.cat([by_class[start : start + count] for start in first.tolist()]).sort().values
    return split.select(kept)
