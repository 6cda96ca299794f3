"""Planned figures: what is missing, the commands for it, tables recomputed by hand, and settings that differ."""

import csv
import shlex
import statistics
import sys

import pytest
import torch

import report
from main import planned_run
from tests.commands import TINY_JOB, run_in_process
from tests.test_run_folder import finish
from utils.plan import commands_of_runs, commands_of_stages, last_of_each
from utils.run_folder import open_run_folder, write_json

SMALL_PLAN = "--dataset digits --arch resnet20 --levels 2 --final-levels 1 2 --start subnetwork signs"


def lines_of(folder, seeds=(1, 2), more=""):
    return [
        f"{SMALL_PLAN} --runs-dir {folder} --method {method} --seed {seed} {more}"
        for seed in seeds
        for method in ("lrr", "aws")
    ] + [f"--dataset digits --arch resnet20 --runs-dir {folder} --method dense --seed {seed} {more}" for seed in seeds]


def make_planned(line, accuracies):
    """A run folder as the line would leave it, with test accuracies by the final training's name."""
    run = planned_run(shlex.split(line))
    if not run.folder.exists():
        open_run_folder(run.folder, {**run.settings, "data": "digits"}, {}, "")
    dataset, arch = run.network
    for final in (*run.finals, *run.partners):
        if final.name in accuracies:
            finish(
                run.folder / final.stage,
                **{"dataset": dataset, "arch": arch, "method": run.method, "kind": "final", "start": final.start},
                level=final.level,
                init_seed=final.init_seed,
                order_seed=final.order_seed,
                remaining_ratio=1.0 if final.level is None else 0.8**final.level,
                test_accuracy=accuracies[final.name],
                test_error=100 - accuracies[final.name],
            )
    return run


def run_report(monkeypatch, capsys, *flags):
    """report.py's own main in this process: status, output, errors."""
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, flags)])
    try:
        status = report.main()
    except SystemExit as error:
        status = error.code
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.fixture
def planned(tmp_path):
    """Two trials: LRR is complete, of AWS the second trial lacks its signs at level 2, one dense network is there."""
    lines = lines_of(tmp_path / "runs")
    names = [
        "level_01_subnetwork_seed{}",
        "level_01_signs_seed{}",
        "level_02_subnetwork_seed{}",
        "level_02_signs_seed{}",
    ]
    for line, accuracies in zip(
        lines, ((80, 70, 75, 60), (82, 80, 79, 78), (84, 72, 77, 64), (86, 84, 81)), strict=False
    ):
        seed = 3 if "--seed 2" in line else 2
        make_planned(line, {name.format(seed): float(value) for name, value in zip(names, accuracies, strict=False)})
    make_planned(lines[4], {"dense_seed1": 90.0})
    plan = tmp_path / "plan.txt"
    plan.write_text("\n".join(lines) + "\n")
    return plan


def test_the_table_by_hand(planned, tmp_path, monkeypatch, capsys):
    status, out, _ = run_report(monkeypatch, capsys, "--plan", planned, "--name", "figure3", "--title", "Figure 3")
    assert status == 0
    folder = tmp_path / "runs" / "figures" / "figure3"
    assert (folder / "figure3.png").stat().st_size > 10_000
    assert (folder / "figure3.pdf").exists()
    text = (folder / "figure3.md").read_text()
    assert text in out
    tables = {}
    for section in text.split("## Level ")[1:]:
        rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in section.splitlines() if line[:1] == "|"]
        tables[section[0]] = rows[2:]
    # 75 and 77: 76 ± 1.41; 60 and 64: 62 ± 2.83; 79 and 81: 80 ± 1.41.
    assert tables["2"] == [
        ["A(θ_T^LRR ⊙ m_T^LRR)", "×", "×", "76.00 ± 1.41", "0.64", "2"],
        ["A(abs(θ_init) ⊙ s_T^LRR)", "×", "✓", "62.00 ± 2.83", "0.64", "2"],
        ["A(θ_T^AWS ⊙ m_T^AWS)", "✓", "×", "80.00 ± 1.41", "0.64", "2"],
        ["A(abs(θ_init) ⊙ s_T^AWS)", "✓", "✓", "78.00", "0.64", "1 of 2"],
        ["dense A(θ_init)", "-", "-", "90.00", "1", "1 of 2"],
    ]
    assert tables["1"][1] == ["A(abs(θ_init) ⊙ s_T^LRR)", "×", "✓", "71.00 ± 1.41", "0.8", "2"]
    with (folder / "figure3.csv").open() as file:
        rows = {(row["method"], row["start"], row["level"]): row for row in csv.DictReader(file)}
    row = rows["lrr", "signs", "2"]
    assert [float(row[f"test_accuracy_{key}"]) for key in ("mean", "std")] == [62.0, statistics.stdev([60, 64])]
    assert (row["n"], row["planned"], row["signs"], row["magnitudes"]) == ("2", "2", "level", "new")
    assert rows["aws", "signs", "2"]["test_accuracy_std"] == ""


