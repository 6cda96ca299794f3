"""calculate_error_barrier.py as a user runs it."""

import json
import shlex
import shutil
from functools import partial

import pytest
import torch

import calculate_error_barrier
import main
from tests.commands import CUDA, PROJECT, assert_refused, interrupt_at, output_of, read_csv, run_in_process
from utils.barriers import path as measured_path
from utils.barriers.path import read_network
from utils.flags import parse_arguments

SMALLEST = ("--levels", "1", "--level-epochs", "1", "--final-epochs", "1")
SIGNS, SOLUTION = "level_01_signs_seed2", "level_01_subnetwork_seed2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trials of AWS with sign transfer and solution, one of LRR, and two dense networks."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in ("1", "2"):
        run_in_process(folder, "--method", "dense", "--seed", seed, *SMALLEST)
        run_in_process(folder, "--method", "aws", "--seed", seed, "--start", "subnetwork", "signs", *SMALLEST)
    run_in_process(folder, "--method", "lrr", "--start", "signs", *SMALLEST)
    return folder


def final(runs, name, seed=1, method="aws"):
    return runs / f"digits_resnet20_{method}_seed{seed}" / "final" / name


@pytest.fixture
def measure(run_program):
    """The program in this process: status, output, errors."""
    return partial(run_program, calculate_error_barrier, "--device", "cpu")


def summary_of(folder):
    (path,) = folder.glob("*--*/barrier.json")
    return json.loads(path.read_text())


def visible_files(folder):
    return {path.name for path in folder.iterdir() if path.name[0] != "."}


def changed_copy(network, folder, **changes):
    """The folder of a network's file, some of whose content is other."""
    shutil.copytree(network, folder, dirs_exist_ok=True)
    content = torch.load(network / "network.pt", weights_only=True)
    torch.save(content | changes, folder / "network.pt")
    return folder


def test_a_path_leaves_numbers_and_pictures(runs, tmp_path, measure):
    status, out, notes = measure(final(runs, SIGNS), final(runs, SOLUTION) / "network.pt", "--out", tmp_path)
    assert status == 0
    (folder,) = tmp_path.iterdir()
    labels = f"digits_resnet20_aws_seed1-{SIGNS}", f"digits_resnet20_aws_seed1-{SOLUTION}"
    assert folder.name == "--".join(labels)
    assert visible_files(folder) == {"barrier.json", "positions.csv", "networks.json", "path.png", "path.pdf"}
    summary = summary_of(tmp_path)
    errors = [row["test_error"] for row in summary["positions"]]
    assert [row["alpha"] for row in summary["positions"]] == pytest.approx([index / 10 for index in range(11)])
    dense = [json.loads((final(runs, f"dense_seed{s}", s, "dense") / "result.json").read_text()) for s in (1, 2)]
    for measure, prefix in (("test_error", ""), ("test_loss", "loss_")):
        values = [row[measure] for row in summary["positions"]]
        heights = [value - (values[0] + values[-1]) / 2 for value in values]
        assert summary[f"{prefix}barrier"] == max(heights)
        assert summary["positions"][heights.index(max(heights))]["alpha"] == summary[f"{prefix}barrier_alpha"]
        deviation = abs(dense[0][measure] - dense[1][measure]) / 2**0.5
        assert summary[f"{prefix}epsilon"] == pytest.approx(deviation)
        assert summary[f"{prefix}connected"] == (max(heights) < summary[f"{prefix}epsilon"])
    assert [float(row["test_error"]) for row in read_csv(folder / "positions.csv")] == errors
    # The ends as they were saved reproduce the error that their training recorded.
    for end, error in zip(summary["ends"], (errors[0], errors[-1]), strict=True):
        assert end["test_error"] == end["recorded_test_error"]
        assert end["reestimated_test_error"] == error
    assert summary["ends"][0]["network"] == labels[1]  # α = 0 is the second network
    differing = [end for end in summary["ends"] if end["reestimated_test_error"] != end["recorded_test_error"]]
    assert notes.count("with re-estimated batch-norm statistics, as on the path") == len(differing)
    assert f"loss barrier {summary['loss_barrier']:.3f}" in out
    assert f"error barrier {summary['barrier']:.2f}" in out


