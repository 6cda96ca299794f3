"""The CUDA path on a machine without a GPU, by two stand-ins. What needs a real one is in test_fast_path.py and
test_meter.py.

Replayed graphs stand in for CUDA graphs: a capture writes down every operation with the tensors it was given, and a
replay runs them again on the same tensors. They show that whatever changes from step to step is read from memory that
stays in its place, that warm-up runs and captures leave no trace, and that one capture serves all stages. They cannot
show that a real capture succeeds, nor anything about a graph's memory, streams, kernels, rounding and speed.

Fake tensors stand in for tensors on a GPU: they have a shape and a device, and no values. They show that a step mixes
no devices, copies nothing between them, and never has the host wait for a value; not that any number is right.
"""

from contextlib import contextmanager, nullcontext
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.augmentation import Augmentation
from data.batches import evaluation_batches, training_batches
from data.dataset import Dataset, LabelledImages
from models import build_network
from tests import toy_training as toy
from tests.commands import assert_equal_states
from tests.toys import EVERY_ARCH, TOY_NETWORKS, reestimate_batch_statistics
from utils.barriers.meter import PositionMeter
from utils.method.network import Blueprint, plain_state
from utils.method.step import TrainingError
from utils.training.devices import Speed
from utils.training.evaluation import Tally, evaluate
from utils.training.fast_path import Graphed
from utils.training.optimization import make_capturable, optimizer_state, restore_optimizer
from utils.training.trainer import SearchTrainer, SignInTrainer, SubnetworkTrainer

pytestmark = pytest.mark.simulated_gpu
GRAPH = Speed(cuda_graph=True)