def test_gaps_are_listed_with_their_commands(planned, monkeypatch, capsys):
    _, out, _ = run_report(monkeypatch, capsys, "--plan", planned)
    # No level is there: they are what LRR and AWS lack as well.
    assert "missing: 14 trainings, 0 error barriers; next:" in out
    assert "--method aws --seed 2 --share" in out
    assert "--method dense --seed 2 --share" in out
    assert "--method dense --seed 1 --share" not in out


def test_nothing_finished_is_a_figure_of_gaps(tmp_path, monkeypatch, capsys):
    plan = tmp_path / "plan.txt"
    plan.write_text("\n".join(lines_of(tmp_path / "runs")))
    flags = ("--comparisons", "lmc-signs", "noise-signs", "--level", "2")
    status, out, _ = run_report(monkeypatch, capsys, "--plan", plan, *flags)
    assert status == 0
    assert "| –" in out
    assert "0 of 2" in out
    assert (tmp_path / "runs" / "figures" / "figure" / "figure.png").exists()


def test_the_dry_run_counts_epochs(planned, monkeypatch, capsys):
    """A run of LRR: 10 + 2 x 10 epochs of pruning and 4 x 100 of final trainings, of which here only these are done."""
    flags = ("--plan", planned, "--dry-run", "--comparisons", "noise-signs", "lmc-signs", "--level", "2")
    _, out, _ = run_report(monkeypatch, capsys, *flags)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line[:1] == "|"][2:]
    assert cells[0] == ["digits_resnet20_lrr_seed1", "5", "530", "400"]  # a fifth one for SGD noise
    assert cells[3] == ["digits_resnet20_aws_seed2", "5", "530", "300"]
    assert cells[4] == ["digits_resnet20_dense_seed1", "1", "100", "100"]
    assert cells[6] == ["6 runs", "22", "2,320", "1,600"]
    assert "8 error barriers, of which measured: 0" in out


def test_other_settings_are_named_and_not_mixed_in(planned, tmp_path, monkeypatch, capsys):
    plan = tmp_path / "other.txt"
    plan.write_text("\n".join(lines_of(tmp_path / "runs", more="--weight-decay 0.1")))
    status, _, err = run_report(monkeypatch, capsys, "--plan", plan)
    assert status == 2
    assert err.count("\n") == 1
    assert "digits_resnet20_lrr_seed1 was made with other settings" in err
    assert "weight_decay 0.0005 (planned: 0.1)" in err


def test_a_part_is_named_by_where_it_comes_from(planned, monkeypatch, capsys):
    _, out, _ = run_report(monkeypatch, capsys, "--plan", planned, "--parts")
    rows = [[cell.strip() for cell in line.split("|")[3:-1]] for line in out.splitlines() if line[:1] == "|"]
    assert ["subnetwork", "level", "level", "level", "level", "76.00 ± 1.41", "2"] in rows
    assert ["signs", "level", "level", "new", "new", "62.00 ± 2.83", "2"] in rows