def test_finished_positions_are_kept(runs, tmp_path, monkeypatch, measure):
    pair = final(runs, SIGNS), final(runs, SOLUTION)
    measured = interrupt_at(4, measured_path, "interpolate_states", monkeypatch)
    status, _, err = measure(*pair, "--out", tmp_path)
    assert status == 130
    assert "run the same command again" in err
    assert measure(*pair, "--out", tmp_path)[0] == 0
    assert measure(*pair, "--out", tmp_path, "--points", "6")[0] == 0  # 0, 0.2 .. 1 are there
    positions = [options["alpha"] for _, options in measured]
    assert positions == pytest.approx([0, 0.1, 0.2, 0.3, *[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]])


def test_a_coarser_grid_does_not_lower_a_barrier_that_was_found(runs, tmp_path, measure):
    """Between networks whose masks differ, which is said."""
    pair = final(runs, SIGNS), final(runs, SIGNS, method="lrr")
    _, out, _ = measure(*pair, "--out", tmp_path, "--points", "5")
    first = summary_of(tmp_path)
    assert first["survive_only_in_first"] == first["survive_only_in_second"] > 0
    assert "their union survives" in out
    measure(*pair, "--out", tmp_path, "--points", "2")
    assert summary_of(tmp_path)["barrier"] == first["barrier"]
    assert len(summary_of(tmp_path)["positions"]) == 5


def test_a_run_named_twice_is_one_trial(runs, tmp_path, measure):
    run = runs / "digits_resnet20_aws_seed1"
    flags = ("--level", "1", "--comparisons", "lmc-signs", "--points", "3", "--out", tmp_path, "--epsilon", "100")
    _, out, _ = measure("--runs", run, run / ".", *flags)
    assert "(n = 1), below ε = 100.00 in 1 of 1" in out  # by the ε that was given, not the dense networks'


def test_there_is_no_epsilon_between_two_precisions(runs, tmp_path, measure):
    result = read_network(final(runs, SIGNS)).result
    other = changed_copy(final(runs, SIGNS), tmp_path / "other", result=result | {"precision": "bf16"})
    flags = ("--points", "2", "--out", tmp_path / "out", "--runs-dir", runs)
    for pair in ((other, final(runs, SOLUTION)), (final(runs, SOLUTION), other)):
        assert (
            "no verdict without --epsilon (no dense networks of two seeds, bf16 and fp32)" in measure(*pair, *flags)[1]
        )


def test_a_changed_network_is_noticed(runs, tmp_path, measure):
    """By a result that it does not have, and by a path that is another one's."""
    signs = final(runs, SIGNS)
    changed = changed_copy(signs, tmp_path / "changed", result={"test_error": 1.5})
    flags = (changed, final(runs, SOLUTION), "--out", tmp_path / "out", "--points", "2")
    assert "note: changed was recorded with 1.50 % test error and has" in measure(*flags)[2]
    model = read_network(signs).model
    changed_copy(signs, changed, model={**model, "fc.bias": model["fc.bias"] + 1})
    assert_refused(measure(*flags), "holds the path of earlier networks of these names: delete it")


def test_files_outside_runs_are_told_apart(runs, tmp_path, measure):
    """Two files of one name in two folders, beside the config.json of another program."""
    (tmp_path / "config.json").write_text("{}")
    for name, network in (("a", SIGNS), ("b", SOLUTION)):
        (tmp_path / name).mkdir()
        shutil.copy(final(runs, network) / "network.pt", tmp_path / name / "mine.pt")
    flags = (tmp_path / "a" / "mine.pt", tmp_path / "b" / "mine.pt", "--out", tmp_path / "out", "--points", "2")
    assert measure(*flags)[0] == 0
    summary = summary_of(tmp_path / "out")
    assert summary["first"].startswith("mine-")
    assert summary["first"] != summary["second"]


def test_the_normalization_path_ends_at_the_initial_values(runs, tmp_path, measure):
    run = runs / "digits_resnet20_aws_seed1"
    network = read_network(run / "level_01")
    initial = torch.load(run / "initialization" / "network.pt", weights_only=True)["model"]
    for name, tensor in network.with_initial_norms().model.items():
        assert torch.equal(tensor, (initial if name in network.blueprint.norms else network.model)[name])
    flags = ("--normalization-path", run / "level_01", "--out", tmp_path, "--points", "3", "--no-augment")
    assert measure(*flags)[0] == 0
    assert summary_of(tmp_path)["second"] == "digits_resnet20_aws_seed1-level_01-initial_norms"
    assert not summary_of(tmp_path)["augmented"]


