"""The benchmark's arms do the work that they are said to do; how fast, no test can tell."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch.multiprocessing.spawn import ProcessRaisedException

from data import decoding
from models import ARCHITECTURES, Architecture, build_network
from tests.commands import assert_refused, read_csv
from tests.fake_data import jpeg
from utils.benchmark import __main__ as benchmark
from utils.benchmark import arms, input, sharing
from utils.benchmark.measure import Arm, measure_arms
from utils.benchmark.plain import PilImages, PlainTraining
from utils.benchmark.profile import kind_of
from utils.benchmark.workload import Workload, random_dataset
from utils.method.step import TrainingError
from utils.training.devices import Speed, choose_kernels

CPU = torch.device("cpu")
TOY = Workload("toy", 32, 256, CPU, workers=0)


def toy_network(classes, channels):
    convolution = nn.Conv2d(channels, 4, 3, stride=8)
    return nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "toy", Architecture(toy_network, classifier="4"))


@pytest.fixture
def run_benchmark(run_program, tmp_path):
    """The program on the toy: exit status, the rows of the CSV file, and what is shown."""

    def run(*flags):
        small = "toy --images 256 --workers 0 --device cpu --rounds 2 --out".split()
        status, *shown = run_program(benchmark, *small, tmp_path / "b.csv", *flags)
        return status, read_csv(tmp_path / "b.csv"), "".join(shown)

    return run


EVERY_CPU_ARM = ["plain", "data in memory", "layout", "kept memory", "compile"]


def test_every_arm_of_a_cpu_is_measured(run_benchmark, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    status, rows, shown = run_benchmark()
    assert (status, [row["arm"] for row in rows]) == (0, EVERY_CPU_ARM)
    assert rows[0]["times plain"] == "1.00"
    assert all(row["n"] == "2" and float(row["epoch s"]) > 0 for row in rows)
    for row in rows:
        images_a_second = float(row["images a second"].replace(",", ""))
        assert images_a_second == pytest.approx(128_000 / float(row["ms a step"]), rel=0.01)
        assert row["range"] in shown


def test_the_input_alone(run_program, tmp_path, monkeypatch):
    """Of a folder, whose small images make copies that are the same."""
    monkeypatch.setattr(decoding, "fast_decoder", lambda: None)
    monkeypatch.setattr(input, "fast_decoder", lambda: None)
    for index in range(3):
        (tmp_path / f"{index}.JPEG").write_bytes(jpeg((index, 1, 2)))
    flags = "--rounds", 2, "--out", tmp_path / "new" / "b.csv", "--input"
    status, shown, _ = run_program(benchmark, *flags, tmp_path)
    rows = read_csv(tmp_path / "new" / "b.csv")
    assert (status, [row["arm"] for row in rows]) == (0, ["torchvision", "Pillow", "Pillow, copies of 256"])
    assert all(row["n"] == "2" and row["images a second"] in shown for row in rows)
    assert_refused(run_program(benchmark, *flags, tmp_path / "nowhere"), "nowhere has no JPEGs")


def test_positions_are_measured_against_their_bare_passes(run_benchmark, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    status, rows, _ = run_benchmark("--positions")
    assert (status, [row["arm"] for row in rows]) == (0, ["bare passes", "readable", "compile"])
    assert rows[0]["times its bare passes"] == "1.00"
    assert all(float(row["s a position"]) > 0 and row["n"] == "2" for row in rows)


def test_some_arms_alone_are_started_once(run_benchmark):
    status, rows, _ = run_benchmark("--arms", "layout", "graph", "--cached")
    assert (status, [row["arm"] for row in rows]) == (0, ["plain", "layout"])  # no processor has a graph
    assert all(row["start-up s"] == row["start-up again s"] for row in rows)


def test_a_step_s_time_is_told_by_kind(run_benchmark):
    status, rows, _ = run_benchmark("--profile")
    assert (status, rows[-1]["kind"]) == (0, "gaps")
    assert sum(float(row["share %"]) for row in rows) == pytest.approx(100, abs=1)
    launches = {row["kind"]: row["launches a step"] for row in rows}
    assert launches["optimizer"] == "1.0"
    assert {"convolution, matrix product", "normalization", "copy"} <= launches.keys()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("triton_poi_fused__to_copy_24", "compiled pointwise"),
        ("triton_red_fused__native_batch_norm_legit_functional_55", "compiled reduction"),
        ("sm90_xmma_wgrad_implicit_gemm_indexed_bf16", "convolution, matrix product"),
        ("cudnn::bn_fw_tr_1C11_kernel_NCHW", "normalization"),
        ("void at::native::multi_tensor_apply_kernel<FusedSgdMathFunctor>", "optimizer"),
        ("void at::native::multi_tensor_apply_kernel<BinaryOpListAlphaFunctor>", "many tensors at once"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("index_elementwise_kernel", "other"),
    ],
)
def test_kinds_of_kernels(name, kind):
    assert kind_of(name) == kind


@pytest.mark.slow
def test_nothing_is_compiled_in_a_timed_round(no_code_generated):
    """The second arm's start makes PyTorch forget what the first one has compiled, and its own is for other kernels."""
    compilations = {"fast": [], "deterministic": []}

    class Logged(arms.OurTraining):
        def __call__(self):
            before = counters["stats"]["unique_graphs"]
            super().__call__()
            compilations[self.name].append(counters["stats"]["unique_graphs"] - before)

    def make(name):
        work = Logged(TOY, Speed(compile=True))
        work.name = name
        return work

    compared = [Arm(name, CPU, partial(make, name), name == "deterministic") for name in compilations]
    measure_arms(compared, lambda arm, first: {"epoch s": arms.whole_epoch(TOY, arm)}, rounds=2)
    choose_kernels(deterministic=False)
    # The start, the same step again, the turn that is not timed; two rounds of one more and one that is; an epoch.
    assert compilations == {"fast": [1, 0, 1, *[0] * 6], "deterministic": [1, 0, 0, *[0] * 6]}


