"""ResNet-50 for small images: torchvision's with a 3x3 stride-1 stem and without max-pooling."""

import torchvision
from torch import nn

from models.initialization import small_image_stem


def resnet50(classes: int, channels: int) -> nn.Module:
    """23.7 M parameters for 100 classes."""
    network = torchvision.models.resnet50(num_classes=classes)
    network.conv1 = small_image_stem(channels, network.conv1.out_channels)
    network.maxpool = nn.Identity()
    return network
