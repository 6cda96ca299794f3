"""What a stage trains: a network with optimizer, masks and step, made once and filled for one stage after the other
where the step is expensive to make."""

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
    Graphed,
    Speed,
    accelerate,
    choose_layout,
    explaining,
    graphed_step,
    in_tf32,
)
from utils.optimization import rate_tensor, reset_momenta, sgd
from utils.pruning import Masks, apply_masks
from utils.training import TrainStep, make_train_step


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
    network's outputs for evaluations. ``masks`` and ``initial_norms`` (ψ_init for AWS, else none) are on its device."""

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
    """Makes the subnetworks that a job's stages train. ``dataset`` lies on the device that they train on."""

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
        kind = (tuple(masks), tuple(initial_norms), trained)
        if kind == self.kind and self.speed.builds_once:
            self._fill(self.trainee, state, masks, initial_norms)
        else:
            self.trainee = None  # its memory first: a job goes from one kind to the next and never back
            self.kind, self.trainee = kind, self._make(state, masks, initial_norms, trained)
        return self.trainee

    def _make(self, state, masks, initial_norms, trained) -> Trainee:
        network = self.blueprint.build(state, masks, self.device)
        layout = choose_layout(network, self.speed, self.device)
        network.to(memory_format=layout)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
        recipe, speed = self.recipe, self.speed
        optimizer = sgd(network, recipe.lr, recipe.momentum, recipe.weight_decay)
        masks = {name: self._lay_out(mask, network.get_parameter(name)) for name, mask in masks.items()}
        initial_norms = {name: tensor.to(self.device, copy=True) for name, tensor in initial_norms.items()}
        accelerated = partial(accelerate, speed=speed, device=self.device, batch_size=recipe.batch_size)
        step = make_train_step(network, optimizer, masks, initial_norms, accelerated)
        step = in_tf32(drawn_step(step, self.dataset, layout), speed)
        step = explaining(step) if speed.compile else step
        if speed.cuda_graph:
            rate_tensor(optimizer, self.device)
            step = graphed_step(step, network, optimizer, recipe.batch_size)
        predict = Graphed(network, EVALUATION_BATCH_SIZE) if speed.cuda_graph else network
        return Trainee(network, optimizer, step, masks, initial_norms, predict)

    def _lay_out(self, mask: Tensor, weight: Tensor) -> Tensor:
        """On a GPU as numbers in the weight's own order in memory: one kernel then masks all weights, not one each."""
        if self.device.type == "cuda":
            return torch.empty_like(weight, requires_grad=False).copy_(mask)
        return mask.to(self.device, copy=True)

    @torch.no_grad()
    def _fill(self, trainee: Trainee, state, masks, initial_norms) -> None:
        """In place: a compiled or captured step goes on reading the same memory."""
        trainee.network.load_state_dict(state)
        for kept, given in ((trainee.masks, masks), (trainee.initial_norms, initial_norms)):
            for name, tensor in given.items():
                kept[name].copy_(tensor)
        apply_masks([trainee.network.get_parameter(name) for name in masks], list(trainee.masks.values()))
        reset_momenta(trainee.optimizer)
