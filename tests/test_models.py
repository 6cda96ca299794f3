"""The networks by facts of their papers: counts, initialization, resolutions, and blocks by their descriptions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import ARCHITECTURES, build_network
from models.efficientnet import MBConv
from models.mobilenetv2 import InvertedResidual
from models.shufflenet import ShuffleUnit
from tests.toys import SMALL_ARCHS
from utils.method.network import Blueprint

# Parameters for 100 classes. The published EfficientNet-B0 has 1,088 more, which its forward pass never uses.
PARAMETERS = {
    "resnet20": 275_572,
    "resnet32": 470_004,
    "resnet50": 23_705_252,
    "mobilenetv2": 2_412_212,
    "mobilenetv2_tiny": 38_652,
    "mlpmixer_tiny": 38_980,
    "shufflenet": 1_012_108,
    "efficientnet": 3_627_488,
    "vgg11_bn": 9_277_284,
    "mlpmixer": 1_143_780,
    "vit": 2_702_308,
}
# For ImageNet's 1000 classes; the paper gives its Mixer's 7.8 M.
LARGE = {"resnet50_224": 25_557_032, "mobilenetv2_224": 3_504_872, "mlpmixer_224": 7_786_968, "vit_224": 21_974_632}
TORCHVISION_S = {"resnet50"}  # its own initialization, but for the stem


@pytest.mark.parametrize("arch", SMALL_ARCHS)
def test_parameter_counts_and_class_scores_of_every_image_size(arch):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build_network(arch, 100).parameters()) == PARAMETERS[arch]
        for size, channels in ((8, 1), (28, 1), (32, 3), (64, 3)):
            assert build_network(arch, 7, channels, size).eval()(torch.zeros(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("arch", LARGE)
def test_the_networks_for_imagenet(arch):
    with torch.device("meta"):
        network = build_network(arch, 1000, 3, 224)
        assert network(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == LARGE[arch]
    assert all(module.p == 0 for module in network.modules() if isinstance(module, nn.Dropout))
    blueprint = Blueprint(arch, "imagenet", 1000, 3, 224)
    assert len(blueprint.classifier) == 2
    assert set(blueprint.prunable) | set(blueprint.norms) | set(blueprint.classifier) <= set(blueprint.learnable)


@pytest.mark.parametrize("arch", sorted(set(SMALL_ARCHS) - TORCHVISION_S))
def test_the_initialization_is_torch_s_default(arch):
    """Uniform between ±1/√fan_in, weights and biases: as large as they may be."""
    torch.manual_seed(0)
    for module in build_network(arch, 100).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            for parameter in module.parameters():
                assert parameter.abs().max() <= 1.0001 * bound
            if module.weight.numel() > 500:
                assert module.weight.abs().max() > 0.95 * bound
                assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_parameter_takes_part_and_every_bias_has_a_sign(arch):
    """A weight that the forward pass never uses would keep its initial magnitude and distort a global ranking; abs(0) ⊙
    s has no sign. The biases of the classifier of torchvision's MobileNetV2 start at 0."""
    torch.manual_seed(0)
    size = 64 if arch in LARGE else 32
    network, blueprint = build_network(arch, 10, 3, size).train(), Blueprint(arch, "toy", 10, 3, size)
    biases = [name for name in blueprint.signed if name.endswith(".bias")]
    signless = [name for name in biases if not network.get_parameter(name).all()]
    assert signless == (["classifier.1.bias"] if arch == "mobilenetv2_224" else [])
    F.cross_entropy(network(torch.randn(4, 3, size, size)), torch.arange(4)).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []


def resolutions(network: nn.Module, size: int) -> list[int]:
    """The widths of the feature maps that the spatial convolutions make, without repetitions."""
    widths = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[-1]))
    network.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return [width for index, width in enumerate(widths) if index == 0 or width != widths[index - 1]]


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("resnet20", [32, 16, 8]),
        ("resnet32", [32, 16, 8]),
        ("resnet50", [32, 16, 8, 4]),  # neither its stem nor a pooling after it halves them
        ("mobilenetv2", [32, 16, 8, 4]),
        ("efficientnet", [32, 16, 8, 4, 2]),
        ("shufflenet", [32, 16, 8, 4]),
        ("vgg11_bn", [32, 16, 8, 4, 2]),
    ],
)
def test_resolutions_of_a_32_pixel_image(arch, expected):
    with torch.device("meta"):
        assert resolutions(build_network(arch, 10), 32) == expected


def test_efficientnet_drops_before_its_classifier_only():
    network = build_network("efficientnet", 10)
    assert [module.p for module in network.modules() if hasattr(module, "p")] == [0.2]


def run_layers(images, *layers):
    """Convolutions, batch norms and activations one after the other."""
    for layer in layers:
        images = layer(images)
    return images


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(3, 24, 8, 8)


def test_a_mobilenetv2_block_by_its_description(images):
    """Expand, ReLU, depthwise, ReLU, project; at stride 1 the input is added, by a convolution if channels differ."""
    for out, stride in ((24, 1), (32, 1), (32, 2)):
        block = InvertedResidual(24, out, expansion=6, stride=stride)
        expected = run_layers(
            images, block.expand, block.bn1, F.relu, block.depthwise, block.bn2, F.relu, block.project, block.bn3
        )
        if stride == 1:
            expected = expected + (images if out == 24 else run_layers(images, *block.shortcut))
        assert block.depthwise.weight.shape == (144, 1, 3, 3)
        assert torch.equal(block(images), expected)


def test_an_efficientnet_block_by_its_description(images):
    """Squeeze to a quarter of the block's input channels; the input is added only if nothing changes its shape."""
    for out, expansion, stride in ((24, 1, 1), (24, 6, 1), (32, 6, 1), (24, 6, 2)):
        block = MBConv(24, out, expansion, kernel=5, stride=stride)
        widened = images if expansion == 1 else run_layers(images, *block.expand)
        spread = run_layers(widened, block.depthwise, block.bn1, F.silu)
        scale = run_layers(spread.mean((2, 3), keepdim=True), block.scale.squeeze, F.silu, block.scale.excite)
        expected = run_layers(spread * scale.sigmoid(), block.project, block.bn2)
        assert block.scale.squeeze.weight.shape == (6, 24 * expansion, 1, 1)
        assert len(list(block.expand.parameters())) == (0 if expansion == 1 else 3)
        added = images if (out, stride) == (24, 1) else 0
        assert torch.equal(block(images), expected + added)


def test_a_shufflenet_unit_by_its_description(images):
    """Three groups, whose channels are dealt out in turn after the first convolution."""
    for stride, out in ((1, 24), (2, 48)):
        unit = ShuffleUnit(24, out, stride)
        grouped = run_layers(images, unit.conv1, unit.bn1, F.relu)
        dealt = torch.stack(grouped.chunk(3, dim=1), dim=2).flatten(1, 2)
        branch = run_layers(dealt, unit.conv2, unit.bn2, unit.conv3, unit.bn3)
        pooled = F.avg_pool2d(images, 3, stride=2, padding=1)
        expected = branch + images if stride == 1 else torch.cat([pooled, branch], dim=1)
        assert torch.equal(unit(images), F.relu(expected))
