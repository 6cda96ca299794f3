"""main.py's whole job: what it leaves, that it can be repeated and continued, and how it refuses."""

import fcntl
import json
import math
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from contextlib import suppress

import pytest
import torch

import main
from data import load_dataset
from data.batches import evaluation_batches
from models import build_network
from tests.commands import (
    PROJECT,
    TINY_JOB,
    assert_equal_states,
    assert_exactly_sparse,
    assert_refused,
    assert_same_networks,
    files_limited_to,
    interrupt_at,
    networks,
    read_csv,
    run_in_process,
)
from tests.fake_data import write_cifar100, write_fashion_mnist
from utils.errors import UserError, exit_status
from utils.files import FileError, load
from utils.method.network import load_network, plain_state
from utils.method.signed_mask import load_signed_mask
from utils.method.starts import STARTS
from utils.training.evaluation import evaluate
from utils.training.trainer import Trainer

JOB = tuple("--method aws --start subnetwork signs mask dense --final-levels 1 2 --final-epochs 1".split())
SHORT = "--level-epochs 1 --final-epochs 1".split()


@pytest.fixture
def main_here(run_program, tmp_path):
    return lambda *flags: run_program(main, *TINY_JOB, "--runs-dir", tmp_path, *flags)


@pytest.fixture
def began(monkeypatch):
    """Folder's name -> the state that its training began from, and the ψ_init that it was given; filled by the runs
    that follow."""
    states, train = {}, main.train_stage

    def remember_and_train(trainer, stage, *others):
        norms = {f"initial {name}": tensor.clone() for name, tensor in trainer.initial_norms.items()}
        states[stage.folder.name] = plain_state(trainer.network) | norms
        return train(trainer, stage, *others)

    monkeypatch.setattr("main.train_stage", remember_and_train)
    return states


def test_a_run_leaves_what_the_readme_says(finished_run):
    finals = {f"level_{level:02d}_{start}_seed2" for level in (1, 2) for start in ("subnetwork", "signs", "mask")}
    assert {path.name for path in (finished_run / "final").iterdir()} == finals | {"dense_seed2"}
    for stage in ("level_00", "level_01", "level_02", "final/dense_seed2"):
        files = {path.name for path in (finished_run / stage).iterdir() if not path.name.startswith(".")}
        mask = {"signed_mask.npz"} if stage.startswith("level") else set()
        assert files == {"network.pt", "metrics.csv", "result.json"} | mask
    assert [row["epoch"] for row in read_csv(finished_run / "level_01" / "metrics.csv")] == ["1", "2"]
    assert len(read_csv(finished_run / "results.csv")) == 3 + 7
    config = json.loads((finished_run / "config.json").read_text())
    assert config["settings"]["lr"] == 0.1
    assert config["about"]["flags"]["final_levels"] == [1, 2]
    assert config["about"]["torch"] == torch.__version__


