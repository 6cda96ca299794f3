"""Measures positions: one network that is filled with the weights of one position after the other, and its passes."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from data.augmentation import Augmentation
from data.batches import draw_epoch, evaluation_batch_size, evaluation_batches, make_batch
from data.dataset import Dataset
from utils.method.step import count_correct
from utils.seeding import derive_seed
from utils.training.batch_statistics import AveragedStatistics
from utils.training.devices import Speed
from utils.training.evaluation import Evaluation, Tally, evaluate
from utils.training.fast_path import captured, choose_layout, compiled, explaining, graph_memory, restoring


class PositionMeter:
    """Errors of one kind of network on one data set, for any weights, with batch-norm statistics of their own.

    The network, which is on the data's device, is filled in place, so that what was compiled or captured for it serves
    every position of every path. ``speed`` is float32's: errors on a path are compared with reported ones.
    """

    def __init__(
        self, network: nn.Module, dataset: Dataset, batch_size: int, augment: bool = True, speed: Speed | None = None
    ):
        speed = speed or Speed()
        self.layout = choose_layout(network, speed, dataset.device)
        self.network = network.to(memory_format=self.layout)
        self.dataset, self.batch_size, self.augment = dataset, batch_size, augment
        # Every position sees the same images in the same order, so that positions differ in nothing but α. The order is
        # random, because a batch of a set that is sorted by class would have the statistics of one class.
        self.seen = dataset if augment else replace(dataset, augmentation=Augmentation())
        self.order_seed = derive_seed(0, "error barrier")
        self.statistics = AveragedStatistics(network)
        self.forward = explaining(compiled(network, speed, batch_size))
        memory = graph_memory(speed)
        self.gather = captured(self._gather, memory, partial(restoring, self.statistics.changed))
        predict = explaining(compiled(network, speed, evaluation_batch_size(dataset.image_size)))
        self.predict = captured(predict, memory)

    def measure(self, state: Mapping[str, Tensor]) -> tuple[Evaluation | None, Evaluation]:
        """On the training images, under each batch's statistics, and on the test images, under those of all batches:
        one forward pass over each, whatever statistics ``state`` has. Without batch norm there is nothing to gather:
        None, and the test images alone."""
        self.network.load_state_dict(state)
        if not self.statistics.layers:
            return None, self._evaluate()
        training = Tally(self.dataset.device)
        with self.statistics.gathering():
            for chosen, drawn in draw_epoch(self.seen, self.batch_size, self.order_seed):
                training.add(*self.gather(chosen, drawn), len(chosen))
        return training.evaluation(), self._evaluate()

    def evaluate(self, state: Mapping[str, Tensor]) -> Evaluation:
        """On the test images, with the statistics that ``state`` has."""
        self.network.load_state_dict(state)
        return self._evaluate()

    def _evaluate(self) -> Evaluation:
        return evaluate(self.network, evaluation_batches(self.dataset, self.dataset.test, self.layout), self.predict)

    def _gather(self, chosen: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and hits of a batch of training images, whose statistics are added."""
        images, labels = make_batch(self.seen, chosen, drawn, self.layout)
        outputs = self.forward(images)
        self.statistics.add()
        return F.cross_entropy(outputs, labels), count_correct(outputs, labels)
