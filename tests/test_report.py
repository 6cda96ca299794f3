"""Planned figures: what is missing, the commands for it, tables recomputed by hand, and settings that differ."""

import shlex
import statistics
from functools import partial
from pathlib import Path

import pytest

import report
from tests.commands import TINY_JOB, assert_refused, cells_of, finish_final, read_csv, run_in_process
from utils.files import write_json
from utils.results.plan import last_of_each, make_plan, planned_run
from utils.runs.run import open_run_folder

SMALL_PLAN = "--dataset digits --arch resnet20 --levels 2 --final-levels 1 2 --start subnetwork signs"


def lines_of(folder, seeds=(1, 2), more=""):
    pruning = [(SMALL_PLAN, method, seed) for seed in seeds for method in ("lrr", "aws")]
    dense = [("--dataset digits --arch resnet20", "dense", seed) for seed in seeds]
    return [
        f"{line} --runs-dir {folder} --method {method} --seed {seed} {more}" for line, method, seed in pruning + dense
    ]


def write_plan(file, lines):
    file.write_text("\n".join(lines) + "\n")
    return file


def make_planned(line, accuracies):
    """A run folder as the line would leave it, with test accuracies by the final training's name."""
    run = planned_run(shlex.split(line))
    if not run.folder.exists():
        open_run_folder(run.folder, {**run.settings, "data": "digits"}, {})
    for final in run.finals:
        if final.name in accuracies:
            finish_final(run.folder, run.method, final, accuracies[final.name], run.planned_ratio(final.level))


@pytest.fixture
def run_report(run_program):
    """report.py in this process: status, output, errors."""
    return partial(run_program, report)


@pytest.fixture
def planned(tmp_path):
    """Two trials: LRR is complete, of AWS the second trial lacks its signs at level 2, one dense network is there."""
    lines = lines_of(tmp_path / "runs")
    names = [f"level_0{level}_{start}" for level in (1, 2) for start in ("subnetwork", "signs")]
    of_runs = ((80, 70, 75, 60), (82, 80, 79, 78), (84, 72, 77, 64), (86, 84, 81))
    for line, accuracies, seed in zip(lines[:4], of_runs, (2, 2, 3, 3), strict=True):
        make_planned(line, {f"{name}_seed{seed}": float(value) for name, value in zip(names, accuracies, strict=False)})
    make_planned(lines[4], {"dense_seed1": 90.0})
    return write_plan(tmp_path / "plan.txt", lines)


def test_the_table_by_hand(planned, tmp_path, run_report):
    status, out, _ = run_report("--plan", planned, "--name", "figure3", "--title", "Figure 3")
    assert status == 0
    folder = tmp_path / "runs" / "figures" / "figure3"
    assert (folder / "figure3.png").stat().st_size > 10_000
    assert (folder / "figure3.pdf").exists()
    text = (folder / "figure3.md").read_text()
    assert text in out
    levels, _ = text.split("## Paired")
    tables = {section[0]: cells_of(section)[2:] for section in levels.split("## Level ")[1:]}
    # 75 and 77: 76 ± 1.41; 60 and 64: 62 ± 2.83; 79 and 81: 80 ± 1.41.
    assert [row[1:] for row in tables["2"]] == [
        ["A(θ_T^LRR ⊙ m_T^LRR)", "×", "×", "76.00 ± 1.41", "0.64", "2"],
        ["A(abs(θ_init) ⊙ s_T^LRR)", "×", "✓", "62.00 ± 2.83", "0.64", "2"],
        ["A(θ_T^AWS ⊙ m_T^AWS)", "✓", "×", "80.00 ± 1.41", "0.64", "2"],
        ["A(abs(θ_init) ⊙ s_T^AWS)", "✓", "✓", "78.00", "0.64", "1 of 2"],
        ["dense A(θ_init)", "-", "-", "90.00", "1", "1 of 2"],
    ]
    assert tables["1"][1][1:] == ["A(abs(θ_init) ⊙ s_T^LRR)", "×", "✓", "71.00 ± 1.41", "0.8", "2"]
    rows = {(row["method"], row["start"], row["level"]): row for row in read_csv(folder / "figure3.csv")}
    row = rows["lrr", "signs", "2"]
    assert [float(row[f"test_accuracy_{key}"]) for key in ("mean", "std")] == [62.0, statistics.stdev([60, 64])]
    assert (row["n"], row["planned"], row["signs"], row["magnitudes"]) == ("2", "2", "level", "new")
    assert rows["aws", "signs", "2"]["test_accuracy_std"] == ""
    # The gaps with their commands. No level is there: LRR and AWS lack those as well.
    assert "missing: 14 trainings, 0 error barriers; next:" in out
    assert "--method aws --seed 2 --share" in out
    assert "--method dense --seed 2 --share" in out
    assert "--method dense --seed 1 --share" not in out


