"""Error barriers: numbers worked out by hand, ends that are the networks, statistics and passes counted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data import load_dataset
from data.augmentation import Augmentation
from data.batches import evaluation_batches, training_batches
from data.dataset import LabelledImages
from tests.toys import toy_dataset
from utils.blueprint import Blueprint
from utils.measured_path import PathMeasurement, TrainedNetwork, measure_position
from utils.mode_connectivity import (
    barrier_above_line,
    error_barrier,
    interpolate_states,
    measure_with_own_statistics,
    positions,
)
from utils.training import evaluate


def learnable(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def test_positions_count_both_ends():
    assert positions(11) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    assert positions(2) == [0, 1]


def test_barriers_by_hand():
    """Ends 10 and 20, mean 15; in the middle 30: equation 1 gives 15, and the line at α = 0.25 is 12.5."""
    alphas, errors = [0, 0.25, 0.5, 0.75, 1], [10, 30, 25, 18, 20]
    assert error_barrier(alphas, errors) == type(error_barrier(alphas, errors))(15, 0.25)
    assert barrier_above_line(alphas, errors).height == 17.5
    straight = [10, 12.5, 15, 17.5, 20]
    assert barrier_above_line(alphas, straight).height == 0
    assert (error_barrier(alphas, straight).height, error_barrier(alphas, straight).alpha) == (5, 1)  # the worse end


class TwoParameters(nn.Module):
    """Scores of the classes "+" and "−" for one pixel x: a·b·x and 0."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([a])), nn.Parameter(torch.tensor([b]))

    def forward(self, images: Tensor) -> Tensor:
        score = self.a * self.b * images.flatten(1)
        return torch.cat([score, torch.zeros_like(score)], dim=1)


def test_a_barrier_of_two_parameters_by_hand():
    """(2, 1) and (−1, −2) both have a·b = 2 and no error; in the middle a·b = 0.5 · −0.5 < 0: every answer is wrong.

    a·b = (3α − 1)(3α − 2) is negative between α = 1/3 and 2/3, so at 11 positions for 0.4, 0.5 and 0.6.
    """
    batch = [(torch.tensor([1.0, 2.0, -1.0, -2.0]).view(4, 1, 1, 1), torch.tensor([0, 0, 1, 1]))]
    first, second = TwoParameters(2.0, 1.0), TwoParameters(-1.0, -2.0)
    errors = []
    for alpha in positions(11):
        network = TwoParameters(0.0, 0.0)
        network.load_state_dict(interpolate_states(first.state_dict(), second.state_dict(), ["a", "b"], alpha))
        errors.append(evaluate(network, batch).error)
    assert errors == [0, 0, 0, 0, 100, 100, 100, 0, 0, 0, 0]
    assert error_barrier(positions(11), errors).height == 100


def conv_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def conv_layer_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))


def norm_free() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


