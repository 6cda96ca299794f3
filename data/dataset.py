"""A loaded data set: uint8 images and labels on one device, and how to augment them."""

import zlib
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augmentation import Augmentation
from utils.errors import UserError


@dataclass(frozen=True)
class LabelledImages:
    """``images``: uint8, (N, H, W, C), so that a gathered batch is channels-last; ``labels``: int64, (N,)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self):
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or len(self.images) != len(self.labels):
            shape, dtype = tuple(self.images.shape), self.images.dtype
            raise UserError(f"{len(self.labels)} labels do not fit images of {shape}, {dtype}")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device) -> "LabelledImages":
        return LabelledImages(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set in memory. ``mean`` and ``std``: float32 (C,), for pixels between 0 and 1, on the images' device."""

    name: str
    train: LabelledImages
    test: LabelledImages
    classes: int
    mean: Tensor
    std: Tensor
    augmentation: Augmentation

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def image_size(self) -> int:
        return self.train.images.shape[1]

    @property
    def channels(self) -> int:
        return self.train.images.shape[3]

    def description(self) -> str:
        """Identifies the data: counts and a checksum of images and labels."""
        checksum = 0
        for tensor in (self.train.images, self.train.labels, self.test.images, self.test.labels):
            checksum = zlib.crc32(tensor.cpu().contiguous().numpy(), checksum)
        counts = f"{self.classes} classes, {len(self.train)} training and {len(self.test)} test images"
        return f"{counts}, checksum {checksum:08x}"

    def to(self, device) -> "Dataset":
        moved = {name: getattr(self, name).to(device) for name in ("train", "test", "mean", "std")}
        return replace(self, **moved)


def average_pixels(split: LabelledImages, pixels: int) -> LabelledImages:
    """Smaller images, (N, ``pixels``, ``pixels``, C), whose pixels are averages over areas. Raises UserError if they
    would be larger."""
    size = split.images.shape[1]
    if pixels > size:
        raise UserError(f"--pixels {pixels} is more than the {size} of this data set's images: choose fewer")
    parts = split.images.permute(0, 3, 1, 2).split(10_000)  # a part at a time, because pixels become floats
    pooled = [F.adaptive_avg_pool2d(part.float(), pixels).round().to(torch.uint8) for part in parts]
    return LabelledImages(torch.cat(pooled).permute(0, 2, 3, 1).contiguous(), split.labels)


def keep_images_per_class(split: LabelledImages, count: int, classes: int) -> LabelledImages:
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
    return LabelledImages(split.images[kept], split.labels[kept])
