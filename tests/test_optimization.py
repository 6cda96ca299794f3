import pytest
import torch
from torch import nn

from utils.training.optimization import cosine_rates, decayed_rates, sgd


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (0, []),
        (1, [1]),
        (2, [1, 0.1]),
        (3, [1, 1, 0.1]),
        (4, [1, 1, 0.1, 0.01]),
        (8, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        (100, [1] * 50 + [0.1] * 25 + [0.01] * 25),
    ],
)
def test_the_rate_decays_at_half_and_three_quarters(epochs, expected):
    assert decayed_rates(1.0, epochs, (0.5, 0.75)) == pytest.approx(expected)


def test_gem_miner_decays_at_80_and_120_of_150():
    assert decayed_rates(0.01, 150, (0.5333, 0.8)) == pytest.approx([0.01] * 80 + [0.001] * 40 + [0.0001] * 30)


def test_a_cosine_falls_from_the_whole_rate_through_half_of_it():
    """cos 60° is 1/2: three quarters of the rate after a third of the epochs, a quarter after two thirds."""
    assert cosine_rates(0.1, 2) == pytest.approx([0.1, 0.05])
    assert cosine_rates(0.4, 3) == pytest.approx([0.4, 0.3, 0.1])


def test_what_needs_no_gradient_is_not_decayed():
    network = nn.Conv2d(1, 1, 1)
    network.bias.requires_grad_(False)
    (group,) = sgd(network, lr=0.5, momentum=0.9, weight_decay=0.1).param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(network.weight)]


def test_weight_decay_applies_to_every_parameter():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    optimizer = sgd(network, lr=0.5, momentum=0.9, weight_decay=0.1)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
        parameter.data.fill_(1.0)
    optimizer.step()
    assert [parameter.item() for parameter in network.parameters()] == pytest.approx([0.95] * 4)  # 1 - 0.5 · 0.1
