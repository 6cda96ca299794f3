"""A network with its optimizer and its step, trained for one stage after the other.

A job makes it once and fills it again for every stage, because a compiled or captured step goes on reading the same
memory.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from data.batches import draw_epoch, evaluation_batches, make_batch
from data.dataset import Dataset
from utils.method.gem_miner import GemMiner, freezes_after, make_search_step
from utils.method.network import Blueprint, State
from utils.method.norm_interpolation import initial_normalization
from utils.method.pruning import Masks, apply_masks
from utils.method.sign_in import SignIn
from utils.method.signed_mask import SignedMask
from utils.method.step import Accelerate, TrainStep, make_train_step
from utils.training.batch_statistics import AveragedStatistics
from utils.training.devices import Speed
from utils.training.distributed import sum_gradients
from utils.training.evaluation import Evaluation, evaluate
from utils.training.fast_path import (
    accelerate,
    captured,
    captured_step,
    choose_layout,
    explaining,
    graph_memory,
    in_tf32,
    restoring,
)
from utils.training.optimization import Recipe, make_optimizer, restore_optimizer


class Trainer:
    """``step(chosen, drawn, alpha)`` trains on a batch that ``data.batches.draw_epoch`` drew; ``predict`` gives the
    network's outputs for evaluations, and ``predict_roughly`` in TF32 if training is no float32 either. Images are in
    the memory order ``layout``; ``dataset`` is on the device that trains. ``masked``: the weights that a stage may
    mask; ``holding``: the parameters whose signs it may hold."""

    def __init__(
        self, network: nn.Module, dataset: Dataset, recipe: Recipe, speed: Speed, masked: Iterable[str] = (),
        holding: Iterable[str] = (),
    ):  # fmt: skip
        self.dataset, self.recipe, self.device = dataset, recipe, dataset.device
        self.layout = choose_layout(network, speed, self.device)
        self.network = network.to(memory_format=self.layout)
        # The stages fill these in.
        self.masks, self.initial_norms = masks_to_fill(network, masked), initial_normalization(network)
        self.held_signs = {name: torch.zeros_like(network.get_parameter(name)).detach() for name in holding}
        self.optimizer = make_optimizer(network, recipe)  # every stage sets its own rate
        step_on_batch = self._make_step(
            partial(accelerate, speed=speed, device=self.device, batch_size=recipe.forward_size)
        )

        def step(chosen: Tensor, drawn: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
            return step_on_batch(*make_batch(dataset, chosen, drawn, self.layout), alpha, len(chosen))

        step = explaining(in_tf32(step) if speed.precision == "tf32" else step)
        self.memory = graph_memory(speed)
        self.step = captured_step(step, self.memory, network, self.optimizer)
        self.predict = captured(network, self.memory)
        rough = speed.precision != "fp32" and self.device.type == "cuda"
        self.predict_roughly = captured(in_tf32(network), self.memory) if rough else self.predict

    def evaluate(self, roughly: bool = False) -> Evaluation:
        """On the test images: in float32 what is reported, ``roughly`` what is only watched. Raises DivergedError."""
        batches = evaluation_batches(self.dataset, self.dataset.test, self.layout)
        return evaluate(self.network, batches, self.predict_roughly if roughly else self.predict)

    def after_epoch(self, epochs_done: int) -> None:
        """What is to be done between two epochs: nothing."""

    @property
    def plain_network(self) -> nn.Module:
        """The network that is kept, with θ in it, if what is trained is another one around it."""
        return self.network

    def _make_step(self, accelerate: Accelerate) -> TrainStep:
        recipe = self.recipe
        return make_train_step(
            self.network, self.optimizer, self.masks, self.initial_norms, accelerate,
            recipe.label_smoothing, recipe.clip_norm, recipe.micro_batch_size, self.held_signs, sum_gradients,
        )  # fmt: skip


class SubnetworkTrainer(Trainer):
    """Trains θ ⊙ m with ψ interpolated with ψ_init; α = 1 is ordinary training, to the last bit. Only the parameters
    ``trained`` change; of those in ``holding``, a stage may hold the signs."""

    def __init__(
        self, blueprint: Blueprint, dataset: Dataset, recipe: Recipe, speed: Speed, trained: Collection[str],
        holding: Collection[str] = (),
    ):  # fmt: skip
        network, masked = network_to_train(blueprint, trained, dataset.device), blueprint.scored  # by any method
        super().__init__(network, dataset, recipe, speed, masked, holding)
        self.statistics = AveragedStatistics(self.network)
        self.gather = captured(self._gather, self.memory, partial(restoring, self.statistics.changed))

    @torch.no_grad()
    def begin(
        self, state: Mapping[str, Tensor], masks: Masks, initial_norms: State | None = None,
        held_signs: SignedMask | None = None,
    ) -> None:  # fmt: skip
        """Fill in θ ⊙ m and ψ_init, with a fresh optimizer. A weight without a mask survives; ψ_init may be left out if
        α is always 1; without ``held_signs``, every sign is free."""
        self.network.load_state_dict(state)
        for name, kept in self.masks.items():
            kept.copy_(masks[name]) if name in masks else kept.fill_(1)
        for name, tensor in (initial_norms or {}).items():
            self.initial_norms[name].copy_(tensor)
        for name, kept in self.held_signs.items():
            kept.copy_(held_signs[name]) if name in (held_signs or {}) else kept.zero_()
        apply_masks([self.network.get_parameter(name) for name in self.masks], list(self.masks.values()))
        restore_optimizer(self.optimizer)

    def reestimate(self, seed: int) -> None:
        """Batch-norm statistics of ψ at hand: AWS's running ones belong to a random α. The order of the training images
        is that of ``seed``."""
        self.statistics.estimate(draw_epoch(self.dataset, self.recipe.batch_size, seed), self.gather)

    def _gather(self, chosen: Tensor, drawn: Tensor) -> Tensor:
        images, _ = make_batch(self.dataset, chosen, drawn, self.layout)
        return self.statistics.see(images)


class SignInTrainer(Trainer):
    """Trains θ ⊙ m as the products of Sign-In, which are reset every ``reset_epochs``. Of the other parameters only
    those in ``trained`` change."""

    def __init__(
        self, blueprint: Blueprint, dataset: Dataset, recipe: Recipe, speed: Speed, trained: Collection[str],
        reset_epochs: int,
    ):  # fmt: skip
        self.reset_epochs = reset_epochs
        network = SignIn(network_to_train(blueprint, trained, dataset.device), blueprint.scored)
        masked = [f"w.{index}" for index in range(len(blueprint.scored))]
        super().__init__(network, dataset, recipe, speed, masked)

    @torch.no_grad()
    def begin(self, state: Mapping[str, Tensor], masks: Masks) -> None:
        """Fill in θ ⊙ m, which ``state`` is, with a fresh optimizer. A weight without a mask survives."""
        self.network.network.load_state_dict(state)
        self.network.start(state)
        for name, kept in zip(self.network.names, self.masks.values(), strict=True):
            kept.copy_(masks[name]) if name in masks else kept.fill_(1)
        restore_optimizer(self.optimizer)

    def after_epoch(self, epochs_done: int) -> None:
        if epochs_done % self.reset_epochs == 0:
            self.network.reset()

    @property
    def plain_network(self) -> nn.Module:
        return self.network.plain()


def network_to_train(blueprint: Blueprint, trained: Collection[str], device: torch.device) -> nn.Module:
    """A network, to be filled, of whose parameters only those in ``trained`` will change."""
    network = blueprint.build(device)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
    return network


def masks_to_fill(network: nn.Module, names: Iterable[str]) -> Masks:
    """Masks under which every one of the weights survives. On a GPU as numbers in the weights' own memory order: then
    one kernel masks all weights, not one each."""
    weights = {name: network.get_parameter(name) for name in names}
    return {
        name: torch.ones_like(weight, dtype=None if weight.device.type == "cuda" else torch.bool, requires_grad=False)
        for name, weight in weights.items()
    }


class SearchTrainer(Trainer):
    """Gem-Miner's search over the weights of one initialization, by SGD with the momentum and the batches of
    ``recipe``."""

    def __init__(self, blueprint: Blueprint, dataset: Dataset, recipe: Recipe, speed: Speed):
        self.freeze_rate, self.penalty = 0.0, torch.zeros((), device=dataset.device)
        miner = GemMiner(blueprint.build(dataset.device), blueprint.scored)
        super().__init__(miner, dataset, Recipe(recipe.batch_size, recipe.momentum, weight_decay=0.0), speed)

    def _make_step(self, accelerate: Accelerate) -> TrainStep:
        return make_search_step(self.network, self.optimizer, self.penalty, accelerate)

    def begin(self, state: State, seed: int, penalty: float, freeze_rate: float) -> None:
        """Fill in w0, λ and ρ, and draw new scores from ``seed``, with a fresh optimizer."""
        self.freeze_rate = freeze_rate
        self.penalty.fill_(penalty)
        self.network.network.load_state_dict(state)
        self.network.start(seed)
        restore_optimizer(self.optimizer)

    def after_epoch(self, epochs_done: int) -> None:
        if freezes_after(epochs_done):
            self.network.freeze_smallest(self.freeze_rate)
