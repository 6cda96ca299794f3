"""Signed masks on other data sets: what a run records of its mask, the table by hand, and the script's two phases."""

import shlex
import shutil
from functools import partial

import pytest

import report
from tests.commands import (
    PROJECT,
    assert_refused,
    cells_of,
    finish,
    finish_final,
    output_of,
    read_csv,
    recorded,
    run_in_process,
)
from tests.fake_data import write_fashion_mnist
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.results.plan import planned_run
from utils.results.tables import collect_results, summary_rows
from utils.runs.records import Record
from utils.runs.run import FinalTraining, open_run_folder

SHORT = ["--final-epochs", "1"]
OF_FASHION = {"dataset": "fashion_mnist", "method": "aws", "level": 11}
OF_DIGITS = OF_FASHION | {"dataset": "digits"}
SCRIPT = ("script", "paper", "transfer.sh")


def make_run(folder, dataset, method, seed, accuracies, ratio=0.0859, precision="fp32", source=None, **settings):
    """A finished run with a final training of each start, from its own level 11 or from a mask of ``source``."""
    place = {"dataset": dataset, "arch": "resnet20", "method": method, "seed": seed}
    digest = {"signed_mask": f"sha256 {folder.name}", "signed_mask_source": source}
    open_run_folder(folder, {**place, "lr": 0.1, **(digest if method == "signed_mask" else {}), **settings}, {})
    for start, accuracy in accuracies.items():
        level = None if start == "dense" or method == "signed_mask" else 11
        final = FinalTraining(start, level, seed + 1, seed + 1)
        finish_final(folder, method, final, accuracy, 1.0 if start == "dense" else ratio, precision, dataset)
    return folder


@pytest.fixture
def made_up(tmp_path):
    """Two trials of AWS on the digits and their masks on Fashion-MNIST; of the opposite direction one."""
    runs = []
    for seed in (1, 2):
        runs.append(make_run(tmp_path / f"dense{seed}", "digits", "dense", seed, {"dense": 90.0 + 2 * seed}))
        own = {"subnetwork": 80.0 + seed, "signs": 70.0 + seed, "random-signs": 50.0}
        runs.append(make_run(tmp_path / f"aws{seed}", "digits", "aws", seed, own))
        moved = {"signs": 60.0 + 3 * seed, "random-signs": 40.0}
        runs.append(make_run(tmp_path / f"of{seed}", "fashion_mnist", "signed_mask", seed, moved, source=OF_DIGITS))
    runs.append(make_run(tmp_path / "back", "digits", "signed_mask", 1, {"signs": 65.0}, source=OF_FASHION))
    return runs


@pytest.fixture
def run_report(run_program):
    return partial(run_program, report, "--transfers")


def test_the_table_by_hand(made_up, run_report, tmp_path):
    """Of 63 and 66 the mean is 64.5 and the sample deviation 3/√2 = 2.12; of 92 and 94, 93 and 1.41."""
    status, out, _ = run_report(*made_up)
    assert status == 0
    assert "## resnet20, 0.086 of the weights remain, trained in fp32" in out
    header, _, *rows = cells_of(out)
    assert header == ["start", "found on", "by", "on digits", "on fashion_mnist"]
    aws = "AWS, level 11"
    assert rows == [
        ["dense A(θ_init)", "–", "–", "93.00 ± 1.41 (2)", "–"],
        ["subnetwork A(θ_T ⊙ m_T)", "digits", aws, "81.50 ± 0.71 (2)", "–"],
        ["signs A(abs(θ_init) ⊙ s_T)", "digits", aws, "71.50 ± 0.71 (2)", "64.50 ± 2.12 (2)"],
        ["signs A(abs(θ_init) ⊙ s_T)", "fashion_mnist", aws, "65.00 (1)", "–"],
        ["random-signs A(abs(θ_init) ⊙ ±m_T)", "digits", aws, "50.00 ± 0.00 (2)", "40.00 ± 0.00 (2)"],
    ]
    folder = tmp_path / "figures" / "transfer"
    assert (folder / "transfer.md").read_text() in out
    cells = {tuple(row[name] for name in ("start", "found_on", "trained_on")): row
             for row in read_csv(folder / "transfer.csv")}  # fmt: skip
    assert len(cells) == 7
    moved = cells["signs", "digits", "fashion_mnist"]
    assert (moved["found_by"], moved["test_accuracy_mean"], moved["n"]) == (aws, "64.5", "2")
    assert float(moved["test_accuracy_std"]) == pytest.approx(2.1213, abs=1e-4)


