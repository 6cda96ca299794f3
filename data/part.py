"""The part of a batch that one of several processes trains on."""

from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """The ``index``-th of ``count`` parts; the first ones have an image more if the batch cannot be divided equally."""

    index: int = 0
    count: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """A view of the part's rows, of which there may be none."""
        return batch.tensor_split(self.count)[self.index]


WHOLE = Part()
