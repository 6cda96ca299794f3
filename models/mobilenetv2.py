"""MobileNetV2 (Sandler et al., 2018) for small images, as in the AWS paper's experiments.

It differs from the MobileNetV2 paper: the stem and the 24-channel stage have stride 1; blocks of expansion 1 have an
expansion convolution too; ReLU instead of ReLU6; at stride 1 the input is always added, through a 1x1 convolution with
batch norm if the channels differ; no dropout. Initialization is torch's default.
"""

import torch.nn.functional as F
from torch import Tensor, nn

# (expansion, channels, blocks, stride), table 2 of the MobileNetV2 paper; the second row's stride was 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_WIDTH, HEAD_WIDTH = 32, 1280
# A network that a processor trains in seconds an epoch, and that needs its ψ as the large one does.
TINY_STAGES = ((6, 8, 2, 1), (6, 16, 2, 2), (6, 32, 2, 2))
TINY_STEM_WIDTH, TINY_HEAD_WIDTH = 8, 64


def pointwise(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1, bias=False)


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, convolve every channel alone, project back."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int):
        super().__init__()
        width = expansion * channels_in
        self.expand, self.bn1 = pointwise(channels_in, width), nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.project, self.bn3 = pointwise(width, channels_out), nn.BatchNorm2d(channels_out)
        self.residual = stride == 1
        self.shortcut = nn.Sequential()
        if self.residual and channels_in != channels_out:
            self.shortcut = nn.Sequential(pointwise(channels_in, channels_out), nn.BatchNorm2d(channels_out))

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.expand(images)), inplace=True)
        out = F.relu(self.bn2(self.depthwise(out)), inplace=True)
        out = self.bn3(self.project(out))
        return out + self.shortcut(images) if self.residual else out


class MobileNetV2(nn.Module):
    def __init__(self, classes: int, channels: int, stem_width: int, stages: tuple, head_width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, stem_width, 3, padding=1, bias=False), nn.BatchNorm2d(stem_width)
        width, blocks = stem_width, []
        for expansion, stage_width, count, stride in stages:
            for index in range(count):
                blocks.append(InvertedResidual(width, stage_width, expansion, stride if index == 0 else 1))
                width = stage_width
        self.blocks = nn.Sequential(*blocks)
        self.conv2, self.bn2 = pointwise(width, head_width), nn.BatchNorm2d(head_width)
        self.fc = nn.Linear(head_width, classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.blocks(F.relu(self.bn1(self.conv1(images)), inplace=True))
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.fc(out.mean(dim=(2, 3)))


def mobilenet_v2(classes: int, channels: int) -> nn.Module:
    """2.412 M parameters for 100 classes; a 32-pixel image goes 32 -> 32 -> 32 -> 16 -> 8 -> 8 -> 4 -> 4."""
    return MobileNetV2(classes, channels, STEM_WIDTH, STAGES, HEAD_WIDTH)


def mobilenet_v2_tiny(classes: int, channels: int) -> nn.Module:
    """The same blocks in three stages of 8, 16 and 32 channels, 0.03 M parameters for 10 classes; not from a paper."""
    return MobileNetV2(classes, channels, TINY_STEM_WIDTH, TINY_STAGES, TINY_HEAD_WIDTH)
