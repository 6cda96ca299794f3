"""Random crop, flip and resized crop of a batch on the device, drawn separately for every image.

The random numbers of an epoch are drawn at once (``draw_augmentation``) and applied batch by batch, so that no batch
draws random numbers or waits for the device. ``tests/test_augmentation.py`` compares the results with torchvision's
transforms of single PIL images.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# torchvision's RandomResizedCrop: the range of aspect ratios, and the number of draws before it takes the whole image.
ASPECT_RATIOS = (3 / 4, 4 / 3)
RESIZED_CROP_DRAWS = 10


@dataclass(frozen=True)
class Augmentation:
    """``crop_padding``: black pixels added on every side before a random crop of the image's own size; ``flip``:
    whether to flip horizontally with probability 1/2; ``crop_areas``: the range of the cropped fraction of the area,
    for a random crop that is resized to the image's own size (None for no such crop)."""

    crop_padding: int = 0
    flip: bool = False
    crop_areas: tuple[float, float] | None = None


def draw_augmentation(augmentation: Augmentation, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw the boxes and flips of ``count`` square images of ``size`` pixels: int64 (count, 5) with top, left, height,
    width and flip (0 or 1), on the generator's device. For a padded crop, top and left are measured from the corner of
    the padded image."""
    device = generator.device
    if augmentation.crop_areas is not None:
        sides = torch.full((count, 1), size, device=device)
        boxes = draw_resized_crops(augmentation.crop_areas, sides, sides, generator)
    else:
        corners = torch.randint(0, 2 * augmentation.crop_padding + 1, (count, 2), generator=generator, device=device)
        boxes = torch.cat([corners, torch.full_like(corners, size)], dim=1)
    # Flips are drawn even if they are off, so that switching them changes no other random number.
    flips = torch.randint(0, 2, (count, 1), generator=generator, device=device) * augmentation.flip
    return torch.cat([boxes, flips], dim=1)


def augment(images: Tensor, drawn: Tensor, augmentation: Augmentation) -> Tensor:
    """uint8 images (B, H, W, C) and their rows of ``draw_augmentation`` -> (B, H, W, C): uint8 after a padded crop,
    float32 between 0 and 255 after a resized crop."""
    if augmentation.crop_areas is not None:
        return _resized_crop(images, drawn)
    return _padded_crop(images, drawn, augmentation.crop_padding)


def _padded_crop(images: Tensor, drawn: Tensor, padding: int) -> Tensor:
    size = images.shape[1]
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    top, left, flip = drawn[:, 0, None], drawn[:, 1, None], drawn[:, 4, None]
    offsets = torch.arange(size, device=images.device)[None]
    rows = top + offsets
    columns = left + torch.where(flip == 1, size - 1 - offsets, offsets)
    batch = torch.arange(len(images), device=images.device)
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def draw_resized_crops(
    areas: tuple[float, float], heights: Tensor, widths: Tensor, generator: torch.Generator
) -> Tensor:
    """Boxes in images of these sizes, each (N, 1), as torchvision's RandomResizedCrop draws them: the first of ten that
    fits, else the middle as far as the aspect ratios allow. int64 (N, 4): top, left, height, width."""
    uniform = torch.rand((4, len(heights), RESIZED_CROP_DRAWS), generator=generator, device=generator.device)
    area = heights * widths * (areas[0] + (areas[1] - areas[0]) * uniform[0])
    low, high = math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])
    ratio = torch.exp(low + (high - low) * uniform[1])
    width = torch.round(torch.sqrt(area * ratio)).long()
    height = torch.round(torch.sqrt(area / ratio)).long()
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    first = fits.int().argmax(dim=1, keepdim=True)
    none_fits = ~fits.any(dim=1, keepdim=True)
    width = torch.where(none_fits, _at_most(widths, heights * ASPECT_RATIOS[1]), width.gather(1, first))
    height = torch.where(none_fits, _at_most(heights, widths / ASPECT_RATIOS[0]), height.gather(1, first))
    down, right = heights - height, widths - width
    top = torch.minimum((uniform[2].gather(1, first) * (down + 1)).long(), down)
    left = torch.minimum((uniform[3].gather(1, first) * (right + 1)).long(), right)
    top, left = torch.where(none_fits, down // 2, top), torch.where(none_fits, right // 2, left)
    return torch.cat([top, left, height, width], dim=1)


def _at_most(sides: Tensor, limits: Tensor) -> Tensor:
    return torch.minimum(sides, torch.round(limits).long())


def _resized_crop(images: Tensor, drawn: Tensor) -> Tensor:
    """Sample the box bilinearly at pixel centres, clamped at the box's border, as PIL does to enlarge a crop.

    This is correct only for crops no larger than the image (always so here): shrinking would need a wider filter.
    """
    size = images.shape[1]
    top, left, height, width, flip = drawn[:, :, None].unbind(1)
    centres = torch.arange(size, device=images.device)[None] + 0.5
    rows = top + _clamp(centres * height / size - 0.5, height)
    columns = left + _clamp(torch.where(flip == 1, size - centres, centres) * width / size - 0.5, width)
    # grid_sample expects coordinates between -1 and 1 from edge to edge, the horizontal one first.
    rows, columns = (2 * rows + 1) / size - 1, (2 * columns + 1) / size - 1
    grid = torch.stack([columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1)
    sampled = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, mode="bilinear", align_corners=False)
    return sampled.permute(0, 2, 3, 1)


def _clamp(positions: Tensor, length: Tensor) -> Tensor:
    return torch.minimum(positions.clamp(min=0), (length - 1).to(positions.dtype))