def test_every_network_is_exactly_sparse_and_a_level_has_the_signs_of_its_survivors(finished_run):
    bare = build_network("resnet20", 10, 1)
    prunable = sum(p.numel() for name, p in bare.named_parameters() if "conv" in name)
    left = [prunable, prunable - prunable // 5]
    left.append(left[1] - left[1] // 5)
    assert_exactly_sparse(finished_run)
    for stage, content in networks(finished_run).items():
        bare.load_state_dict(content["model"], strict=True)
        level = 0 if stage in ("initialization", "final/dense_seed2") else int(stage.split("level_")[1][:2])
        assert sum(int(mask.sum()) for mask in content["masks"].values()) == left[level]
        if stage.startswith("level_"):
            file = load_signed_mask(finished_run / stage / "signed_mask.npz")
            assert (file.arch, file.dataset) == ("resnet20", "digits")
            assert set(file.signed_mask) == dict(bare.named_parameters()).keys() - content["initial_norms"].keys()
            for name, signs in file.signed_mask.items():
                assert torch.equal(signs, torch.sign(content["model"][name]).to(torch.int8))


def test_results_count_survivors_and_epochs(finished_run):
    result = json.loads((finished_run / "level_02" / "result.json").read_text())
    for name, mask in networks(finished_run)["level_02"]["masks"].items():
        assert result["survivors"][name] == int(mask.sum())
    everything = build_network("resnet20", 10, 1).parameters()
    survivors = [int(mask.sum()) - mask.numel() for mask in networks(finished_run)["level_02"]["masks"].values()]
    whole = sum(parameter.numel() for parameter in everything)
    assert result["remaining_ratio_of_all"] == 1 + sum(survivors) / whole
    assert result["test_error"] == 100 - result["test_accuracy"]
    assert [result[key] for key in ("kind", "level", "start", "seed", "epochs")] == ["level", 2, None, 1, 2]
    # 1 + 2 · 2 epochs of 4 steps, 0.1 / (1 − 0.9) · 0.0005 each; an epoch of a final training.
    final = json.loads((finished_run / "final" / "level_02_signs_seed2" / "result.json").read_text())
    assert [result["clock"], final["clock"]] == pytest.approx([20 * 5e-4, 4 * 5e-4])


def test_a_level_is_kept_and_reported_with_batch_statistics_of_its_own(finished_run):
    """Of one pass over the 100 images in batches of 32, and not of the steps under a random α."""
    dataset = load_dataset("digits", "")
    for level in ("level_00", "level_01", "level_02"):
        blueprint, content = load_network(finished_run / level / "network.pt")
        assert content["model"]["bn1.num_batches_tracked"] == 4
        network = blueprint.build(torch.device("cpu"), content["model"])
        assert evaluate(network, evaluation_batches(dataset, dataset.test)).loss == content["result"]["test_loss"]


@pytest.mark.parametrize(
    ("flags", "point"),
    [
        ("--method imp --start rewound", "initialization"),
        ("--method wr --start rewound", "level_00"),
        ("--method wr --rewind-epoch 0 --start rewound", "initialization"),
        ("--method lrr --start", "level_01"),
        ("--method aws --start", "level_01"),
    ],
)
def test_where_a_level_begins(flags, point, tmp_path, began):
    """IMP: the initialization times the mask; WR: the warm-up's weights times the mask; LRR and AWS: the level
    before. The start ``rewound``, the winning ticket, begins there too. ψ_init is what the normalization layers started
    from, and not what they were at the level's beginning."""
    contents = networks(run_in_process(tmp_path, *flags.split(), *SHORT))
    masks, before = contents["level_02"]["masks"], contents["level_01"]
    kept = torch.cat([before["model"][name][mask].abs() for name, mask in masks.items()])
    removed = [before["model"][name][mask & ~masks[name]].abs() for name, mask in before["masks"].items()]
    assert torch.cat(removed).max() <= kept.min()  # of the trained weights, whatever they are set back to
    assert len(began) == (3 if point == "level_01" else 4)
    for stage in began.keys() - {"level_00", "level_01"}:
        for name, tensor in contents[point]["model"].items():
            assert torch.equal(began[stage][name], tensor * masks.get(name, 1)), name
    initial = contents["initialization"]["model"]
    for level in ("level_00", "level_01", "level_02"):
        for name, tensor in contents[level]["initial_norms"].items():
            assert torch.equal(tensor, initial[name])
            assert torch.equal(began[level][f"initial {name}"], initial[name])


def test_weight_rewinding_into_the_middle_of_the_warm_up(tmp_path, began, monkeypatch):
    """The state after the first of two epochs is that of a warm-up of one epoch, even if it was interrupted."""
    shorter = networks(run_in_process(tmp_path / "shorter", "--method", "lrr", "--levels", "0", "--start"))
    flags = "--method wr --warmup-epochs 2 --rewind-epoch 1 --levels 1 --start --checkpoint-seconds 0".split()
    interrupt_at(2, Trainer, "evaluate", monkeypatch)  # in the second epoch
    with pytest.raises(KeyboardInterrupt):
        run_in_process(tmp_path, *flags)
    run = run_in_process(tmp_path, *flags)
    point = torch.load(run / "level_00" / "rewinding_point.pt", weights_only=True)["model"]
    for name, mask in networks(run)["level_01"]["masks"].items():
        assert torch.equal(point[name], shorter["level_00"]["model"][name])
        assert torch.equal(began["level_01"][name], shorter["level_00"]["model"][name] * mask)


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ("--method lrr --level-epochs 2", [0.1, 0.01]),
        # The weights go back to the end of the first epoch, and the rate to the beginning of the second.
        ("--method wr --rewind-epoch 1 --level-epochs 3", [0.1, 0.01, 0.001]),
    ],
)
def test_the_dense_schedule(flags, rates, tmp_path):
    more = "--pruning-schedule dense --warmup-epochs 4 --levels 1 --start"
    run = run_in_process(tmp_path, *flags.split(), *more.split())
    for stage, expected in (("level_00", [0.1, 0.1, 0.01, 0.001]), ("level_01", rates)):
        assert [float(row["lr"]) for row in read_csv(run / stage / "metrics.csv")] == pytest.approx(expected)


