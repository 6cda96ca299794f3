"""Signs, ensembles and untrained networks: numbers worked out by hand, commands on tiny runs, and what they refuse."""

import json
import shutil
from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor, tensor

from tests.commands import assert_equal_states, assert_refused, cells_of, read_csv, run_in_process
from tests.toys import Attentive
from utils.analysis import __main__ as analysis
from utils.analysis.ensembles import choose_members, ensemble_statistics
from utils.analysis.signs import binary_entropy, count_signs, sign_statistics, split_layers
from utils.barriers.meter import PositionMeter
from utils.method.network import Blueprint
from utils.method.pruning import prunable_names
from utils.results.tables import mean_and_deviation
from utils.training import evaluation, trainer
from utils.training.evaluation import Evaluation

# Two layers of two output channels. Of the first, one channel is dead; of the second, one weight is pruned.
INITIAL = {"conv": tensor([[1, 1], [-1, 1]]), "fc": tensor([[1, -1, 1, -1], [1, 1, 1, 1]])}
LEVEL = {"conv": tensor([[1, -1], [0, 0]]), "fc": tensor([[1, -1, 1, 1], [1, 1, 1, 0]])}
BEFORE = {"conv": tensor([[1, 0], [1, 1]]), "fc": tensor([[1, -1, 1, 1], [1, 1, -1, 1]])}


def statistics(layers, **references):
    """Of each layer, and of the network."""
    names = {name.replace("_", " "): value for name, value in references.items()}
    counts = count_signs(layers, names)
    network = sign_statistics(sum(counts.values(), Counter()))
    return {layer: sign_statistics(own) for layer, own in counts.items()} | {"network": network}


def test_statistics_of_a_layer_and_of_the_network():
    found = statistics(LEVEL, initialization=INITIAL, level_before=BEFORE, last_level=LEVEL)
    assert found["conv"] == {
        "survivors": 2, "remaining_ratio": 0.5, "dead_channels": 0.5, "chance": 0.5,
        "agreement_with_initialization": 0.5, "drift": 0.5, "bits_a_survivor": 1.0,  # as random signs
        "agreement_with_level_before": 1.0,  # of the one weight that survives in both
        "agreement_with_last_level": 1.0,
    }  # fmt: skip
    fc, network = found["fc"], found["network"]
    assert (fc["drift"], fc["agreement_with_level_before"], fc["dead_channels"]) == (1 - 6 / 7, 6 / 7, 0)
    assert (network["survivors"], network["remaining_ratio"], network["dead_channels"]) == (9, 9 / 12, 1 / 4)
    assert network["agreement_with_initialization"] == 7 / 9
    assert network["agreement_with_level_before"] == 7 / 8
    assert network["bits_a_survivor"] == binary_entropy(network["drift"])


def test_without_a_common_survivor_there_is_no_agreement():
    (found, _) = statistics({"conv": tensor([[0, 1]])}, initialization={"conv": tensor([[1, 0]])}).values()
    assert [found[key] for key in ("agreement_with_initialization", "drift", "bits_a_survivor")] == [None] * 3
    assert found["agreement_with_level_before"] is None  # level 0 has none


@pytest.mark.parametrize(("share", "bits"), [(0, 0), (1, 0), (0.5, 1), (0.25, 0.811278), (0.11, 0.499916)])
def test_binary_entropy(share, bits):
    assert binary_entropy(share) == pytest.approx(bits, abs=1e-6)


def test_attention_s_queries_keys_and_values_are_apart():
    network = Attentive()
    names = prunable_names(network, classifier="fc", unpruned=("positions",))
    signs = {name: torch.ones_like(network.get_parameter(name)) for name in names}
    signs["attention.in_proj_weight"][4:8] = -1
    signs["attention.in_proj_weight"][8:] = 0
    layers = split_layers(signs, names)
    assert list(layers) == ["embed", "attention.Q", "attention.K", "attention.V", "attention.out_proj"]
    assert [own.shape for own in layers.values()] == [(4, 1), *[(4, 4)] * 4]
    found = statistics(layers, initialization={layer: torch.ones_like(own) for layer, own in layers.items()})
    assert [found[f"attention.{part}"]["drift"] for part in "QKV"] == [0, 1, None]
    assert [found[f"attention.{part}"]["dead_channels"] for part in "QKV"] == [0, 0, 1]
    vit = Blueprint("vit", "digits", 10, channels=1, image_size=8)
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in vit.shapes(vit.prunable).items()}
    masks["blocks.3.attention.in_proj.weight"][192:384] = False  # of 3 x 192 rows
    survivors = evaluation.sign_statistics(masks, masks, masks, masks)["survivors"]
    assert [survivors[f"blocks.3.attention.{part}"] for part in "QKV"] == [192 * 192, 0, 192 * 192]


