"""ShuffleNet v1 with three groups (Zhang et al., 2018) for small images: 3x3 stride-1 stem, no max-pooling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.initialization import initialize_convolution, small_image_stem

GROUPS = 3
STEM_WIDTH = 24
STAGES = ((240, 4), (480, 8), (960, 4))  # channels, units


def pointwise(channels_in: int, channels_out: int, groups: int) -> nn.Conv2d:
    return initialize_convolution(nn.Conv2d(channels_in, channels_out, 1, groups=groups, bias=False))


class ShuffleUnit(nn.Module):
    """Figure 2 of the paper: (b) at stride 1, (c) at stride 2, where the average-pooled input is concatenated."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        bottleneck = channels_out // 4
        convolved = channels_out - channels_in if stride == 2 else channels_out
        # The convolution on the stem's few channels is not grouped (section 3.2 of the ShuffleNet paper).
        groups = 1 if channels_in == STEM_WIDTH else GROUPS
        self.conv1 = pointwise(channels_in, bottleneck, groups)
        self.bn1 = nn.BatchNorm2d(bottleneck)
        self.conv2 = initialize_convolution(
            nn.Conv2d(bottleneck, bottleneck, 3, stride=stride, padding=1, groups=bottleneck, bias=False)
        )
        self.bn2 = nn.BatchNorm2d(bottleneck)
        self.conv3 = pointwise(bottleneck, convolved, GROUPS)
        self.bn3 = nn.BatchNorm2d(convolved)
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(images)))
        out = F.channel_shuffle(out, GROUPS)
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return F.relu(out + images)
        return F.relu(torch.cat([out, F.avg_pool2d(images, 3, stride=2, padding=1)], dim=1))


class ShuffleNet(nn.Module):
    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.conv1 = small_image_stem(channels, STEM_WIDTH)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        width, units = STEM_WIDTH, []
        for stage_width, count in STAGES:
            for index in range(count):
                units.append(ShuffleUnit(width, stage_width, stride=2 if index == 0 else 1))
                width = stage_width
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(images)))
        out = self.units(out)
        return self.fc(out.mean(dim=(2, 3)))


def shufflenet(classes: int, channels: int) -> nn.Module:
    """1.0 M parameters for 100 classes."""
    return ShuffleNet(classes, channels)