def test_levels_and_precisions_have_tables_of_their_own(made_up, run_report, tmp_path):
    """A level of which nothing was transferred has none, unless nothing was transferred at all."""
    alone = make_run(tmp_path / "aws9", "digits", "aws", 9, {"signs": 1.0}, ratio=0.5)
    _, out, _ = run_report(*made_up, alone)
    assert out.count("## ") == 1
    _, out, _ = run_report(alone)
    assert "## resnet20, 0.500 of" in out
    more = {"other_level": {"ratio": 0.5, "source": OF_DIGITS | {"level": 3}}, "bf16": {"precision": "bf16"}}
    for name, options in more.items():
        options = {"source": OF_DIGITS} | options
        run = make_run(tmp_path / name, "fashion_mnist", "signed_mask", 3, {"signs": 9.0}, **options)
        _, out, _ = run_report(*made_up, run)
        assert out.count("## ") == 2, name
        assert "64.50 ± 2.12 (2)" in out
        assert "9.00 (1)" in out


def test_what_cannot_stand_in_one_table_is_refused(made_up, run_report, tmp_path):
    other = make_run(tmp_path / "other", "digits", "lrr", 1, {"signs": 9.0}, lr=0.2)
    assert_refused(run_report(*made_up, other), "cannot be in one column with", "--lr 0.2 (there: 0.1)")
    unknown = {"dataset": "digits", "method": None, "level": None}
    files = [
        make_run(tmp_path / f"file{seed}", "fashion_mnist", "signed_mask", seed, {"signs": 9.0}, source=unknown)
        for seed in (1, 2)
    ]
    status, out, _ = run_report(*made_up, files[0])
    assert status == 0
    assert ["signs A(abs(θ_init) ⊙ s_T)", "digits", "unknown", "–", "9.00 (1)"] in cells_of(out)
    assert_refused(run_report(*files), "cannot be averaged with", "--signed-mask sha256 file2 (there: sha256 file1)")
    assert_refused(run_report(made_up[0]), "no final training from a level or a signed mask is finished")


def test_the_ordinary_table_says_where_a_mask_was_found(made_up):
    rows = summary_rows(collect_results([Record(run) for run in made_up]))
    settings = {row["network"]: row["setting"] for row in rows if row["start"].startswith("signed mask signs")}
    assert settings == {
        "digits resnet20": "found on fashion_mnist by AWS, level 11",
        "fashion_mnist resnet20": "found on digits by AWS, level 11",
    }


def test_a_real_transfer(tmp_path, run_report):
    """A level's network says data set, method and level, a signed-mask file and a final network the data set alone; a
    run that an earlier version made, which recorded none, goes on."""
    write_fashion_mnist(tmp_path)
    levels = ["--warmup-epochs", "0", "--levels", "1", "--level-epochs", "1"]
    source = run_in_process(tmp_path, "--method", "lrr", "--pixels", "8", *levels, *SHORT, "--start", "signs")
    flags = ["--dataset", "fashion_mnist", "--pixels", "8", "--train-images-per-class", "2", "--data-root", tmp_path]
    flags = [*map(str, flags), *levels, *SHORT]
    mask = ["--signed-mask", str(source / "level_01" / "network.pt"), "--start", "subnetwork", "signs", "random-signs"]
    run = run_in_process(tmp_path, *flags, *mask)
    assert Record(run).settings["signed_mask_source"] == {"dataset": "digits", "method": "lrr", "level": 1}
    for file in ("level_01/signed_mask.npz", "final/level_01_signs_seed2/network.pt"):
        named = ["--signed-mask", str(source / file), "--start", "--name", file.split("/")[0]]
        other = run_in_process(tmp_path, *flags, *named)
        assert Record(other).settings["signed_mask_source"] == {"dataset": "digits", "method": None, "level": None}
    status, out, _ = run_report(source, run, "--out", tmp_path / "table")
    assert status == 0
    starts = [(row[0].split()[0], row[1], row[2]) for row in cells_of(out)[2:]]
    assert starts == [(start, "digits", "LRR, level 1") for start in ("subnetwork", "signs", "random-signs")]

    config = read_json(run / "config.json")
    del config["settings"]["signed_mask_source"]
    write_json(run / "config.json", config)
    assert run_in_process(tmp_path, *flags, *mask, "mask") == run
    assert len(Record(run).finals) == 4
    with pytest.raises(UserError, match="--signed-mask sha256"):
        run_in_process(tmp_path, *flags, "--signed-mask", str(source / "level_01" / "signed_mask.npz"))


