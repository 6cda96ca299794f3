"""EfficientNet-B0 for small images: torchvision's with a stride-1 stem, and dropout and stochastic depth of 0.2."""

import torchvision
from torch import nn

from models.initialization import small_image_stem


def efficientnet_b0(classes: int, channels: int) -> nn.Module:
    """4.1 M parameters for 100 classes; stage strides 1, 2, 2, 2, 1, 2, 1."""
    network = torchvision.models.efficientnet_b0(num_classes=classes, dropout=0.2, stochastic_depth_prob=0.2)
    network.features[0][0] = small_image_stem(channels, network.features[0][0].out_channels)
    return network
