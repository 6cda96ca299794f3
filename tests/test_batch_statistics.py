import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torchvision.ops import StochasticDepth

from data.batches import evaluation_batches, training_batches
from models import build_network
from tests.toys import reestimate_batch_statistics, toy_dataset


def test_statistics_are_those_of_one_pass_in_float64():
    """The cumulative average over equal batches is the average over batches of each batch's mean and variance."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3))
    network[1].running_mean.fill_(7.0)  # from scratch: what was there does not count
    dataset = toy_dataset(count=1500)  # three evaluation batches of 500
    batches = list(evaluation_batches(dataset, dataset.train))
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    reestimate_batch_statistics(network, batches)
    with torch.no_grad():
        outputs = [network[0].double()(images.double()) for images, _ in batches]
    means = torch.stack([out.mean(dim=(0, 2, 3)) for out in outputs]).mean(0)
    variances = torch.stack([out.var(dim=(0, 2, 3), unbiased=True) for out in outputs]).mean(0)
    torch.testing.assert_close(network[1].running_mean.double(), means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network[1].running_var.double(), variances, rtol=1e-5, atol=1e-6)
    assert network[1].momentum == 0.1
    assert all(torch.equal(before[name].double(), value.double()) for name, value in network.named_parameters())


@pytest.mark.parametrize("arch", ["resnet20", "shufflenet"])
def test_they_are_those_of_update_bn(arch):
    """torch's own cumulative average is the reference, to rounding; also of unequal batches."""
    torch.manual_seed(0)
    ours = build_network(arch, 4, 1)
    reference = copy.deepcopy(ours)
    batches = list(training_batches(toy_dataset(count=44, size=16, classes=4), batch_size=16, seed=0))
    reestimate_batch_statistics(ours, batches)
    update_bn(batches, reference)
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


class Odd(nn.Module):
    """A batch norm that is used twice, one that is never used, and one without running statistics."""

    def __init__(self):
        super().__init__()
        self.twice, self.unused = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.plain = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, images):
        return self.plain(self.twice(self.twice(images)))


def test_layers_may_be_used_any_number_of_times():
    """What stands is the average of each batch's last use: the output of a batch norm has mean 0 and variance 1."""
    network, batches = Odd(), list(training_batches(toy_dataset(count=64), 32, 0))
    reestimate_batch_statistics(network, batches)
    assert network.twice.running_mean.item() == pytest.approx(0, abs=1e-5)
    assert network.twice.running_var.item() == pytest.approx(1, abs=0.01)
    assert (network.unused.running_mean.item(), network.unused.running_var.item()) == (0, 1)
    reestimate_batch_statistics(nn.Linear(2, 2), (1 / 0 for _ in range(1)))  # reads no batch, as it has none


def test_nothing_is_dropped_meanwhile():
    torch.manual_seed(0)
    network = build_network("efficientnet", 5, 1)
    dataset = toy_dataset(count=16, size=16)
    batches = list(evaluation_batches(dataset, dataset.train))
    rates = [m.p for m in network.modules() if isinstance(m, nn.Dropout | StochasticDepth)]
    assert max(rates) == 0.2
    reestimate_batch_statistics(network, batches)
    first = {name: value.clone() for name, value in network.state_dict().items()}
    reestimate_batch_statistics(network, batches)
    assert all(torch.equal(first[name], value) for name, value in network.state_dict().items())
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout | StochasticDepth)] == rates
