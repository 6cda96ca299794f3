"""Masks by magnitude: which weights may be pruned, how many of them are, and which."""

import pytest
import torch
from torch import nn

from models import ARCHITECTURES, build_network
from tests.toys import ToyNetwork
from utils.errors import UserError
from utils.method import pruning


def all_true(weights):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


# weights, how they are spread over two layers, prune rate, which survive
MAGNITUDE_TABLE = [
    ([1, 2, 3, 4, 5], [], 0.2, [0, 1, 1, 1, 1]),
    ([-5, -4, 3, 2, 1], [], 0.4, [1, 1, 1, 0, 0]),
    ([3, 9], [1, 2, 8], 0.4, [1, 1, 0, 0, 1]),  # ranked over all layers
    ([2, 2, 2, 2], [2], 0.4, [0, 0, 1, 1, 1]),  # ties go by position
    ([0, 0, 0, 1], [0], 0.6, [0, 0, 0, 1, 1]),  # a surviving weight may be exactly 0
    ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [], 0.29, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]),  # floor(2.9)
]


@pytest.mark.parametrize(("first", "second", "rate", "expected"), MAGNITUDE_TABLE)
def test_pruning_removes_the_smallest_magnitudes(first, second, rate, expected):
    weights = {"a": torch.tensor(first, dtype=torch.float32), "b": torch.tensor(second, dtype=torch.float32)}
    masks = pruning.prune_by_magnitude(weights, all_true(weights), rate)
    assert [*masks["a"].int().tolist(), *masks["b"].int().tolist()] == expected


def test_pruned_weights_are_not_counted_again():
    weights = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])}
    masks = {"a": torch.tensor([False, True, True, True, True, True])}
    assert pruning.prune_by_magnitude(weights, masks, 0.2)["a"].tolist() == [False, False, True, True, True, True]
    assert masks["a"].tolist() == [False, True, True, True, True, True]  # the old masks are left alone


def test_levels_remove_floor_of_a_fifth_each():
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(1003, generator=generator), "b": torch.randn(17, 5, generator=generator)}
    masks, left = all_true(weights), 1003 + 85
    for level in range(1, 16):
        masks = pruning.prune_by_magnitude(weights, masks, 0.2)
        left -= left // 5
        assert pruning.survivors(masks) == left == pruning.planned_survivors(1088, 0.2, level)[-1]
    assert pruning.remaining_ratio(masks) == left / 1088
    with pytest.raises(UserError, match="level 3 would prune 0 of the 4"):
        pruning.planned_survivors(6, 0.2, 3)  # 6 - 1 = 5, 5 - 1 = 4, 4 - floor(0.8)


@pytest.mark.parametrize(("count", "rate", "amount"), [(10, 0.2, 2), (100, 0.29, 29), (10, 0.3, 3), (14, 0.2, 2)])
def test_amounts_are_exact_in_decimals(count, rate, amount):
    assert pruning.amount_to_prune(count, rate) == amount


@pytest.mark.parametrize(
    ("network", "classifier", "expected"),
    [
        # The hidden layer is as wide as the classes and is still pruned; biases, norm and classifier are not.
        (ToyNetwork(), "fc", ["conv.weight", "hidden.weight"]),
        (
            nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2, add_bias_kv=True), "fc": nn.Linear(4, 2)}), "fc",
            ["attention.in_proj_weight", "attention.out_proj.weight"],
        ),
        (nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)), "2", ["1.weight"]),
    ],
    ids=["toy", "attention", "left dense by name"],
)  # fmt: skip
def test_prunable_weights_are_named_explicitly(network, classifier, expected):
    assert pruning.prunable_names(network, classifier, unpruned=("0.weight",)) == expected
    with pytest.raises(UserError, match="no module 'head'"):
        pruning.prunable_names(network, "head")


@pytest.mark.parametrize("layer", [nn.Embedding(3, 4), nn.Bilinear(2, 2, 2), nn.PReLU(), nn.LSTM(2, 2)])
def test_an_unknown_kind_of_weight_is_an_error(layer):
    network = nn.Sequential(layer, nn.Linear(4, 2))
    with pytest.raises(UserError, match=type(layer).__name__):
        pruning.prunable_names(network, "1")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_layer_but_the_classifier_of_every_network_is_prunable(arch):
    with torch.device("meta"):
        network, classifier = build_network(arch, classes=10), ARCHITECTURES[arch].classifier
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert layers[-1] == classifier
    assert pruning.prunable_names(network, classifier) == [f"{name}.weight" for name in layers[:-1]]


def test_the_ratio_of_all_counts_what_is_never_pruned():
    parameters = sum(parameter.numel() for parameter in ToyNetwork().parameters())
    assert parameters == 26  # conv 8 + 2, norm 2 + 2, hidden 4 + 2, fc 4 + 2
    masks = {"conv.weight": torch.zeros(2, 1, 2, 2, dtype=torch.bool), "hidden.weight": torch.ones(2, 2).bool()}
    assert pruning.remaining_ratio(masks) == 4 / 12
    assert pruning.remaining_ratio_of_all(parameters, masks) == 18 / 26
