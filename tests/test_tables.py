"""Tables over trials, from made-up runs whose numbers can be worked out by hand."""

import pytest

from tests.commands import cells_of, finish_final
from utils.errors import UserError
from utils.files import write_json
from utils.results.tables import collect_results, dense_deviation, markdown_table, rows_of_twins, summary_rows
from utils.runs.records import Record, Records
from utils.runs.run import FinalTraining, open_run_folder


def make_run(folder, method, seed, accuracies, lr=0.1, init_seed=2, order_seed=None):
    """A run with a final training of each start at level 11."""
    settings = {"dataset": "digits", "arch": "resnet20", "method": method, "seed": seed, "lr": lr}
    open_run_folder(folder, settings, {})
    for start, accuracy in accuracies.items():
        level, ratio = (None, 1.0) if start == "dense" else (11, 0.0859)
        finish_final(folder, method, FinalTraining(start, level, init_seed, order_seed or init_seed), accuracy, ratio)
    return folder


def rows_of(*runs):
    return summary_rows(collect_results([Record(run) for run in runs]))


def test_mean_and_deviation_by_hand(tmp_path):
    for seed in (1, 2, 3):
        make_run(tmp_path / f"aws{seed}", "aws", seed, {"signs": 80.0 + seed})
    make_run(tmp_path / "lrr1", "lrr", 1, {"signs": 70.0, "dense": 90.0})
    table = markdown_table(summary_rows(collect_results(Records().below(tmp_path))))
    header, _, *rows = cells_of(table)
    assert header == ["network", "start", "level", "remaining", "test accuracy %", "n"]
    assert rows == [
        ["digits resnet20", "dense A(θ_init)", "-", "1.000", "90.00", "1"],
        ["digits resnet20", "LRR signs A(abs(θ_init) ⊙ s_T)", "11", "0.086", "70.00", "1"],
        ["digits resnet20", "AWS signs A(abs(θ_init) ⊙ s_T)", "11", "0.086", "82.00 ± 1.00", "3"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_barriers_are_beside_the_network_that_they_belong_to(tmp_path):
    runs = [make_run(tmp_path / f"aws{seed}", "aws", seed, {"signs": 80.0, "subnetwork": 81.0}) for seed in (1, 2)]
    for run, barrier in zip(runs, (1.0, 2.0), strict=True):
        first, second = f"{run.name}-level_11_signs_seed2", f"{run.name}-level_11_subnetwork_seed2"
        for name, height, augmented in ((f"{first}--{second}", barrier, True), (f"{first}--{second}--x", 9.0, False)):
            (tmp_path / "barriers" / name).mkdir(parents=True)
            summary = {"first": first, "second": second, "barrier": height, "augmented": augmented}
            write_json(tmp_path / "barriers" / name / "barrier.json", summary)
    subnetwork, signs = rows_of(*runs)
    assert signs["barrier to solution"] == "1.50 ± 0.71"
    assert "barrier to solution" not in subnetwork


def test_epsilon_is_the_deviation_of_dense_networks_trained_alike(tmp_path):
    for seed, accuracy in ((1, 90.0), (2, 92.0), (3, 94.0)):
        make_run(tmp_path / f"dense{seed}", "dense", seed, {"dense": accuracy}, init_seed=seed)
    make_run(tmp_path / "other", "dense", 4, {"dense": 10.0}, lr=0.2)
    (tmp_path / "stranger").mkdir()
    write_json(tmp_path / "stranger" / "config.json", {"settings": "of another program"})
    records, settings = Records().below(tmp_path), Record(tmp_path / "dense1").settings
    assert dense_deviation(records, settings, "fp32") == (2.0, "deviation of 3 dense networks, fp32")
    assert dense_deviation(records, settings, "fp32", "test_loss")[0] == pytest.approx(0.2)
    none = (None, "no dense networks of two seeds, fp32")
    assert dense_deviation(records, settings | {"lr": 0.2}, "fp32") == none


def test_a_trial_is_a_run_whatever_else_was_trained_in_it(tmp_path):
    """80 and 84 are one run's two orders of one initialization, 86 another run: 84 ± 2.83 over two runs."""
    first = make_run(tmp_path / "aws1", "aws", 1, {"signs": 80.0})
    make_run(tmp_path / "aws1", "aws", 1, {"signs": 84.0}, order_seed=3)
    second = make_run(tmp_path / "aws2", "aws", 2, {"signs": 86.0})
    (row,) = rows_of(first, second)
    assert (row["test accuracy %"], row["n"]) == ("84.00 ± 2.83", 2)
    (row,) = rows_of(first)  # of a single run, its networks
    assert (row["test accuracy %"], row["n"]) == ("82.00 ± 2.83", 2)


def test_a_copied_run_is_no_second_trial(tmp_path):
    """Unless it has other networks or another precision."""
    runs = [make_run(tmp_path / name, "aws", 1, {"signs": 80.0}) for name in ("a", "b")]
    with pytest.raises(UserError, match=r"b and .*a are one trial: final/level_11_signs_seed2 is in both"):
        rows_of(*runs)
    finish_final(runs[1], "aws", FinalTraining("signs", 11, 2, 2), 82.0, precision="bf16")
    assert [row["precision"] for row in rows_of(*runs)] == ["bf16", "fp32"]


def test_paired_differences_by_hand(tmp_path):
    """Second minus first, pair by pair: +1, −1 and +3 are 1 ± 2, though both sides alone spread by more."""
    for name, accuracies in (("a", (70.0, 80.0, 90.0)), ("b", (71.0, 79.0, 93.0))):
        for seed, accuracy in enumerate(accuracies):
            make_run(tmp_path / name / f"aws{seed}", "aws", seed, {"signs": accuracy})
    make_run(tmp_path / "a" / "alone", "aws", 9, {"signs": 50.0})
    (row,) = rows_of_twins(*(Records().below(tmp_path / name) for name in "ab"))
    assert (row["first %"], row["second %"]) == ("80.00 ± 10.00", "81.00 ± 11.14")
    assert (row["paired difference"], row["n"], row["pairs"]) == ("1.00 ± 2.00", 3, 3)
    # A run's second pair: +3, so 2 on average.
    make_run(tmp_path / "a" / "aws0", "aws", 0, {"signs": 70.0}, order_seed=5)
    make_run(tmp_path / "b" / "aws0", "aws", 0, {"signs": 73.0}, order_seed=5)
    (row,) = rows_of_twins(*(Records().below(tmp_path / name) for name in "ab"))
    assert (row["paired difference"], row["n"], row["pairs"]) == ("1.33 ± 2.08", 3, 4)
    with pytest.raises(UserError, match="no final training was made in both folders"):
        rows_of_twins(Records().below(tmp_path / "a"), [])


def test_a_dense_network_counts_once_and_other_settings_are_not_averaged(tmp_path):
    runs = [make_run(tmp_path / name, method, 1, {"dense": 90.0}) for name, method in (("a", "dense"), ("b", "lrr"))]
    (row,) = rows_of(*runs)
    assert (row["test accuracy %"], row["n"]) == ("90.00", 1)
    others = [make_run(tmp_path / name, "aws", 1, {"signs": 80.0}, lr) for name, lr in (("c", 0.1), ("d", 0.2))]
    other_dense = make_run(tmp_path / "e", "aws", 1, {"dense": 80.0}, 0.2)
    for compared, kind in ((others, "aws"), ([*runs, other_dense], "dense networks")):
        with pytest.raises(UserError, match=rf"cannot be averaged .*\({kind}\): --lr 0.2 \(there: 0.1\)"):
            rows_of(*compared)
