"""Measuring positions: a network that is filled with the weights of one after the other, and two passes through it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from data.augmentation import Augmentation
from data.batches import EVALUATION_BATCH_SIZE, draw_epoch, evaluation_batches, make_batch, training_batches
from data.dataset import Dataset
from utils.method.step import Batches, count_correct
from utils.seeding import derive_seed
from utils.training.batch_statistics import SummedStatistics, reestimate_batch_statistics
from utils.training.devices import Speed
from utils.training.evaluation import Evaluation, Tally, evaluate
from utils.training.fast_path import captured, choose_layout, compiled, explaining


class PositionMeter:
    """Errors of one kind of network on one data set, for any weights, with batch-norm statistics of their own.

    The network is filled in place, so that what was compiled or captured for it serves every position of every path.
    ``speed`` is float32's: errors on a path are compared with reported ones.
    """

    def __init__(
        self, network: nn.Module, dataset: Dataset, batch_size: int, augment: bool = True, speed: Speed | None = None
    ):
        speed = speed or Speed()
        device = dataset.mean.device
        self.network = network.to(device, memory_format=choose_layout(network, speed, device))
        self.dataset, self.batch_size, self.augment, self.speed = dataset, batch_size, augment, speed
        # The same images in the same order at every position, so that positions differ in nothing but α; a random
        # order, because the statistics of a batch from a set that is sorted by class are those of a class.
        self.seen = dataset if augment else replace(dataset, augmentation=Augmentation())
        self.order_seed = derive_seed(0, "error barrier")
        self.statistics = SummedStatistics(self.network)
        self.gather = _gathering(self.network, self.statistics, self.seen, batch_size, speed)
        self.predict = captured(_forward(self.network, speed, EVALUATION_BATCH_SIZE), speed, EVALUATION_BATCH_SIZE)

    def measure(self, state: Mapping[str, Tensor]) -> tuple[Evaluation, Evaluation]:
        """On the training images, under each batch's statistics, and on the test images, under those of all batches:
        one forward pass over each, whatever statistics ``state`` holds."""
        self.network.load_state_dict(state)
        if self.speed.compile or self.speed.cuda_graph:
            training = self._gather_statistics()
        else:
            batches = training_batches(self.seen, self.batch_size, self.order_seed)
            training = pass_with_own_statistics(self.network, batches)
        return training, self._evaluate()

    def evaluate(self, state: Mapping[str, Tensor]) -> Evaluation:
        """On the test images, with the statistics that ``state`` holds."""
        self.network.load_state_dict(state)
        return self._evaluate()

    def _evaluate(self) -> Evaluation:
        return evaluate(self.network, evaluation_batches(self.dataset, self.dataset.test), self.predict)

    def _gather_statistics(self) -> Evaluation:
        tally = Tally(self.dataset.mean.device)
        with self.statistics.gathering():
            for chosen, drawn in draw_epoch(self.seen, self.batch_size, self.order_seed):
                tally.add(*self.gather(chosen, drawn), len(chosen))
        return tally.evaluation()


def _forward(network: nn.Module, speed: Speed, batch_size: int) -> Callable[[Tensor], Tensor]:
    forward = explaining(compiled(network, speed, batch_size))
    layout = choose_layout(network, speed, next(network.parameters()).device)
    return lambda images: forward(images.contiguous(memory_format=layout))


def _gathering(
    network: nn.Module, statistics: SummedStatistics, seen: Dataset, batch_size: int, speed: Speed
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """``(chosen, drawn) -> (loss, correct)`` of a batch of training images, whose statistics are added."""
    forward = _forward(network, speed, batch_size)

    def gather(chosen: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = make_batch(seen, chosen, drawn)
        outputs = forward(images)
        statistics.add()
        return F.cross_entropy(outputs, labels), count_correct(outputs, labels)

    @contextmanager
    def keeping() -> Iterator[None]:
        yield
        statistics.start()  # a capture comes with the first batch

    return captured(gather, speed, batch_size, keeping)


def pass_with_own_statistics(network: nn.Module, batches: Batches) -> Evaluation:
    """Loss and error of a network whose batch-norm statistics are estimated on the way, by one forward pass.

    They are therefore under each batch's own statistics, as a training's are; nothing is dropped.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return evaluate(network, batches)
    tally = Tally(next(network.parameters()).device)
    labels_of_pass: list[Tensor] = []

    def remember_labels() -> Iterator[Tensor]:
        for images, labels in batches:
            labels_of_pass.append(labels)
            yield images

    def count_outputs(module: nn.Module, inputs: tuple, outputs: Tensor) -> None:
        tally.add_outputs(outputs, labels_of_pass.pop())

    hook = network.register_forward_hook(count_outputs)
    try:
        reestimate_batch_statistics(network, remember_labels())
    finally:
        hook.remove()
    return tally.evaluation()