def test_an_arm_that_fails_stops_no_other(run_benchmark, monkeypatch):
    """Its reason is in the table and in the CSV file, and the exit status tells of it."""
    ours = arms.OurTraining

    def fail(workload, speed=None, **_):
        if speed and not speed.compile:
            return ours(workload, speed)
        raise TrainingError("torch.compile failed")

    monkeypatch.setattr(arms, "OurTraining", fail)
    status, rows, shown = run_benchmark()
    assert (status, [row["arm"] for row in rows]) == (2, EVERY_CPU_ARM)
    assert float(rows[2]["times plain"]) > 0
    assert rows[4]["failed"] == "torch.compile failed"
    assert "1 of 5 measurements failed" in shown
    assert "torch.compile failed" in shown

    monkeypatch.setattr(arms, "PlainTraining", fail)  # then there is nothing to compare with
    status, rows, _ = run_benchmark()
    assert (status, [row["arm"] for row in rows]) == (2, ["plain", "compile"])


def test_processes_that_share_a_device(run_benchmark, monkeypatch):
    """Here one at a time, in this process; the second one fails."""

    def run_here(work, arguments, count):
        if count > 1:
            raise ProcessRaisedException("Traceback ..\nOutOfMemoryError: no memory", 0, 0)
        work(0, *arguments)

    monkeypatch.setattr(sharing, "spawn", run_here)
    status, (one, two), _ = run_benchmark("--share", "1", "2", "--seconds", "0.1")
    assert (status, one["arm"], one["times 1"]) == (2, "1 at once", "1.00")
    assert one["images a second, all"] > "0"
    assert "OutOfMemoryError: no memory" in two["failed"]


def test_the_plain_step_masks_and_interpolates_in_its_forward_pass():
    plain, mask = PlainTraining(TOY), TOY.masks()["0.weight"]
    plain()  # the step changes the pruned weights too
    (convolution, norm), images = plain.network[:2].eval(), torch.randn(4, 3, 32, 32)
    norm.alpha = 0.0
    with torch.no_grad():
        features = torch.conv2d(images, convolution.weight_orig * mask, convolution.bias, stride=8)
        assert torch.equal(convolution(images), features)
        norm.weight.fill_(100.0)  # at α = 0 it is not seen
        assert torch.equal(norm(features), F.batch_norm(features, norm.running_mean, norm.running_var))


def test_groups_made_dense_are_the_same_network():
    """In float64, to rounding: outputs and gradients of ShuffleNet."""
    torch.manual_seed(0)
    network, images = build_network("shufflenet", 4, 3).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    names = [name for name, _ in network.named_parameters()]
    before = [network(images), *torch.autograd.grad(network(images).logsumexp(dim=1).sum(), network.parameters())]
    arms.make_groups_dense(network)
    after = [network(images), *torch.autograd.grad(network(images).logsumexp(dim=1).sum(), network.parameters())]
    assert [name for name, _ in network.named_parameters()] == names
    torch.testing.assert_close(after, before)
    assert network.units[0].conv1.forward.func is arms._dense_convolution


def test_the_arms_are_what_they_are_called():
    """A plain batch is what torchvision makes of it, and only the last arm of CUDA is deterministic."""
    images = PilImages(random_dataset(64, 128))
    assert images[3][0].shape == (3, 64, 64)
    assert 0 <= images[3][1] < 200
    assert "RandomResizedCrop" in repr(images.transform)
    *others, last = arms.step_arms(Workload("toy", 32, 256, torch.device("cuda"), workers=0))
    assert last.deterministic and not any(arm.deterministic for arm in others)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("alexnet", "alexnet"), ("--images 10", "--images: 10 should be at least 128")],
)
def test_bad_input_is_one_line(flags, expected, run_program):
    assert_refused(run_program(benchmark, *flags.split()), expected)
