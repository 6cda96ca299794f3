import pytest

from tests.test_run_folder import finish
from utils.results import comparable_results, dense_deviation, paired_rows, summary_rows, summary_table
from utils.run_folder import RunFolderError, open_run_folder, read_json, write_json


def make_run(folder, method, seed, accuracies, lr=0.1, init_seed=2, order_seed=None):
    settings = {"dataset": "digits", "arch": "resnet20", "method": method, "seed": seed, "lr": lr}
    settings |= dict.fromkeys(("data", "final_epochs", "momentum", "weight_decay", "batch_size"))
    open_run_folder(folder, settings, {}, "")
    for start, accuracy in accuracies.items():
        finish(
            folder / "final" / f"level_11_{start}_seed{order_seed or init_seed}",
            **{"dataset": "digits", "arch": "resnet20", "method": method, "kind": "final", "start": start},
            level=None if start == "dense" else 11,
            init_seed=init_seed,
            order_seed=order_seed or init_seed,
            remaining_ratio=1.0 if start == "dense" else 0.0859,
            test_accuracy=accuracy,
            test_error=100 - accuracy,
        )
    return folder


def test_mean_and_deviation_by_hand(tmp_path):
    runs = [make_run(tmp_path / f"aws{seed}", "aws", seed, {"signs": 80.0 + seed}) for seed in (1, 2, 3)]
    runs.append(make_run(tmp_path / "lrr1", "lrr", 1, {"signs": 70.0, "dense": 90.0}))
    lines = summary_table(comparable_results(runs)).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "network", "start", "level", "remaining", "test accuracy %", "n",
    ]  # fmt: skip
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]]
    assert cells == [
        ["dense A(θ_init)", "-", "1.000", "90.00", "1"],
        ["LRR signs A(abs(θ_init) ⊙ s_T)", "11", "0.086", "70.00", "1"],
        ["AWS signs A(abs(θ_init) ⊙ s_T)", "11", "0.086", "82.00 ± 1.00", "3"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_barriers_stand_beside_the_network_that_they_belong_to(tmp_path):
    runs = [make_run(tmp_path / f"aws{seed}", "aws", seed, {"signs": 80.0, "subnetwork": 81.0}) for seed in (1, 2)]
    for run, barrier in zip(runs, (1.0, 2.0), strict=True):
        ends = f"{run.name}-level_11_signs_seed2", f"{run.name}-level_11_subnetwork_seed2"
        folder = tmp_path / "barriers" / "--".join(ends)
        folder.mkdir(parents=True)
        write_json(
            folder / "barrier.json", {"first": ends[0], "second": ends[1], "barrier": barrier, "augmented": True}
        )
    subnetwork, signs = summary_rows(comparable_results(runs))
    assert signs["barrier to solution"] == "1.50 ± 0.71"
    assert subnetwork["barrier to solution"] == ""


def test_epsilon_is_the_deviation_of_dense_networks_trained_alike(tmp_path):
    for seed, accuracy in ((1, 90.0), (2, 92.0), (3, 94.0)):
        make_run(tmp_path / f"dense{seed}", "dense", seed, {"dense": accuracy}, init_seed=seed)
    make_run(tmp_path / "other", "dense", 4, {"dense": 10.0}, lr=0.2)
    settings = read_json(tmp_path / "dense1" / "config.json")["settings"]
    assert dense_deviation(tmp_path, settings) == (2.0, "deviation of 3 dense networks")
    assert dense_deviation(tmp_path, settings | {"lr": 0.2}) == (None, "no dense networks")


def test_runs_with_other_settings_are_not_averaged(tmp_path):
    runs = [make_run(tmp_path / name, "aws", 1, {"signs": 80.0}, lr) for name, lr in (("a", 0.1), ("b", 0.2))]
    with pytest.raises(RunFolderError, match=r"cannot be averaged \(aws\), they differ in lr 0.1 and 0.2"):
        comparable_results(runs)


def test_a_trial_is_a_run_whatever_else_was_trained_in_it(tmp_path):
    """80 and 84 are one run's two orders of one initialization, 86 another run: 84 ± 2.83 over two runs."""
    runs = [
        make_run(tmp_path / "aws1", "aws", 1, {"signs": 80.0}),
        make_run(tmp_path / "aws2", "aws", 2, {"signs": 86.0}),
    ]
    make_run(tmp_path / "aws1", "aws", 1, {"signs": 84.0}, order_seed=3)
    (row,) = summary_rows(comparable_results(runs))
    assert (row["test accuracy %"], row["n"]) == ("84.00 ± 2.83", 2)
    (row,) = summary_rows(comparable_results(runs[:1]))  # of a single run, its networks
    assert (row["test accuracy %"], row["n"]) == ("82.00 ± 2.83", 2)


def test_paired_differences_by_hand(tmp_path):
    """Second minus first, pair by pair: +1, −1 and +3 are 1 ± 2, though both sides alone spread by more."""
    for name, accuracies in (("a", (70.0, 80.0, 90.0)), ("b", (71.0, 79.0, 93.0))):
        for seed, accuracy in enumerate(accuracies):
            make_run(tmp_path / name / f"aws{seed}", "aws", seed, {"signs": accuracy})
    make_run(tmp_path / "a" / "alone", "aws", 9, {"signs": 50.0})
    first, second = (sorted((tmp_path / name).iterdir()) for name in "ab")
    (row,) = paired_rows(first, second)
    assert (row["first %"], row["second %"]) == ("80.00 ± 10.00", "81.00 ± 11.14")
    assert (row["paired difference"], row["n"], row["pairs"]) == ("1.00 ± 2.00", 3, 3)
    make_run(
        tmp_path / "a" / "aws0", "aws", 0, {"signs": 70.0}, order_seed=5
    )  # a run's second pair: +3, so 2 on average
    make_run(tmp_path / "b" / "aws0", "aws", 0, {"signs": 73.0}, order_seed=5)
    (row,) = paired_rows(first, second)
    assert (row["paired difference"], row["n"], row["pairs"]) == ("1.33 ± 2.08", 3, 4)
    with pytest.raises(RunFolderError, match="no final training was made in both folders"):
        paired_rows(first, [])


def test_a_dense_network_counts_once_and_only_with_its_like(tmp_path):
    runs = [make_run(tmp_path / name, method, 1, {"dense": 90.0}) for name, method in (("a", "dense"), ("b", "lrr"))]
    (row,) = summary_rows(comparable_results(runs))
    assert (row["test accuracy %"], row["n"]) == ("90.00", 1)
    runs.append(make_run(tmp_path / "c", "aws", 1, {"dense": 80.0}, lr=0.2))
    with pytest.raises(RunFolderError, match=r"cannot be averaged \(dense networks\), they differ in lr 0.1 and 0.2"):
        comparable_results(runs)
