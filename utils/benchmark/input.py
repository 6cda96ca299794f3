"""ImageNet's input alone: how many training crops a second one core makes of files, by decoder, of originals or copies.

Seconds are the processor's, so that other programs on the machine count as little as they can.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from data import DATASETS
from data.decoding import fast_decoder, shrunk
from data.image_files import Crops, Task
from data.imagenet import IMAGE_SIZE
from utils.benchmark.measure import Arm, Work, measure_arms, ratio_cells
from utils.errors import UserError

GENERATED = Path("-")  # instead of a folder
IMAGES = 128
SHORT_SIDE = 256  # of copies
AUGMENTATION = DATASETS["imagenet"].augmentation


class CoreArm(Arm):
    def timed(self, turn: Callable[[], object], repeats: int = 1) -> float:
        started = time.process_time()
        for _ in range(repeats):
            turn()
        return (time.process_time() - started) / repeats


def measure_input(folder: Path, rounds: int) -> list[dict]:
    """A row for each way to make crops of the first ``IMAGES`` JPEGs below ``folder``; they are read once before, so
    that the disk does not count. Raises UserError if there are none."""
    with TemporaryDirectory() as made, one_thread():
        originals = generate(Path(made)) if folder == GENERATED else find_jpegs(folder)
        copies = [Path(made) / f"copy_{index}" for index in range(len(originals))]
        for copy, original in zip(copies, originals, strict=True):
            copy.write_bytes(shrunk(original, SHORT_SIDE))
        return measure_arms(input_arms(originals, copies), partial(describe, len(originals)), rounds)


@contextmanager
def one_thread() -> Iterator[None]:
    """Of this process, as in a worker process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def find_jpegs(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:IMAGES]
    if not found:
        raise UserError(f"{folder} has no JPEGs: name a folder that has, or none to have some made")
    return found


def generate(folder: Path) -> list[Path]:
    """Colours of 500 x 375 pixels with noise, of about the bytes that ImageNet's files have."""
    generator, paths = np.random.default_rng(0), [folder / f"{index}.jpg" for index in range(IMAGES)]
    for path in paths:
        colours = Image.fromarray(generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(colours) + generator.normal(0, 10, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def input_arms(originals: list[Path], copies: list[Path]) -> list[Arm]:
    makers = {"torchvision": partial(plain_crops, originals)}
    for decoder, fast in (("Pillow", False), *([("torchcodec", True)] if fast_decoder() else [])):
        makers[decoder] = partial(our_crops, originals, fast)
        makers[f"{decoder}, copies of {SHORT_SIDE}"] = partial(our_crops, copies, fast)
    return [CoreArm(name, torch.device("cpu"), make) for name, make in makers.items()]


def plain_crops(paths: list[Path]) -> Work:
    """As existing implementations: torchvision's transforms of PIL images, one after the other."""
    crop = transforms.RandomResizedCrop(IMAGE_SIZE, scale=AUGMENTATION.crop_areas)
    transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])

    def make() -> Tensor:
        return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])

    return make


def our_crops(paths: list[Path], fast: bool) -> Work:
    crops, seeds = Crops(fast), count()
    names, labels = list(map(str, paths)), [0] * len(paths)
    return lambda: crops.crop(Task(names, labels, IMAGE_SIZE, AUGMENTATION, next(seeds)))


def describe(images: int, arm: Arm, first: Arm) -> dict:
    speeds = [images / seconds for seconds in arm.seconds]
    spread = f"{min(speeds):,.0f} to {max(speeds):,.0f}"
    return {
        "images a second": f"{statistics.median(speeds):,.0f}",
        "from, to": spread,
        **ratio_cells("times torchvision", first, arm),
    }