def test_three_networks_are_a_matrix(runs, tmp_path, measure):
    """Whose numbers are the pairs' own; beside the first network's run, if no other folder is given."""
    first = shutil.copytree(runs / "digits_resnet20_aws_seed1", tmp_path / "digits_resnet20_aws_seed1")
    networks = [first / "level_01", final(runs, SIGNS), final(runs, SOLUTION)]
    assert measure(*networks, "--points", "2")[0] == 0
    (matrix,) = (tmp_path / "barriers").glob("matrix_of_3_*")
    assert visible_files(matrix) == {"matrix.json", "matrix.csv", "matrix.png", "matrix.pdf"}
    content = json.loads((matrix / "matrix.json").read_text())
    heights = {}
    for path in [*tmp_path.glob("barriers/*--*/barrier.json"), *runs.glob("barriers/*--*/barrier.json")]:
        summary = json.loads(path.read_text())
        heights[summary["first"], summary["second"]] = summary["barrier"]
    for row, label in enumerate(content["networks"]):
        for column, other in enumerate(content["networks"]):
            pair = (label, other) if row < column else (other, label)
            assert content["barriers"][row][column] == (0 if row == column else heights[pair])


@pytest.mark.slow
def test_a_pair_is_measured_alike_alone_and_in_a_matrix(runs, tmp_path, measure):
    """Statistics are gathered in batches of the pair's first network, whatever the matrix begins with."""
    networks = []
    for name, network, batch_size in (("a", SIGNS, 32), ("b", SIGNS, 10), ("c", SOLUTION, 10)):
        settings = read_network(final(runs, network)).settings
        changed = changed_copy(final(runs, network), tmp_path / name, settings=settings | {"batch_size": batch_size})
        networks.append((changed / "network.pt").rename(tmp_path / f"{name}.pt"))
    for folder, compared in (("matrix", networks), ("alone", networks[1:])):
        flags = (*compared, "--points", "2", "--out", tmp_path / folder, "--epsilon", "1")
        assert measure(*flags)[0] == 0
    positions = {(tmp_path / folder / "b--c" / "positions.csv").read_text() for folder in ("matrix", "alone")}
    assert len(positions) == 1
    assert positions != {(tmp_path / "matrix" / "a--c" / "positions.csv").read_text()}


@pytest.mark.slow
def test_the_script_trains_what_is_missing_and_compares(runs, tmp_path, measure):
    """The paper's four comparisons from run folders alone. A second run trains and measures nothing."""
    folder = shutil.copytree(runs, tmp_path / "runs")
    aws = [folder / f"digits_resnet20_aws_seed{seed}" for seed in (1, 2)]
    _, missing, _ = measure("--runs", *aws, "--list-missing")
    for line in missing.splitlines()[:-1]:  # the script starts a process for each: one is left to it
        main.run_job(parse_arguments(shlex.split(line)[2:]))
    script = ("bash", PROJECT / "script" / "calculate_error_barrier.sh", "11", *aws)
    output_of(*script)  # the runs have one level, which is taken
    assert {path.name for path in (aws[0] / "final").iterdir()} == {
        "level_01_signs_seed2", "level_01_signs_seed3_init2",
        "level_01_subnetwork_seed2", "level_01_subnetwork_seed3",
        "level_01_signs-keep-norms_seed2", "level_01_signs-keep-norms_seed3_init2",
    }  # fmt: skip
    target = folder / "barriers" / "digits_resnet20_level_1"
    rows = json.loads((target / "comparisons.json").read_text())["comparisons"]
    assert [(row["networks"], row["n"]) for row in rows] == [
        ("signs to solution", 2), ("signs", 2), ("solution", 2), ("signs keeping ψ", 2),
    ]  # fmt: skip
    heights = []
    for seed in (1, 2):
        name = f"digits_resnet20_aws_seed{seed}-level_01_"
        path = f"{name}signs_seed{seed + 1}--{name}subnetwork_seed{seed + 1}"
        heights.append(json.loads((folder / "barriers" / path / "barrier.json").read_text())["barrier"])
    assert rows[0]["barrier_mean"] == pytest.approx(sum(heights) / 2)
    assert rows[0]["barrier_std"] == pytest.approx(abs(heights[0] - heights[1]) / 2**0.5)
    assert (target / "comparisons.png").stat().st_size > 10_000
    assert "epoch" not in output_of(*script)


