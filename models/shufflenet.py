"""ShuffleNet v1 with three groups (Zhang et al., 2018) for small images, as in the AWS paper's experiments.

It differs from the ShuffleNet paper: a 3x3 stem of stride 1 and no max-pooling; the first pointwise convolution is
grouped too; every convolution has a bias. Initialization is torch's default, so no bias starts at 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 3
STEM_WIDTH = 24
STAGES = ((240, 4), (480, 8), (960, 4))  # channels, units


class ShuffleUnit(nn.Module):
    """Figure 2 (b) at stride 1, (c) at stride 2: there the average-pooled input is concatenated, not added."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        bottleneck = channels_out // 4
        convolved = channels_out - channels_in if stride == 2 else channels_out
        self.conv1, self.bn1 = nn.Conv2d(channels_in, bottleneck, 1, groups=GROUPS), nn.BatchNorm2d(bottleneck)
        self.conv2 = nn.Conv2d(bottleneck, bottleneck, 3, stride=stride, padding=1, groups=bottleneck)
        self.bn2 = nn.BatchNorm2d(bottleneck)
        self.conv3, self.bn3 = nn.Conv2d(bottleneck, convolved, 1, groups=GROUPS), nn.BatchNorm2d(convolved)
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(images)), inplace=True)
        out = F.channel_shuffle(out, GROUPS)
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return F.relu(out + images, inplace=True)
        return F.relu(torch.cat([F.avg_pool2d(images, 3, stride=2, padding=1), out], dim=1), inplace=True)


class ShuffleNet(nn.Module):
    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, STEM_WIDTH, 3, padding=1), nn.BatchNorm2d(STEM_WIDTH)
        width, units = STEM_WIDTH, []
        for stage_width, count in STAGES:
            for index in range(count):
                units.append(ShuffleUnit(width, stage_width, stride=2 if index == 0 else 1))
                width = stage_width
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.units(out)
        return self.fc(out.mean(dim=(2, 3)))


def shufflenet(classes: int, channels: int) -> nn.Module:
    """1.012 M parameters for 100 classes."""
    return ShuffleNet(classes, channels)