def test_final_trainings_begin_with_the_level_s_signs_and_a_new_initialization(copy_of_run, began):
    """What the starts mean is in test_starts.py; here, that they are given the right networks."""
    starts = ("--start", *(start for start in STARTS if start != "rewound"))
    job = (*JOB, "--final-levels", "1", "--final-seeds", "3")
    run_in_process(copy_of_run.parent, *job, "--init-seed", "5", *starts)
    run_in_process(copy_of_run.parent, *job, "--init-seed", "6", "--start", "random-signs")
    contents = networks(copy_of_run)
    assert_exactly_sparse(copy_of_run)
    level, initial = contents["level_01"], began["dense_seed3_init5"]
    assert not torch.equal(initial["conv1.weight"], contents["initialization"]["model"]["conv1.weight"])
    for name, mask in level["masks"].items():
        assert torch.equal(began["level_01_subnetwork_seed3"][name], level["model"][name])
        assert torch.equal(began["level_01_mask_seed3_init5"][name], initial[name] * mask)
        signs = torch.sign(level["model"][name])
        assert torch.equal(began["level_01_signs_seed3_init5"][name], initial[name].abs() * signs)
    drawn, others = (began[f"level_01_random-signs_seed3_init{seed}"]["conv1.weight"].sign() for seed in (5, 6))
    assert not torch.equal(drawn, others)
    # Another final seed is another order of the images.
    first, second = (contents[f"final/level_01_subnetwork_seed{seed}"]["model"]["conv1.weight"] for seed in (2, 3))
    assert not torch.equal(first, second)


def test_aws_without_interpolation_is_lrr(finished_run, tmp_path):
    """α = 1 interpolates nothing, so the two methods must agree to the last bit."""
    flags = ("--levels", "1", *SHORT, "--start", "--method")
    lrr = networks(run_in_process(tmp_path, *flags, "lrr"))
    aws = networks(run_in_process(tmp_path, *flags, "aws", "--alpha-range", "1", "1"))
    for stage, content in lrr.items():
        assert_equal_states(aws[stage]["model"], content["model"])
    interpolated = networks(finished_run)["level_00"]["model"]
    assert not torch.equal(lrr["level_00"]["model"]["conv1.weight"], interpolated["conv1.weight"])


def test_what_is_finished_is_skipped_and_kept(copy_of_run, capsys):
    runs, added_to = copy_of_run.parent, {"results.csv", "command.txt"}
    files = [path for path in copy_of_run.rglob("*") if path.is_file() and path.name not in added_to]
    written = [path.stat().st_mtime_ns for path in files]
    (copy_of_run / "level_00" / "unfinished.pt").touch()  # the process ended just before it removed this
    run_in_process(runs, *JOB)
    assert "10 of 10 stages are finished" in capsys.readouterr().out
    assert not (copy_of_run / "level_00" / "unfinished.pt").exists()
    assert [path.stat().st_mtime_ns for path in files] == written
    run_in_process(runs, *JOB, *"--levels 3 --final-levels 3 --start mask --final-seeds 9".split())
    assert (copy_of_run / "level_03" / "network.pt").exists()  # a longer run goes on from the levels that are there
    assert (copy_of_run / "final" / "level_03_mask_seed9" / "network.pt").exists()
    assert [path.stat().st_mtime_ns for path in files] == written


def test_other_data_under_the_same_name_is_refused(tmp_path):
    flags = "--dataset cifar100 --train-images-per-class 4 --levels 0 --method lrr --start --data-root".split()
    write_cifar100(tmp_path / "some", classes=5, train=20)
    write_cifar100(tmp_path / "more", classes=6, train=24)
    run_in_process(tmp_path, *flags, str(tmp_path / "some"))
    with pytest.raises(UserError, match=r"data 6 classes, 24 training .*\(there: 5 classes, 20 training"):
        run_in_process(tmp_path, *flags, str(tmp_path / "more"))


