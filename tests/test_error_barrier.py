"""calculate_error_barrier.py as a user runs it."""

import csv
import json
import shutil
import sys

import pytest
import torch

import calculate_error_barrier
from tests.commands import CUDA, PROJECT, command, run_in_process
from utils import measured_path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trials of AWS with two order seeds from one initialization, and two dense networks."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in ("1", "2"):
        run_in_process(folder, "--method", "dense", "--seed", seed)
        run_in_process(folder, "--method", "aws", "--seed", seed, "--start", "subnetwork", "signs")
    run_in_process(folder, "--method", "lrr", "--start", "signs")
    return folder


def final(runs, name, seed=1, method="aws"):
    return runs / f"digits_resnet20_{method}_seed{seed}" / "final" / name


def run_program(monkeypatch, capsys, *flags) -> tuple[int, str, str]:
    """The program's own main in this process: status, output, errors."""
    monkeypatch.setattr(sys, "argv", ["calculate_error_barrier.py", "--device", "cpu", *map(str, flags)])
    try:
        status = calculate_error_barrier.main()
    except SystemExit as error:
        status = error.code
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def summary_of(folder):
    (path,) = folder.glob("*--*/barrier.json")
    return json.loads(path.read_text())


def test_a_path_leaves_numbers_and_pictures(runs, tmp_path, monkeypatch, capsys):
    first, second = final(runs, "level_02_signs_seed2"), final(runs, "level_02_subnetwork_seed2") / "network.pt"
    status, out, _ = run_program(monkeypatch, capsys, first, second, "--out", tmp_path)
    assert status == 0
    (folder,) = tmp_path.iterdir()
    labels = "digits_resnet20_aws_seed1-level_02_signs_seed2", "digits_resnet20_aws_seed1-level_02_subnetwork_seed2"
    assert folder.name == "--".join(labels)
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
        "barrier.json", "positions.csv", "networks.json", "path.png", "path.pdf",
    }  # fmt: skip
    summary = summary_of(tmp_path)
    errors = [row["test_error"] for row in summary["positions"]]
    assert [row["alpha"] for row in summary["positions"]] == pytest.approx([index / 10 for index in range(11)])
    heights = [error - (errors[0] + errors[-1]) / 2 for error in errors]
    assert summary["barrier"] == max(heights)
    assert summary["positions"][heights.index(max(heights))]["alpha"] == summary["barrier_alpha"]
    with (folder / "positions.csv").open() as file:
        assert [float(row["test_error"]) for row in csv.DictReader(file)] == errors
    # The ends as they were saved reproduce the error that their training recorded.
    for end, error in zip(summary["ends"], (errors[0], errors[-1]), strict=True):
        assert end["test_error"] == end["recorded_test_error"]
        assert end["reestimated_test_error"] == error
    assert summary["ends"][0]["network"] == labels[1]  # α = 0 is the second network
    differing = [end for end in summary["ends"] if end["reestimated_test_error"] != end["recorded_test_error"]]
    assert out.count("with re-estimated batch-norm statistics, as on the path") == len(differing)
    accuracies = [json.loads((final(runs, f"dense_seed{s}", s, "dense") / "result.json").read_text()) for s in (1, 2)]
    deviation = abs(accuracies[0]["test_error"] - accuracies[1]["test_error"]) / 2**0.5
    assert summary["epsilon"] == pytest.approx(deviation)
    assert summary["connected"] == (summary["barrier"] < summary["epsilon"])
    assert f"error barrier {summary['barrier']:.2f}" in out