def test_what_is_missing_is_listed_as_commands(runs, measure):
    """With the initialization varied, SGD noise is another experiment."""
    flags = ("--runs", runs / "digits_resnet20_aws_seed1", "--level", "1", "--list-missing", "--comparisons")
    _, held, _ = measure(*flags, "noise-signs")
    assert "--device cpu" in held
    assert held.endswith(" --start signs --init-seed 2 --final-seeds 3\n")
    _, varied, _ = measure(*flags, "noise-and-initialization-signs")
    assert varied.endswith(" --start signs --init-seed 3 --final-seeds 3\n")
    _, nothing, _ = measure(*flags, "lmc-signs")
    assert nothing.strip() == ""


def test_bad_input_is_one_line(runs, tmp_path, measure):
    signs = final(runs, SIGNS)
    settings = read_network(signs).settings
    tiny = changed_copy(signs, tmp_path / "tiny", dataset="tiny_imagenet")
    unknown = changed_copy(signs, tmp_path / "unknown", arch="alexnet")
    other_data = changed_copy(signs, tmp_path / "other_data", settings=settings | {"data": "other"})
    half_told = changed_copy(signs, tmp_path / "half_told", settings={"data": "digits"})
    wrongly_told = changed_copy(signs, tmp_path / "wrongly_told", settings=settings | {"batch_size": "32"})
    cases = [
        ((signs,), "give at least two networks"),
        ((signs, tmp_path / "nowhere"), "nowhere", "is missing"),
        ((signs, PROJECT / "README.md"), "README.md is damaged or no file of this program", "name a network.pt"),
        ((signs, signs, signs), f"there is no pair: {signs} is named several times"),
        ((signs, half_told), "network.pt does not say on what it was trained: name a network.pt"),
        ((signs, wrongly_told), "network.pt does not say on what it was trained: name a network.pt"),
        ((signs, tiny), f"digits_resnet20_aws_seed1-{SIGNS} has dataset digits", "tiny has tiny_imagenet"),
        ((signs, other_data), "their batch-norm statistics belong to different data"),
        ((signs, signs, "--points", "1"), "--points"),
        ((signs, signs, "--runs", runs), "not both"),
        ((signs, signs, "--epsilon", "nan"), "--epsilon"),
        ((signs, signs, "--list-missing"), "--list-missing goes with --runs"),
        ((runs / "digits_resnet20_aws_seed1", signs), "name the folder of a level or a final training"),
        (("--runs", tmp_path), "is no run folder"),
        (("--runs", runs / "digits_resnet20_dense_seed1"), "none of the runs has levels"),
        (("--normalization-path", signs, signs), "give one network"),
        ((tiny, tiny, "--data-root", tmp_path), "tiny_imagenet.npz is missing"),
        ((unknown, unknown), "holds a network that this program does not know, alexnet"),
        ((other_data, other_data), "was trained on other, and data holds 10 classes, 100 training and 360 test images"),
    ]
    for flags, *expected in cases:
        assert_refused(measure(*flags), *expected)


@CUDA
def test_paths_on_cuda(runs, tmp_path, measure):
    """The graphed passes find what the readable ones do, to a few images of 360 (another device rounds otherwise)."""
    pair = final(runs, SIGNS), final(runs, SOLUTION)
    errors = []
    for flags in ((), ("--device", "cuda", "--no-cuda-graph"), ("--device", "cuda"), ("--device", "cuda", "--compile")):
        folder = tmp_path / str(len(errors))
        assert measure(*pair, "--no-augment", "--points", "3", "--out", folder, *flags)[0] == 0
        errors.append([row["test_error"] for row in summary_of(folder)["positions"]])
    for found in errors[1:]:
        assert found == pytest.approx(errors[0], abs=3.0)