@pytest.mark.slow
def test_two_processes_never_train_the_same_stage(tmp_path):
    """Started at once on one run: both end well, and every epoch was trained by one of them."""
    command = [sys.executable, PROJECT / "main.py", *TINY_JOB, "--runs-dir", tmp_path, "--method", "aws", "--share"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    epochs = [line.split(":")[0] for text in outputs for line in text.splitlines() if ", epoch " in line]
    assert len(epochs) == len(set(epochs)) == 1 + 2 * 2 + 3 * 2


def test_one_level_one_epoch_and_a_last_batch_of_one_image(tmp_path):
    flags = "--levels 1 --warmup-epochs 0 --batch-size 33 --start signs --method lrr"  # 100 images are 3 · 33 + 1
    run = run_in_process(tmp_path, *flags.split(), *SHORT)
    assert json.loads((run / "final" / "level_01_signs_seed2" / "result.json").read_text())["epochs"] == 1


def test_a_signed_mask_file_is_all_that_is_needed(finished_run, tmp_path):
    """From the file alone, the same start as from the run that it comes from: identical weights."""
    file = tmp_path / "mask.npz"
    shutil.copy(finished_run / "level_02" / "signed_mask.npz", file)
    run = run_in_process(tmp_path, "--signed-mask", str(file), "--final-epochs", "1")
    assert run.name == "digits_resnet20_signed_mask_seed1"
    for start in ("signs", "mask"):
        ours, theirs = networks(run)[f"final/{start}_seed2"], networks(finished_run)[f"final/level_02_{start}_seed2"]
        assert_equal_states(ours["model"], theirs["model"])
    other = tmp_path / "other.npz"
    shutil.copy(finished_run / "level_01" / "signed_mask.npz", other)
    with pytest.raises(UserError, match="--signed-mask sha256"):
        run_in_process(tmp_path, "--signed-mask", str(other), "--final-epochs", "1")


def test_a_signed_mask_goes_to_another_data_set(finished_run, tmp_path, capsys):
    write_fashion_mnist(tmp_path)
    file = finished_run / "level_02" / "signed_mask.npz"
    flags = ["--dataset", "fashion_mnist", "--train-images-per-class", "2", *SHORT, "--start", "signs"]
    flags += ["--data-root", str(tmp_path), "--signed-mask", str(file)]
    run = run_in_process(tmp_path, *flags)
    assert "was found on digits: the classifier for fashion_mnist starts fresh" in capsys.readouterr().out
    masks = networks(run)["final/signs_seed2"]["masks"]
    assert torch.equal(masks["conv1.weight"], networks(finished_run)["level_02"]["masks"]["conv1.weight"])
    belongs = r"resnet20 on digits\) belongs to another network: blocks\.3\.conv1\.weight is \(32"
    with pytest.raises(UserError, match=belongs):
        run_in_process(tmp_path, *flags, "--arch", "resnet32", "--name", "other")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet50", "shufflenet", "vgg11_bn", "vit"])
def test_other_networks_go_through_the_whole_job(arch, tmp_path):
    """Deep, grouped, without shortcuts, without batch norm."""
    flags = "--method aws --warmup-epochs 0 --levels 1 --start signs --train-images-per-class 4 --batch-size 20"
    assert_exactly_sparse(run_in_process(tmp_path, "--arch", arch, *flags.split(), *SHORT))


def test_damaged_files_are_named_and_made_again(copy_of_run, finished_run, capsys):
    path = copy_of_run / "level_01" / "network.pt"
    path.write_bytes(path.read_bytes()[:1000])
    (copy_of_run / "level_02" / "network.pt").unlink()
    (copy_of_run / "level_02" / "unfinished.pt").write_bytes(b"half of it")
    with pytest.raises(FileError, match=r"level_01/network\.pt is damaged .*delete the folder .*level_01"):
        run_in_process(copy_of_run.parent, *JOB)
    shutil.rmtree(copy_of_run / "level_01")  # the remedy
    run_in_process(copy_of_run.parent, *JOB)
    assert "unfinished.pt is damaged" in capsys.readouterr().out
    assert not (copy_of_run / "level_02" / "unfinished.pt").exists()
    assert_same_networks(copy_of_run, finished_run)


def test_a_diverging_training_keeps_what_was_finished(main_here, tmp_path):
    """Within the epoch, too: it ends where the loss is noticed, and no such state is kept."""
    shown = main_here("--method", "lrr", "--warmup-epochs", "0", "--lr", "1e30", "--checkpoint-seconds", "0")
    assert_refused(shown, "level 1/2, epoch 1", "training loss is no longer finite", "--lr", "1e+30")
    run = tmp_path / "digits_resnet20_lrr_seed1"
    assert (run / "level_00" / "network.pt").exists()
    assert not (run / "level_01" / "network.pt").exists()
    (unfinished,) = run.rglob("unfinished.pt")
    assert math.isfinite(load(unfinished)["epoch"]["tally"]["loss"])


def test_a_full_disk_is_one_line(tmp_path, capsys):
    job = ("--method", "aws", "--levels", "1", "--start", *SHORT)
    with files_limited_to(300_000):
        status = exit_status("main.py", lambda: run_in_process(tmp_path, *job))
    folder = tmp_path / "digits_resnet20_aws_seed1" / "initialization"
    assert_refused((status, *capsys.readouterr()), f"main.py: error: File too large: {folder}: allow larger files")
    run_in_process(tmp_path, *job)  # with space again it goes on


BAD_FLAGS = [
    (["--arch", "alexnet"], ["--arch", "alexnet", "resnet50"]),
    (["--dataset", "mnist"], ["--dataset", "mnist", "digits"]),
    (["--prune-rate", "1"], ["--prune-rate", "between 0 and 1"]),
    (["--levels", "-1"], ["--levels", "at least 0"]),
    (["--levels", "200"], ["level", "would prune 0 of the 4 weights", "--prune-rate"]),
    (["--levels", "2", "--final-levels", "3"], ["--final-levels 3 is above --levels 2"]),
    (["--lr", "0"], ["--lr", "above 0"]),
    (["--momentum", "1.5"], ["--momentum", "from 0 to 1"]),
    (["--method", "dense", "--start", "signs"], ["--start signs needs a level"]),
    (["--alpha-range", "1", "0"], ["--alpha-range", "low end first"]),
    (["--start", "signs", "--signs-from", "level_99"], ["--signs-from level_99: this run makes no such level"]),
    (["--method", "lrr", "--start", "rewound"], ["--start rewound goes with --method imp or wr"]),
    (["--method", "lrr", "--rewind-epoch", "1"], ["--rewind-epoch", "only weight rewinding"]),
    (["--method", "wr", "--rewind-epoch", "5"], ["--rewind-epoch", "epochs 0 to 1"]),
    ("--method gm --level-epochs 5".split(), ["Gem-Miner", "every 5 epochs and 5 are too few", "--level-epochs 6"]),
    (["--method", "gm", "--final-levels", "0"], ["--final-levels counts from 1"]),
    (["--micro-batch-size", "48"], ["--micro-batch-size 48 should divide --batch-size 32 without remainder"]),
    ("--method gm --level-epochs 6 --micro-batch-size 16".split(), ["Gem-Miner's search takes whole batches"]),
    (["--final-epochs", "x"], ["--final-epochs", "x"]),
    (["--signed-mask", "nowhere.npz"], ["nowhere.npz", "No such file", "check the path"]),
    (["--signed-mask", "README.md"], ["README.md is damaged or no signed-mask file"]),
    (["--signed-mask", "README.md", "--start", "subnetwork"], ["--start subnetwork", "name its network.pt"]),
    (["--dataset", "tiny_imagenet", "--data-root", "/nonexistent"], ["tiny_imagenet.npz is missing", "preprocess"]),
    (["--train-images-per-class", "1000"], ["fewer than --train-images-per-class 1000"]),
    (["--name", ""], ["--name ''", "one folder's name"]),
    (["--name", "../elsewhere"], ["--name '../elsewhere'", "one folder's name"]),
    (["--name", "barriers"], ["--name 'barriers'"]),
    (["--name", "figures"], ["--name 'figures'"]),
    (["--name", "\udcff"], ["--name '\\udcff'", "one folder's name"]),
    (["--batch-size", "9" * 30], [f"--batch-size: {'9' * 30} is above 1000000"]),
    (["--checkpoint-seconds", "nan"], ["--checkpoint-seconds", "at least 0"]),
    (["--device", "warp"], ["--device", "auto, cpu, cuda"]),
    (["--device", "cuda:99999999999999999999"], ["--device", "should be auto, cpu, cuda or cuda:1"]),
    (["--device", "cuda:99"], [f"sees {torch.cuda.device_count()} CUDA devices; use --device cpu"]),
    (["--runs-dir", "/proc/runs"], ["/proc/runs"]),
    (["--arch", "shufflenet", "--batch-size", "33"], ["last batch", "1 image", "--batch-size"]),
]


@pytest.mark.parametrize(("flags", "expected"), BAD_FLAGS, ids=lambda value: " ".join(value))
def test_bad_input_is_one_line(flags, expected, main_here, tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    assert_refused(main_here(*flags), *expected)
    assert not list(tmp_path.rglob("network.pt"))


@pytest.mark.slow
def test_progress_on_a_terminal(tmp_path):
    """A bar for the whole job with speed, time left, loss and accuracy; lines that stay for levels."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 40, 160, 0, 0))  # 40 lines of 160 columns
    job = [sys.executable, PROJECT / "main.py", *TINY_JOB, "--runs-dir", tmp_path, "--method", "aws"]
    program = subprocess.Popen(job, stdout=child, stderr=subprocess.DEVNULL)
    os.close(child)
    shown = b""
    with suppress(OSError):  # which is its end
        while chunk := os.read(parent, 4096):
            shown += chunk
    assert program.wait() == 0
    for expected in ("100%", "img/s", "loss", "level 2/2: 0.6400 of the prunable weights remain"):
        assert expected in shown.decode()
