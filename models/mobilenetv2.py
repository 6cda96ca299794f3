"""MobileNetV2 for small images: torchvision's with stride 1 in the stem and the 24-channel stage."""

import torchvision
from torch import nn

from models.initialization import small_image_stem

# Rows of (expansion, channels, blocks, stride), from table 2 of the MobileNetV2 paper, where the second stride is 2.
INVERTED_RESIDUALS = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def mobilenet_v2(classes: int, channels: int) -> nn.Module:
    """2.4 M parameters for 100 classes; 32 pixels become 32 -> 32 -> 32 -> 16 -> 8 -> 8 -> 4 -> 4. No dropout."""
    network = torchvision.models.MobileNetV2(
        num_classes=classes, inverted_residual_setting=INVERTED_RESIDUALS, dropout=0.0
    )
    network.features[0][0] = small_image_stem(channels, network.features[0][0].out_channels)
    return network