class Recording(TorchDispatchMode):
    """Writes down every operation that makes or changes a tensor, with the very tensors it was given."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        outputs = operation(*arguments, **options)
        given = {memory_of(tensor) for tensor in tensors_of((arguments, options))}
        # Views of what was given are there already.
        made = [tensor if memory_of(tensor) not in given else None for tensor in tensors_of(outputs)]
        if operation._schema.is_mutable or any(tensor is not None for tensor in made):
            self.operations.append((operation, arguments, options, made))
        return outputs


def tensors_of(nested) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, torch.Tensor)]


def memory_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class ReplayedGraph:
    """In the place of a CUDA graph: the recorded operations again, on the same tensors. What Python decided between
    them, and any number that it put in, stays as it was at the capture."""

    operations: list

    @torch.no_grad()
    def replay(self):
        for operation, arguments, options, made in self.operations:
            for kept, new in zip(made, tensors_of(operation(*arguments, **options)), strict=True):
                if kept is not None:
                    kept.detach().copy_(new)


@pytest.fixture
def replayed_graphs(monkeypatch):
    """CUDA graphs on the CPU: a capture records the step and takes back what it did; returns the graphs made."""
    graphs = []

    @contextmanager
    def capture(graph, pool, capture_error_mode):
        (graphed,) = [made for made in captured if made.graph is None]
        with graphed.keeping(), Recording() as recording:
            yield
        graph.operations = recording.operations
        graphs.append(graph)

    captured, original = [], Graphed._capture

    def remember_and_capture(graphed, arguments):
        captured.append(graphed)
        return original(graphed, arguments)

    monkeypatch.setattr(Graphed, "_capture", remember_and_capture)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", ReplayedGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "Stream", Mock)
    monkeypatch.setattr(torch.cuda, "current_stream", Mock)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return graphs


def test_a_replayed_step_is_the_readable_step_to_the_last_bit(replayed_graphs):
    """Warm-up runs leave no trace, inputs and learning rate are read again at every replay, the smaller last batch has
    a graph of its own, and the second stage is put where the first one was."""
    toy.assert_trains_as_the_readable_step(toy.make_trainer(GRAPH))
    assert len(replayed_graphs) == 2


def test_replayed_statistics_are_the_readable_ones(replayed_graphs):
    """To the last bit, of the weights at hand, whatever statistics there were; the smaller last batch counts too."""
    trainer = toy.make_trainer(GRAPH)
    for seed in (1, 2):
        toy.begin(trainer, seed)
        expected = toy.BLUEPRINT.build(toy.CPU, plain_state(trainer.network))
        reestimate_batch_statistics(expected, training_batches(toy.DATASET, toy.BATCH_SIZE, seed))
        trainer.reestimate(seed)
        assert_equal_states(trainer.network.state_dict(), expected.state_dict())
    assert len(replayed_graphs) == 2


def test_replayed_predictions_evaluate_alike(replayed_graphs, small_evaluations):
    """The smaller last batch too; the weights are read again at every replay."""
    trainer = toy.make_trainer(GRAPH)
    for epochs in (1, 2):
        toy.train(trainer, epochs=epochs)
        batches = list(evaluation_batches(toy.DATASET, toy.DATASET.test))
        assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 4]
        assert trainer.evaluate() == evaluate(trainer.network, batches)
    assert len(replayed_graphs) == 4  # the step's, and these
    # A resumed momentum goes where the captured one is.
    buffers = [state["momentum_buffer"] for state in optimizer_state(trainer.optimizer)]
    saved = [torch.randn_like(buffer) for buffer in buffers]
    restore_optimizer(trainer.optimizer, [{"momentum_buffer": buffer} for buffer in saved])
    restored = [state["momentum_buffer"] for state in optimizer_state(trainer.optimizer)]
    assert all(now is buffer for now, buffer in zip(restored, buffers, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(buffers, saved, strict=True))


@pytest.mark.parametrize(("make", "train"), [(toy.make_search, toy.search), (toy.make_sign_in, toy.sign_in)])
def test_replayed_scores_and_products_are_trained_as_readable_ones(make, train, replayed_graphs):
    """To the last bit. Freezing, and resetting, between replays counts, and one capture for each size of batches serves
    all stages."""
    replayed, readable = make(GRAPH), make(Speed())
    for seed in (1, 2):
        assert train(replayed, seed) == train(readable, seed)
        assert_equal_states(replayed.network.state_dict(), readable.network.state_dict())
    assert len(replayed_graphs) == 2


@pytest.mark.parametrize(
    ("build", "size"),
    [
        *((build, 4) for build in TOY_NETWORKS),
        pytest.param(partial(build_network, "efficientnet", 2, 1), 16, marks=pytest.mark.slow),
    ],
)
def test_a_replayed_position_is_the_readable_one_to_rounding(build, size, replayed_graphs, small_evaluations):
    passes = toy.assert_positions_as_readable(build, GRAPH, size)
    assert len(replayed_graphs) == 2 * passes  # the smaller last batch has its own


def test_a_failing_capture_says_what_to_do(replayed_graphs):
    with pytest.raises(TrainingError, match=r"no CUDA graph could be made .* do without \(--no-cuda-graph"):
        Graphed(lambda images: images * images.sum().item(), memory=(0, 1))(  # which a capture does not allow
            torch.ones(2, 2)
        )


def test_a_graph_that_does_nothing_is_noticed(replayed_graphs, monkeypatch):
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: None)
    with pytest.raises(TrainingError, match=r"does not give what its step gives: do without \(--no-cuda-graph"):
        toy.train(toy.make_trainer(GRAPH))


@pytest.fixture
def fake_cuda(monkeypatch):
    """A device of tensors without values that say they are on a GPU: what mixes devices, or would have the host wait
    for a value, raises. What such tensors cannot do is done around them: autograd's backward pass, the fused optimizer,
    and moving a network."""
    device = torch.device("cuda", 0)

    def build(blueprint, device, state=None):
        with torch.device(device):
            return build_network(blueprint.arch, blueprint.classes, blueprint.channels)

    def update(parameters, gradients, buffers, **options):
        tensors = [*parameters, *gradients, *buffers, options["lr"]]
        assert all(tensor.device == device for tensor in tensors)
        for together in zip(parameters, gradients, buffers, strict=True):
            assert len({tensor.stride() for tensor in together}) == 1  # fused SGD walks them flat

    def backward(loss):
        for parameter in optimized:
            parameter.grad = torch.empty_like(parameter)

    optimized, add_group = [], torch.optim.SGD.add_param_group

    def remember_and_add(optimizer, group):
        optimized.extend(group["params"])
        add_group(optimizer, group)

    monkeypatch.setattr(Blueprint, "build", build)
    monkeypatch.setattr(torch.nn.Module, "to", lambda network, *arguments, **options: network)
    monkeypatch.setattr(torch, "_fused_sgd_", update)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.optim.SGD, "add_param_group", remember_and_add)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())  # there is no CUDA to switch
    with FakeTensorMode():
        yield device


class NoTransfers(TorchDispatchMode):
    """Refuses a copy between devices: from pageable memory it waits, and is no part of a CUDA graph."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        outputs = operation(*arguments, **(options or {}))
        devices = {tensor.device for tensor in tensors_of((arguments, outputs))}
        assert len(devices) < 2, f"{operation} is between {devices}"
        return outputs