def test_nothing_finished_is_a_figure_of_gaps(tmp_path, run_report):
    plan = write_plan(tmp_path / "plan.txt", lines_of(tmp_path / "runs"))
    flags = ("--comparisons", "lmc-signs", "noise-signs", "--level", "2")
    status, out, _ = run_report("--plan", plan, *flags)
    assert status == 0
    assert "| –" in out
    assert "0 of 2" in out
    assert (tmp_path / "runs" / "figures" / "figure" / "figure.png").exists()


def test_a_dense_network_of_several_runs_is_planned_once(tmp_path, run_report):
    """The runs of LRR and AWS both plan the dense network of seed 2: one that is there stands for both."""
    lines = lines_of(tmp_path / "runs", seeds=(1,), more="--start dense signs")[:2]
    make_planned(lines[0], {"dense_seed2": 90.0})
    _, out, _ = run_report("--plan", write_plan(tmp_path / "plan.txt", lines))
    rows = [row[1:] for row in cells_of(out) if row[1].startswith("dense")]
    assert rows == [["dense A(θ_init)", "-", "-", "90.00", "1", "1"]] * 2  # at both levels


def test_the_dry_run_counts_epochs_and_other_settings_are_refused(planned, tmp_path, run_report):
    """A run of LRR: 10 + 2 x 10 epochs of pruning and 4 x 100 of final trainings, of which here only these are done."""
    flags = ("--plan", planned, "--dry-run", "--comparisons", "noise-signs", "lmc-signs", "--level", "2")
    _, out, _ = run_report(*flags)
    cells = cells_of(out)[2:]
    assert cells[0] == ["digits_resnet20_lrr_seed1", "5", "530", "400"]  # a fifth one for SGD noise
    assert cells[3] == ["digits_resnet20_aws_seed2", "5", "530", "300"]
    assert cells[4] == ["digits_resnet20_dense_seed1", "1", "100", "100"]
    assert cells[6] == ["6 runs", "22", "2,320", "1,600"]
    assert "\nAWS: subnetwork, signs, level 1 2\n" in out
    assert "\n4 error barriers, 0 measured: linear mode connectivity of signs to solution, level 2\n" in out
    plan = write_plan(tmp_path / "other.txt", lines_of(tmp_path / "runs", more="--weight-decay 0.1"))
    expected = "digits_resnet20_lrr_seed1 was made with other settings", "--weight-decay 0.1 (there: 0.0005)"
    assert_refused(run_report("--plan", plan), *expected)


def test_a_part_is_named_by_where_it_comes_from(planned, run_report):
    _, out, _ = run_report("--plan", planned, "--parts")
    rows = [row[2:] for row in cells_of(out)]
    assert ["subnetwork", "level", "level", "level", "level", "76.00 ± 1.41", "0.64", "2"] in rows
    assert ["signs", "level", "level", "new", "new", "62.00 ± 2.83", "0.64", "2"] in rows


@pytest.mark.parametrize("flags", [(), ("--plan", "plan.txt", "--comparisons", "lmc-signs", "--level", "2")])
def test_every_file_is_read_once(flags, planned, tmp_path, monkeypatch, run_report):
    """However often a run is looked at: for its settings, its results, and as dense networks of the others' ε."""
    read, read_text = [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: read.append(path.resolve()) or read_text(path, **how))
    monkeypatch.chdir(tmp_path)
    assert run_report(*flags)[0] == 0
    of_runs = [path for path in read if path.name in ("config.json", "result.json")]
    assert sorted(of_runs) == sorted([*tmp_path.rglob("config.json"), *tmp_path.rglob("result.json")])


