"""Images that stay on disk: worker processes read, decode and crop each batch in advance.

A batch is a function of its images' names and of a seed, both of which are sent to the workers, so it is the same
whatever their number, and an epoch can begin at any of its batches.
"""

import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as transforms

from data.augmentation import Augmentation, draw_resized_crops
from data.decoding import decode, open_image
from data.part import WHOLE, Part
from utils.errors import UserError
from utils.seeding import derive_seed

EVALUATION_SIDE = 256 / 224  # the shorter side of a test image, in sides of its central crop
NO_AUGMENTATION = Augmentation()
CPU = torch.device("cpu")
LEAD = 2  # batches that the host may be ahead of a GPU
# Not forked: a process that has used CUDA cannot be. The server imports this module once for all workers.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


class Task(NamedTuple):
    """A batch to be made, or only the images of its ``part``. ``augmentation``: random boxes and flips from ``seed``,
    or none for the central crop."""

    paths: list[str]  # of the part
    labels: list[int]  # of the whole batch
    size: int  # of the crops, in pixels a side
    augmentation: Augmentation = NO_AUGMENTATION
    seed: int = 0
    part: Part = WHOLE


class Crops(torch.utils.data.Dataset):
    """What a worker makes of a task: the crops of its part, uint8 (N, H, W, 3), and the whole batch's labels and flips,
    int64 (B, 2). An expected error is returned, because one that is raised would arrive as a traceback."""

    def __init__(self, fast: bool = True):
        self.fast = fast  # whether torchcodec may decode

    def __getitem__(self, task: Task) -> tuple[Tensor, Tensor] | Exception:
        try:
            return self.crop(task)
        except (UserError, OSError) as error:
            return error

    def crop(self, task: Task) -> tuple[Tensor, Tensor]:
        paths = [Path(path) for path in task.paths]
        images, size = [open_image(path) for path in paths], [task.size, task.size]
        flips, boxes = draw_crops(task, images)
        crops = torch.empty((len(images), *size, 3), dtype=torch.uint8)
        for crop, image, path, box in zip(crops, images, paths, boxes, strict=True):
            pixels = decode(image, path, self.fast)
            if box is None:
                pixels = transforms.resize(pixels, [round(task.size * EVALUATION_SIDE)], antialias=True)
                pixels = transforms.center_crop(pixels, size)
            else:
                pixels = transforms.resized_crop(pixels, *box, size, antialias=True)
            crop.copy_(pixels.permute(1, 2, 0))
        return crops, torch.cat([torch.tensor(task.labels)[:, None], flips], dim=1)


def draw_crops(task: Task, images: list[Image.Image]) -> tuple[Tensor, list[list[int] | None]]:
    """The whole batch's flips, int64 (B, 1), and the box of each image of the part as top, left, height, width; None is
    the central crop."""
    count = len(task.labels)
    if task.augmentation.crop_areas is None:
        return torch.zeros((count, 1), dtype=torch.int64), [None] * len(images)
    generator = torch.Generator().manual_seed(task.seed)
    sizes = torch.ones((count, 2), dtype=torch.int64)  # those of the other parts' images do not matter
    task.part.of(sizes).copy_(torch.tensor([image.size for image in images]).reshape(-1, 2))
    widths, heights = sizes.split(1, dim=1)
    boxes = draw_resized_crops(task.augmentation.crop_areas, heights, widths, generator)
    flips = torch.randint(0, 2, (count, 1), generator=generator) * task.augmentation.flip
    return flips, task.part.of(boxes).tolist()


