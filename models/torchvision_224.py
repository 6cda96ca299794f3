"""The AWS paper's networks for ImageNet (tables 1 and 2) that are torchvision's as they are, with its initialization:
He's normal over the fan-out for convolutions. ResNet-50's classifier has torch's default one; MobileNetV2's is normal,
and its biases start at 0, so that their signs cannot be transferred."""

import torchvision
from torch import nn

from utils.errors import UserError


def resnet50_224(classes: int, channels: int) -> nn.Module:
    """25.557 M parameters for 1000 classes. Raises UserError unless the images have three channels."""
    check_channels(channels)
    return torchvision.models.resnet50(num_classes=classes)


def mobilenetv2_224(classes: int, channels: int) -> nn.Module:
    """3.505 M parameters for 1000 classes. Raises UserError unless the images have three channels."""
    check_channels(channels)
    return torchvision.models.mobilenet_v2(num_classes=classes, dropout=0.0)


def check_channels(channels: int) -> None:
    if channels != 3:
        raise UserError(f"torchvision's networks take images of 3 channels, not {channels}: choose another --arch")
