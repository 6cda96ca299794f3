import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import ARCHITECTURES, build_network

META = torch.device("meta")  # shapes without values

# Parameters in millions for 100 classes (protocol of the paper; ResNet-20 and -32 of He et al., VGG with one layer).
MILLIONS = {
    "resnet20": 0.28,
    "resnet32": 0.47,
    "resnet50": 23.7,
    "mobilenetv2": 2.35,
    "shufflenet": 1.0,
    "efficientnet": 4.1,
    "vgg11_bn": 9.3,
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_parameter_counts_and_class_scores_of_every_image_size(arch):
    with META:
        count = sum(parameter.numel() for parameter in build_network(arch, 100).parameters())
        assert count / 1e6 == pytest.approx(MILLIONS[arch], rel=0.02)
        for size, channels in ((8, 1), (28, 1), (32, 3), (64, 3)):
            assert build_network(arch, 7, channels).eval()(torch.zeros(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_parameter_takes_part(arch):
    """A weight that the forward pass never uses would keep its initial magnitude and distort a global ranking."""
    torch.manual_seed(0)
    network = build_network(arch, 10)
    F.cross_entropy(network(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 3])).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []


def resolutions(network: nn.Module, size: int) -> list[int]:
    """The widths of the feature maps that the convolutions make, without repetitions."""
    widths = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[-1]))
    network.eval()(torch.zeros(1, 3, size, size))
    return [width for index, width in enumerate(widths) if index == 0 or width != widths[index - 1]]


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("resnet20", [32, 16, 8]),
        ("resnet32", [32, 16, 8]),
        ("resnet50", [32, 16, 8, 4]),  # neither its stem nor a pooling after it halves them
        ("mobilenetv2", [32, 16, 8, 4]),
        ("shufflenet", [32, 16, 8, 4]),
        ("vgg11_bn", [32, 16, 8, 4, 2]),
    ],
)
def test_resolutions_of_a_32_pixel_image(arch, expected):
    with META:
        assert resolutions(build_network(arch, 10), 32) == expected


def test_efficientnet_strides_and_rates():
    network = build_network("efficientnet", 10)
    strides = [max(m.stride[0] for m in stage.modules() if isinstance(m, nn.Conv2d)) for stage in network.features]
    assert strides == [1, 1, 2, 2, 2, 1, 2, 1, 1]  # the stem, the seven stages, the last convolution
    assert network.classifier[0].p == 0.2
    assert max(module.p for module in network.modules() if hasattr(module, "mode")) == pytest.approx(0.2, abs=0.02)
