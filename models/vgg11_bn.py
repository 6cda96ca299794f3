"""VGG-11 with batch normalization for small images: torchvision's convolutions and one linear classifier."""

from collections import OrderedDict

from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from models.initialization import initialize_convolution, small_image_stem


def vgg11_bn(classes: int, channels: int) -> nn.Module:
    """9.3 M parameters for 100 classes.

    The two hidden layers of 4096 units used for ImageNet (119 M weights) are left out, as usual on CIFAR. Rounding the
    output sizes of the five poolings up keeps images below 32 pixels from vanishing; it changes nothing at 32 and 64.
    """
    features = make_layers(cfgs["A"], batch_norm=True)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            initialize_convolution(layer)
        elif isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    width = features[0].out_channels
    features[0] = small_image_stem(channels, width)
    layers = OrderedDict(
        features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=nn.Linear(512, classes)
    )
    return nn.Sequential(layers)
