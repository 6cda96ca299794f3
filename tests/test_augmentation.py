"""Ours, on batches on the device, against torchvision's transforms of single PIL images."""

import pytest
import torch
import torchvision.transforms.functional as TF
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from data.augmentation import Augmentation, augment, draw_augmentation, draw_resized_crops
from data.batches import evaluation_batches, normalize, training_batches
from tests.toys import toy_dataset


def photographs(count: int, size: int) -> torch.Tensor:
    """Smooth structure with sharp edges, uint8 (count, size, size, 3): noise alone would hide a shift by a pixel."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    images[:, :, size // 3 :, size // 2 :] = 1 - images[:, :, size // 3 :, size // 2 :]
    return (images * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_pil(image: torch.Tensor):
    return to_pil_image(image.permute(2, 0, 1))


def from_pil(image) -> torch.Tensor:
    return pil_to_tensor(image).permute(1, 2, 0)


def test_crop_and_flip_are_exact():
    augmentation = Augmentation(crop_padding=4, flip=True)
    images = photographs(200, 32)
    drawn = draw_augmentation(augmentation, 200, 32, torch.Generator().manual_seed(0))
    ours = augment(images, drawn, augmentation)
    for image, (top, left, height, width, flip), result in zip(images, drawn.tolist(), ours, strict=True):
        expected = TF.crop(TF.pad(to_pil(image), 4), top, left, height, width)
        expected = TF.hflip(expected) if flip else expected
        assert torch.equal(result, from_pil(expected))


def test_every_crop_and_flip_is_drawn():
    drawn = draw_augmentation(Augmentation(crop_padding=4, flip=True), 5000, 32, torch.Generator().manual_seed(0))
    assert drawn[:, 0].unique().tolist() == drawn[:, 1].unique().tolist() == list(range(9))
    assert drawn[:, 4].float().mean().item() == pytest.approx(0.5, abs=0.03)
    unflipped = draw_augmentation(Augmentation(crop_padding=4), 5000, 32, torch.Generator().manual_seed(0))
    assert unflipped[:, 4].sum() == 0
    assert torch.equal(unflipped[:, :4], drawn[:, :4])


def test_resized_crops_are_pil_s_within_a_level():
    augmentation = Augmentation(flip=True, crop_areas=(0.5, 1.0))
    images = photographs(200, 64)
    drawn = draw_augmentation(augmentation, 200, 64, torch.Generator().manual_seed(0))
    sides = torch.full((200, 1), 64)  # test_imagenet.py compares these boxes with torchvision's
    assert torch.equal(drawn[:, :4], draw_resized_crops((0.5, 1.0), sides, sides, torch.Generator().manual_seed(0)))
    ours = augment(images, drawn, augmentation)
    differences = []
    for image, (top, left, height, width, flip), result in zip(images, drawn.tolist(), ours, strict=True):
        expected = TF.resized_crop(to_pil(image), top, left, height, width, [64, 64])
        expected = from_pil(TF.hflip(expected) if flip else expected)
        differences.append((result - expected.float()).abs())
    differences = torch.stack(differences)
    assert differences.mean() <= 1.0  # of 255
    assert differences.max() <= 2.0


def test_an_epoch_has_every_image_once_and_a_smaller_last_batch():
    dataset = toy_dataset(count=21)
    batches = list(training_batches(dataset, batch_size=4, seed=3))
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 4, 4, 1]
    labels = torch.cat([labels for _, labels in batches])
    assert labels.bincount().tolist() == dataset.train.labels.bincount().tolist()
    again = list(training_batches(dataset, batch_size=4, seed=3))
    other = list(training_batches(dataset, batch_size=4, seed=4))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, again, strict=True))
    assert not all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, other, strict=True))


def test_batches_are_normalized_and_channels_last():
    dataset = toy_dataset(count=6, size=5, channels=3)
    (images, _), *_ = evaluation_batches(dataset, dataset.test)
    expected = (dataset.test.images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(images, expected)
    assert images.is_contiguous(memory_format=torch.channels_last)
    resized = normalize(torch.rand(2, 3, 5, 5).permute(0, 2, 3, 1), dataset)
    assert resized.is_contiguous(memory_format=torch.channels_last)