def end_with_parent(worker: int) -> None:
    """In a worker: end when the process that it works for has ended, however it ended. Torch's own watch is on the
    server, which lives as long as the workers do."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Stream:
    """The worker processes, which serve one pass over images after the other; ``waited``: seconds in which the next
    batch was not there yet."""

    def __init__(self, workers: int | None):
        self.waited = 0.0
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self.tasks: Iterable[Task] = ()
        self.loader: DataLoader | None = None
        self.passes = 0

    def __iter__(self) -> Iterator[Task]:
        """The loader's sampler is the stream itself: its tasks are those of the pass that begins."""
        return iter(self.tasks)

    def batches(self, tasks: Iterable[Task], device: torch.device) -> Iterator[list[Tensor]]:
        """What ``Crops`` makes of each task, on the device. Raises UserError, or OSError naming a file."""
        self.tasks, self.passes = tasks, self.passes + 1
        this_pass, ahead, loaded = self.passes, deque(), iter(self._loader(device))
        while True:
            if this_pass != self.passes:
                raise RuntimeError("another pass over the images has begun")
            batch = self._wait_for(loaded)
            if batch is None:
                return
            if isinstance(batch, Exception):
                raise batch
            yield [part.to(device, non_blocking=True) for part in batch]
            if device.type == "cuda":  # else the batches of a whole epoch would pile up in memory
                ahead.append(torch.cuda.current_stream().record_event())
                if len(ahead) > LEAD:
                    ahead.popleft().synchronize()

    def _wait_for(self, loaded: Iterator) -> list[Tensor] | Exception | None:
        """The next batch, if there is one. Raises UserError if a worker was killed."""
        started = time.monotonic()
        try:
            return next(loaded, None)
        except (RuntimeError, OSError, EOFError) as error:  # the last two of a batch that was on its way
            if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
                raise
            raise UserError(
                "a process that decodes images was ended, perhaps for lack of memory or of space in /dev/shm: run the "
                "same command again, with fewer --workers if this repeats"
            ) from error
        finally:
            self.waited += time.monotonic() - started

    def _loader(self, device: torch.device) -> DataLoader:
        if self.loader is None:
            processes = {"persistent_workers": True, "multiprocessing_context": PROCESSES} if self.workers else {}
            self.loader = DataLoader(
                Crops(),
                batch_size=None,
                sampler=self,
                num_workers=self.workers,
                worker_init_fn=end_with_parent,
                pin_memory=device.type == "cuda",
                generator=torch.Generator(),  # it draws from one, and torch's global one is for dropout
                **processes,
            )
        return self.loader


@dataclass(frozen=True)
class ImageFiles:
    """Images in files: their ``names`` below ``folder``, (N,) as bytes; ``classes``, int64 (N,), and
    ``file_sizes`` in bytes, int64 (N,), on the CPU. Crops have ``image_size`` pixels a side."""

    names: np.ndarray
    classes: Tensor
    file_sizes: Tensor
    image_size: int
    folder: Path
    stream: Stream
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def labels(self) -> Tensor:
        """int64 (N,), on the device."""
        return self.classes.to(self.device)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a crop."""
        return self.image_size, self.image_size, 3

    @property
    def waited(self) -> float:
        """Seconds in which the next batch was not there yet."""
        return self.stream.waited

    def to(self, device) -> "ImageFiles":
        return replace(self, device=torch.device(device))

    def select(self, kept: Tensor) -> "ImageFiles":
        kept = kept.cpu()
        return replace(
            self, names=self.names[kept.numpy()], classes=self.classes[kept], file_sizes=self.file_sizes[kept]
        )

    def resized(self, pixels: int) -> "ImageFiles":
        """With crops of another size."""
        return replace(self, image_size=pixels)

    def checksum(self, begun: int) -> int:
        for array in (self.names, self.classes.numpy(), self.file_sizes.numpy()):
            begun = zlib.crc32(np.ascontiguousarray(array), begun)
        return begun

    def draw_epoch(
        self, augmentation: Augmentation, batch_size: int, seed: int, first: int, part: Part = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch from the ``first`` on, which has a seed of its own: the labels and flips of its images, int64
        (B, 2), and the crops of its part, uint8 (N, H, W, 3)."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).split(batch_size)
        tasks = (
            self._task(order[index], augmentation, derive_seed(seed, index), part) for index in range(first, len(order))
        )
        return ((drawn, crops) for crops, drawn in self.stream.batches(tasks, self.device))

    def make_batch(self, augmentation: Augmentation, drawn: Tensor, crops: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        """The crops of the part of one batch of ``draw_epoch``, flipped as drawn there, and their labels."""
        labels, flips = part.of(drawn).unbind(1)
        return torch.where(flips[:, None, None, None] == 1, crops.flip(2), crops), labels

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Central crops, uint8 (B, H, W, 3), and labels."""
        tasks = map(self._task, torch.arange(len(self)).split(batch_size))
        return ((crops, drawn[:, 0]) for crops, drawn in self.stream.batches(tasks, self.device))

    def _task(
        self, chosen: Tensor, augmentation: Augmentation = NO_AUGMENTATION, seed: int = 0, part: Part = WHOLE
    ) -> Task:
        paths = [f"{self.folder}/{name.decode()}" for name in self.names[part.of(chosen).numpy()]]
        return Task(paths, self.classes[chosen].tolist(), self.image_size, augmentation, seed, part)
