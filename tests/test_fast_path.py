"""The fast path against the readable step: exactly on the CPU, to rounding on a GPU."""

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from data.batches import draw_epoch, training_batches
from models import build_network
from tests import toy_training as toy
from tests.commands import (
    CUDA,
    PROJECT,
    TINY_JOB,
    assert_exactly_sparse,
    assert_same_networks,
    output_of,
    run_in_process,
)
from tests.toys import EVERY_ARCH, SMALL_ARCHS, ToyNetwork, sgd, toy_dataset
from utils.errors import UserError
from utils.method.norm_interpolation import initial_normalization
from utils.method.step import TrainingError, make_train_step
from utils.training.devices import Speed, choose_device, choose_kernels, choose_speed
from utils.training.fast_path import accelerate, choose_layout, explaining, in_tf32
from utils.training.optimization import optimizer_state, restore_optimizer

pytestmark = pytest.mark.usefixtures("nothing_compiled")


def test_on_the_cpu_a_trainer_is_the_readable_step_to_the_last_bit():
    toy.assert_trains_as_the_readable_step(toy.make_trainer(Speed()))


def test_a_resumed_momentum_is_in_the_order_of_its_parameter():
    """Saved channels-last, resumed channels-first: fused SGD walks both flat."""
    network = torch.nn.Conv2d(3, 4, 3, bias=False)
    optimizer = sgd(network, 0.1, 0.9, 0.0)
    saved = torch.randn_like(network.weight).contiguous(memory_format=torch.channels_last)
    restore_optimizer(optimizer, [{"momentum_buffer": saved}])
    buffer = optimizer_state(optimizer)[0]["momentum_buffer"]
    assert buffer.stride() == network.weight.stride()
    assert torch.equal(buffer, saved)
    with pytest.raises(ValueError, match="a momentum_buffer of"):
        restore_optimizer(optimizer, [{"momentum_buffer": torch.ones(1)}])
    assert torch.equal(buffer, saved)


def test_bf16_keeps_weights_statistics_and_loss_in_fp32():
    trainer = toy.make_trainer(Speed(precision="bf16"))
    losses, expected = toy.train(trainer), toy.readable_training()[0]
    assert losses[0] != expected[0]
    assert losses[0] == pytest.approx(expected[0], rel=0.02)  # before the first update
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in trainer.network.state_dict().values())
    remembered = [value for state in optimizer_state(trainer.optimizer) for value in state.values()]
    assert all(value.dtype == torch.float32 for value in remembered)
    loss, _ = trainer.step(*next(draw_epoch(toy.DATASET, 8, 0)), torch.tensor(0.5))
    assert loss.dtype == torch.float32
    toy.assert_masked(trainer)


@pytest.fixture
def traced_only(monkeypatch):
    """torch.compile makes its graphs and runs them as they are."""
    generating = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: generating(function, backend="eager", **options))


@pytest.mark.parametrize("arch", EVERY_ARCH)
def test_every_network_compiles_to_one_graph_whatever_alpha_is(arch, traced_only):
    """In CUDA's default precision."""
    counters.clear()
    torch.manual_seed(0)
    network = build_network(arch, 4, 3).to(memory_format=torch.channels_last).train()
    norms = {name: tensor + 0.1 for name, tensor in initial_normalization(network).items()}
    accelerated = partial(accelerate, speed=Speed("bf16", compile=True), device=toy.CPU, batch_size=4)
    step = make_train_step(network, sgd(network, 0.01, 0.9, 5e-4), {}, norms, accelerated)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(4)
    for alpha in (0.1, 0.5, 0.9):
        loss, _ = step(images, labels, torch.tensor(alpha))
        assert torch.isfinite(loss)
    step(images[:2], labels[:2], torch.tensor(0.3))  # an epoch's last batch is not compiled
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
def test_compiled_training_follows_the_readable_step():
    """Real generated code on the CPU, to rounding."""
    losses = []
    for speed in (Speed(), Speed(compile=True)):
        torch.manual_seed(0)
        network, batches = ToyNetwork(), training_batches(toy_dataset(count=32), 8, seed=0)
        norms = {name: tensor + 0.5 for name, tensor in initial_normalization(network).items()}
        masks = {"conv.weight": network.conv.weight > 0}
        accelerated = partial(accelerate, speed=speed, device=toy.CPU, batch_size=8)
        step = make_train_step(network, sgd(network, 0.05, 0.9, 5e-4), masks, norms, accelerated)
        losses.append([step(*batch, torch.tensor(0.3))[0].item() for batch in batches])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "train"), [(toy.make_search, toy.search), (toy.make_sign_in, toy.sign_in)])