def test_a_difference_from_the_record_is_said(runs, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "changed"
    shutil.copytree(final(runs, "level_02_signs_seed2"), copy)
    content = torch.load(copy / "network.pt", weights_only=True)
    content["result"]["test_error"] = 1.5
    torch.save(content, copy / "network.pt")
    flags = (
        copy,
        final(runs, "level_02_subnetwork_seed2"),
        "--out",
        tmp_path / "out",
        "--epsilon",
        "1",
        "--points",
        "2",
    )
    _, out, _ = run_program(monkeypatch, capsys, *flags)
    assert "note: changed was recorded with 1.50 % test error, its file has" in out


def test_a_network_and_itself_have_no_barrier(runs, tmp_path, monkeypatch, capsys):
    network = final(runs, "level_02_signs_seed2")
    run_program(monkeypatch, capsys, network, network, "--out", tmp_path, "--points", "3", "--epsilon", "0.1")
    summary = summary_of(tmp_path)
    assert summary["barrier"] == summary["barrier_above_line"] == 0
    assert summary["connected"]


def test_masks_that_differ_are_said(runs, tmp_path, monkeypatch, capsys):
    pair = final(runs, "level_02_signs_seed2"), final(runs, "level_02_signs_seed2", method="lrr")
    _, out, _ = run_program(monkeypatch, capsys, *pair, "--out", tmp_path, "--points", "2")
    summary = summary_of(tmp_path)
    assert summary["survive_only_in_first"] == summary["survive_only_in_second"] > 0
    assert "their union survives" in out


def test_finished_positions_are_kept(runs, tmp_path, monkeypatch, capsys):
    pair = final(runs, "level_02_signs_seed2"), final(runs, "level_02_subnetwork_seed2")
    measured, measure = [], measured_path.measure_position

    def interrupted(first, second, alpha, measurement):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(alpha)
        return measure(first, second, alpha, measurement)

    monkeypatch.setattr(measured_path, "measure_position", interrupted)
    status, _, err = run_program(monkeypatch, capsys, *pair, "--out", tmp_path)
    assert status == 130
    assert "goes on from here" in err
    measured.clear()
    monkeypatch.setattr(measured_path, "measure_position", lambda *args: measured.append(args[2]) or measure(*args))
    assert run_program(monkeypatch, capsys, *pair, "--out", tmp_path)[0] == 0
    assert measured == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    measured.clear()
    assert run_program(monkeypatch, capsys, *pair, "--out", tmp_path, "--points", "6")[0] == 0
    assert measured == []  # 0, 0.2 .. 1 are there


def test_a_coarser_grid_does_not_lower_a_barrier_that_was_found(runs, tmp_path, monkeypatch, capsys):
    pair = final(runs, "level_02_signs_seed2"), final(runs, "level_02_signs_seed2", method="lrr")
    run_program(monkeypatch, capsys, *pair, "--out", tmp_path, "--points", "5")
    found = summary_of(tmp_path)["barrier"]
    run_program(monkeypatch, capsys, *pair, "--out", tmp_path, "--points", "2")
    assert summary_of(tmp_path)["barrier"] == found
    assert len(summary_of(tmp_path)["positions"]) == 5


def test_a_run_named_twice_is_one_trial(runs, tmp_path, monkeypatch, capsys):
    run = runs / "digits_resnet20_aws_seed1"
    flags = ("--level", "2", "--comparisons", "lmc-signs", "--points", "3", "--out", tmp_path)
    _, out, _ = run_program(monkeypatch, capsys, "--runs", run, run / ".", *flags)
    assert "(n = 1)" in out


def test_positions_of_other_weights_are_not_taken(runs, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "run"
    shutil.copytree(final(runs, "level_02_signs_seed2"), copy)
    flags = (copy, final(runs, "level_02_subnetwork_seed2"), "--out", tmp_path / "out", "--points", "2")
    assert run_program(monkeypatch, capsys, *flags)[0] == 0
    content = torch.load(copy / "network.pt", weights_only=True)
    content["model"]["fc.bias"] += 1
    torch.save(content, copy / "network.pt")
    status, _, err = run_program(monkeypatch, capsys, *flags)
    assert status == 2
    assert "holds the path of earlier networks of these names: delete it" in err


def test_files_outside_runs_are_told_apart(runs, tmp_path, monkeypatch, capsys):
    """Two files of one name in two folders, and a stranger's config.json beside them."""
    (tmp_path / "config.json").write_text("{}")
    for name, start in (("a", "signs"), ("b", "subnetwork")):
        (tmp_path / name).mkdir()
        shutil.copy(final(runs, f"level_02_{start}_seed2") / "network.pt", tmp_path / name / "mine.pt")
    flags = (tmp_path / "a" / "mine.pt", tmp_path / "b" / "mine.pt", "--out", tmp_path / "out", "--points", "2")
    assert run_program(monkeypatch, capsys, *flags)[0] == 0
    summary = summary_of(tmp_path / "out")
    assert summary["first"].startswith("mine-")
    assert summary["first"] != summary["second"]


def test_the_normalization_path_ends_at_the_initial_values(runs, tmp_path, monkeypatch, capsys):
    level = runs / "digits_resnet20_aws_seed1" / "level_02"
    network = measured_path.read_network(level)
    far = network.with_initial_norms()
    initial = torch.load(runs / "digits_resnet20_aws_seed1" / "initialization" / "network.pt", weights_only=True)
    for name, tensor in far.state.items():
        source = initial["model"] if name in network.blueprint.norms else network.state
        assert torch.equal(tensor, source[name])
    status, _, _ = run_program(
        monkeypatch, capsys, "--normalization-path", level, "--out", tmp_path, "--points", "3", "--no-augment"
    )
    assert status == 0
    assert summary_of(tmp_path)["second"] == "digits_resnet20_aws_seed1-level_02-initial_norms"
    assert not summary_of(tmp_path)["augmented"]


def test_three_networks_are_a_matrix(runs, tmp_path, monkeypatch, capsys):
    names = "level_02_signs_seed2", "level_02_subnetwork_seed2"
    networks = [final(runs, name) for name in names] + [runs / "digits_resnet20_aws_seed1" / "level_02"]
    assert run_program(monkeypatch, capsys, *networks, "--out", tmp_path, "--points", "3")[0] == 0
    (matrix,) = tmp_path.glob("matrix_of_3_*")
    files = {path.name for path in matrix.iterdir() if path.name[0] != "."}
    assert files == {"matrix.json", "matrix.csv", "matrix.png", "matrix.pdf"}
    barriers = json.loads((matrix / "matrix.json").read_text())["barriers"]
    heights = {}
    for path in tmp_path.glob("*--*/barrier.json"):
        summary = json.loads(path.read_text())
        heights[summary["first"], summary["second"]] = summary["barrier"]
    labels = json.loads((matrix / "matrix.json").read_text())["networks"]
    for row in range(3):
        for column in range(3):
            pair = (labels[row], labels[column]) if row < column else (labels[column], labels[row])
            assert barriers[row][column] == (0 if row == column else heights[pair])


def test_a_pair_is_measured_alike_alone_and_in_a_matrix(runs, tmp_path, monkeypatch, capsys):
    """Statistics are gathered in batches of the pair's first network, whatever the matrix begins with."""
    networks = []
    for name, start, batch_size in (("a", "signs", 32), ("b", "signs", 10), ("c", "subnetwork", 10)):
        content = torch.load(final(runs, f"level_02_{start}_seed2") / "network.pt", weights_only=True)
        networks.append(tmp_path / f"{name}.pt")
        torch.save(content | {"settings": content["settings"] | {"batch_size": batch_size}}, networks[-1])
    for folder, compared in (("matrix", networks), ("alone", networks[1:])):
        flags = (*compared, "--points", "2", "--out", tmp_path / folder, "--epsilon", "1")
        assert run_program(monkeypatch, capsys, *flags)[0] == 0
    positions = {(tmp_path / folder / "b--c" / "positions.csv").read_text() for folder in ("matrix", "alone")}
    assert len(positions) == 1
    assert positions != {(tmp_path / "matrix" / "a--c" / "positions.csv").read_text()}


def test_the_script_trains_what_is_missing_and_compares(runs, tmp_path):
    """The paper's four comparisons from run folders alone; a second run measures nothing anew."""
    folder = shutil.copytree(runs, tmp_path / "runs")
    aws = [folder / f"digits_resnet20_aws_seed{seed}" for seed in (1, 2)]
    script = PROJECT / "script" / "calculate_error_barrier.sh"
    result = command("bash", script, "11", *aws)  # the runs have two levels: the last one is taken
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (aws[0] / "final").iterdir()}
    assert names == {
        "level_02_signs_seed2", "level_02_signs_seed3_init2",
        "level_02_subnetwork_seed2", "level_02_subnetwork_seed3",
        "level_02_signs-keep-norms_seed2", "level_02_signs-keep-norms_seed3_init2",
    }  # fmt: skip
    target = folder / "barriers" / "digits_resnet20_level_2"
    rows = json.loads((target / "comparisons.json").read_text())["comparisons"]
    assert [(row["networks"], row["n"]) for row in rows] == [
        ("signs to solution", 2), ("signs", 2), ("subnetwork", 2), ("signs keeping ψ", 2),
    ]  # fmt: skip
    heights = []
    for seed in (1, 2):
        name = f"digits_resnet20_aws_seed{seed}-level_02_"
        path = f"{name}signs_seed{seed + 1}--{name}subnetwork_seed{seed + 1}"
        heights.append(json.loads((folder / "barriers" / path / "barrier.json").read_text())["barrier"])
    assert rows[0]["barrier_mean"] == pytest.approx(sum(heights) / 2)
    assert rows[0]["barrier_std"] == pytest.approx(abs(heights[0] - heights[1]) / 2**0.5)
    assert (target / "comparisons.png").stat().st_size > 10_000
    again = command("bash", script, "11", *aws)
    assert "epoch" not in again.stdout
    report = command(sys.executable, PROJECT / "report.py", *aws)
    assert "barrier to solution" in report.stdout


def test_noise_with_the_initialization_varied_is_another_experiment(runs, monkeypatch, capsys):
    run = runs / "digits_resnet20_aws_seed1"
    flags = ("--runs", run, "--level", "2", "--list-missing", "--comparisons")
    _, held, _ = run_program(monkeypatch, capsys, *flags, "noise-signs")
    assert " --start signs --init-seed 2 --final-seeds 3 --device cpu" in held
    _, varied, _ = run_program(monkeypatch, capsys, *flags, "noise-and-initialization-signs")
    assert " --start signs --init-seed 3 --final-seeds 3 --device cpu" in varied


def test_bad_input_is_one_line(runs, tmp_path, monkeypatch, capsys):
    signs = final(runs, "level_02_signs_seed2")
    other = run_in_process(tmp_path, "--arch", "resnet32", "--method", "dense") / "final" / "dense_seed1"
    cases = [
        ((signs,), "give at least two networks"),
        ((signs, tmp_path / "nowhere"), "nowhere", "is missing"),
        ((signs, PROJECT / "README.md"), "README.md is damaged or no file of this program", "name a network.pt"),
        ((signs, other), "digits_resnet20_aws_seed1-level_02_signs_seed2 has arch resnet20", "has resnet32"),
        ((signs, signs, "--points", "1"), "--points"),
        ((signs, signs, "--runs", runs), "not both"),
        ((signs, signs, "--epsilon", "nan"), "--epsilon"),
        ((signs, signs, "--list-missing"), "--list-missing goes with --runs"),
        ((runs / "digits_resnet20_aws_seed1", signs), "name the folder of a level or a final training"),
        (("--runs", tmp_path), "is no run folder"),
        (("--runs", runs / "digits_resnet20_dense_seed1"), "none of the runs has levels"),
        (("--normalization-path", signs, signs), "give one network"),
    ]
    for flags, *expected in cases:
        status, _, err = run_program(monkeypatch, capsys, *flags)
        assert status == 2
        assert err.count("\n") == 1, err
        for text in expected:
            assert text in err


def test_a_missing_data_set_is_one_line(runs, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "tiny"
    shutil.copytree(final(runs, "level_02_signs_seed2"), copy)
    content = torch.load(copy / "network.pt", weights_only=True)
    torch.save(content | {"dataset": "tiny_imagenet"}, copy / "network.pt")
    status, _, err = run_program(monkeypatch, capsys, copy, copy, "--data-root", tmp_path)
    assert status == 2
    assert "tiny_imagenet.npz is missing" in err
    torch.save(content | {"arch": "vit"}, copy / "network.pt")
    _, _, err = run_program(monkeypatch, capsys, copy, copy)
    assert "holds a network that this program does not know, vit" in err
    torch.save(content | {"settings": content["settings"] | {"data": "other"}}, copy / "network.pt")
    _, _, err = run_program(monkeypatch, capsys, copy, copy)
    assert "was trained on other, and data holds 10 classes, 100 training and 360 test images" in err


@CUDA
def test_paths_on_cuda(runs, tmp_path, monkeypatch, capsys):
    """The graphed passes find what the readable ones do, to a few images of 360 (another device rounds otherwise)."""
    pair = final(runs, "level_02_signs_seed2"), final(runs, "level_02_subnetwork_seed2")
    errors = []
    for flags in ((), ("--device", "cuda", "--no-cuda-graph"), ("--device", "cuda"), ("--device", "cuda", "--compile")):
        folder = tmp_path / str(len(errors))
        assert run_program(monkeypatch, capsys, *pair, "--no-augment", "--points", "3", "--out", folder, *flags)[0] == 0
        errors.append([row["test_error"] for row in summary_of(folder)["positions"]])
    for found in errors[1:]:
        assert found == pytest.approx(errors[0], abs=3.0)
