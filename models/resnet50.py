"""ResNet-50 (He et al., 2016) for small images: torchvision's, with a 3x3 stem of stride 1 and no max-pooling.

The stem has torch's default initialization, the other convolutions torchvision's (He's normal over the fan-out).
"""

import torchvision
from torch import nn


def resnet50(classes: int, channels: int) -> nn.Module:
    """23.705 M parameters for 100 classes."""
    network = torchvision.models.resnet50(num_classes=classes)
    network.conv1 = nn.Conv2d(channels, network.conv1.out_channels, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
