import csv
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest
import torch

import main
from models import ARCHITECTURES, build_network
from tests.commands import (
    CUDA,
    PROJECT,
    TINY_JOB,
    assert_one_line_error,
    assert_same_networks,
    main_program,
    networks,
    run_in_process,
)
from tests.fake_data import write_cifar100, write_fashion_mnist
from tests.test_checkpoint import files_limited_to
from utils.comparisons import run_flags
from utils.errors import exit_status
from utils.run_folder import RunFolderError, open_run_folder
from utils.signed_mask import SignedMaskError, extract_signed_mask, load_signed_mask
from utils.starts import STARTS, Origin, choose_masks
from utils.training import evaluate

ALL_STARTS = ("--start", *(start for start in STARTS if start != "rewound"), "--final-levels", "1", "2")


@pytest.fixture(scope="module")
def aws_run(tmp_path_factory):
    """A whole job with every start, used by many tests that only look at it."""
    return run_in_process(tmp_path_factory.mktemp("runs"), "--method", "aws", *ALL_STARTS)


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_the_readme_says(aws_run):
    pruned = [start for start in STARTS if start not in ("dense", "rewound")]
    names = {f"level_{level:02d}_{start}_seed2" for level in (1, 2) for start in pruned}
    assert {path.name for path in (aws_run / "final").iterdir()} == names | {"dense_seed2"}
    for level in ("level_00", "level_01", "level_02"):
        files = {path.name for path in (aws_run / level).iterdir() if not path.name.startswith(".")}
        assert files == {"network.pt", "signed_mask.npz", "metrics.csv", "result.json"}
    assert [row["epoch"] for row in read_csv(aws_run / "level_01" / "metrics.csv")] == ["1", "2"]
    rows = read_csv(aws_run / "results.csv")
    assert len(rows) == 3 + len(names) + 1
    config = json.loads((aws_run / "config.json").read_text())
    assert config["settings"]["lr"] == 0.1
    assert config["about"]["flags"]["final_levels"] == [1, 2]
    assert config["about"]["torch"] == torch.__version__