CROP = Augmentation(crop_padding=4, flip=True)


@pytest.mark.parametrize(
    ("arch", "augmentation"),
    [
        *(pytest.param(*arch.values, CROP, marks=arch.marks) for arch in EVERY_ARCH),
        pytest.param("resnet20", Augmentation(flip=True, crop_areas=(0.5, 1)), marks=pytest.mark.slow),
    ],
)
def test_nothing_on_a_gpu_waits_or_changes_the_device(arch, augmentation, fake_cuda):
    """A step of training, of Gem-Miner's search and of Sign-In; a batch of a position; an evaluation's predictions."""
    images = torch.empty(32, 32, 32, 3, dtype=torch.uint8, device=fake_cuda)
    split = LabelledImages(images, torch.empty(32, dtype=torch.int64, device=fake_cuda))
    of_channels = torch.empty(3, device=fake_cuda)
    dataset = Dataset("toy", split, split, 4, of_channels, of_channels, augmentation)
    batch = [torch.empty(size, dtype=torch.int64, device=fake_cuda) for size in ((8,), (8, 5))]
    blueprint, tally, alpha = Blueprint(arch, "toy", 4, 3), Tally(fake_cuda), torch.empty((), device=fake_cuda)
    initial, speed = blueprint.initialize(0), Speed("bf16")
    subnetwork = SubnetworkTrainer(blueprint, dataset, toy.RECIPE, speed, blueprint.learnable)
    subnetwork.begin(initial, blueprint.dense_masks(), {name: initial[name] for name in blueprint.norms})
    search_trainer = SearchTrainer(blueprint, dataset, toy.RECIPE, speed)
    search_trainer.begin(initial, seed=1, penalty=1e-4, freeze_rate=0.5)
    sign_in = SignInTrainer(blueprint, dataset, toy.RECIPE, speed, blueprint.learnable, reset_epochs=1)
    sign_in.begin(initial, blueprint.dense_masks())
    for trainer in (subnetwork, search_trainer, sign_in):
        make_capturable(trainer.optimizer, fake_cuda)
        trainer.network.train()
        for _ in range(2):
            with NoTransfers():
                tally.add(*trainer.step(*batch, alpha), 8)
    meter = PositionMeter(blueprint.build(fake_cuda), dataset, batch_size=8)
    if meter.statistics.layers:
        with meter.statistics.gathering(), NoTransfers():
            tally.add(*meter.gather(*batch), 8)
        with subnetwork.statistics.gathering(), NoTransfers():
            subnetwork.gather(*batch)
    with NoTransfers():
        tally.add(meter.predict(images.permute(0, 3, 1, 2).float()).sum(), tally.correct, 32)
    with pytest.raises(DataDependentOutputException):
        tally.evaluation()  # it is read here, once an epoch
