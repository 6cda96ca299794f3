"""Initialization of the networks that are not torchvision's and of replaced first layers."""

from torch import nn


def initialize_convolution(convolution: nn.Conv2d) -> nn.Conv2d:
    """He et al.'s normal initialization with the fan-out, as in torchvision's ResNets and MobileNets."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def small_image_stem(channels: int, width: int) -> nn.Conv2d:
    """A 3x3 first convolution of stride 1, which keeps the resolution of a 32- or 64-pixel image."""
    return initialize_convolution(nn.Conv2d(channels, width, kernel_size=3, stride=1, padding=1, bias=False))
