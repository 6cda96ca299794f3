"""The benchmark's arms do the work that they are said to do; how fast, no test can tell."""

import csv
import sys

import pytest
import torch

import benchmark
from utils.fast_path import Speed
from utils.plain_training import PilImages
from utils.training import TrainingError

CPU = torch.device("cpu")


def run_benchmark(monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags])
    try:
        status = benchmark.main()
    except SystemExit as error:
        status = error.code
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_every_arm_of_a_cpu_is_measured(no_code_generated, tmp_path, monkeypatch, capsys):
    flags = "resnet20 --images 128 --rounds 2 --workers 0 --device cpu --out".split()
    status, out, _ = run_benchmark(monkeypatch, capsys, *flags, str(tmp_path / "b.csv"))
    assert status == 0
    with (tmp_path / "b.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["plain", "data in memory", "layout", "compile"]
    assert rows[0]["times plain"] == "1.00"
    assert all(row["n"] == "2" for row in rows)
    for row in rows:
        assert float(row["images a second"].replace(",", "")) == pytest.approx(
            128_000 / float(row["ms a step"]), rel=0.01
        )
        assert row["range"] in out


def test_the_arms_of_cuda_add_one_thing_each():
    arms = benchmark.make_arms(torch.device("cuda"))
    assert list(arms) == ["plain", "data on device", "precision, layout", "compile", "graph", "deterministic"]
    speeds = [make.keywords["speed"] for name, make in arms.items() if name != "plain"]
    assert speeds == [
        Speed("tf32", channels_last=False), Speed("bf16"), Speed("bf16", compile=True),
        Speed("bf16", compile=True, cuda_graph=True), Speed("bf16", compile=True, cuda_graph=True),
    ]  # fmt: skip


def test_an_arm_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    """Its reason stands in the table and in the CSV, and the status tells of it."""

    def fail(workload):
        raise TrainingError("torch.compile failed")

    arms = benchmark.make_arms(CPU)
    monkeypatch.setattr(
        benchmark, "make_arms", lambda device: {"plain": arms["plain"], "compile": fail, "layout": arms["layout"]}
    )
    flags = "resnet20 --images 128 --rounds 1 --workers 0 --device cpu --out".split()
    status, out, err = run_benchmark(monkeypatch, capsys, *flags, str(tmp_path / "b.csv"))
    assert status == 2
    assert "1 of 3 measurements failed" in err
    assert "torch.compile failed" in out
    with (tmp_path / "b.csv").open() as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert float(rows["layout"]["times plain"]) > 0
    assert rows["compile"]["failed"] == "torch.compile failed"


def test_positions_are_measured_against_their_bare_passes(monkeypatch, capsys, tmp_path):
    flags = "resnet20 --positions --images 128 --rounds 2 --device cpu --arms readable --out".split()
    assert run_benchmark(monkeypatch, capsys, *flags, str(tmp_path / "p.csv"))[0] == 0
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["bare passes", "readable"]
    assert rows[0]["times its bare passes"] == "1.00"
    assert all(float(row["s a position"]) > 0 and row["n"] == "2" for row in rows)


def test_the_plain_step_masks_and_interpolates_in_its_forward_pass():
    dataset = benchmark.random_dataset(32, 128)
    workload = benchmark.Workload("mobilenetv2", dataset, CPU, workers=0)
    plain = benchmark.plain_training(workload)
    images = torch.randn(4, 3, 32, 32)
    convolution, mask = plain.network.features[1].conv[0][0], workload.masks()["features.1.conv.0.0.weight"]
    torch.manual_seed(0)
    with torch.no_grad():
        features = torch.randn(2, convolution.in_channels, 8, 8)
        expected = torch.conv2d(features, convolution.weight * mask, None, 1, 1, 1, convolution.groups)
        assert torch.allclose(convolution(features), expected)
        for module in plain.norms:
            module.alpha = 0.0
            module.weight.fill_(100.0)  # at α = 0 it is not seen
        at_zero = plain.network.eval()(images)
        for module in plain.norms:
            module.weight.fill_(1.0)
        assert torch.equal(plain.network(images), at_zero)


def test_a_plain_batch_is_what_torchvision_makes_of_it():
    images = PilImages(benchmark.random_dataset(64, 128))
    image, label = images[3]
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.float32
    assert 0 <= label < 200
    assert "RandomResizedCrop" in repr(images.transform)


def test_bad_input_is_one_line(monkeypatch, capsys):
    for flags, expected in (
        (("alexnet",), "alexnet"),
        (("--images", "10"), "--images should be a batch at least, 128"),
        (
            ("resnet20", "--images", "128", "--device", "cpu", "--arms", "graph"),
            "cpu has no arm graph: choose from plain",
        ),
    ):
        status, _, err = run_benchmark(monkeypatch, capsys, *flags)
        assert status == 2
        assert err.count("\n") == 1
        assert expected in err