def test_commands_side_by_side_come_in_an_order_that_waits_little(tmp_path):
    plan = make_plan([planned_run(shlex.split(line)) for line in lines_of(tmp_path / "runs", seeds=(1,))], [], [0])
    commands = [" ".join(flags) for flags in plan.commands_of_stages()]
    assert [text.endswith("--start") for text in commands] == [True] * 2 + [False] * 5  # both methods prune first
    assert "--start dense" in commands[2]
    # A process trains what starts at one level of one run: its step is compiled once.
    assert [text.split("--seed 1 ")[1] for text in commands[3:]] == [
        f"--levels {level} --final-levels {level} --start subnetwork signs --init-seed 2 --final-seeds 2"
        for level in (1, 1, 2, 2)
    ]
    assert [flags[-1] for flags in plan.commands_of_runs()] == ["1"] * 3  # one after the other: the lines as they are


def test_gem_miner_s_levels_are_searched_side_by_side(tmp_path):
    """And compared with nothing: its levels have no trained weights to start from."""
    line = f"{SMALL_PLAN} --runs-dir {tmp_path} --method gm --level-epochs 11"
    plan = make_plan([planned_run(shlex.split(line))], ["lmc-signs"], [2])
    assert [" ".join(flags).split("--level-epochs 11 ")[1] for flags in plan.commands_of_stages()[:2]] == [
        "--levels 1 --final-levels 1 --start", "--levels 2 --final-levels 2 --start",
    ]  # fmt: skip
    assert plan.barriers == ()
    assert last_of_each("--a 1 2 --b --a 3 --c -1".split()) == ("--b", "--a", "3", "--c", "-1")  # of flags given twice


def test_barriers_of_trained_pairs(tmp_path, run_report):
    """Real networks: the pair's command is listed once both are there, and its number reaches the table."""
    smallest = ("--method", "aws", "--levels", "1", "--level-epochs", "1", "--final-epochs", "1")
    line = shlex.join([*TINY_JOB, *smallest, "--runs-dir", str(tmp_path / "runs"), "--start", "signs"])
    plan = write_plan(tmp_path / "plan.txt", [line])
    compared = ("--plan", plan, "--comparisons", "lmc-signs", "--levels", "1")
    assert run_report(*compared, "--list", "barriers")[1].strip() == ""
    trainings = run_report(*compared, "--list", "runs")[1]
    assert trainings.count("main.py") == 2  # the line's own, and the solution for the comparison
    assert run_report(*compared, "--list", "next")[1] == trainings
    run = run_in_process(tmp_path / "runs", *smallest, "--start", "signs", "subnetwork")
    barriers = run_report(*compared, "--list", "barriers")[1]
    assert barriers.count("\n") == barriers.count("calculate_error_barrier.py") == 1
    assert barriers.count("level_01_") == 2
    assert run_report(*compared, "--list", "next")[1] == barriers
    names = [f"{run.name}-level_01_{start}_seed2" for start in ("signs", "subnetwork")]
    folder = tmp_path / "runs" / "barriers" / "--".join(names)
    folder.mkdir(parents=True)
    errors = ((0.0, 10.0), (0.5, 14.0), (1.0, 12.0))
    positions = [{"alpha": alpha, "test_error": error, "test_loss": error / 10} for alpha, error in errors]
    write_json(folder / "barrier.json", {"barrier": 3.0, "positions": positions})  # as earlier versions wrote
    assert run_report(*compared, "--list", "next")[1].strip() == ""
    _, out, _ = run_report(*compared)
    assert "| digits resnet20 | linear mode connectivity | AWS signs to solution | 1     | 3.00 " in out
    assert "| 0.300 " in out
    grouped = tmp_path / "runs" / "figures" / "figure" / "tensorboard" / "digits_resnet20" / run.name
    assert (grouped / "pruning").is_dir()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--list", "runs"), "--list and --dry-run go with --plan"),
        (("runs/a", "--plan", "plan.txt"), "give runs or --plan, not both"),
        (("--paired", "a", "b", "c"), "--paired takes its two folders and nothing else"),
        (("--plan", "nowhere.txt"), "nowhere.txt: check the path"),
        (("--plan", "/dev/null"), "/dev/null plans no run"),
        (("--plan", "open_quote.txt"), "open_quote.txt is no plan"),
        (("--plan", "no_text.txt"), "no_text.txt is no plan"),
        (("--runs-dir", "/nope"), "no folder /nope"),
        (("/nope/run",), "no folder /nope/run"),
        ((), "there is no finished final training"),
    ],
)
def test_bad_input_is_one_line(flags, expected, tmp_path, monkeypatch, run_report):
    monkeypatch.chdir(tmp_path)
    Path("open_quote.txt").write_text("--lr 'open")
    Path("no_text.txt").write_bytes(b"--name \xff")
    assert_refused(run_report(*flags), expected)