class OneDimensional(nn.Module):
    """A 1-D convolution over the pixels in a row."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(images.flatten(2))).relu().mean(2))


class Attentive(nn.Module):
    """Attention over pixels with a position embedding, whose weights are packed in one parameter."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 16, 4))
        self.embed, self.fc = nn.Linear(1, 4), nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.flatten(2).transpose(1, 2)) + self.positions
        return self.fc(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


NETWORKS = [conv_batch_norm, conv_layer_norm, norm_free, OneDimensional, Attentive]


@pytest.mark.parametrize("build", NETWORKS)
def test_every_learnable_tensor_is_interpolated_and_the_ends_are_the_networks(build):
    torch.manual_seed(0)
    first, second, between = build(), build(), build()
    names = learnable(first)
    with torch.no_grad():
        for parameter in [*first.parameters(), *second.parameters()]:
            parameter.copy_(torch.randn_like(parameter))
    for alpha, end in ((1.0, first), (0.0, second)):
        state = interpolate_states(first.state_dict(), second.state_dict(), names, alpha)
        assert all(torch.equal(state[name], end.state_dict()[name]) for name in names)
    state = interpolate_states(first.state_dict(), second.state_dict(), names, 0.3)
    for name in names:
        expected = 0.3 * first.state_dict()[name] + 0.7 * second.state_dict()[name]
        torch.testing.assert_close(state[name], expected)
    between.load_state_dict(state)


@pytest.mark.parametrize("build", NETWORKS)
def test_identical_networks_have_no_barrier_anywhere(build):
    torch.manual_seed(0)
    network, dataset = build(), toy_dataset(count=40)
    batches = list(evaluation_batches(dataset, dataset.test))
    errors, own = [], None
    for alpha in positions(5):
        between = build()
        state = network.state_dict()
        between.load_state_dict(interpolate_states(state, state, learnable(network), alpha))
        training, test = measure_with_own_statistics(between, batches, batches)
        errors.append(test.error)
        own = training
    assert error_barrier(positions(5), errors).height == barrier_above_line(positions(5), errors).height == 0
    assert own is not None


@pytest.mark.parametrize("build", [conv_layer_norm, norm_free, OneDimensional, Attentive])
def test_ends_without_batch_norm_have_the_networks_own_error(build):
    torch.manual_seed(0)
    network, dataset = build(), toy_dataset(count=40)
    batches = list(evaluation_batches(dataset, dataset.test))
    assert measure_with_own_statistics(network, batches, batches) == (evaluate(network, batches),) * 2


def test_a_batch_norm_end_has_the_error_under_statistics_of_its_own():
    """Where the saved statistics are those of the training images, the end reproduces the network's own error."""
    torch.manual_seed(0)
    network, dataset = conv_batch_norm(), toy_dataset(count=40)
    batches = list(evaluation_batches(dataset, dataset.train))
    with torch.no_grad():
        outputs = network[0](batches[0][0])
    network[1].running_mean.copy_(outputs.mean(dim=(0, 2, 3)))
    network[1].running_var.copy_(outputs.var(dim=(0, 2, 3)))
    own = evaluate(network, batches)
    network[1].running_mean.fill_(100.0)
    training, test = measure_with_own_statistics(network, batches, batches)
    assert test.error == own.error
    assert test.loss == pytest.approx(own.loss, rel=1e-5)
    assert training.loss == pytest.approx(own.loss, rel=0.05)  # under the batch's biased variance


def test_without_augmentation_a_sorted_data_set_is_still_seen_in_random_order():
    """Batches of one class have the statistics of that class: the error under them would mean nothing."""
    torch.manual_seed(0)
    blueprint, dataset = Blueprint("resnet20", "digits", 10, 1), load_dataset("digits", "", 20)
    order = dataset.train.labels.sort(stable=True).indices
    sorted_split = LabelledImages(dataset.train.images[order], dataset.train.labels[order])
    state = blueprint.initialize(0)
    settings = {"batch_size": 20, "data": ""}
    network = TrainedNetwork("toy", None, blueprint, state, blueprint.dense_masks(), {}, settings, None)
    rows = [
        measure_position(network, network, 1.0, PathMeasurement(data, False, [0, 1], None, "", Path()))
        for data in (dataset, replace(dataset, train=sorted_split))
    ]
    batches = list(training_batches(replace(dataset, train=sorted_split, augmentation=Augmentation()), 20, 0))
    assert min(len(labels.unique()) for _, labels in batches) > 4
    assert rows[1]["test_loss"] == pytest.approx(rows[0]["test_loss"], rel=0.05)


@pytest.mark.parametrize("build", NETWORKS)
def test_a_position_costs_one_pass_over_each_set(build):
    network, dataset = build(), toy_dataset(count=1200)
    train, test = toy_dataset(count=1200), toy_dataset(count=700)
    passed = []
    network.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    measure_with_own_statistics(
        network, evaluation_batches(dataset, train.train), evaluation_batches(dataset, test.test)
    )
    assert passed == [500, 500, 200, 500, 200]
