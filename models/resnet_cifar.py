"""ResNet-20 and ResNet-32, the small residual networks of He et al. (2016), section 4.2.

Three stages of basic blocks with 16, 32 and 64 channels; the shortcuts have no parameters (option A). They differ from
that paper in their initialization, which is torch's default as in the other small networks here, not He's.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def convolution_3x3(channels_in: int, channels_out: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity shortcut, subsampled and padded with zero channels if the size changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = convolution_3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = convolution_3x3(channels_out, channels_out, 1)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.added_channels = channels_out - channels_in

    def shortcut(self, images: Tensor) -> Tensor:
        if self.stride > 1:
            images = images[:, :, :: self.stride, :: self.stride]
        if self.added_channels:
            before = self.added_channels // 2
            images = F.pad(images, (0, 0, 0, 0, before, self.added_channels - before))
        return images

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(images), inplace=True)


class CifarResNet(nn.Module):
    def __init__(self, blocks_per_stage: int, classes: int, channels: int):
        super().__init__()
        self.conv1 = convolution_3x3(channels, 16, 1)
        self.bn1 = nn.BatchNorm2d(16)
        width, blocks = 16, []
        for stage_width, stride in ((16, 1), (32, 2), (64, 2)):
            for index in range(blocks_per_stage):
                blocks.append(BasicBlock(width, stage_width, stride if index == 0 else 1))
                width = stage_width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(images)), inplace=True)
        out = self.blocks(out)
        return self.fc(out.mean(dim=(2, 3)))


def resnet20(classes: int, channels: int) -> nn.Module:
    """0.27 M parameters for 10 classes."""
    return CifarResNet(3, classes, channels)


def resnet32(classes: int, channels: int) -> nn.Module:
    """0.47 M parameters for 100 classes."""
    return CifarResNet(5, classes, channels)