def test_scores_and_products_compile_to_one_graph(make, train, no_code_generated):
    counters.clear()
    losses, expected = (train(make(speed), seed=1) for speed in (Speed(compile=True), Speed()))
    assert losses[:5] == pytest.approx(expected[:5], rel=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
def test_many_networks_compile_in_one_process(traced_only):
    """More than torch's own limit of versions of one function, which is 8."""
    accelerated = partial(accelerate, speed=Speed(compile=True), device=toy.CPU, batch_size=4)
    for width in range(1, 11):
        network = torch.nn.Linear(2, width)
        step = make_train_step(network, sgd(network, 0.1, 0.9, 0.0), {}, {}, accelerated)
        step(torch.ones(4, 2), torch.zeros(4, dtype=torch.long), torch.tensor(0.5))


def test_a_failing_compilation_says_what_to_do():
    def forward_pass(images, labels, alpha):
        print(images)  # no part of a graph
        return images.sum(), images

    step = explaining(accelerate(forward_pass, Speed(compile=True), toy.CPU, batch_size=2))
    with pytest.raises(TrainingError, match=r"torch\.compile failed .* do without \(--no-compile"):
        step(torch.ones(2, 2), torch.ones(2), torch.tensor(0.5))


def test_tf32_is_switched_off_again():
    """Also by a failing step: whatever is reported later would be rounded."""

    def switched():
        return torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32

    choose_device("cpu")
    assert in_tf32(switched)()
    with pytest.raises(ZeroDivisionError):
        in_tf32(lambda: 1 / 0)()
    assert not switched()


@pytest.mark.parametrize(("supports_bf16", "precision"), [(False, "fp32"), (True, "bf16")])
def test_the_defaults_of_a_device(supports_bf16, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supports_bf16)
    cuda = torch.device("cuda")
    assert choose_speed(toy.CPU) == Speed("fp32", compile=False, cuda_graph=False)
    assert choose_speed(cuda) == Speed(precision, compile=True, cuda_graph=True)
    assert choose_speed(cuda, "fp32", False, False) == Speed("fp32", compile=False, cuda_graph=False)
    with pytest.raises(UserError, match="--cuda-graph needs a CUDA device, not cpu"):
        choose_speed(toy.CPU, cuda_graph=True)
    with pytest.raises(UserError, match="--precision tf32 needs a CUDA device, not cpu: choose fp32"):
        choose_speed(toy.CPU, precision="tf32")


def test_a_gpu_is_chosen_by_its_number_whatever_torchrun_left(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr("utils.training.devices.choose_kernels", lambda deterministic: None)
    assert [choose_device(name).index for name in ("cuda", "cuda:0", "cuda:1")] == [0, 0, 1]


def test_compiled_shufflenet_keeps_its_channels_first_on_cuda():
    """Its grouped convolutions have several channels a group; MobileNetV2's depthwise ones have one."""
    cuda, fast = torch.device("cuda"), Speed("bf16", compile=True, cuda_graph=True)
    with torch.device("meta"):
        shufflenet, mobilenet = build_network("shufflenet", 4), build_network("mobilenetv2", 4)
    assert choose_layout(shufflenet, fast, cuda) == torch.contiguous_format
    assert choose_layout(mobilenet, fast, cuda) == torch.channels_last
    assert choose_layout(shufflenet, Speed(), toy.CPU) == torch.channels_last
    assert choose_layout(mobilenet, Speed(channels_last=False), toy.CPU) == torch.contiguous_format


@CUDA
@pytest.mark.parametrize("speed", [Speed(cuda_graph=True), Speed(compile=True), Speed(compile=True, cuda_graph=True)])
def test_fp32_on_cuda_follows_the_readable_step(speed, full_float32):
    """To rounding, which on a CPU has grown to a thousandth by the fifth step."""
    dataset = toy.DATASET.to("cuda")
    losses, _ = toy.readable_training(dataset=dataset)
    trainer = toy.make_trainer(speed, dataset=dataset)
    assert toy.train(trainer)[:3] == pytest.approx(losses[:3], rel=1e-3)
    toy.assert_masked(trainer)


@CUDA
def test_a_captured_step_on_cuda_leaves_the_readable_step_s_weights(full_float32):
    """After 20 steps, with kernels that round alike; and the second stage too, by the same graph."""
    dataset = toy.DATASET.to("cuda")
    choose_kernels(deterministic=True)
    try:
        trainer = toy.make_trainer(Speed(cuda_graph=True), dataset=dataset)
        for seed in (1, 2):
            toy.begin(trainer, seed)
            toy.train(trainer)
            _, expected = toy.readable_training(seed, dataset)
            for name, tensor in trainer.network.state_dict().items():
                torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)
    finally:
        choose_kernels(deterministic=False)


@CUDA
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_the_fast_path_trains_on_cuda(precision):
    trainer = toy.make_trainer(Speed(precision, compile=True, cuda_graph=True), dataset=toy.DATASET.to("cuda"))
    losses = toy.train(trainer, epochs=20)
    assert losses[-1] < losses[0]
    toy.assert_masked(trainer)


@CUDA
def test_deterministic_runs_are_equal_on_cuda(tmp_path):
    """In processes of their own: cuBLAS reads its setting once."""
    flags = (*TINY_JOB, "--method", "aws", "--device", "cuda", "--deterministic", "--runs-dir")
    for name in ("first", "second"):
        output_of("python", PROJECT / "main.py", *flags, tmp_path / name)
    run = "digits_resnet20_aws_seed1"
    assert_same_networks(tmp_path / "first" / run, tmp_path / "second" / run)


@CUDA
@pytest.mark.parametrize("arch", SMALL_ARCHS)
def test_every_network_takes_the_whole_fast_path_on_cuda(arch, tmp_path, monkeypatch):
    monkeypatch.setattr("data.batches.EVALUATION_BATCH_SIZE", 100)  # of 360 test images: a smaller one, too
    flags = "--levels 1 --level-epochs 2 --final-epochs 2 --train-images-per-class 6 --batch-size 20 --method aws"
    assert_exactly_sparse(run_in_process(tmp_path, "--arch", arch, *flags.split(), "--device", "cuda"))
