"""The fast path against the readable step: exactly on the CPU, to rounding on a GPU; and what of it a CPU can show."""

import copy
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.augmentation import Augmentation
from data.batches import draw_epoch, evaluation_batches, make_batch
from data.dataset import Dataset, LabelledImages
from models import ARCHITECTURES, build_network
from tests.commands import CUDA, TINY_JOB, assert_same_networks, main_program, networks, run_in_process
from tests.toys import toy_dataset
from utils.blueprint import Blueprint
from utils.devices import DeviceError, choose_kernels
from utils.fast_path import Graphed, Speed, accelerate, choose_layout, choose_speed, explaining, unchanged
from utils.norm_interpolation import initial_normalization
from utils.optimization import momenta, rate_tensor, set_momenta, set_rate, sgd
from utils.position import PositionMeter
from utils.pruning import apply_masks
from utils.trainee import Recipe, Trainees, drawn_step
from utils.training import Tally, TrainingError, evaluate, make_train_step

CPU = torch.device("cpu")
BLUEPRINT = Blueprint("resnet20", "toy", classes=4, channels=1)
pytestmark = pytest.mark.usefixtures("nothing_compiled")
DATASET = toy_dataset(count=36, size=8, classes=4)
CROP = Augmentation(crop_padding=4, flip=True)
RECIPE = Recipe(lr=0.05, momentum=0.9, weight_decay=5e-4, batch_size=8)  # an epoch ends with a batch of 4


def half_masks(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(mask.shape, generator=generator) < 0.5 for name, mask in BLUEPRINT.dense_masks().items()}


def make_trainee(speed, dataset=DATASET, seed=1, trainees=None):
    """A subnetwork of seed ``seed`` with AWS's interpolation."""
    initial = BLUEPRINT.initialize(seed)
    norms = {name: initial[name] + 0.5 for name in BLUEPRINT.norms}
    trainees = trainees or Trainees(BLUEPRINT, dataset, RECIPE, speed)
    return trainees.subnetwork(initial, half_masks(seed), norms)


def train(trainee, dataset=DATASET, epochs=4):
    """20 steps: 4 epochs of 5 batches, with a learning rate of its own each; the losses."""
    losses = []
    for epoch in range(epochs):
        trainee.network.train()
        set_rate(trainee.optimizer, 0.05 / (epoch + 1))
        alphas = torch.linspace(0.1, 0.9, 5, device=dataset.mean.device)
        for batch, alpha in zip(draw_epoch(dataset, RECIPE.batch_size, epoch), alphas, strict=True):
            loss, _ = trainee.step(*batch, alpha)
            losses.append(loss.item())
    return losses


def readable_reference(seed=1, dataset=DATASET):
    """The readable step alone, with nothing of Trainees around it; its losses and weights."""
    device = dataset.mean.device
    initial, masks = BLUEPRINT.initialize(seed), half_masks(seed)
    network = BLUEPRINT.build(initial, masks, device).train()
    norms = {name: (initial[name] + 0.5).to(device) for name in BLUEPRINT.norms}
    optimizer = sgd(network, RECIPE.lr, RECIPE.momentum, RECIPE.weight_decay)
    on_device = {name: mask.to(device) for name, mask in masks.items()}
    step = make_train_step(network, optimizer, on_device, norms)
    losses = []
    for epoch in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (epoch + 1)
        alphas = torch.linspace(0.1, 0.9, 5, device=device)
        for drawn, alpha in zip(draw_epoch(dataset, RECIPE.batch_size, epoch), alphas, strict=True):
            loss, _ = step(*make_batch(dataset, *drawn), alpha)
            losses.append(loss.item())
    return losses, network.state_dict()


def assert_masked(trainee):
    for name, mask in trainee.masks.items():
        assert torch.equal(trainee.network.get_parameter(name) == 0, mask == 0), name


def assert_equal_states(ours, expected):
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name


def test_on_the_cpu_a_trainee_is_the_readable_step_to_the_last_bit():
    losses, expected = readable_reference()
    trainee = make_trainee(Speed())
    assert train(trainee) == losses
    assert_equal_states(trainee.network.state_dict(), expected)


def test_a_replayed_step_is_the_readable_step_to_the_last_bit(replayed_graphs):
    """Warm-up steps leave no trace, inputs and learning rate are read anew, the smaller last batch is trained too."""
    losses, expected = readable_reference()
    trainee = make_trainee(Speed(cuda_graph=True))
    assert train(trainee) == losses
    assert_equal_states(trainee.network.state_dict(), expected)
    assert len(replayed_graphs) == 1
    assert_masked(trainee)


