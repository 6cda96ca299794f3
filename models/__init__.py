"""The networks: one table from name to constructor, one file per architecture.

Every constructor takes ``(classes, channels)``, and ``image_size`` if the network is for one size, and returns a plain
``nn.Module`` for images of 32 or 64 pixels (28-pixel and 8-pixel images work too); names that end in ``_224`` are the
networks for ImageNet. The table names the classifier, which is never guessed from its shape: only Gem-Miner prunes it,
and it starts fresh when a signed mask comes from another data set.

θ_init is part of the experiment. The small networks start from torch's default initialization (uniform, ±1/√fan_in,
biases too), with which the AWS paper's results were made; no bias starts at 0, where it would have no sign to transfer.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from models.efficientnet import efficientnet_b0
from models.mlpmixer import mlpmixer, mlpmixer_224, mlpmixer_tiny
from models.mobilenetv2 import mobilenet_v2, mobilenet_v2_tiny
from models.resnet50 import resnet50
from models.resnet_cifar import resnet20, resnet32
from models.shufflenet import shufflenet
from models.torchvision_224 import mobilenetv2_224, resnet50_224
from models.vgg11_bn import vgg11_bn
from models.vit import vit, vit_224


class Architecture(NamedTuple):
    construct: Callable[..., nn.Module]
    classifier: str  # name of the module that computes the class scores
    version: int = 2  # raised if the network or its initialization changes: runs of two versions are never mixed
    sized: bool = False  # whether the network is for one size of images
    unpruned: tuple[str, ...] = ()  # parameters to leave dense, such as a class token and position embeddings


ARCHITECTURES = {
    "resnet20": Architecture(resnet20, classifier="fc"),
    "resnet32": Architecture(resnet32, classifier="fc"),
    "resnet50": Architecture(resnet50, classifier="fc"),
    "mobilenetv2": Architecture(mobilenet_v2, classifier="fc"),
    "mobilenetv2_tiny": Architecture(mobilenet_v2_tiny, classifier="fc"),
    "shufflenet": Architecture(shufflenet, classifier="fc"),
    "efficientnet": Architecture(efficientnet_b0, classifier="fc"),
    "vgg11_bn": Architecture(vgg11_bn, classifier="classifier"),
    "mlpmixer": Architecture(mlpmixer, classifier="fc", sized=True),
    "mlpmixer_tiny": Architecture(mlpmixer_tiny, classifier="fc", sized=True),
    "vit": Architecture(vit, classifier="fc", sized=True),
    "resnet50_224": Architecture(resnet50_224, classifier="fc"),
    "mobilenetv2_224": Architecture(mobilenetv2_224, classifier="classifier.1"),
    "mlpmixer_224": Architecture(mlpmixer_224, classifier="fc", sized=True),
    "vit_224": Architecture(vit_224, classifier="fc", sized=True),
}


def build_network(arch: str, classes: int, channels: int = 3, image_size: int = 32) -> nn.Module:
    """A randomly initialized network, drawn from torch's global generator: seed it first.

    Raises KeyError if ``arch`` is not in ``ARCHITECTURES``, and UserError if the network does not take such images.
    """
    architecture = ARCHITECTURES[arch]
    return architecture.construct(classes, channels, *([image_size] if architecture.sized else []))
