"""Small networks and data sets for the tests, and the list of the large ones."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from data.augmentation import Augmentation
from data.dataset import Dataset, LabelledImages
from models import ARCHITECTURES
from utils.training.batch_statistics import AveragedStatistics
from utils.training.optimization import Recipe, make_optimizer, set_rate

SMALL_ARCHS = [arch for arch in ARCHITECTURES if not arch.endswith("_224")]  # those for small images
# Every one of them for a test's parameter; a single one is enough for the fast tests.
EVERY_ARCH = [pytest.param(arch, marks=[] if arch == "resnet20" else pytest.mark.slow) for arch in SMALL_ARCHS]


class ToyNetwork(nn.Module):
    """One convolution of 8 weights, batch norm, a hidden layer as wide as the classes, and the classifier.

    Weights count up: 1, 2, .. with alternating signs, so that a test's numbers can be worked out in the head.
    """

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)
        self.hidden, self.fc = nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -2, 3, -4, 5, -6, 7, -8]).view(2, 1, 2, 2))
            self.hidden.weight.copy_(torch.tensor([[11.0, 12], [13, 14]]))

    def forward(self, images: Tensor) -> Tensor:
        out = self.norm(self.conv(images)).relu().mean(dim=(2, 3))
        return self.fc(self.hidden(out).relu())


def toy_dataset(count: int = 20, size: int = 4, channels: int = 1, classes: int = 2) -> Dataset:
    """Random images; the label is told by the brightness, so there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    noise = torch.randint(0, 60, (count, size, size, channels), generator=generator)
    images = (noise + 150 * labels[:, None, None, None] // max(classes - 1, 1)).to(torch.uint8)
    split = LabelledImages(images, labels)
    half = torch.full((channels,), 0.5)
    return Dataset("toy", split, split, classes, half, half, Augmentation(crop_padding=1))


def conv_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def conv_layer_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))


def norm_free() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


class OneDimensional(nn.Module):
    """A 1-D convolution over the pixels in a row."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(images.flatten(2))).relu().mean(2))


class Attentive(nn.Module):
    """Attention over pixels with a position embedding, whose weights are packed in one parameter."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 16, 4))
        self.embed, self.fc = nn.Linear(1, 4), nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.flatten(2).transpose(1, 2)) + self.positions
        return self.fc(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


TOY_NETWORKS = [conv_batch_norm, conv_layer_norm, norm_free, OneDimensional, Attentive]


def sgd(network: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    optimizer = make_optimizer(network, Recipe(1, momentum, weight_decay))
    set_rate(optimizer, lr)
    return optimizer


def reestimate_batch_statistics(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set the running statistics of every batch norm to their average over ``batches``."""
    statistics = AveragedStatistics(network)
    statistics.estimate(batches, lambda images, _: statistics.see(images))
