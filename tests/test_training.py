"""The training step, an epoch of them, evaluation, and what is told of a stage's epochs."""

import copy
import platform
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.batches import evaluation_batches, training_batches
from tests.commands import PROJECT, output_of, read_csv
from tests.toy_training import BLUEPRINT, DATASET, RECIPE, half_masks, make_trainer
from tests.toys import ToyNetwork, sgd, toy_dataset
from utils.files import load
from utils.method.network import Blueprint
from utils.method.norm_interpolation import initial_normalization
from utils.method.pruning import apply_masks
from utils.method.step import TrainingError, make_train_step
from utils.runs.progress import JobProgress
from utils.training.devices import Speed
from utils.training.evaluation import check_last_batch, evaluate, train_one_epoch
from utils.training.stage import Stage, train_stage

MASKS = {"conv.weight": torch.tensor([1, 0, 1, 1, 0, 1, 1, 1]).bool().view(2, 1, 2, 2)}


def toy_step(network, initial_norms, lr=0.01):
    apply_masks([network.get_parameter(name) for name in MASKS], list(MASKS.values()))
    optimizer = sgd(network, lr=lr, momentum=0.9, weight_decay=0.01)
    return make_train_step(network, optimizer, MASKS, initial_norms)


def toy_batches(epochs=1):
    for epoch in range(epochs):
        yield from training_batches(toy_dataset(), batch_size=8, seed=epoch)


@pytest.mark.parametrize(
    ("initial_norms", "alpha"),
    [({}, 0.5), ({"norm.weight": torch.tensor([7.0, 0.3]), "norm.bias": torch.tensor([-1.0, 2.0])}, 1.0)],
    ids=["without ψ_init", "α = 1"],
)
def test_ordinary_training_is_plain_training_with_a_masked_forward(initial_norms, alpha):
    """To the last bit. The reference trains as existing implementations do, with the mask in every forward pass."""
    torch.manual_seed(0)
    ours = ToyNetwork()
    reference = copy.deepcopy(ours)
    step = toy_step(ours, initial_norms)
    optimizer = sgd(reference, lr=0.01, momentum=0.9, weight_decay=0.01)
    for images, labels in toy_batches(epochs=5):
        loss, correct = step(images, labels, torch.tensor(alpha))
        masked = {"conv.weight": reference.conv.weight * MASKS["conv.weight"]}
        outputs = torch.func.functional_call(reference, masked, (images,))
        optimizer.zero_grad()
        expected = F.cross_entropy(outputs, labels)
        expected.backward()
        optimizer.step()
        assert loss == expected
        assert correct == (outputs.argmax(1) == labels).sum()
        assert not ours.conv.weight[~MASKS["conv.weight"]].any()
    for name, parameter in reference.named_parameters():
        expected = parameter * MASKS[name] if name in MASKS else parameter
        assert torch.equal(ours.get_parameter(name), expected)


def test_at_alpha_0_the_normalization_learns_nothing():
    """The forward pass sees ψ_init alone: ψ gets no gradient, only weight decay."""
    network = ToyNetwork()
    nn.init.constant_(network.norm.bias, 2.0)
    step = toy_step(network, initial_normalization(ToyNetwork()))
    (images, labels), *_ = toy_batches()
    step(images, labels, torch.tensor(0.0))
    assert not network.norm.weight.grad.any()
    assert network.norm.bias.tolist() == pytest.approx([2.0 - 0.01 * 0.01 * 2.0] * 2)


def test_training_learns_and_averages_over_images():
    torch.manual_seed(0)
    network, dataset, seen = ToyNetwork(), toy_dataset(count=21), []
    step = toy_step(network, {}, lr=0.02)
    for epoch in range(30):
        result = train_one_epoch(network, step, training_batches(dataset, 8, epoch), torch.ones(3), seen.append)
    assert seen[:3] == [8, 8, 5]
    assert result.accuracy > 90
    evaluation = evaluate(network, evaluation_batches(dataset, dataset.test))
    network.eval()
    images, labels = next(iter(evaluation_batches(dataset, dataset.test)))
    outputs = network(images)
    assert evaluation.loss == pytest.approx(F.cross_entropy(outputs, labels).item(), rel=1e-5)
    assert evaluation.accuracy == pytest.approx(100 * (outputs.argmax(1) == labels).float().mean().item(), rel=1e-5)
    assert evaluation.error == 100 - evaluation.accuracy