def test_every_network_is_exactly_sparse_and_loads_anywhere(aws_run):
    bare = build_network("resnet20", 10, 1)
    prunable = sum(p.numel() for name, p in bare.named_parameters() if "conv" in name)
    left = [prunable, prunable - prunable // 5]
    left.append(left[1] - left[1] // 5)
    for stage, content in networks(aws_run).items():
        bare.load_state_dict(content["model"], strict=True)
        level = 0 if stage in ("initialization", "final/dense_seed2") else int(stage.split("level_")[1][:2])
        zeros = {name: content["model"][name] == 0 for name in content["masks"]}
        for name, mask in content["masks"].items():
            assert mask.dtype == torch.bool
            assert torch.equal(zeros[name], ~mask), f"{stage}: {name}"
        assert sum(int(mask.sum()) for mask in content["masks"].values()) == left[level]


def test_the_signed_mask_is_the_signs_of_the_survivors(aws_run):
    for level, content in networks(aws_run).items():
        if not level.startswith("level_"):
            continue
        file = load_signed_mask(aws_run / level / "signed_mask.npz")
        assert (file.arch, file.dataset) == ("resnet20", "digits")
        for name, signs in file.signed_mask.items():
            assert torch.equal(signs, torch.sign(content["model"][name]).to(torch.int8))
        norms = set(content["initial_norms"])
        assert set(file.signed_mask) == {n for n, _ in build_network("resnet20", 10, 1).named_parameters()} - norms


def test_results_count_signs_and_survivors(aws_run):
    contents = networks(aws_run)
    result = json.loads((aws_run / "level_02" / "result.json").read_text())
    now, before, initial = (contents[stage] for stage in ("level_02", "level_01", "initialization"))
    flipped = {"last_level": 0, "initialization": 0}
    for name, mask in now["masks"].items():
        for key, reference in (("last_level", before), ("initialization", initial)):
            flipped[key] += int((now["model"][name].sign() != reference["model"][name].sign())[mask].sum())
        assert result["survivors"][name] == int(mask.sum())
    total = sum(result["survivors"].values())
    for key, count in flipped.items():
        assert result[f"signs_flipped_since_{key}"] == count / total
    assert result["test_error"] == 100 - result["test_accuracy"]


def test_starts_take_what_they_say(aws_run, monkeypatch):
    """What a final training began from, seen before its first step."""
    began = {}

    def remember(trainee, dataset, stage, recipe, progress):
        state = {name: tensor.clone() for name, tensor in trainee.network.state_dict().items()}
        began[stage.folder.name] = state, trainee.initial_norms, trainee.masks
        return []

    monkeypatch.setattr("main.train_stage", remember)
    runs = aws_run.parent / "began"
    shutil.copytree(aws_run, runs / aws_run.name)
    shutil.rmtree(runs / aws_run.name / "final")
    run_in_process(runs, "--method", "aws", *ALL_STARTS, "--final-levels", "2", "--init-seed", "5")

    contents = networks(aws_run)
    level = contents["level_02"]["model"]
    masks = contents["level_02"]["masks"]
    norms = contents["level_02"]["initial_norms"]
    initial = began["dense_seed2_init5"][0]
    assert not torch.equal(initial["conv1.weight"], contents["initialization"]["model"]["conv1.weight"])
    for start in set(STARTS) - {"rewound"}:
        folder = {"dense": "dense_seed2_init5", "subnetwork": "level_02_subnetwork_seed2"}.get(
            start, f"level_02_{start}_seed2_init5"
        )
        state, initial_norms, its_masks = began[folder]
        assert initial_norms == {}  # final trainings are normal trainings
        for name, tensor in state.items():
            signs = torch.sign(level[name])
            mask = masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
            if start == "subnetwork":
                expected = level[name]
            elif start == "dense":
                expected = initial[name]
            elif name in norms and start.endswith("keep-norms"):
                expected = level[name]
            elif name in norms and start == "signs-shifted-norms":
                expected = 0.1 * signs if name.endswith("bias") else torch.ones_like(tensor)
            elif name in norms or name not in dict(build_network("resnet20", 10, 1).named_parameters()):
                expected = initial[name]
            elif start in ("mask", "mask-keep-norms"):
                expected = initial[name] * mask
            elif start == "shuffled-mask":
                expected = initial[name] * its_masks.get(name, 1)
            elif start == "weights":
                expected = level[name]
            elif start == "random-signs":
                expected, tensor = (initial[name] * mask).abs(), tensor.abs()
            elif start.startswith("magnitudes"):
                expected, tensor = level[name].abs(), tensor.abs()
            else:
                expected = initial[name].abs() * signs
            assert torch.equal(tensor, expected), f"{start}: {name}"
            if name in masks and start != "shuffled-mask":
                assert torch.equal(its_masks[name], masks[name] if start != "dense" else torch.ones_like(mask))


def test_what_is_drawn_at_random_is_random_and_repeatable(aws_run):
    """Signs are half and half and another seed's are others; a shuffled mask leaves as much of every layer."""
    contents = networks(aws_run)
    level, masks = contents["level_02"]["model"], contents["level_02"]["masks"]
    initial = contents["initialization"]["model"]
    norms = tuple(contents["level_02"]["initial_norms"])
    signed = [name for name, _ in build_network("resnet20", 10, 1).named_parameters() if name not in norms]
    signed_mask = extract_signed_mask(level, masks, signed)
    origins = [Origin(initial, level, {}, masks, signed_mask, norms, seed) for seed in (2, 2, 3)]
    for start in ("random-signs", "magnitudes"):
        weights = [
            torch.cat([STARTS[start].state(origin)[name][mask] for name, mask in masks.items()]) for origin in origins
        ]
        assert torch.equal(weights[0], weights[1])
        for other in (weights[2], torch.cat([level[name][mask] for name, mask in masks.items()])):
            agree = (weights[0].sign() == other.sign()).float().mean().item()
            assert agree == pytest.approx(0.5, abs=0.01)  # 170,000 signs: one standard deviation is 0.0012
    shuffled = [choose_masks("shuffled-mask", origin) for origin in origins]
    for name, mask in masks.items():
        assert torch.equal(shuffled[0][name], shuffled[1][name])
        assert [int(masks_[name].sum()) for masks_ in shuffled] == [int(mask.sum())] * 3
    largest = max(masks, key=lambda name: masks[name].numel())
    assert not torch.equal(shuffled[0][largest], masks[largest])
    assert not torch.equal(shuffled[0][largest], shuffled[2][largest])


def test_the_same_flags_give_identical_weights(aws_run, tmp_path):
    assert_same_networks(run_in_process(tmp_path, "--method", "aws", *ALL_STARTS), aws_run)


def test_aws_without_interpolation_is_lrr(aws_run, tmp_path):
    """α = 1 interpolates nothing, so the two methods must agree to the last bit."""
    lrr = run_in_process(tmp_path, "--method", "lrr", "--start")
    aws = run_in_process(tmp_path, "--method", "aws", "--alpha-range", "1", "1", "--start")
    lrr, aws, interpolated = networks(lrr), networks(aws), networks(aws_run)
    for stage, content in lrr.items():
        for name, tensor in content["model"].items():
            assert torch.equal(tensor, aws[stage]["model"][name])
    name = "conv1.weight"
    assert not torch.equal(lrr["level_02"]["model"][name], interpolated["level_02"]["model"][name])


def remember_beginnings(monkeypatch) -> dict:
    """Level -> the state that its training began from, filled by the runs that follow."""
    began, train = {}, main.train_stage

    def remember(trainee, *others):
        began[others[1].folder.name] = {name: tensor.clone() for name, tensor in trainee.network.state_dict().items()}
        return train(trainee, *others)

    monkeypatch.setattr("main.train_stage", remember)
    return began


@pytest.mark.parametrize(
    ("flags", "point"),
    [
        ("--method imp", "initialization"),
        ("--method wr", "level_00"),
        ("--method wr --rewind-epoch 0", "initialization"),
        ("--method lrr", "level_01"),
    ],
)
def test_where_a_level_begins(flags, point, tmp_path, monkeypatch):
    """IMP: the initialization times the mask; WR: the warm-up's weights times the mask; LRR: the level before."""
    began = remember_beginnings(monkeypatch)
    contents = networks(run_in_process(tmp_path, *flags.split(), "--start"))
    assert sum(int(mask.sum()) for mask in contents["level_02"]["masks"].values()) < sum(
        int(mask.sum()) for mask in contents["level_01"]["masks"].values()
    )
    for name, tensor in began["level_02"].items():
        mask = contents["level_02"]["masks"].get(name, 1)
        assert torch.equal(tensor, contents[point]["model"][name] * mask), name


def test_weight_rewinding_into_the_middle_of_the_warm_up(tmp_path, monkeypatch):
    """The state after the first of two epochs is that of a warm-up of one epoch, also where it was interrupted."""
    shorter = networks(run_in_process(tmp_path / "shorter", "--method", "lrr", "--levels", "0", "--start"))
    began = remember_beginnings(monkeypatch)
    flags = "--method wr --warmup-epochs 2 --rewind-epoch 1 --levels 1 --start --checkpoint-seconds 0".split()
    calls = []

    def stop_in_the_second_epoch(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr("utils.stage.evaluate", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run_in_process(tmp_path, *flags)
    run = run_in_process(tmp_path, *flags)
    contents = networks(run)
    point = torch.load(run / "level_00" / "rewinding_point.pt", weights_only=True)["model"]
    for name, mask in contents["level_01"]["masks"].items():
        assert torch.equal(point[name], shorter["level_00"]["model"][name])
        assert torch.equal(began["level_01"][name], shorter["level_00"]["model"][name] * mask)


def test_the_winning_ticket_is_the_rewinding_point_under_the_mask(tmp_path, monkeypatch):
    began = remember_beginnings(monkeypatch)
    contents = networks(run_in_process(tmp_path, "--method", "imp", "--start", "rewound"))
    for name, tensor in began["level_02_rewound_seed2"].items():
        mask = contents["level_02"]["masks"].get(name, 1)
        assert torch.equal(tensor, contents["initialization"]["model"][name] * mask), name


def test_weight_rewinding_goes_back_in_the_schedule_too(tmp_path):
    """From the first of four epochs: the three that follow are the schedule's second to fourth."""
    flags = "--method wr --warmup-epochs 4 --rewind-epoch 1 --levels 1 --level-epochs 3 --start"
    run = run_in_process(tmp_path, *flags.split(), "--pruning-schedule", "dense")
    rates = {}
    for level in ("level_00", "level_01"):
        with (run / level / "metrics.csv").open() as file:
            rates[level] = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates["level_00"] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert rates["level_01"] == rates["level_00"][1:]


@pytest.mark.parametrize("method", ["lrr", "aws", "imp", "wr", "gm"])
def test_a_run_s_own_flags_continue_it(method, tmp_path):
    """What other programs add final trainings with."""
    flags = ["--dataset", "digits", "--arch", "resnet20", "--method", method, "--runs-dir", str(tmp_path)]
    args = main.parse_arguments(flags)
    open_run_folder(tmp_path / args.name, {**main.run_settings(args), "data": "digits", "signed_mask": None}, {}, "")
    again = main.parse_arguments(run_flags(tmp_path / args.name))
    assert main.run_settings(again) == main.run_settings(args)
    assert again.name == args.name


def test_the_dense_schedule_of_levels(tmp_path):
    run = run_in_process(tmp_path, "--method", "lrr", "--levels", "1", "--pruning-schedule", "dense", "--start")
    with (run / "level_01" / "metrics.csv").open() as file:
        assert [float(row["lr"]) for row in csv.DictReader(file)] == pytest.approx([0.1, 0.01])


def test_two_processes_never_train_the_same_stage(tmp_path):
    """Started at once on one run: both end well, and every epoch was trained by one of them."""
    command = [sys.executable, PROJECT / "main.py", *TINY_JOB, "--runs-dir", tmp_path, "--method", "aws", "--share"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    epochs = [line.split(":")[0] for text in outputs for line in text.splitlines() if ", epoch " in line]
    assert len(epochs) == len(set(epochs)) == 1 + 2 * 2 + 3 * 2


def test_what_is_finished_is_skipped_and_kept(aws_run, tmp_path, capsys):
    run = shutil.copytree(aws_run, tmp_path / aws_run.name)
    collected = {"results.csv", "command.txt"}  # made anew, and added to
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in collected]
    written = [path.stat().st_mtime_ns for path in files]
    run_in_process(tmp_path, "--method", "aws", *ALL_STARTS)
    assert "26 of 26 stages are finished" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in files] == written
    run_in_process(tmp_path, "--method", "aws", "--levels", "3", "--start", "mask", "--final-seeds", "9")
    assert (run / "level_03" / "network.pt").exists()  # a longer run goes on from the levels that are there
    assert (run / "final" / "level_03_mask_seed9" / "network.pt").exists()
    assert [path.stat().st_mtime_ns for path in files] == written


def test_another_flag_is_refused_in_an_existing_folder(aws_run):
    with pytest.raises(RunFolderError, match=r"other settings: --weight-decay 0.1 \(there: 0.0005\)"):
        run_in_process(aws_run.parent, "--method", "aws", "--weight-decay", "0.1")


def test_other_data_under_the_same_name_is_refused(tmp_path):
    flags = "--dataset cifar100 --train-images-per-class 4 --levels 1 --method lrr --start --data-root".split()
    write_cifar100(tmp_path / "some", classes=5, train=20)
    write_cifar100(tmp_path / "more", classes=6, train=24)
    run_in_process(tmp_path, *flags, str(tmp_path / "some"))
    with pytest.raises(RunFolderError, match=r"data 6 classes, 24 training .*\(there: 5 classes, 20 training"):
        run_in_process(tmp_path, *flags, str(tmp_path / "more"))


def test_git_is_not_needed(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main.project_commit() == "unknown"


def test_a_dense_run_needs_no_level(tmp_path):
    run = run_in_process(tmp_path, "--method", "dense", "--seed", "4")
    assert [path.parent.name for path in run.rglob("network.pt")] == ["dense_seed4"]


def test_one_level_one_epoch_and_a_last_batch_of_one_image(tmp_path):
    flags = "--levels 1 --level-epochs 1 --final-epochs 1 --warmup-epochs 0 --batch-size 33 --start signs --method lrr"
    run = run_in_process(tmp_path, *flags.split())  # 100 images are 3 · 33 + 1
    assert json.loads((run / "final" / "level_01_signs_seed2" / "result.json").read_text())["epochs"] == 1


def test_a_signed_mask_file_is_all_that_is_needed(aws_run, tmp_path):
    """From the file alone, the same start as from the run that it comes from: identical weights."""
    file = tmp_path / "mask.npz"
    shutil.copy(aws_run / "level_02" / "signed_mask.npz", file)
    run = run_in_process(tmp_path, "--signed-mask", str(file))
    assert run.name == "digits_resnet20_signed_mask_seed1"
    for start in ("signs", "mask"):
        ours = networks(run)[f"final/{start}_seed2"]["model"]
        theirs = networks(aws_run)[f"final/level_02_{start}_seed2"]["model"]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    other = tmp_path / "other.npz"
    shutil.copy(aws_run / "level_01" / "signed_mask.npz", other)
    with pytest.raises(RunFolderError, match="--signed-mask sha256"):
        run_in_process(tmp_path, "--signed-mask", str(other))


def test_a_signed_mask_goes_to_another_data_set(aws_run, tmp_path, capsys):
    write_fashion_mnist(tmp_path)
    file = aws_run / "level_02" / "signed_mask.npz"
    flags = ["--dataset", "fashion_mnist", "--train-images-per-class", "2", "--start", "signs", "--data-root"]
    run = run_in_process(tmp_path, *flags, str(tmp_path), "--signed-mask", str(file))
    assert "was found on digits: the classifier for fashion_mnist starts fresh" in capsys.readouterr().out
    masks = networks(run)["final/signs_seed2"]["masks"]
    assert torch.equal(masks["conv1.weight"], networks(aws_run)["level_02"]["masks"]["conv1.weight"])
    with pytest.raises(
        SignedMaskError, match=r"resnet20 on digits\) belongs to another network: blocks\.3\.conv1\.weight is \(32"
    ):
        run_in_process(tmp_path, "--arch", "resnet32", "--signed-mask", str(file), "--name", "other")


def test_a_damaged_level_is_named(aws_run, tmp_path):
    run = shutil.copytree(aws_run, tmp_path / aws_run.name)
    path = run / "level_01" / "network.pt"
    path.write_bytes(path.read_bytes()[:1000])
    shutil.rmtree(run / "level_02")
    with pytest.raises(Exception, match=r"level_01/network\.pt is damaged .*delete the folder .*level_01"):
        run_in_process(tmp_path, "--method", "aws")
    shutil.rmtree(run / "level_01")  # the remedy
    run_in_process(tmp_path, "--method", "aws", *ALL_STARTS)
    assert_same_networks(run, aws_run)


def test_a_damaged_unfinished_stage_starts_again(aws_run, tmp_path, capsys):
    run = shutil.copytree(aws_run, tmp_path / aws_run.name)
    (run / "level_02" / "network.pt").unlink()
    (run / "level_02" / "unfinished.pt").write_bytes(b"half of it")
    run_in_process(tmp_path, "--method", "aws", *ALL_STARTS)
    assert "unfinished.pt is damaged" in capsys.readouterr().out
    assert not (run / "level_02" / "unfinished.pt").exists()
    assert_same_networks(run, aws_run)


def test_a_diverging_training_keeps_what_was_finished(tmp_path, capsys):
    flags = ("--method", "lrr", "--warmup-epochs", "0", "--lr", "1e30", "--runs-dir", str(tmp_path))
    result = main_program(*TINY_JOB, *flags)
    assert_one_line_error(result, "level 1/2, epoch 1", "no longer finite", "--lr", "1e+30")
    run = tmp_path / "digits_resnet20_lrr_seed1"
    assert (run / "level_00" / "network.pt").exists()
    assert not (run / "level_01" / "network.pt").exists()


def test_a_full_disk_is_one_line(tmp_path, capsys):
    with files_limited_to(300_000):
        status = exit_status("main.py", lambda: run_in_process(tmp_path, "--method", "aws"))
    assert status == 2
    error = capsys.readouterr().err
    assert error.startswith("main.py: error: File too large")
    assert error.count("\n") == 1
    run_in_process(tmp_path, "--method", "aws")  # with space again it goes on


BAD_FLAGS = [
    (["--arch", "alexnet"], ["--arch", "alexnet", "resnet50"]),
    (["--dataset", "mnist"], ["--dataset", "mnist", "digits"]),
    (["--prune-rate", "1"], ["--prune-rate", "between 0 and 1"]),
    (["--levels", "-1"], ["--levels", "at least 0"]),
    (["--levels", "200"], ["level", "would prune 0 of the 4 weights", "--prune-rate"]),
    (["--levels", "2", "--final-levels", "3"], ["--final-levels 3 is above --levels 2"]),
    (["--method", "dense", "--start", "signs"], ["--start signs needs a level"]),
    (["--alpha-range", "1", "0"], ["--alpha-range", "low end first"]),
    (["--method", "lrr", "--start", "rewound"], ["--start rewound goes with --method imp or wr"]),
    (["--method", "lrr", "--rewind-epoch", "1"], ["--rewind-epoch", "only weight rewinding"]),
    (["--method", "wr", "--rewind-epoch", "5"], ["--rewind-epoch", "epochs 0 to 1"]),
    (["--method", "gm"], ["Gem-Miner freezes weights every 5 epochs and 2 are too few", "--level-epochs 6"]),
    (["--method", "gm", "--final-levels", "0"], ["--final-levels counts from 1"]),
    (["--final-epochs", "x"], ["--final-epochs", "x"]),
    (["--signed-mask", "nowhere.npz"], ["nowhere.npz", "No such file", "check the path"]),
    (["--signed-mask", "README.md"], ["README.md is damaged or no signed-mask file"]),
    (["--signed-mask", "README.md", "--start", "subnetwork"], ["--start subnetwork", "--signed-mask"]),
    (["--dataset", "tiny_imagenet", "--data-root", "/nonexistent"], ["tiny_imagenet.npz is missing", "preprocess"]),
    (["--train-images-per-class", "1000"], ["fewer than --train-images-per-class 1000"]),
    (["--name", ""], ["--name ''", "one folder's name"]),
    (["--name", "../elsewhere"], ["--name '../elsewhere'", "one folder's name"]),
    (["--name", "barriers"], ["--name 'barriers'"]),
    (["--name", "figures"], ["--name 'figures'"]),
    (["--checkpoint-seconds", "nan"], ["--checkpoint-seconds", "at least 0"]),
    (["--device", "warp"], ["--device", "auto, cpu, cuda"]),
    (["--runs-dir", "/proc/runs"], ["/proc/runs"]),
    (["--arch", "shufflenet", "--batch-size", "33"], ["last batch", "1 image", "--batch-size"]),
]


@pytest.mark.parametrize(("flags", "expected"), BAD_FLAGS, ids=lambda value: " ".join(value))
def test_bad_input_is_one_line(flags, expected, tmp_path, monkeypatch, capsys):
    """In this process, but through the program's own main: parse, run, report."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "argv", ["main.py", *TINY_JOB, "--runs-dir", str(tmp_path), *flags])
    try:
        status = main.main()
    except SystemExit as error:
        status = error.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1, error
    for text in expected:
        assert text in error
    assert not list(tmp_path.rglob("network.pt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none(tmp_path):
    assert_one_line_error(
        main_program(*TINY_JOB, "--device", "cuda", "--runs-dir", tmp_path), "sees 0 CUDA devices; use --device cpu"
    )


@CUDA
def test_the_job_runs_on_cuda(tmp_path):
    run = run_in_process(tmp_path, "--device", "cuda", "--method", "aws")
    for content in networks(run).values():
        assert all(torch.equal(content["model"][name] == 0, ~mask) for name, mask in content["masks"].items())


def test_every_flag_has_help_and_is_read():
    help_text = main_program("--help").stdout
    source = (PROJECT / "main.py").read_text()
    for name in vars(main.parse_arguments([])):
        flag = name.replace("_", "-")
        assert re.search(rf"--{flag}(, --no-{flag})?\b[^-]*[a-z]{{3}}", help_text), name
        # Read beside its completion: as args.name, or by name among the settings of a run.
        assert re.search(rf"args\.{name}\b(?! =)|[ \"]{name}[ \"]", source), name


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch != "resnet20"])
def test_every_network_goes_through_the_whole_job(arch, tmp_path):
    flags = "--levels 1 --level-epochs 1 --final-epochs 1 --train-images-per-class 4 --batch-size 20 --method aws"
    run = run_in_process(tmp_path, "--arch", arch, *flags.split())
    assert len(networks(run)) == 1 + 2 + 3


def test_progress_on_a_terminal(tmp_path):
    """A bar for the whole job with speed, time left, loss and accuracy; lines that stay for levels."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 40, 160, 0, 0))  # 40 lines of 160 columns
    program = subprocess.Popen(
        [sys.executable, PROJECT / "main.py", *TINY_JOB, "--runs-dir", tmp_path, "--method", "aws"],
        stdout=child,
        stderr=subprocess.DEVNULL,
    )
    os.close(child)
    shown = b""
    while True:
        try:
            chunk = os.read(parent, 4096)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    assert program.wait() == 0
    text = shown.decode()
    assert "100%" in text
    assert "img/s" in text
    assert "loss" in text
    assert "level 2/2: 0.6400 of the prunable weights remain" in text
