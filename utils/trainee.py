"""What a stage trains: a network with optimizer, masks and step, made once and filled for one stage after the other
where the step is expensive to make."""

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from data.batches import EVALUATION_BATCH_SIZE, make_batch
from data.dataset import Dataset
from utils.blueprint import Blueprint
from utils.fast_path import (
    CHANNELS_LAST,
    DrawnStep,
    Speed,
    accelerate,
    captured,
    captured_step,
    choose_layout,
    explaining,
    in_tf32,
)
from utils.gem_miner import GemMiner, make_search_step
from utils.optimization import reset_momenta, sgd
from utils.pruning import Masks, apply_masks
from utils.training import Accelerate, TrainStep, make_train_step


@dataclass(frozen=True)
class Recipe:
    """How every stage of a run trains (section 4.1). ``alpha_range``: of AWS's α, in the warm-up and the levels."""

    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    alpha_range: tuple[float, float] = (0.0, 1.0)
    checkpoint_seconds: float = 60.0


@dataclass(frozen=True)
class Trainee:
    """``step(chosen, drawn, alpha)`` trains on the batch that ``data.batches.draw_epoch`` drew; ``predict`` gives the
    network's outputs for evaluations. ``masks`` (of a subnetwork; Gem-Miner has none) and ``initial_norms`` (ψ_init for
    AWS, else none) are on its device."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    step: DrawnStep
    masks: Masks
    initial_norms: dict[str, Tensor]
    predict: Callable[[Tensor], Tensor]


def drawn_step(step: TrainStep, dataset: Dataset, layout: torch.memory_format = CHANNELS_LAST) -> DrawnStep:
    """The step on images and labels as one on what was drawn for them."""

    def step_on_drawn(chosen: Tensor, drawn: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = make_batch(dataset, chosen, drawn)
        return step(images.contiguous(memory_format=layout), labels, alpha)

    return step_on_drawn


class Trainees:
    """Makes what a job's stages train. ``dataset`` lies on the device that they train on."""

    def __init__(self, blueprint: Blueprint, dataset: Dataset, recipe: Recipe, speed: Speed):
        self.blueprint, self.dataset, self.recipe, self.speed = blueprint, dataset, recipe, speed
        self.device = dataset.mean.device
        self.kind: tuple | None = None  # of the trainee that is there
        self.trainee: Trainee | None = None

    def subnetwork(
        self,
        state: Mapping[str, Tensor],
        masks: Masks,
        initial_norms: Mapping[str, Tensor],
        trained: Iterable[str] | None = None,
    ) -> Trainee:
        """θ ⊙ m with fresh momentum, of which only the parameters ``trained`` are (all, by default)."""
        trained = frozenset(self.blueprint.learnable if trained is None else trained)

        def make() -> Trainee:
            return self._make_subnetwork(state, masks, initial_norms, trained)

        def fill(trainee: Trainee) -> None:
            _fill_subnetwork(trainee, state, masks, initial_norms)

        return self._kept(("subnetwork", tuple(masks), tuple(initial_norms), trained), make, fill)

    def miner(self, state: Mapping[str, Tensor], seed: int, recipe: Recipe, penalty_weight: float) -> Trainee:
        """Gem-Miner over the weights of ``state``, with scores drawn from ``seed`` and fresh momentum."""

        def make() -> Trainee:
            return self._make_miner(state, seed, recipe, penalty_weight)

        def fill(trainee: Trainee) -> None:
            trainee.network.network.load_state_dict(state)
            trainee.network.start(seed)

        return self._kept(("miner", recipe, penalty_weight), make, fill)

    def _kept(self, kind: tuple, make: Callable[[], Trainee], fill: Callable[[Trainee], None]) -> Trainee:
        """The trainee that is there, where it is of this kind and expensive to make: filled in place, because a
        compiled or captured step goes on reading the same memory. Else a new one."""
        if kind == self.kind and self.speed.builds_once:
            fill(self.trainee)
            reset_momenta(self.trainee.optimizer)
        else:
            self.kind = self.trainee = None  # its memory first: a job goes from one kind to the next and never back
            gc.collect()
            self.kind, self.trainee = kind, make()
        return self.trainee

    def _make_subnetwork(
        self, state: Mapping[str, Tensor], masks: Masks, initial_norms: Mapping[str, Tensor], trained: frozenset[str]
    ) -> Trainee:
        network = self._build(state, masks)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
        recipe = self.recipe
        optimizer = sgd(network, recipe.lr, recipe.momentum, recipe.weight_decay)
        masks = {name: self._lay_out(mask, network.get_parameter(name)) for name, mask in masks.items()}
        initial_norms = {name: tensor.to(self.device, copy=True) for name, tensor in initial_norms.items()}
        step = make_train_step(network, optimizer, masks, initial_norms, self._accelerate(recipe))
        return self._trainee(network, optimizer, step, recipe, masks, initial_norms)

    def _make_miner(self, state: Mapping[str, Tensor], seed: int, recipe: Recipe, penalty_weight: float) -> Trainee:
        miner = GemMiner(self._build(state, {}), self.blueprint.scored, seed)
        optimizer = sgd(miner, recipe.lr, recipe.momentum, recipe.weight_decay)
        step = make_search_step(miner, optimizer, penalty_weight, self._accelerate(recipe))
        return self._trainee(miner, optimizer, step, recipe, {}, {})

    def _build(self, state: Mapping[str, Tensor], masks: Masks) -> nn.Module:
        network = self.blueprint.build(state, masks, self.device)
        return network.to(memory_format=choose_layout(network, self.speed, self.device))

    def _accelerate(self, recipe: Recipe) -> Accelerate:
        return partial(accelerate, speed=self.speed, device=self.device, batch_size=recipe.batch_size)

    def _trainee(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: TrainStep,
        recipe: Recipe,
        masks: Masks,
        initial_norms: dict[str, Tensor],
    ) -> Trainee:
        """With all of the fast path around the step that is chosen."""
        speed, layout = self.speed, choose_layout(network, self.speed, self.device)
        step = in_tf32(drawn_step(step, self.dataset, layout), speed)
        step = captured_step(explaining(step), speed, network, optimizer, recipe.batch_size)

        def predict(images: Tensor) -> Tensor:
            return network(images.contiguous(memory_format=layout))

        predict = captured(predict, speed, EVALUATION_BATCH_SIZE)
        return Trainee(network, optimizer, step, masks, initial_norms, predict)

    def _lay_out(self, mask: Tensor, weight: Tensor) -> Tensor:
        """On a GPU as numbers in the weight's own order in memory: one kernel then masks all weights, not one each."""
        if self.device.type == "cuda":
            return torch.empty_like(weight, requires_grad=False).copy_(mask)
        return mask.to(self.device, copy=True)


@torch.no_grad()
def _fill_subnetwork(
    trainee: Trainee, state: Mapping[str, Tensor], masks: Masks, initial_norms: Mapping[str, Tensor]
) -> None:
    trainee.network.load_state_dict(state)
    for kept, given in ((trainee.masks, masks), (trainee.initial_norms, initial_norms)):
        for name, tensor in given.items():
            kept[name].copy_(tensor)
    apply_masks([trainee.network.get_parameter(name) for name in masks], list(trainee.masks.values()))