def planned_lines(folder):
    return [planned_run(shlex.split(line)) for line in (folder / "plan").read_text().splitlines()]


def test_the_script_plans_every_pair(tmp_path):
    """3 data sets x 3 trials: dense 100 epochs; AWS 10 + 11 x 10 + 3 x 100; 6 pairs x 3 trials x 3 x 100."""
    ((*_, last),) = recorded(tmp_path, "bash", PROJECT.joinpath(*SCRIPT), "--dry-run")
    assert last == "--dry-run"
    runs = planned_lines(tmp_path)
    assert sum(sum(run.epochs.values()) for run in runs) == 9 * 100 + 9 * 420 + 18 * 300
    pairs = {(run.network[0], run.folder.name.partition("_of_")[2]) for run in runs if run.method == "signed_mask"}
    names = ("cifar10", "cifar100", "tiny_imagenet")
    found = {(one, f"{other}_level_11_seed{seed}") for one in names for other in names for seed in (1, 2, 3)
             if one != other}  # fmt: skip
    assert pairs == found
    assert len({run.folder for run in runs}) == 36
    assert {run.settings["final_epochs"] for run in runs} == {100}


def test_the_script_lists_prunings_before_transfers(tmp_path):
    """Transfers are planned once their level is there. The recorder in the place of Python prints no command."""
    for folder in ("script", "recorder"):
        (tmp_path / folder).mkdir()
    shutil.copytree(PROJECT / "script", tmp_path / "script", dirs_exist_ok=True)
    listed = partial(recorded, tmp_path / "recorder", "bash", tmp_path.joinpath(*SCRIPT), "--list", SCALE="small")
    assert len(listed(SEEDS="1")) == 1  # nothing is there to transfer
    assert [run.method for run in planned_lines(tmp_path / "recorder")] == ["dense", "aws"] * 2
    finish(tmp_path / "runs" / "small" / "transfer" / "digits_resnet20_lrr_seed1" / "level_10")
    assert len(listed(SEEDS="1", METHOD="lrr")) == 2
    (run,) = planned_lines(tmp_path / "recorder")
    assert (run.method, run.network, run.settings["pixels"]) == ("signed_mask", ("fashion_mnist", "resnet20"), 8)
    assert run.folder.name == "fashion_mnist_resnet20_lrr_of_digits_level_10_seed1"
    assert list(run.epochs) == ["final/subnetwork_seed2", "final/signs_seed2", "final/random-signs_seed2"]


@pytest.mark.slow
def test_the_script_from_nothing_to_the_table(tmp_path):
    """In a folder of its own, with small data. Called again, it trains nothing."""
    write_fashion_mnist(tmp_path)
    for name in ("main.py", "report.py", "requirements.txt"):
        (tmp_path / name).symlink_to(PROJECT / name)
    shutil.copytree(PROJECT / "script", tmp_path / "script")
    flags = f"--data-root {tmp_path} --train-images-per-class 2 --batch-size 20 --warmup-epochs 1 --level-epochs 1"
    small = {"SCALE": "small", "SEEDS": "1", "LEVEL": "1", "FLAGS": f"{flags} --final-epochs 1"}
    shown = output_of("bash", tmp_path.joinpath(*SCRIPT), **small)
    table = (tmp_path / "runs" / "small" / "transfer" / "figures" / "transfer" / "transfer.md").read_text()
    assert table in shown
    rows = cells_of(table)[2:]
    assert len(rows) == 1 + 3 * 2
    assert all("(1)" in cell for row in rows for cell in row[3:])
    again = output_of("bash", tmp_path.joinpath(*SCRIPT), **small)
    assert shown.endswith(again)
    assert "stages are finished" not in again
