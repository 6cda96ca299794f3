"""What is compared: training steps with one more part of the fast path in each arm, and positions of error barriers."""

import statistics
from collections.abc import Collection
from functools import partial
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batches import count_batches, draw_epoch, evaluation_batches, training_batches
from utils.barriers.meter import PositionMeter
from utils.benchmark.measure import Arm, Work, ratio_cells
from utils.benchmark.plain import PlainTraining
from utils.benchmark.workload import BATCH_SIZE, LR, RECIPE, Workload
from utils.training.batch_statistics import AveragedStatistics
from utils.training.devices import Speed
from utils.training.optimization import set_rate
from utils.training.trainer import SubnetworkTrainer

# Each arm adds something to the one before, but for those after CUDA's graph: what may be added to it, the layouts that
# ShuffleNet's is not in (others are channels-last anyway, or have no such groups), and it with deterministic kernels.
STEP_SPEEDS = {
    "cuda": {
        "data on device": Speed("tf32", channels_last=False),
        "precision, layout": Speed("bf16"),
        "compile": Speed("bf16", compile=True),
        "graph": Speed("bf16", compile=True, cuda_graph=True),
        "combo kernels": Speed("bf16", compile=True, cuda_graph=True, combo_kernels=True),
        "channels last": Speed("bf16", compile=True, cuda_graph=True, channels_last=True),
        "dense groups": Speed("bf16", compile=True, cuda_graph=True, channels_last=True),
        "deterministic": Speed("bf16", compile=True, cuda_graph=True),
    },
    "cpu": {
        "data in memory": Speed(channels_last=False),
        "layout": Speed(channels_last=True),
        "kept memory": Speed(channels_last=True),
        "compile": Speed(channels_last=True, compile=True),
    },
}
KEEPING_MEMORY = ("kept memory", "compile")
POSITION_SPEEDS = {"bare passes": None, "readable": Speed(), "compile": Speed(compile=True)}
CUDA_POSITION_SPEEDS = {"graph": Speed(cuda_graph=True), "compile, graph": Speed(compile=True, cuda_graph=True)}


class OurTraining:
    """This project's step on the next batch, with as much of the fast path as ``speed`` says; with ``dense_groups``,
    grouped convolutions are made dense."""

    def __init__(self, workload: Workload, speed: Speed, dense_groups: bool = False):
        dataset, blueprint = workload.dataset.to(workload.device), workload.blueprint
        initial = blueprint.initialize(0)
        self.trainer = SubnetworkTrainer(blueprint, dataset, RECIPE, speed, blueprint.learnable)
        if dense_groups:
            make_groups_dense(self.trainer.network)
        self.trainer.begin(initial, workload.masks(), {name: initial[name] for name in blueprint.norms})
        self.trainer.network.train()
        set_rate(self.trainer.optimizer, LR)
        self.alpha = torch.tensor(0.5, device=workload.device)
        epochs = (draw_epoch(dataset, BATCH_SIZE, epoch) for epoch in count())
        self.batches = (drawn for epoch in epochs for drawn in epoch if len(drawn[0]) == BATCH_SIZE)

    def __call__(self) -> None:
        self.trainer.step(*next(self.batches), self.alpha)

    def evaluate(self) -> None:
        self.trainer.evaluate(roughly=True)
        self.trainer.network.train()


def make_groups_dense(network: nn.Module) -> None:
    """Compute each pointwise convolution over several channels a group (ShuffleNet's) as one over all channels, with
    zeros between the groups: three times the products, in the layout that other convolutions have."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and 1 < module.groups < module.in_channels:
            module.forward = partial(_dense_convolution, module)


def _dense_convolution(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    groups = convolution.weight.flatten(1).chunk(convolution.groups)
    return F.conv2d(images, torch.block_diag(*groups)[:, :, None, None], convolution.bias)


def step_arms(workload: Workload, names: Collection[str] | None = None) -> list[Arm]:
    """The plain step, then all arms of the device or those ``names``."""
    arms = [Arm("plain", workload.device, partial(PlainTraining, workload), keeps_memory=False)]
    for name, speed in STEP_SPEEDS[workload.device.type].items():
        if names is None or name in names:
            make = partial(OurTraining, workload, speed, dense_groups=name == "dense groups")
            arms.append(Arm(name, workload.device, make, name == "deterministic", name in KEEPING_MEMORY))
    return arms


def describe_steps(workload: Workload, arm: Arm, plain: Arm) -> dict:
    """An arm's cells; times a whole epoch, too."""
    step = statistics.median(arm.seconds)
    arm.settle()
    return {
        "ms a step": f"{1000 * step:.4g}",
        "images a second": f"{BATCH_SIZE / step:,.0f}",
        **ratio_cells("times plain", plain, arm),
        "epoch s": f"{whole_epoch(workload, arm):.3g}",
        "of it evaluation s": f"{arm.timed(arm.work.evaluate):.3g}",
        "peak GB with start-up": f"{arm.peak_bytes / 1e9:.2f}" if arm.peak_bytes else "",
        "start-up s": f"{arm.start_ups[0]:.1f}",
        "start-up again s": f"{arm.start_ups[-1]:.1f}",
    }


def whole_epoch(workload: Workload, arm: Arm) -> float:
    """Seconds of an epoch with its evaluation."""

    def epoch() -> None:
        for _ in range(count_batches(workload.images, BATCH_SIZE)):
            arm.work()
        arm.work.evaluate()

    arm.timed(arm.work.evaluate)  # libraries choose their kernels
    return arm.timed(epoch)


def position(workload: Workload, speed: Speed | None) -> Work:
    """The measurement of a position; without a speed, only the forward passes that it cannot do without: one over the
    training images in training mode, for batch norms, and one over the test images in evaluation mode."""
    blueprint, dataset = workload.blueprint, workload.dataset.to(workload.device)
    state = blueprint.initialize(0)
    network = blueprint.build(workload.device, state)
    if speed:
        return partial(PositionMeter(network, dataset, BATCH_SIZE, speed=speed).measure, state)
    batch_norms = AveragedStatistics(network).layers

    @torch.no_grad()
    def bare_passes() -> None:
        network.train()
        for images, _ in training_batches(dataset, BATCH_SIZE, 0) if batch_norms else ():
            network(images)
        network.eval()
        for images, _ in evaluation_batches(dataset, dataset.test):
            network(images)

    return bare_passes


def position_arms(workload: Workload) -> list[Arm]:
    speeds = POSITION_SPEEDS | (CUDA_POSITION_SPEEDS if workload.device.type == "cuda" else {})
    return [Arm(name, workload.device, partial(position, workload, speed)) for name, speed in speeds.items()]


def describe_positions(arm: Arm, bare: Arm) -> dict:
    return {
        "s a position": f"{statistics.median(arm.seconds):.4g}",
        **ratio_cells("times its bare passes", arm, bare),
        "the first one s": f"{arm.start_ups[0]:.3g}",
    }
