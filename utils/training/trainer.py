"""A network with its optimizer and its step, trained for one stage after the other.

A job makes it once and fills it again for every stage, because a compiled or captured step goes on reading the same
memory.
"""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from data.batches import EVALUATION_BATCH_SIZE, evaluation_batches, make_batch
from data.dataset import Dataset
from utils.method.gem_miner import GemMiner, make_search_step
from utils.method.network import Blueprint, State
from utils.method.pruning import Masks, apply_masks
from utils.method.step import TrainStep, make_train_step
from utils.training.devices import Speed
from utils.training.evaluation import Evaluation, evaluate
from utils.training.fast_path import accelerate, captured, captured_step, choose_layout, explaining, in_tf32
from utils.training.optimization import reset_momenta, sgd


class Trainer:
    """``step(chosen, drawn, alpha)`` trains on a batch that ``data.batches.draw_epoch`` drew; ``predict`` gives the
    network's outputs for evaluations. Images are in the memory order ``layout``; ``dataset`` is on the device that
    trains."""

    def __init__(
        self, network: nn.Module, dataset: Dataset, batch_size: int, momentum: float, weight_decay: float, speed: Speed
    ):
        self.dataset, self.batch_size, self.speed, self.device = dataset, batch_size, speed, dataset.device
        self.layout = choose_layout(network, speed, self.device)
        self.network = network.to(memory_format=self.layout)
        self.optimizer = sgd(network, 0.0, momentum, weight_decay)  # every stage sets its own rate
        step_on_batch = self._make_step()

        def step(chosen: Tensor, drawn: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
            return step_on_batch(*make_batch(dataset, chosen, drawn, self.layout), alpha)

        step = explaining(in_tf32(step, speed))
        self.step = captured_step(step, speed, network, self.optimizer, batch_size)
        self.predict = captured(network, speed, EVALUATION_BATCH_SIZE)

    def evaluate(self) -> Evaluation:
        """On the test images. Raises TrainingError."""
        batches = evaluation_batches(self.dataset, self.dataset.test, self.layout)
        return evaluate(self.network, batches, self.predict)

    def _make_step(self) -> TrainStep:
        raise NotImplementedError

    @property
    def _accelerate(self):
        return partial(accelerate, speed=self.speed, device=self.device, batch_size=self.batch_size)


class SubnetworkTrainer(Trainer):
    """Trains θ ⊙ m with ψ interpolated with ψ_init; α = 1 is ordinary training, to the last bit. Only the parameters
    ``trained`` change (all, by default)."""

    def __init__(
        self,
        blueprint: Blueprint,
        dataset: Dataset,
        batch_size: int,
        momentum: float,
        weight_decay: float,
        speed: Speed,
        trained: Iterable[str] = (),
    ):
        network = blueprint.build(blueprint.initialize(0), {}, dataset.device)
        trained = frozenset(trained or blueprint.learnable)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
        self.pruned = blueprint.scored  # every weight that any method prunes
        self.norms = blueprint.norms
        super().__init__(network, dataset, batch_size, momentum, weight_decay, speed)

    def _make_step(self) -> TrainStep:
        weights = {name: self.network.get_parameter(name) for name in self.pruned}
        # On a GPU as numbers in the weights' own memory order: then one kernel masks all weights, not one each.
        dtype = None if self.device.type == "cuda" else torch.bool
        self.masks = {
            name: torch.ones_like(weight, dtype=dtype, requires_grad=False) for name, weight in weights.items()
        }
        norms = {name: self.network.get_parameter(name) for name in self.norms}
        self.initial_norms = {name: torch.zeros_like(norm, requires_grad=False) for name, norm in norms.items()}
        return make_train_step(self.network, self.optimizer, self.masks, self.initial_norms, self._accelerate)

    @torch.no_grad()
    def begin(self, state: Mapping[str, Tensor], masks: Masks, initial_norms: State | None = None) -> None:
        """Fill in θ ⊙ m and ψ_init, with fresh momentum. A weight without a mask survives; ψ_init may be left out if
        α is always 1."""
        self.network.load_state_dict(state)
        for name, kept in self.masks.items():
            kept.copy_(masks[name]) if name in masks else kept.fill_(1)
        for name, tensor in (initial_norms or {}).items():
            self.initial_norms[name].copy_(tensor)
        apply_masks([self.network.get_parameter(name) for name in self.masks], list(self.masks.values()))
        reset_momenta(self.optimizer)


class SearchTrainer(Trainer):
    """Gem-Miner's search over the weights of one initialization."""

    def __init__(
        self, blueprint: Blueprint, state: State, penalty: float, dataset: Dataset, batch_size: int, momentum: float,
        speed: Speed,
    ):  # fmt: skip
        self.penalty = penalty
        miner = GemMiner(blueprint.build(state, {}, dataset.device), blueprint.scored, seed=0)
        super().__init__(miner, dataset, batch_size, momentum, 0.0, speed)

    def _make_step(self) -> TrainStep:
        return make_search_step(self.network, self.optimizer, self.penalty, self._accelerate)

    def begin(self, state: State, seed: int) -> None:
        """Draw new scores from ``seed``, with fresh momentum."""
        self.network.network.load_state_dict(state)
        self.network.start(seed)
        reset_momenta(self.optimizer)
