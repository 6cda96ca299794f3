"""A small training in two ways: by a Trainer, and by the readable step alone with nothing of a Trainer around it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from data.batches import draw_epoch, make_batch
from tests.commands import assert_equal_states
from tests.toys import sgd, toy_dataset
from utils.barriers.meter import PositionMeter
from utils.method.gem_miner import signed_constants
from utils.method.network import Blueprint, State
from utils.method.pruning import Masks
from utils.method.step import make_train_step
from utils.training.devices import Speed
from utils.training.optimization import Recipe, set_rate
from utils.training.trainer import SearchTrainer, SignInTrainer, SubnetworkTrainer, Trainer

CPU = torch.device("cpu")
BLUEPRINT = Blueprint("resnet20", "toy", classes=4, channels=1)
CONSTANTS = signed_constants(BLUEPRINT.initialize(1), BLUEPRINT.scored, BLUEPRINT.norms)
DATASET = toy_dataset(count=36, size=8, classes=4)
BATCH_SIZE = 8  # an epoch ends with a batch of 4
RECIPE = Recipe(BATCH_SIZE, momentum=0.9, weight_decay=5e-4)


def half_masks(seed: int = 1) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(mask.shape, generator=generator) < 0.5 for name, mask in BLUEPRINT.dense_masks().items()}


def far_norms(state: State) -> State:
    """A ψ_init that is not ψ."""
    return {name: state[name] + 0.5 for name in BLUEPRINT.norms}


def make_trainer(speed: Speed, seed: int = 1, dataset=DATASET) -> SubnetworkTrainer:
    """A trainer that holds a subnetwork of seed ``seed``, with AWS's interpolation."""
    trainer = SubnetworkTrainer(BLUEPRINT, dataset, RECIPE, speed, BLUEPRINT.learnable)
    begin(trainer, seed)
    return trainer


def begin(trainer: SubnetworkTrainer, seed: int) -> None:
    initial = BLUEPRINT.initialize(seed)
    trainer.begin(initial, half_masks(seed), far_norms(initial))


def train(trainer: Trainer, epochs: int = 3) -> list[float]:
    """5 steps an epoch, with a learning rate of its own each; returns the losses."""
    losses = []
    for epoch in range(epochs):
        trainer.network.train()
        set_rate(trainer.optimizer, 0.05 / (epoch + 1))
        for batch, alpha in zip(draw_epoch(trainer.dataset, BATCH_SIZE, epoch), alphas(trainer.device), strict=True):
            losses.append(trainer.step(*batch, alpha)[0].item())
        trainer.after_epoch(epoch + 1)
    return losses


def alphas(device: torch.device) -> Tensor:
    return torch.linspace(0.1, 0.9, 5, device=device)


def make_search(speed: Speed) -> SearchTrainer:
    return SearchTrainer(BLUEPRINT, DATASET, replace(RECIPE, weight_decay=0.0), speed)


def search(trainer: SearchTrainer, seed: int) -> list[float]:
    """Gem-Miner's: two epochs with a freeze after each, with the scores of seed ``seed``; the losses."""
    trainer.begin(CONSTANTS, seed, 1e-4, freeze_rate=0.1)
    set_rate(trainer.optimizer, 0.05)
    losses = []
    for epoch in range(2):
        trainer.network.train()
        for batch in draw_epoch(DATASET, BATCH_SIZE, epoch):
            losses.append(trainer.step(*batch, torch.tensor(0.0))[0].item())
        trainer.network.freeze_smallest(trainer.freeze_rate)
    return losses


def make_sign_in(speed: Speed) -> SignInTrainer:
    return SignInTrainer(BLUEPRINT, DATASET, RECIPE, speed, BLUEPRINT.learnable, reset_epochs=2)


def sign_in(trainer: SignInTrainer, seed: int) -> list[float]:
    """Three epochs with a reset after the second, from the initialization of seed ``seed``; the losses."""
    masks = half_masks(seed)
    trainer.begin({name: tensor * masks.get(name, 1) for name, tensor in BLUEPRINT.initialize(seed).items()}, masks)
    return train(trainer)


def readable_training(seed: int = 1, dataset=DATASET) -> tuple[list[float], State]:
    """The losses and the weights that ``train`` should leave, by ``make_train_step`` alone."""
    initial, masks = BLUEPRINT.initialize(seed), half_masks(seed)
    state = {name: tensor * masks.get(name, 1) for name, tensor in initial.items()}
    network = BLUEPRINT.build(dataset.device, state).train()
    norms = {name: tensor.to(dataset.device) for name, tensor in far_norms(initial).items()}
    optimizer = sgd(network, 0.0, RECIPE.momentum, RECIPE.weight_decay)
    on_device = {name: mask.to(dataset.device) for name, mask in masks.items()}
    step = make_train_step(network, optimizer, on_device, norms)
    losses = []
    for epoch in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (epoch + 1)
        for drawn, alpha in zip(draw_epoch(dataset, BATCH_SIZE, epoch), alphas(dataset.device), strict=True):
            losses.append(step(*make_batch(dataset, *drawn), alpha)[0].item())
    return losses, network.state_dict()


def assert_trains_as_the_readable_step(trainer: SubnetworkTrainer) -> None:
    """To the last bit, and in a second stage too: nothing of the first is left, neither momentum, masks nor ψ_init."""
    for seed in (1, 2):
        begin(trainer, seed)
        losses, expected = readable_training(seed)
        assert train(trainer) == losses
        assert_equal_states(trainer.network.state_dict(), expected)
        assert_masked(trainer, seed)


def two_positions(build: Callable, speed: Speed, size: int = 4, device: str = "cpu") -> tuple[list, nn.Module]:
    """Measure two networks in turn, each twice, by one meter in batches of 8, the last one of 4; what it found, and
    its own network."""
    torch.manual_seed(0)
    states, dataset = [build().state_dict() for _ in range(2)], toy_dataset(count=20, size=size).to(device)
    meter = PositionMeter(build(), dataset, 8, speed=speed)
    measured = [evaluation for state in (*states, *states) for evaluation in meter.measure(state)]
    return [evaluation for evaluation in measured if evaluation is not None], meter.network


def assert_positions_as_readable(build: Callable, speed: Speed, size: int = 4) -> int:
    """To rounding. Nothing of one position is left in the next, and nothing is dropped. Returns how many passes a
    position takes: one without batch norm, else two."""
    measured, network = two_positions(build, speed, size)
    passes = len(measured) // 4
    assert measured[: 2 * passes] == measured[2 * passes :]
    assert measured[:passes] != measured[passes : 2 * passes]
    expected, readable = two_positions(build, Speed(), size)
    for ours, theirs in zip(measured, expected, strict=True):
        assert (ours.accuracy, ours.loss) == (theirs.accuracy, pytest.approx(theirs.loss, rel=1e-4))
    for name, tensor in readable.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert all(module.momentum == 0.1 for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    return passes


def assert_masked(trainer: SubnetworkTrainer, seed: int = 1) -> None:
    for name, mask in half_masks(seed).items():
        assert torch.equal(trainer.network.get_parameter(name).cpu() == 0, ~mask), name
