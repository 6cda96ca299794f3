"""VGG-11 with batch normalization (Simonyan and Zisserman, 2015) for small images: torchvision's convolutions under one
linear classifier.

It differs from the VGG paper: ImageNet's two hidden layers of 4096 units, 119 M weights, are left out, as usual on
CIFAR. Initialization is torch's default; torchvision's would start the convolutions' biases at 0, without a sign.
"""

from collections import OrderedDict

from torch import nn
from torchvision.models.vgg import cfgs, make_layers


def vgg11_bn(classes: int, channels: int) -> nn.Module:
    """9.277 M parameters for 100 classes.

    Five poolings would leave nothing of an image smaller than 32 pixels. Rounding their sizes up leaves a pixel, and
    changes nothing at 32 and 64 pixels.
    """
    features = make_layers(cfgs["A"], batch_norm=True)
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    features[0] = nn.Conv2d(channels, features[0].out_channels, 3, padding=1)
    layers = OrderedDict(
        features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(512, classes)
    )
    return nn.Sequential(layers)