def test_commands_side_by_side_come_in_an_order_that_waits_little(tmp_path):
    runs = [planned_run(shlex.split(line)) for line in lines_of(tmp_path / "runs", seeds=(1,))]
    commands = [" ".join(last_of_each(flags)) for flags in commands_of_stages(runs)]
    assert [text.endswith("--start") for text in commands] == [True] * 2 + [False] * 5  # both methods prune first
    assert "--start dense" in commands[2]
    # A process trains what starts at one level of one run: its step is compiled once.
    assert [text.split("--seed 1 ")[1] for text in commands[3:]] == [
        f"--levels {level} --final-levels {level} --start subnetwork signs --init-seed 2 --final-seeds 2"
        for level in (1, 1, 2, 2)
    ]
    assert [flags[-1] for flags in commands_of_runs(runs)] == ["1"] * 3  # one after the other: the lines as they are


def test_gem_miner_s_levels_are_searched_side_by_side(tmp_path):
    line = f"{SMALL_PLAN} --runs-dir {tmp_path} --method gm --level-epochs 11"
    commands = [" ".join(last_of_each(flags)) for flags in commands_of_stages([planned_run(shlex.split(line))])]
    assert [text.split("--level-epochs 11 ")[1] for text in commands[:2]] == [
        "--levels 1 --final-levels 1 --start", "--levels 2 --final-levels 2 --start",
    ]  # fmt: skip


def test_of_flags_given_twice_the_last_stays():
    assert last_of_each("--a 1 2 --b --a 3 --c -1".split()) == ("--b", "--a", "3", "--c", "-1")


def test_barriers_of_trained_pairs(tmp_path, monkeypatch, capsys):
    """Real networks: the pair's command is listed once both are there, and its number reaches the table."""
    flags = [*TINY_JOB, "--method", "aws", "--levels", "1", "--runs-dir", str(tmp_path / "runs"), "--start", "signs"]
    plan = tmp_path / "plan.txt"
    plan.write_text(shlex.join(flags))
    compared = ("--plan", plan, "--comparisons", "lmc-signs", "--level", "1")
    assert run_report(monkeypatch, capsys, *compared, "--list", "barriers")[1].strip() == ""
    run = run_in_process(tmp_path / "runs", "--method", "aws", "--levels", "1", "--start", "signs", "subnetwork")
    capsys.readouterr()
    _, out, _ = run_report(monkeypatch, capsys, *compared, "--list", "barriers")
    (line,) = out.splitlines()
    assert "calculate_error_barrier.py" in line
    assert line.count("level_01_") == 2
    names = [f"{run.name}-level_01_{start}_seed2" for start in ("signs", "subnetwork")]
    folder = tmp_path / "runs" / "barriers" / "--".join(names)
    folder.mkdir(parents=True)
    positions = [{"alpha": alpha, "test_error": error} for alpha, error in ((0.0, 10.0), (0.5, 14.0), (1.0, 12.0))]
    summary = {"barrier": 3.0, "positions": positions, "connected": None, "epsilon": None}
    write_json(folder / "barrier.json", {**summary, "first": names[0], "second": names[1], "augmented": True})
    assert run_report(monkeypatch, capsys, *compared, "--list", "barriers")[1].strip() == ""
    _, out, _ = run_report(monkeypatch, capsys, *compared)
    assert "| digits resnet20 | linear mode connectivity | AWS signs to solution | 3.00 " in out
    grouped = tmp_path / "runs" / "figures" / "figure" / "tensorboard" / "digits_resnet20" / run.name
    assert (grouped / "pruning").is_dir()
    assert torch.load(run / "level_01" / "network.pt", weights_only=True)["result"]["level"] == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--list", "runs"), "--list and --dry-run go with --plan"),
        (("runs/a", "--plan", "plan.txt"), "give runs or --plan, not both"),
        (("--plan", "nowhere.txt"), "nowhere.txt: check the path"),
        (("--plan", "/dev/null"), "/dev/null plans no run"),
    ],
)
def test_bad_input_is_one_line(flags, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, _, err = run_report(monkeypatch, capsys, *flags)
    assert status == 2
    assert err.count("\n") == 1
    assert expected in err