def test_one_capture_serves_every_stage(replayed_graphs):
    """The second subnetwork is put where the first one was, with fresh momentum, its own masks and its own ψ_init."""
    trainees = Trainees(BLUEPRINT, DATASET, RECIPE, Speed(cuda_graph=True))
    first = make_trainee(None, seed=1, trainees=trainees)
    train(first)
    second = make_trainee(None, seed=2, trainees=trainees)
    assert second is first
    losses, expected = readable_reference(seed=2)
    assert train(second) == losses
    assert_equal_states(second.network.state_dict(), expected)
    assert len(replayed_graphs) == 1
    without = trainees.subnetwork(BLUEPRINT.initialize(1), half_masks(), {})
    assert without is not first  # nothing is interpolated: another step


def test_replayed_predictions_evaluate_alike(replayed_graphs, monkeypatch):
    """Whole batches by the graph, the smaller last one as it is; the weights are read anew at every replay."""
    monkeypatch.setattr("data.batches.EVALUATION_BATCH_SIZE", 8)
    monkeypatch.setattr("utils.trainee.EVALUATION_BATCH_SIZE", 8)
    trainee = make_trainee(Speed(cuda_graph=True))
    for epochs in (1, 2):
        train(trainee, epochs=epochs)
        batches = list(evaluation_batches(DATASET, DATASET.test))
        assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 4]
        assert evaluate(trainee.network, batches, trainee.predict) == evaluate(trainee.network, batches)
    assert len(replayed_graphs) == 2  # the step's, and this one


def test_a_resumed_momentum_goes_where_the_captured_one_is(replayed_graphs):
    trainee = make_trainee(Speed(cuda_graph=True))
    train(trainee, epochs=1)
    buffers = momenta(trainee.optimizer)
    saved = [buffer.clone() for buffer in buffers]
    train(trainee, epochs=1)
    set_momenta(trainee.optimizer, saved)
    assert all(now is buffer for now, buffer in zip(momenta(trainee.optimizer), buffers, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(buffers, saved, strict=True))
    with pytest.raises(ValueError, match="a momentum of"):
        set_momenta(trainee.optimizer, [torch.ones(1)] * len(saved))
    assert all(torch.equal(now, then) for now, then in zip(buffers, saved, strict=True))


def test_steps_that_leave_no_trace():
    trainee = make_trainee(Speed())
    train(trainee, epochs=1)
    before = copy.deepcopy(trainee.network.state_dict())
    momenta_before = [buffer.clone() for buffer in momenta(trainee.optimizer)]
    with unchanged(trainee.network, trainee.optimizer):
        train(trainee, epochs=1)
        assert not torch.equal(trainee.network.conv1.weight, before["conv1.weight"])
    assert_equal_states(trainee.network.state_dict(), before)
    assert all(torch.equal(a, b) for a, b in zip(momenta(trainee.optimizer), momenta_before, strict=True))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_compiles_to_one_graph_whatever_alpha_is(arch, no_code_generated):
    """In CUDA's default precision, without code generation, which takes minutes."""
    counters.clear()
    torch.manual_seed(0)
    network = build_network(arch, 4, 3).to(memory_format=torch.channels_last).train()
    norms = {name: tensor + 0.1 for name, tensor in initial_normalization(network).items()}
    optimizer = sgd(network, 0.01, 0.9, 5e-4)
    step = make_train_step(
        network,
        optimizer,
        {},
        norms,
        lambda forward: accelerate(forward, Speed("bf16", compile=True), CPU, batch_size=4),
    )
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(4)
    for alpha in (0.1, 0.5, 0.9):
        loss, _ = step(images, labels, torch.tensor(alpha))
        assert torch.isfinite(loss)
    step(images[:2], labels[:2], torch.tensor(0.3))  # an epoch's last batch is not compiled
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_compiled_training_follows_the_readable_step():
    """Real generated code on the CPU, to rounding."""
    losses, _ = readable_reference()
    trainee = make_trainee(Speed(compile=True))
    # At this learning rate a last bit has grown to a thousandth by the fifth step.
    assert train(trainee)[:5] == pytest.approx(losses[:5], rel=1e-3)
    assert_masked(trainee)


def test_bf16_keeps_weights_statistics_and_loss_in_fp32():
    trainee = make_trainee(Speed(precision="bf16"))
    losses, expected = train(trainee), readable_reference()[0]
    assert losses[0] != expected[0]
    assert losses[0] == pytest.approx(expected[0], rel=0.02)  # before the first update
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in trainee.network.state_dict().values())
    assert all(buffer.dtype == torch.float32 for buffer in momenta(trainee.optimizer))
    loss, _ = trainee.step(*next(draw_epoch(DATASET, 8, 0)), torch.tensor(0.5))
    assert loss.dtype == torch.float32
    assert_masked(trainee)


