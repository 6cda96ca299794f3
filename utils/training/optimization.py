"""The optimizers and the learning-rate schedules of the protocol (section 4.1, tables 1 and 2)."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.method.step import optimized
from utils.training.distributed import world_size

DECAY_FACTOR = 0.1
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULES = ("step", "cosine")


@dataclass(frozen=True)
class Recipe:
    """What decides a training step beside the learning rate. ``momentum`` is SGD's; ``clip_norm``: the largest norm of
    all gradients together; ``micro_batch_size``: images of a forward pass, of which a step may take several."""

    batch_size: int
    momentum: float
    weight_decay: float
    optimizer: str = "sgd"
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    micro_batch_size: int | None = None

    @property
    def forward_size(self) -> int:
        """Images of a forward pass."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size // world_size())


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Fresh, with weight decay on every trained parameter, including normalization and biases; its rate is still to be
    set. Adam adds the decay to the gradient (L2), as torch's and the paper's do; AdamW takes it off the weights."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    momentum = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    return OPTIMIZERS[recipe.optimizer](trained, lr=0.0, weight_decay=recipe.weight_decay, fused=True, **momentum)


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep the learning rate in a tensor, which a CUDA graph reads at every replay."""
    # Adam says so of every step outside a graph, such as those before a capture.
    warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        group["capturable"] = True


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """For every trained parameter, in order, what its optimizer remembers: SGD's momentum, or Adam's two moments and
    its count of steps. Nothing before the first step."""
    return [
        {name: value for name, value in optimizer.state[parameter].items() if value is not None}
        for parameter in optimized(optimizer)
    ]


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, values: Sequence[Mapping[str, Tensor]] | None = None) -> None:
    """Restore what ``optimizer_state`` returned, in place if there is something; by default, a fresh optimizer's. What
    a fresh one lacks is set to zero, from which every optimizer goes on as from nothing.

    Raises ValueError if the values belong to another network.
    """
    parameters = optimized(optimizer)
    pairs = list(zip(parameters, values or [{}] * len(parameters), strict=True))
    for parameter, saved in pairs:
        for name, value in saved.items():
            if value.shape not in (parameter.shape, ()):
                raise ValueError(f"a {name} of {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
    for parameter, saved in pairs:
        state = optimizer.state[parameter]
        for name in state.keys() - saved.keys():
            state[name].zero_()
        for name, value in saved.items():
            if name not in state:
                # In the parameter's own memory format, which fused optimizers rely on; a count of steps has no format.
                like = parameter if value.shape == parameter.shape else value.to(parameter.device)
                state[name] = torch.empty_like(like)
            state[name].copy_(value)


# A schedule is a list of learning rates, one per epoch; the paper's for the warm-up and the levels is a constant.


def final_rates(schedule: str, lr: float, epochs: int, decays_at: Sequence[float] | None) -> list[float]:
    """The schedule of a final training."""
    return cosine_rates(lr, epochs) if schedule == "cosine" else decayed_rates(lr, epochs, decays_at)


def decayed_rates(lr: float, epochs: int, decays_at: Sequence[float]) -> list[float]:
    """Divided by ten after each share ``decays_at`` of the epochs (section 4.1); a single epoch has the full rate."""
    return [lr * DECAY_FACTOR ** sum(epoch >= share * epochs for share in decays_at) for epoch in range(epochs)]


def cosine_rates(lr: float, epochs: int) -> list[float]:
    """Half a cosine from ``lr`` towards 0 (ImageNet, and Gem-Miner's search)."""
    return [lr * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]


def ramp(rate: float, epoch: int, steps: int, ramp_epochs: int) -> list[float]:
    """The learning rate of each of an epoch's ``steps``: within a stage's first ``ramp_epochs`` it rises linearly from
    0, after which it is ``rate``."""
    return [rate * min(1.0, (epoch * steps + step) / max(1, ramp_epochs * steps)) for step in range(1, steps + 1)]
