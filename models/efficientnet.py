"""EfficientNet-B0 (Tan and Le, 2019) for small images, as in the AWS paper's experiments.

It differs from the EfficientNet paper: the stem has stride 1 and the last stages' strides are those below; there is no
1x1 convolution between the last stage and the classifier; stochastic depth is 0. Initialization is torch's default.
"""

import torch.nn.functional as F
from torch import Tensor, nn

# (expansion, channels, blocks, kernel, stride), table 1 of the EfficientNet paper.
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
STEM_WIDTH = 32
DROPOUT = 0.2
SQUEEZE = 4  # the squeezed width is a quarter of the block's input channels


class SqueezeExcitation(nn.Module):
    """Scale every channel by a number that depends on all channels' means (Hu et al., 2018)."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean(dim=(2, 3), keepdim=True)
        return images * self.excite(F.silu(self.squeeze(means))).sigmoid()


class MBConv(nn.Module):
    """An inverted residual with squeeze and excitation; the input is added if nothing changes its shape."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        width = expansion * channels_in
        self.expand = nn.Sequential()
        if expansion > 1:
            self.expand = nn.Sequential(nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        self.depthwise = nn.Conv2d(width, width, kernel, stride, padding=kernel // 2, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.scale = SqueezeExcitation(width, channels_in // SQUEEZE)
        self.project, self.bn2 = nn.Conv2d(width, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, images: Tensor) -> Tensor:
        out = F.silu(self.bn1(self.depthwise(self.expand(images))))
        out = self.bn2(self.project(self.scale(out)))
        return out + images if self.residual else out


class EfficientNet(nn.Module):
    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, STEM_WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(STEM_WIDTH)
        width, blocks = STEM_WIDTH, []
        for expansion, stage_width, count, kernel, stride in STAGES:
            for index in range(count):
                blocks.append(MBConv(width, stage_width, expansion, kernel, stride if index == 0 else 1))
                width = stage_width
        self.blocks = nn.Sequential(*blocks)
        self.dropout, self.fc = nn.Dropout(DROPOUT), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.blocks(F.silu(self.bn1(self.conv1(images))))
        return self.fc(self.dropout(out.mean(dim=(2, 3))))


def efficientnet_b0(classes: int, channels: int) -> nn.Module:
    """3.627 M parameters for 100 classes; a 32-pixel image goes 32 -> 32 -> 16 -> 8 -> 4 -> 4 -> 2 -> 2.

    The published code has 1,088 more, an expansion at expansion 1 that its forward pass never uses.
    """
    return EfficientNet(classes, channels)
