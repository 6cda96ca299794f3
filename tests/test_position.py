"""A position's two passes: readable, through a simulated CUDA graph, and compiled."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from data import load_dataset
from data.augmentation import Augmentation
from data.batches import evaluation_batches, training_batches
from data.dataset import LabelledImages
from tests.commands import CUDA
from tests.toys import TOY_NETWORKS, conv_batch_norm, toy_dataset
from utils.blueprint import Blueprint
from utils.fast_path import Speed
from utils.mode_connectivity import barrier_above_line, error_barrier, interpolate_states, positions
from utils.position import PositionMeter
from utils.training import evaluate

WITH_BATCH_NORM = conv_batch_norm
WITHOUT_BATCH_NORM = [build for build in TOY_NETWORKS if build is not WITH_BATCH_NORM]
GRAPH = Speed(cuda_graph=True)


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


@pytest.mark.parametrize("build", WITHOUT_BATCH_NORM)
@pytest.mark.parametrize("speed", [Speed(), GRAPH])
def test_ends_without_batch_norm_have_the_networks_own_error(build, speed, replayed_graphs):
    torch.manual_seed(0)
    network, dataset = build(), toy_dataset(count=40)
    own = evaluate(network, list(evaluation_batches(dataset, dataset.test)))
    training, test = PositionMeter(build(), dataset, 16, augment=False, speed=speed).measure(network.state_dict())
    assert test == own
    assert (training.error, training.loss) == (own.error, pytest.approx(own.loss))  # in another order


@pytest.mark.parametrize("speed", [Speed(), GRAPH])
def test_a_batch_norm_end_has_the_error_under_statistics_of_its_own(speed, replayed_graphs):
    """Where the saved statistics are those of the training images, the end reproduces the network's own error."""
    torch.manual_seed(0)
    network, dataset = conv_batch_norm(), toy_dataset(count=40)
    batches = list(evaluation_batches(dataset, dataset.train))
    with torch.no_grad():
        outputs = network[0](batches[0][0])
    network[1].running_mean.copy_(outputs.mean(dim=(0, 2, 3)))
    network[1].running_var.copy_(outputs.var(dim=(0, 2, 3)))
    own = evaluate(network, batches)
    state = network.state_dict() | {"1.running_mean": torch.full((4,), 100.0)}
    meter = PositionMeter(conv_batch_norm(), dataset, batch_size=40, augment=False, speed=speed)
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
        network = blueprint.build(state, {}, torch.device("cpu"))
        losses.append(PositionMeter(network, data, 20, augment=False).measure(state)[1].loss)
    batches = list(training_batches(replace(dataset, train=sorted_split, augmentation=Augmentation()), 20, 0))
    assert min(len(labels.unique()) for _, labels in batches) > 4
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("build", TOY_NETWORKS)
def test_a_position_costs_one_pass_over_each_set(build):
    network, passed = build(), []
    dataset = replace(toy_dataset(count=1200), test=toy_dataset(count=700).test)
    network.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    PositionMeter(network, dataset, batch_size=500).measure(build().state_dict())
    assert passed == [500, 500, 200, 500, 200]


@pytest.fixture
def small_evaluations(monkeypatch):
    """Whole evaluation batches, which are compiled and captured, of the few images here."""
    for module in ("data.batches", "utils.position"):
        monkeypatch.setattr(f"{module}.EVALUATION_BATCH_SIZE", 16)


def two_positions(speed, arch="resnet20", device="cpu", augment=True):
    """Of two networks in turn, each measured twice by one meter: 44 images in batches of 16, the last one of 12."""
    blueprint, dataset = Blueprint(arch, "toy", 4, 1), toy_dataset(count=44, size=16, classes=4).to(device)
    states = [blueprint.initialize(seed) for seed in (1, 2)]
    network = blueprint.build(states[0], {}, torch.device(device))
    meter = PositionMeter(network, dataset, 16, augment, speed)
    return [meter.measure(state) for state in (*states, *states)], meter


def assert_alike(measured, expected):
    assert len(measured) == len(expected)
    for ours, theirs in zip(measured, expected, strict=True):
        for evaluation, reference in zip(ours, theirs, strict=True):
            assert evaluation.accuracy == reference.accuracy
            assert evaluation.loss == pytest.approx(reference.loss, rel=1e-4)


@pytest.mark.parametrize("arch", ["resnet20", "efficientnet"])
def test_a_replayed_position_has_the_statistics_of_update_bn(arch, replayed_graphs, small_evaluations):
    """``update_bn`` is the reference, to rounding; nothing of one position is left in the next, nothing is dropped, and
    two graphs serve all."""
    expected, readable = two_positions(Speed(), arch)
    measured, meter = two_positions(GRAPH, arch)
    assert_alike(measured, expected)
    assert measured[:2] == measured[2:] != measured[::2]
    for name, tensor in readable.network.state_dict().items():
        torch.testing.assert_close(meter.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert len(replayed_graphs) == 2
    assert all(module.momentum == 0.1 for module in meter.network.modules() if hasattr(module, "momentum"))


@pytest.mark.parametrize("arch", ["resnet20", "efficientnet"])
def test_a_compiled_position_is_the_readable_one_to_rounding(arch, small_evaluations, no_code_generated):
    """Two graphs, of the two passes, serve every position."""
    counters.clear()
    assert_alike(two_positions(Speed(compile=True), arch)[0], two_positions(Speed(), arch)[0])
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@CUDA
@pytest.mark.parametrize("speed", [GRAPH, Speed(compile=True, cuda_graph=True)])
def test_a_position_on_cuda_is_the_readable_one_to_rounding(speed, small_evaluations, full_float32, nothing_compiled):
    expected, _ = two_positions(Speed(), device="cuda")
    for (training, test), (readable, reference) in zip(two_positions(speed, device="cuda")[0], expected, strict=True):
        assert training.loss == pytest.approx(readable.loss, rel=1e-3)
        assert test.loss == pytest.approx(reference.loss, rel=1e-3)
