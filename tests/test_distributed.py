"""Several processes against one: gloo on the CPU. What NCCL and a captured step do needs GPUs, and is not tested."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import calculate_error_barrier
import main
from data.batches import draw_epoch, training_batches
from data.part import Part
from tests.commands import (
    PROJECT,
    TINY_JOB,
    assert_equal_states,
    assert_refused,
    assert_same_networks,
    executable,
    networks,
    output_of,
    run_in_process,
    with_this_python,
)
from tests.toys import reestimate_batch_statistics, toy_dataset
from utils.errors import UserError
from utils.method.network import Blueprint, plain_state
from utils.training.batch_statistics import average_running_statistics
from utils.training.devices import Speed
from utils.training.distributed import check_same_weights, own_part
from utils.training.evaluation import smallest_forward_pass, train_one_epoch
from utils.training.optimization import Recipe, set_rate
from utils.training.stage import _begun_here
from utils.training.trainer import SignInTrainer, SubnetworkTrainer, Trainer

DATASET = toy_dataset(count=33, size=8, classes=4)  # the last batch of 8 is a single image, the first process's
RECIPE = Recipe(8, momentum=0.9, weight_decay=5e-4, clip_norm=0.5, micro_batch_size=2)
NORM = torch.tensor(0.7)  # α


def in_processes(count: int, job: Callable[[], object], folder: Path) -> list:
    """What ``job`` returns in each of ``count`` processes that train together. They are not forked from this one, whose
    autograd may have threads."""
    make = get_context("forkserver").Process
    processes = [make(target=work, args=(rank, count, job, folder), daemon=True) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def work(rank: int, count: int, job: Callable[[], object], folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    torch.save(job(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def masks_of(blueprint: Blueprint) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(mask.shape, generator=generator) < 0.5 for name, mask in blueprint.dense_masks().items()}


def train(arch: str, recipe: Recipe = RECIPE) -> tuple[dict, tuple, dict]:
    """An epoch of five steps in however many processes there are: the weights, training and test results, and the
    running statistics before they are averaged."""
    blueprint = Blueprint(arch, "toy", classes=4, channels=1, image_size=8)
    trainer = SubnetworkTrainer(blueprint, DATASET.divided(own_part()), recipe, Speed(), blueprint.learnable)
    initial = blueprint.initialize(1)
    trainer.begin(initial, masks_of(blueprint), {name: initial[name] + 0.5 for name in blueprint.norms})
    return train_epoch(trainer, NORM)


def train_by_sign_in() -> tuple[dict, tuple, dict]:
    blueprint = Blueprint("mlpmixer", "toy", classes=4, channels=1, image_size=8)
    trainer = SignInTrainer(blueprint, DATASET.divided(own_part()), RECIPE, Speed(), blueprint.learnable, 1)
    masks = masks_of(blueprint)
    trainer.begin(blueprint.initialize(1), masks)
    return train_epoch(trainer, torch.tensor(1.0))


def train_epoch(trainer: Trainer, alpha: torch.Tensor) -> tuple[dict, tuple, dict]:
    set_rate(trainer.optimizer, 0.05)
    batches = draw_epoch(trainer.dataset, 8, seed=3)
    trained = train_one_epoch(trainer.network, trainer.step, batches, alpha.expand(5), lambda images: None)
    own = {name: buffer.double() for name, buffer in trainer.network.named_buffers()}
    average_running_statistics(trainer.network)
    tested = trainer.evaluate()
    return plain_state(trainer.plain_network), (trained.loss, trained.accuracy, tested.loss, tested.accuracy), own


def estimate(batches: list | None = None) -> dict:
    """A network with statistics estimated on the batches, by default on this process's parts."""
    blueprint = Blueprint("resnet20", "toy", classes=4, channels=1)
    network = blueprint.build(torch.device("cpu"), blueprint.initialize(1))
    reestimate_batch_statistics(network, batches or training_batches(DATASET.divided(own_part()), 8, seed=3))
    return plain_state(network)


def compare() -> str:
    weights = {"w": torch.zeros(3)}
    check_same_weights("level_01", "or not", weights)
    with pytest.raises(UserError, match="level_01: the processes no longer have the same weights"):
        check_same_weights("level_01", "or not", weights, {"m": torch.full((2,), float(dist.get_rank()))})
    return "stopped"


PLAIN = Recipe(8, momentum=0.9, weight_decay=5e-4)
JOBS = {
    "layer norm": partial(train, "mlpmixer"),
    "Sign-In": train_by_sign_in,
    "batch norm": partial(train, "resnet20", PLAIN),
    "statistics": estimate,
    "weights": compare,
}


def do_all_jobs() -> dict[str, object]:
    return {name: job() for name, job in JOBS.items()}


@pytest.fixture(scope="module")
def in_two(tmp_path_factory) -> dict[str, list]:
    """Of each of JOBS, what it returns in each of two processes."""
    done = in_processes(2, do_all_jobs, tmp_path_factory.mktemp("two"))
    return {name: [of_process[name] for of_process in done] for name in JOBS}


