"""(ψ, ψ_init)_α in every normalization layer of torch, its gradient, and how α is drawn."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from utils.method import norm_interpolation as aws
from utils.method.norm_interpolation import initial_normalization, interpolate_normalization

# Every normalization layer of torch that has parameters, with an input that it takes.
LAYERS = [
    (nn.BatchNorm1d(4), (6, 4)),
    (nn.BatchNorm2d(4), (6, 4, 3, 3)),
    (nn.BatchNorm3d(4), (6, 4, 2, 2, 2)),
    (nn.SyncBatchNorm(4), None),
    (nn.InstanceNorm1d(4, affine=True), (6, 4, 5)),
    (nn.InstanceNorm2d(4, affine=True), (6, 4, 3, 3)),
    (nn.InstanceNorm3d(4, affine=True), (6, 4, 2, 2, 2)),
    (nn.LayerNorm(4, eps=0.1), (6, 4)),
    (nn.LayerNorm(4, bias=False), (6, 4)),
    (nn.GroupNorm(2, 4), (6, 4, 3)),
    (nn.RMSNorm(4), (6, 4)),
]


def test_interpolation_by_hand():
    norm = nn.BatchNorm1d(2)
    nn.init.constant_(norm.weight, 0.7)
    initial = initial_normalization(nn.Sequential(norm))
    nn.init.constant_(norm.weight, 3.0)
    assert initial["0.weight"].tolist() == pytest.approx([0.7, 0.7])
    current, initial = {"w": torch.tensor([3.0, 5.0])}, {"w": torch.tensor([1.0, 1.0])}
    interpolated = interpolate_normalization(current, initial, torch.tensor(0.25))  # 0.25·ψ + 0.75·ψ_init
    assert interpolated["w"].tolist() == [1.5, 2.0]
    current, initial = {"w": torch.randn(1000)}, {"w": torch.randn(1000)}
    assert torch.equal(interpolate_normalization(current, initial, torch.tensor(1.0))["w"], current["w"])
    assert torch.equal(interpolate_normalization(current, initial, torch.tensor(0.0))["w"], initial["w"])


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: type(value).__name__)
def test_every_normalization_layer_is_interpolated(layer, shape):
    """The layer's own forward, with its eps and everything else, under other parameters: nothing is rewritten."""
    network = nn.Sequential(nn.Identity(), layer)
    expected = {f"1.{name}" for name, _ in layer.named_parameters()}
    assert set(aws.normalization_names(network)) == expected
    if shape is None:
        return  # needs several processes to run
    torch.manual_seed(0)
    initial = {name: torch.randn_like(value) for name, value in initial_normalization(network).items()}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    alpha, inputs = torch.tensor(0.3), torch.randn(shape)
    interpolated = interpolate_normalization(aws.normalization_parameters(network), initial, alpha)
    out = functional_call(network, interpolated, (inputs,), tie_weights=False)
    after = dict(network.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in after)  # nothing is left in the network
    with torch.no_grad():
        for name in initial:
            network.get_parameter(name).copy_(0.3 * before[name] + 0.7 * initial[name])
    torch.testing.assert_close(out, network(inputs))


def test_the_gradient_reaches_the_parameters_through_the_interpolation():
    """d loss / dψ = α · d loss / d(ψ, ψ_init)_α"""
    norm = nn.LayerNorm(3)
    inputs, alpha = torch.randn(5, 3), torch.tensor(0.4)
    interpolated = interpolate_normalization(
        dict(norm.named_parameters()), {"weight": torch.zeros(3), "bias": torch.ones(3)}, alpha
    )
    functional_call(norm, interpolated, (inputs,)).square().sum().backward()
    free = {name: value.detach().requires_grad_() for name, value in interpolated.items()}
    F.layer_norm(inputs, (3,), free["weight"], free["bias"], norm.eps).square().sum().backward()
    torch.testing.assert_close(norm.weight.grad, 0.4 * free["weight"].grad)
    torch.testing.assert_close(norm.bias.grad, 0.4 * free["bias"].grad)


def test_alphas_are_uniform_in_their_range():
    alphas = aws.draw_alphas(10_000, (0.5, 1.0), seed=0)
    assert alphas.shape == (10_000,)
    assert 0.5 <= alphas.min() < 0.51
    assert 0.99 < alphas.max() < 1.0
    assert alphas.mean().item() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(alphas, aws.draw_alphas(10_000, (0.5, 1.0), seed=0))
    assert not torch.equal(alphas, aws.draw_alphas(10_000, (0.5, 1.0), seed=1))


def test_every_layer_can_have_an_alpha_of_its_own():
    current = {"a.weight": torch.ones(2), "a.bias": torch.ones(2), "b.weight": torch.ones(1)}
    initial = {name: torch.zeros_like(value) for name, value in current.items()}
    mixed = interpolate_normalization(current, initial, torch.tensor([0.25, 0.5]))
    assert [value.tolist() for value in mixed.values()] == [[0.25, 0.25], [0.25, 0.25], [0.5]]
    assert aws.draw_alphas(3, (0.5, 1.0), seed=1, layers=2).shape == (3, 2)