def of_first_class(*probabilities: float) -> Tensor:
    return torch.stack([tensor(probabilities), 1 - tensor(probabilities)], dim=1)


def test_an_ensemble_that_is_right_where_each_member_errs():
    """Labels 0, 0, 1, 1: each member is wrong once or twice, the average never."""
    first, second, third = (0.9, 0.4, 0.4, 0.1), (0.4, 0.8, 0.3, 0.6), (0.8, 0.8, 0.6, 0.6)
    labels = tensor([0, 0, 1, 1])
    two = ensemble_statistics([of_first_class(*first), of_first_class(*second)], labels)
    assert two == {"ensemble_accuracy": 100, "single_accuracy": 62.5, "gain": 37.5, "disagreement": 75}
    three = ensemble_statistics([of_first_class(*own) for own in (first, second, third)], labels)
    # The pairs disagree on 3, 3 and 2 of the four images.
    assert three["disagreement"] == pytest.approx(100 * (3 + 3 + 2) / 12)
    assert three["ensemble_accuracy"] == 100
    assert three["single_accuracy"] == pytest.approx((75 + 50 + 50) / 3)


@pytest.mark.parametrize(
    ("start", "seeds", "chosen"),
    [
        ("signs", [(2, 2), (2, 3), (3, 3), (4, 2)], [(2, 2), (3, 3)]),  # the others differ from these in one seed only
        ("signs", [(7, 2), (7, 3)], [(7, 2)]),  # SGD noise
        ("subnetwork", [(1, 3), (1, 2)], [(1, 2), (1, 3)]),  # there is one initialization
        ("dense", [(2, 2), (2, 2), (3, 3)], [(2, 2), (3, 3)]),  # trained in two runs
    ],
)
def test_members_have_seeds_of_their_own(start, seeds, chosen):
    results = [{"start": start, "init_seed": first, "order_seed": second} for first, second in seeds]
    assert [(result["init_seed"], result["order_seed"]) for result in choose_members(results)] == chosen


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of LRR with two sign transfers each, and three dense networks, one of them trained twice."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in ("1", "2"):
        seeds = ("--final-seeds", str(int(seed) + 1), str(int(seed) + 2))
        run_in_process(folder, "--method", "lrr", "--seed", seed, "--pixels", "6", "--start", "dense", "signs", *seeds)
    return folder


@pytest.fixture
def run_analysis(run_program):
    return partial(run_program, analysis)


def results_of(runs, pattern):
    return [json.loads(path.read_text()) for path in sorted(runs.glob(f"{pattern}/result.json"))]


def test_signs_command(runs, run_analysis):
    """The program's own statistics, from the masks' files, are those that main.py has recorded from the weights."""
    status, shown, errors = run_analysis("signs", *sorted(runs.glob("digits*")))
    assert (status, errors) == (0, "")
    folder = runs / "figures" / "signs"
    rows = read_csv(folder / "levels.csv")
    for row, recorded in zip(rows, results_of(runs, "digits*/level_*"), strict=True):
        assert int(row["survivors"]) == sum(recorded["survivors"].values())
        assert float(row["remaining_ratio"]) == recorded["remaining_ratio"]
        assert float(row["drift"]) == pytest.approx(recorded["signs_flipped_since_initialization"])
        if recorded["level"]:
            flipped = 1 - float(row["agreement_with_level_before"])
            assert flipped == pytest.approx(recorded["signs_flipped_since_last_level"])
    last = results_of(runs, "digits*/level_02")
    survivors = [int(row["survivors"]) for row in read_csv(folder / "layers.csv")]
    assert survivors == [count for result in last for count in result["survivors"].values()]
    (pair,) = read_csv(folder / "pairs.csv")
    assert 0.4 < float(pair["agreement"]) < 0.6
    assert 0.4 < float(pair["agreement_of_initializations"]) < 0.6
    assert (folder / "signs.md").read_text() in shown
    assert all(f"## Signs {title}" in shown for title in ("over levels", "by layer, level 2", "of two runs, level 2"))
    assert (folder / "digits_resnet20.png").stat().st_size > 10_000


def test_signs_up_to_a_level(runs, run_analysis, tmp_path):
    run = runs / "digits_resnet20_lrr_seed1"
    status, shown, _ = run_analysis("signs", run, run, "--level", "1", "--out", tmp_path)
    assert status == 0
    assert [row["level"] for row in read_csv(tmp_path / "levels.csv")] == ["0", "1"]
    assert "two runs" not in shown  # it is one, named twice