def test_a_loss_that_is_no_longer_finite_stops_the_training():
    network = ToyNetwork()
    nn.init.constant_(network.fc.weight, float("nan"))
    with pytest.raises(TrainingError, match="training loss is no longer finite"):
        train_one_epoch(network, toy_step(network, {}), toy_batches(), torch.ones(3), lambda images: None)
    dataset = toy_dataset()
    with pytest.raises(TrainingError, match="test loss is no longer finite"):
        evaluate(network, evaluation_batches(dataset, dataset.test))


def test_a_last_batch_too_small_for_a_batch_norm_is_refused_in_time():
    """At 8 pixels ShuffleNet's last batch norms see a single pixel; ResNet-20's see four."""
    dataset = toy_dataset(count=9, size=8, classes=4)
    shufflenet = Blueprint("shufflenet", "toy", classes=4, channels=1)
    check_last_batch(shufflenet, dataset, replace(RECIPE, batch_size=7))  # 7 + 2
    with pytest.raises(TrainingError, match="the last batch of an epoch has 1 image"):
        check_last_batch(shufflenet, dataset, replace(RECIPE, batch_size=8))
    check_last_batch(BLUEPRINT, dataset, replace(RECIPE, batch_size=8))


def test_a_stage_trains_one_epoch_for_each_of_its_rates(tmp_path, capsys):
    """What was saved before an interruption is exactly sparse, and neither trained nor reported again."""
    stage = Stage("level 1/2", tmp_path / "level_01", [0.1, 0.02, 0.003], 1, "level_01", tmp_path / "tensorboard")
    stage.folder.mkdir()
    done = []

    def stop_after_the_second(epochs_done):
        done.append(epochs_done)
        if done == [1, 2]:
            raise KeyboardInterrupt

    for _ in range(2):
        try:
            progress = JobProgress({"level_01": 3}, len(DATASET.train))
            rows = train_stage(make_trainer(Speed()), stage, progress, 0.0, stop_after_the_second)
        except KeyboardInterrupt:
            assert [row["epoch"] for row in read_csv(stage.folder / "metrics.csv")] == ["1", "2"]
            saved = load(stage.folder / "unfinished.pt")["model"]
            assert all(torch.equal(saved[name] == 0, ~mask) for name, mask in half_masks().items())
    assert done == [1, 2, 2, 3]  # the second one was not saved yet
    assert [(row["epoch"], row["lr"]) for row in rows] == [(1, 0.1), (2, 0.02), (3, 0.003)]
    assert [float(row["lr"]) for row in read_csv(stage.folder / "metrics.csv")] == [0.1, 0.02, 0.003]
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in shown] == [f"level 1/2, epoch {epoch}/3" for epoch in (1, 2, 2, 3)]
    assert progress.seconds_left() == 0


def test_the_share_of_time_spent_waiting(capsys):
    """Shown only if it matters."""
    row = {"train_loss": 1.0, "train_accuracy": 50.0, "test_accuracy": None, "images_per_second": 100.0}
    with JobProgress({"level_00": 1}, 100) as progress:
        progress.epoch("epoch 1", row | {"waiting_share": 0.42})
        progress.epoch("epoch 2", row | {"waiting_share": 0.02})
    first, second = capsys.readouterr().out.splitlines()
    assert "42 % of the time waiting for images (more --workers?)" in first
    assert "waiting" not in second


ALLOCATE_AGAIN = """
import resource, torch
from utils.training.devices import choose_device
choose_device("cpu")
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[3])
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_of_freed_tensors_is_used_again():
    """Else the system would give it again page by page, of 4 KiB each. It may take a second piece beside the first."""
    assert int(output_of(sys.executable, "-c", ALLOCATE_AGAIN, cwd=PROJECT)) < 2**28 / 4096 / 100
