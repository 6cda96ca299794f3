"""VGG-11 with batch normalization for small images: torchvision's convolutions under one linear classifier."""

import torchvision
from torch import nn

from models.initialization import small_image_stem


def vgg11_bn(classes: int, channels: int) -> nn.Module:
    """9.3 M parameters for 100 classes.

    ImageNet's two hidden layers of 4096 units, 119 M weights, are left out, as usual on CIFAR. Five poolings leave
    nothing of an image under 32 pixels; rounding their sizes up does, and changes nothing at 32 and 64.
    """
    network = torchvision.models.vgg11_bn(num_classes=classes)
    network.features[0] = small_image_stem(channels, network.features[0].out_channels)
    for layer in network.features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(512, classes)
    return network
