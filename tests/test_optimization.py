import pytest
import torch
from torch import nn

from tests.toys import sgd
from utils.training.optimization import cosine_rates, decayed_rates


@pytest.mark.parametrize(
    "expected",
    [
        [],
        [1],
        [1, 0.1],
        [1, 1, 0.1],
        [1, 1, 0.1, 0.01],
        [1] * 4 + [0.1] * 2 + [0.01] * 2,
        [1] * 50 + [0.1] * 25 + [0.01] * 25,
    ],
    ids=len,
)
def test_the_rate_decays_at_half_and_three_quarters(expected):
    assert decayed_rates(1.0, len(expected), (0.5, 0.75)) == pytest.approx(expected)


def test_gem_miner_s_rates():
    """cos 60° is 1/2: three quarters of the rate after a third of the epochs, a quarter after two thirds."""
    assert cosine_rates(0.1, 2) == pytest.approx([0.1, 0.05])
    assert cosine_rates(0.4, 3) == pytest.approx([0.4, 0.3, 0.1])
    assert decayed_rates(0.01, 150, (0.5333, 0.8)) == pytest.approx([0.01] * 80 + [0.001] * 40 + [0.0001] * 30)


def test_weight_decay_applies_to_every_parameter_that_needs_a_gradient():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
        parameter.data.fill_(1.0)
    network[0].bias.requires_grad_(False)
    sgd(network, lr=0.5, momentum=0.9, weight_decay=0.1).step()
    decayed = 0.95  # 1 - 0.5 · 0.1
    assert [parameter.item() for parameter in network.parameters()] == pytest.approx([decayed, 1, decayed, decayed])