def test_ensembles_command(runs, run_analysis):
    status, shown, errors = run_analysis("ensembles", *sorted(runs.glob("digits*")), "--device", "cpu")
    assert (status, errors) == (0, "")
    folder = runs / "figures" / "ensembles"
    dense, first, second = read_csv(folder / "ensembles.csv")
    assert (dense["networks"], dense["members"]) == ("dense_seed2 dense_seed3", "2")  # of three there is one pair
    for row, run in ((first, "digits_resnet20_lrr_seed1"), (second, "digits_resnet20_lrr_seed2")):
        recorded = [result["test_accuracy"] for result in results_of(runs, f"{run}/final/level_02_signs*")]
        assert row["run"] == run
        assert float(row["single_accuracy"]) == pytest.approx(sum(recorded) / 2)
        assert float(row["gain"]) == pytest.approx(float(row["ensemble_accuracy"]) - sum(recorded) / 2)
    _, _, *lines = cells_of(shown)
    assert [(start[:3], m, n) for _, start, _, m, *_, n in lines] == [("den", "2", "1"), ("LRR", "2", "2")]
    assert (folder / "digits_resnet20.png").stat().st_size > 10_000


def test_larger_ensembles_than_there_are(runs, run_analysis, tmp_path):
    asked = ("ensembles", *sorted(runs.glob("digits*")), "--device", "cpu", "--out", tmp_path)
    status, shown, errors = run_analysis(*asked, "--members", "3")
    assert status == 0
    assert [cells[1] for cells in cells_of(shown)[2:]] == ["dense A(θ_init)"]
    (note,) = errors.splitlines()
    assert note.startswith("note: an ensemble of 3 needs")
    assert "digits_resnet20_lrr_seed2 LRR signs level 2 has 2" in note


def test_untrained_command(runs, run_analysis, monkeypatch):
    """The networks that are measured are those that main.py trains."""
    first = runs / "digits_resnet20_lrr_seed1"
    measured, begun = [], []
    monkeypatch.setattr(
        PositionMeter, "measure", lambda meter, state: (None, measured.append(state) or Evaluation(1, 30))
    )
    status, shown, errors = run_analysis("untrained", first, "--device", "cpu")
    assert (status, errors) == (0, "")
    assert [float(row["untrained_error"]) for row in read_csv(runs / "figures/untrained/untrained.csv")] == [70, 70]
    recorded = [result["test_error"] for result in results_of(runs, f"{first.name}/final/level_02_signs*")]
    assert f"| 70.00 ± 0.00           | {mean_and_deviation(recorded)} | 2 |" in shown
    shutil.copytree(first, runs / "again" / first.name, ignore=shutil.ignore_patterns("level_02_signs*"))
    begin = trainer.SubnetworkTrainer.begin
    monkeypatch.setattr(
        trainer.SubnetworkTrainer,
        "begin",
        lambda own, state, *rest, **more: (begun.append(state), begin(own, state, *rest, **more)),
    )
    flags = ("--method", "lrr", "--seed", "1", "--pixels", "6", "--start", "signs", "--final-seeds", "2", "3")
    run_in_process(runs / "again", *flags)
    for ours, theirs in zip(measured, begun, strict=True):
        assert_equal_states(ours, theirs)


def trained_on_other_data(run, copy, finals):
    """A copy of a run whose final trainings of these names say so."""
    shutil.copytree(run, copy)
    for network in copy.glob(f"final/{finals}/network.pt"):
        content = torch.load(network, weights_only=True)
        content["settings"]["data"] = "images of another kind"
        torch.save(content, network)
    return copy


def test_refusals_are_a_line(runs, run_analysis, tmp_path):
    run = runs / "digits_resnet20_lrr_seed1"
    mixed = trained_on_other_data(run, tmp_path / "mixed", "level_02_signs_seed3")
    other = trained_on_other_data(run, tmp_path / "other", "*")
    (other / "level_01" / "signed_mask.npz").write_bytes(b"half of it")
    for arguments, expected in (
        (("signs", tmp_path), "is no run folder"),
        (("signs", run, "--level", "9"), "has no level 9: choose --level out of its 0 1 2"),
        (("signs", run, "--members", "2"), "unrecognized arguments: --members 2"),
        (("signs", other), "level_01/signed_mask.npz is damaged"),
        (("ensembles", run, "--members", "4"), "no start has enough networks"),
        (("ensembles", run, "--members", "1"), "1 should be at least 2"),
        (("ensembles", mixed), "their batch-norm statistics belong to different data"),
        (("ensembles", other), "name the folder of its data with --data-root"),
        (("guesses", run), "invalid choice"),
    ):
        status, shown, errors = run_analysis(*arguments)
        notes = sum(line.startswith("note:") for line in errors.splitlines())
        assert_refused((status, shown, errors.split("\n", notes)[notes]), expected)


def test_a_run_without_levels_has_no_signs(tmp_path, run_analysis):
    run = run_in_process(tmp_path, "--method", "dense", "--final-epochs", "1")
    assert_refused(run_analysis("signs", run), "none of the runs has a finished level")
    assert not (tmp_path / "figures").exists()
