"""The passes at a position of a path, readable, compiled and on a GPU; as CUDA graphs in test_simulated_gpu.py."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torchvision.ops import StochasticDepth

from data import load_dataset
from data.augmentation import Augmentation
from data.batches import evaluation_batches, training_batches
from data.dataset import LabelledImages
from models import build_network
from tests.commands import CUDA
from tests.toy_training import assert_positions_as_readable, two_positions
from tests.toys import TOY_NETWORKS, conv_batch_norm, norm_free, toy_dataset
from utils.barriers.meter import PositionMeter
from utils.method.mode_connectivity import barrier_above_line, error_barrier, interpolate_states, positions
from utils.method.network import Blueprint
from utils.training.devices import Speed
from utils.training.evaluation import evaluate


@pytest.mark.parametrize("build", TOY_NETWORKS)
def test_identical_networks_have_no_barrier_anywhere(build):
    torch.manual_seed(0)
    network, other = build(), build()
    names = [name for name, _ in network.named_parameters()]
    meter = PositionMeter(other, toy_dataset(count=40), batch_size=8)
    errors = []
    for alpha in positions(5):
        _, test = meter.measure(interpolate_states(network.state_dict(), network.state_dict(), names, alpha))
        errors.append(test.error)
    assert error_barrier(positions(5), errors).height == barrier_above_line(positions(5), errors).height == 0


@pytest.mark.parametrize("build", [build for build in TOY_NETWORKS if build is not conv_batch_norm])
def test_ends_without_batch_norm_have_the_networks_own_error(build):
    torch.manual_seed(0)
    network, dataset = build(), toy_dataset(count=40)
    own = evaluate(network, list(evaluation_batches(dataset, dataset.test)))
    assert PositionMeter(build(), dataset, 16).measure(network.state_dict()) == (None, own)


def test_a_batch_norm_end_has_the_error_under_its_own_statistics():
    """If the saved statistics are those of the training images, the end reproduces the network's own error."""
    torch.manual_seed(0)
    network, dataset = conv_batch_norm(), toy_dataset(count=40)
    batches = list(evaluation_batches(dataset, dataset.train))
    with torch.no_grad():
        outputs = network[0](batches[0][0])
    network[1].running_mean.copy_(outputs.mean(dim=(0, 2, 3)))
    network[1].running_var.copy_(outputs.var(dim=(0, 2, 3)))
    own = evaluate(network, batches)
    state = network.state_dict() | {"1.running_mean": torch.full((4,), 100.0)}
    meter = PositionMeter(conv_batch_norm(), dataset, batch_size=40, augment=False)
    training, test = meter.measure(state)
    assert test.error == own.error
    assert test.loss == pytest.approx(own.loss, rel=1e-5)
    assert training.loss == pytest.approx(own.loss, rel=0.05)  # under the batch's biased variance
    as_saved = meter.evaluate(network.state_dict())
    assert (as_saved.error, as_saved.loss) == (own.error, pytest.approx(own.loss))


def test_without_augmentation_a_sorted_data_set_is_still_seen_in_random_order():
    """Batches of one class have the statistics of that class: the error under them would mean nothing."""
    blueprint, dataset = Blueprint("resnet20", "digits", 10, 1), load_dataset("digits", "", 20)
    order = dataset.train.labels.sort(stable=True).indices
    sorted_split = LabelledImages(dataset.train.images[order], dataset.train.labels[order])
    state = blueprint.initialize(0)
    losses = []
    for data in (dataset, replace(dataset, train=sorted_split)):
        network = blueprint.build(torch.device("cpu"), state)
        losses.append(PositionMeter(network, data, 20, augment=False).measure(state)[1].loss)
    batches = list(training_batches(replace(dataset, train=sorted_split, augmentation=Augmentation()), 20, 0))
    assert min(len(labels.unique()) for _, labels in batches) > 4
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("build", TOY_NETWORKS)
def test_a_position_costs_one_pass_over_each_set(build):
    """Over the training images only for the sake of batch norms."""
    network, passed = build(), []
    dataset = replace(toy_dataset(count=1200), test=toy_dataset(count=700).test)
    network.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    PositionMeter(network, dataset, batch_size=500).measure(build().state_dict())
    assert passed == [500, 500, 200] * (build is conv_batch_norm) + [500, 200]


class Dropping(nn.Sequential):
    """What is random while training, besides the batch norm."""

    def __init__(self):
        super().__init__(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), StochasticDepth(0.5, "row"), nn.Dropout(0.5)),
            *(nn.Flatten(), nn.Linear(16, 2)),
        )


@pytest.mark.slow
@pytest.mark.parametrize("build", [Dropping, norm_free])
def test_a_compiled_position_is_the_readable_one_to_rounding(build, small_evaluations, no_code_generated):
    """At most two compiled graphs, one for each pass, serve all positions."""
    counters.clear()
    assert_positions_as_readable(build, Speed(compile=True))
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


@CUDA
@pytest.mark.parametrize("compiled", [False, True])
def test_a_position_on_cuda_is_the_readable_one_to_rounding(
    compiled, small_evaluations, full_float32, nothing_compiled
):
    build, speed = partial(build_network, "resnet20", 2, 1), Speed(compile=compiled, cuda_graph=True)
    measured, expected = (two_positions(build, how, device="cuda")[0] for how in (speed, Speed()))
    for ours, theirs in zip(measured, expected, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