def assert_close_states(ours: dict, expected: dict) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_parts_of_a_batch():
    parts = [Part(index, 4).of(torch.arange(10)).tolist() for index in range(4)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert [len(Part(index, 2).of(torch.arange(1))) for index in range(2)] == [1, 0]


def test_the_smallest_forward_pass(monkeypatch):
    """22 images in batches of 8 end with 6: 3 for each of two processes."""
    assert smallest_forward_pass(22, Recipe(8, 0.9, 0.0)) == 6
    assert smallest_forward_pass(22, Recipe(8, 0.9, 0.0, micro_batch_size=4)) == 2
    monkeypatch.setattr("utils.training.evaluation.world_size", lambda: 2)
    monkeypatch.setattr("utils.training.optimization.world_size", lambda: 2)
    assert smallest_forward_pass(22, Recipe(8, 0.9, 0.0)) == 3
    assert smallest_forward_pass(21, Recipe(8, 0.9, 0.0)) == 2  # 3 and 2
    assert smallest_forward_pass(17, Recipe(8, 0.9, 0.0)) == 1  # 1 and none


def test_an_epoch_goes_on_with_another_number_of_processes():
    """One process has the sums of two."""
    states = [{"tally": {"loss": loss, "correct": 3, "images": 8}, "seconds": 1.0} for loss in (1.0, 0.5)]
    begun = _begun_here({"epoch": states[0], "others": states[1:]})
    assert begun == {"tally": {"loss": 1.5, "correct": 6, "images": 8}, "seconds": 1.0}


@pytest.mark.parametrize("name", ["layer norm", "Sign-In"])
def test_two_processes_train_as_one(name, in_two):
    assert_trained_as_one(in_two[name], JOBS[name])


@pytest.mark.slow
def test_three_processes_train_as_one(tmp_path):
    assert_trained_as_one(in_processes(3, JOBS["layer norm"], tmp_path), JOBS["layer norm"])


def assert_trained_as_one(trained: Sequence[tuple], job: Callable) -> None:
    """To rounding, with interpolation, masks, clipping and micro-batches; and with a batch that only the first has an
    image of. Every process has the same bits."""
    expected, results, _ = job()
    (state, found, _), *others = trained
    assert_close_states(state, expected)
    assert found == pytest.approx(results, rel=1e-5)
    for name, mask in masks_of(Blueprint("mlpmixer", "toy", 4, 1, 8)).items():
        assert torch.equal(state[name] == 0, ~mask), name
    for other, same, _ in others:
        assert_equal_states(other, state)
        assert same == found


def test_two_processes_train_batch_norms_on_ghost_batches(in_two):
    """Of each half of a batch, as micro-batches of one process are; running statistics are averaged."""
    (state, results, first), (other, same_results, second) = in_two["batch norm"]
    expected, *_ = train("resnet20", replace(PLAIN, micro_batch_size=4))
    assert_equal_states(other, state)
    assert results == same_results
    assert not torch.equal(first["bn1.running_mean"], second["bn1.running_mean"])
    average = {name: (first[name] + second[name]) / 2 for name in first if "num_batches" not in name}
    weights = {name: tensor for name, tensor in expected.items() if name not in first}
    assert_close_states({name: state[name].double() for name in average}, average)
    assert_close_states({name: state[name] for name in weights}, weights)


def test_estimated_statistics_are_the_mean_over_all_parts(in_two):
    """Of 4 · 2 parts of four images and one of a single image, each of which counts once."""
    batches = list(training_batches(DATASET, 8, seed=3))
    parts = [part for batch in batches for part in zip(*(whole.tensor_split(2) for whole in batch), strict=True)]
    ours, others = in_two["statistics"]
    assert_equal_states(ours, others)
    assert_close_states(ours, estimate(parts))


def test_weights_that_differ_stop_the_job(in_two):
    assert in_two["weights"] == ["stopped", "stopped"]


def test_barriers_are_measured_in_one_process(run_program, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "by torchrun")
    assert_refused(run_program(calculate_error_barrier, "--runs", "a"), "start it without torchrun")
    monkeypatch.setenv("RANK", "1")
    assert run_program(calculate_error_barrier, "--runs", "a") == (2, "", "")  # the first process says it


def torchrun(runs: Path, *flags: str, restarts: int = 0) -> subprocess.Popen:
    """A tiny job in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}", "--"]
    command = [sys.executable, *launcher, PROJECT / "main.py", *TINY_JOB, "--runs-dir", runs, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files_of(run: Path) -> list[str]:
    """Without the times in the names of TensorBoard's files."""
    files = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return sorted(str(path.with_name(path.suffix) if "tfevents" in path.name else path) for path in files)


@pytest.mark.slow
def test_a_whole_job_in_two_processes(tmp_path):
    """A layer-norm network: one folder, written and told of once, as one process would to rounding; one process may go
    on with it."""
    job = "--arch mlpmixer --method aws --levels 1 --start signs --clip-norm 1".split()
    expected = run_in_process(tmp_path / "one", *job)
    program = torchrun(tmp_path / "two", *job)
    output, error = program.communicate()
    assert program.returncode == 0, error
    assert output.count("level 1/1, epoch 2/2: loss") == output.count("all results: ") == 1
    run = tmp_path / "two" / expected.name
    assert files_of(run) == files_of(expected)
    ours, theirs = networks(run), networks(expected)
    for stage, content in theirs.items():
        assert_close_states(ours[stage]["model"], content["model"])
        assert all(torch.equal(ours[stage]["masks"][name], mask) for name, mask in content["masks"].items())
    assert run_in_process(tmp_path / "two", *job) == run
    assert (run / "command.txt").read_text().count("\n") == 2


DENSE = (  # 35 steps, saved after the 20th
    "--arch efficientnet --method dense --train-images-per-class 28 --batch-size 8 --final-epochs 1 "
    "--checkpoint-seconds 0"
).split()


@pytest.mark.slow
def test_a_process_that_is_killed(tmp_path, run_program):
    """kill -9 in the middle of an epoch, with batch norm and dropout: after torchrun's restart, the job ends as if
    nothing had been. Another number of processes is refused there."""
    program = torchrun(tmp_path / "whole", *DENSE)
    assert program.communicate() and program.returncode == 0
    program = torchrun(tmp_path / "killed", *DENSE, restarts=1)
    unfinished = tmp_path / "killed" / "digits_efficientnet_dense_seed1" / "final" / "dense_seed1" / "unfinished.pt"
    while not unfinished.exists():
        assert program.poll() is None
        time.sleep(0.01)
    saved = torch.load(unfinished, weights_only=True)
    assert saved["epoch"]["tally"]["images"] == 20 * 8
    assert saved["others"][0]["buffers"].keys() < saved["model"].keys()
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, error = program.communicate()
    assert program.returncode == 0, error
    assert output.count("stages are finished") == 2
    assert_same_networks(unfinished.parents[2], tmp_path / "whole" / unfinished.parents[2].name)
    one = [*TINY_JOB, *DENSE, "--runs-dir", tmp_path / "whole"]
    assert_refused(run_program(main, *one), "processes 1 (there: 2)")


@pytest.mark.slow
def test_an_error_is_said_once(tmp_path):
    """On one line, which torchrun's own report of what failed may follow."""
    program = torchrun(tmp_path, *"--method lrr --lr 1e30 --levels 0 --start".split())
    lines = [line for line in program.communicate()[1].splitlines() if line.startswith("main.py: error")]
    assert program.returncode != 0
    assert len(lines) == 1
    assert "loss is no longer finite" in lines[0]


def test_a_batch_is_for_all_processes(run_program, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.distributed.world_size", lambda: 2)
    refused = run_program(main, *TINY_JOB, "--runs-dir", tmp_path, "--batch-size", "33")
    assert_refused(refused, "--batch-size 33 should be a multiple of torchrun's 2 processes")


def test_a_job_on_several_nodes(tmp_path):
    """srun's stand-in shows what runs on each node: a launcher, with the nodes' meeting point in TORCHRUN."""
    for name, does in {"scontrol": "printf 'n17\\nn18\\n'", "srun": 'echo "$TORCHRUN | $*"'}.items():
        executable(tmp_path / name, f"#!/bin/bash\n{does}\n")
    slurm = {"SLURM_JOB_ID": "34567", "SLURM_JOB_NODELIST": "n[17-18]", "SLURM_NNODES": "2"}
    slurm |= {"SLURM_SUBMIT_DIR": str(PROJECT), "PATH": f"{tmp_path}:{with_this_python()}"}
    shutil.copy(PROJECT / "script" / "slurm_nodes.sh", tmp_path / "slurm_script")  # as Slurm does
    launcher = ("script/imagenet_vit_aws.sh", "--seed", "2")
    shown = output_of("bash", tmp_path / "slurm_script", *launcher, cwd=tmp_path, **slurm)
    assert shown == (
        "--nnodes=2 --nproc-per-node=auto --max-restarts=3 --rdzv-backend=c10d --rdzv-id=34567 "
        "--rdzv-endpoint=n17:24567 | --kill-on-bad-exit=1 bash script/imagenet_vit_aws.sh --seed 2\n"
    )
    echo = {"PYTHON": "echo", "CHECKED_PYTHON": "echo", "TORCHRUN": "--nnodes=2 --nproc-per-node=auto"}
    launched = output_of("bash", PROJECT / launcher[0], **echo)
    assert launched.startswith(f"-m torch.distributed.run {echo['TORCHRUN']} -- {PROJECT}/main.py --data-root ")