def test_the_defaults_of_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: ampere)
    ampere = False
    assert choose_speed(torch.device("cuda")) == Speed("fp32", compile=True, cuda_graph=True)
    ampere = True
    assert choose_speed(CPU) == Speed("fp32", compile=False, cuda_graph=False)
    assert choose_speed(torch.device("cuda")) == Speed("bf16", compile=True, cuda_graph=True)
    assert choose_speed(torch.device("cuda"), "fp32", False, False) == Speed()
    with pytest.raises(DeviceError, match="--cuda-graph needs a CUDA device, not cpu"):
        choose_speed(CPU, cuda_graph=True)
    with pytest.raises(DeviceError, match="--precision tf32 is one of CUDA devices"):
        choose_speed(CPU, precision="tf32")


def test_compiled_shufflenet_keeps_its_channels_first_on_cuda():
    """Its grouped convolutions have several channels a group; MobileNetV2's depthwise ones have one."""
    cuda, fast = torch.device("cuda"), Speed("bf16", compile=True, cuda_graph=True)
    layouts = {arch: choose_layout(build_network(arch, 4), fast, cuda) for arch in ("shufflenet", "mobilenetv2")}
    assert layouts == {"shufflenet": torch.contiguous_format, "mobilenetv2": torch.channels_last}
    assert choose_layout(build_network("shufflenet", 4), Speed(), CPU) == torch.channels_last
    assert choose_layout(build_network("mobilenetv2", 4), Speed(channels_last=False), CPU) == torch.contiguous_format


def fake_dataset(device, augmentation):
    """32 images of 32 pixels in three colours."""
    images = torch.empty(32, 32, 32, 3, dtype=torch.uint8, device=device)
    split = LabelledImages(images, torch.empty(32, dtype=torch.int64, device=device))
    of_channels = torch.empty(3, device=device)
    return Dataset("toy", split, split, 4, of_channels, of_channels, augmentation)


def fake_batch(device):
    return (torch.empty(size, dtype=torch.int64, device=device) for size in ((8,), (8, 5)))


class NoTransfers(TorchDispatchMode):
    """Refuses a copy between devices: from pageable memory it waits, and is no part of a CUDA graph."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        outputs = operation(*arguments, **(options or {}))
        devices = {tensor.device for tensor in tree_leaves((arguments, outputs)) if isinstance(tensor, torch.Tensor)}
        assert len(devices) < 2, f"{operation} is between {devices}"
        return outputs


@pytest.mark.parametrize(
    ("arch", "augmentation"),
    [*((arch, CROP) for arch in ARCHITECTURES), ("resnet20", Augmentation(flip=True, crop_areas=(0.5, 1)))],
)
def test_nothing_on_a_gpu_waits_or_changes_the_device(arch, augmentation, fake_cuda):
    """A training step, one of Gem-Miner's search, a batch of a position and an evaluation's predictions."""
    blueprint, dataset = Blueprint(arch, "toy", classes=4, channels=3), fake_dataset(fake_cuda, augmentation)
    trainees = Trainees(blueprint, dataset, RECIPE, Speed("bf16"))
    initial = blueprint.initialize(0)
    norms = {name: initial[name] for name in blueprint.norms}
    tally, alpha = Tally(fake_cuda), torch.empty((), device=fake_cuda)
    for trainee in (
        trainees.subnetwork(initial, blueprint.dense_masks(), norms),
        trainees.miner(initial, 1, RECIPE, penalty_weight=1e-4),
    ):
        rate_tensor(trainee.optimizer, fake_cuda)
        assert all(mask.device == fake_cuda for mask in trainee.masks.values())
        trainee.network.train()
        for _ in range(2):
            with NoTransfers():
                tally.add(*trainee.step(*fake_batch(fake_cuda), alpha), 8)
    meter = PositionMeter(blueprint.build(initial, {}, fake_cuda), dataset, batch_size=8)
    with meter.statistics.gathering(), NoTransfers():
        tally.add(*meter.gather(*fake_batch(fake_cuda)), 8)
    tally.add_outputs(meter.predict(dataset.train.images.permute(0, 3, 1, 2).float()), dataset.train.labels)
    with pytest.raises(DataDependentOutputException):
        tally.evaluation()  # where it is read, once an epoch


def test_a_failing_compilation_says_what_to_do():
    def forward_pass(images, labels, alpha):
        print(images)  # no part of a graph
        return images.sum(), images

    step = explaining(accelerate(forward_pass, Speed(compile=True), CPU, batch_size=2))
    with pytest.raises(TrainingError, match=r"torch\.compile failed .* do without \(--no-compile"):
        step(torch.ones(2, 2), torch.ones(2), torch.tensor(0.5))


def test_a_failing_capture_says_what_to_do(replayed_graphs):
    def function(images):
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(TrainingError, match=r"no CUDA graph could be made .* do without \(--no-cuda-graph"):
        Graphed(function, batch_size=2)(torch.ones(2, 2))


def test_a_graph_that_does_nothing_is_noticed(replayed_graphs, monkeypatch):
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: None)
    with pytest.raises(TrainingError, match=r"does not give what its step gives: do without \(--no-cuda-graph"):
        train(make_trainee(Speed(cuda_graph=True)))


def test_many_networks_compile_in_one_process(monkeypatch):
    """More than torch's own limit of versions of one function."""
    compile_with_inductor = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_with_inductor(function, backend="eager"))
    for width in range(1, 13):
        network = torch.nn.Linear(2, width)
        compiled = partial(accelerate, speed=Speed(compile=True), device=CPU, batch_size=4)
        step = make_train_step(network, sgd(network, 0.1, 0.9, 0.0), {}, {}, compiled)
        step(torch.ones(4, 2), torch.zeros(4, dtype=torch.long), torch.tensor(0.5))


def test_a_resumed_momentum_is_in_the_order_of_its_parameter():
    """Saved channels-last, resumed channels-first: fused SGD walks both flat."""
    network = torch.nn.Conv2d(3, 4, 3, bias=False)
    optimizer = sgd(network, 0.1, 0.9, 0.0)
    saved = torch.randn_like(network.weight).contiguous(memory_format=torch.channels_last)
    set_momenta(optimizer, [saved])
    (buffer,) = momenta(optimizer)
    assert buffer.stride() == network.weight.stride()
    assert torch.equal(buffer, saved)


@CUDA
@pytest.mark.parametrize("speed", [Speed(cuda_graph=True), Speed(compile=True), Speed(compile=True, cuda_graph=True)])
def test_fp32_on_cuda_follows_the_readable_step(speed, full_float32):
    """To rounding, which on a CPU has grown to a thousandth by the fifth step."""
    dataset = DATASET.to("cuda")
    losses, _ = readable_reference(dataset=dataset)
    trainee = make_trainee(speed, dataset)
    assert train(trainee, dataset)[:3] == pytest.approx(losses[:3], rel=1e-3)
    assert_masked(trainee)


@CUDA
def test_a_captured_step_on_cuda_leaves_the_readable_step_s_weights(full_float32):
    """After 20 steps, with kernels that round alike."""
    dataset = DATASET.to("cuda")
    choose_kernels(deterministic=True)
    try:
        _, expected = readable_reference(dataset=dataset)
        trainee = make_trainee(Speed(cuda_graph=True), dataset)
        train(trainee, dataset)
    finally:
        choose_kernels(deterministic=False)
    for name, tensor in trainee.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


@CUDA
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_the_fast_path_trains_on_cuda(precision):
    dataset = DATASET.to("cuda")
    trainee = make_trainee(Speed(precision, compile=True, cuda_graph=True), dataset)
    losses = train(trainee, dataset, epochs=20)
    assert losses[-1] < losses[0]
    assert_masked(trainee)


@CUDA
def test_deterministic_runs_are_equal_on_cuda(tmp_path):
    """In processes of their own: cuBLAS reads its setting once."""
    flags = (*TINY_JOB, "--method", "aws", "--device", "cuda", "--deterministic", "--runs-dir")
    for name in ("first", "second"):
        assert main_program(*flags, tmp_path / name).returncode == 0
    run = "digits_resnet20_aws_seed1"
    assert_same_networks(tmp_path / "first" / run, tmp_path / "second" / run)


@CUDA
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_network_takes_the_whole_fast_path_on_cuda(arch, tmp_path, monkeypatch):
    for module in ("data.batches", "utils.trainee"):
        monkeypatch.setattr(f"{module}.EVALUATION_BATCH_SIZE", 100)  # of 360 test images: whole batches too
    flags = "--levels 1 --level-epochs 2 --final-epochs 2 --train-images-per-class 6 --batch-size 20 --method aws"
    run = run_in_process(tmp_path, "--arch", arch, *flags.split(), "--device", "cuda")
    for content in networks(run).values():
        assert all(torch.equal(content["model"][name] == 0, ~mask) for name, mask in content["masks"].items())


def test_the_learning_rate_in_a_tensor_is_the_same_number():
    results = []
    for in_tensor in (False, True):
        network = BLUEPRINT.build(BLUEPRINT.initialize(3), half_masks(), CPU)
        optimizer = sgd(network, 0.1, 0.9, 5e-4)
        if in_tensor:
            rate_tensor(optimizer, CPU)
        step = drawn_step(make_train_step(network, optimizer, half_masks(), {}), DATASET)
        apply_masks([network.get_parameter(name) for name in half_masks()], list(half_masks().values()))
        for rate in (0.1, 0.01):
            set_rate(optimizer, rate)
            step(*next(draw_epoch(DATASET, 8, 0)), torch.tensor(1.0))
        results.append(network.state_dict())
    assert_equal_states(*results)
