"""How fast training is, part by part: the plain step, then data on the device, precision, layout, compilation, graph.

    python benchmark.py mobilenetv2 shufflenet          # on CUDA where there is one, else what makes sense on a CPU
    python benchmark.py mobilenetv2 --share 1 2 4       # several trainings at once on the one device
    python benchmark.py mobilenetv2 --positions         # a position of an error barrier against its bare passes

The arms alternate in one process, on random images; a ratio is the plain step's time over the arm's in the same round.
"Plain" is how existing implementations train (utils/plain_training.py).
"""

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch
import torch._dynamo
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache

from data import DATASETS, Dataset
from data.batches import count_batches, draw_epoch, evaluation_batches, training_batches
from data.dataset import LabelledImages
from models import ARCHITECTURES
from utils.blueprint import Blueprint
from utils.devices import DeviceError, choose_device, choose_kernels
from utils.errors import exit_status, one_line, refuse
from utils.fast_path import Speed
from utils.plain_training import PlainTraining
from utils.position import PositionMeter
from utils.results import markdown_table
from utils.run_folder import write_csv
from utils.trainee import Recipe, Trainees
from utils.training import TrainingError, evaluate

PAPER_NETWORKS = ("resnet50", "mobilenetv2", "shufflenet", "efficientnet")
CLASSES = {32: 100, 64: 200}
EPOCH_IMAGES = {32: 50_000, 64: 100_000}
TEST_IMAGES = 10_000
# Seconds of an epoch in which every activation crosses the memory's bus once in bf16, at 4.3 TB/s.
BYTE_FLOORS = {
    ("resnet50", 32): 0.82, ("resnet50", 64): 6.2, ("mobilenetv2", 32): 0.33, ("mobilenetv2", 64): 2.6,
    ("shufflenet", 32): 0.21, ("efficientnet", 32): 0.13, ("efficientnet", 64): 0.95,
}  # fmt: skip
FLOORS_BANDWIDTH = 4.3e12
FAILURES = (TrainingError, DeviceError, torch.OutOfMemoryError)  # of one arm, which stop no other
FASTEST = {"cuda": "graph", "cpu": "layout"}  # of what is the default there
DETERMINISTIC = "deterministic"
RECIPE = Recipe(lr=0.01, momentum=0.9, weight_decay=5e-4, batch_size=128)
COLUMNS = (
    *("network", "arm", "ms a step", "images a second", "times plain", "range", "n", "epoch s", "of byte floor"),
    *("peak GB with start-up", "start-up s", "start-up again s"),
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = partial(refuse, parser)
    parser.add_argument("arch", nargs="*", choices=[*ARCHITECTURES, []], help="networks (default: the paper's four)")
    parser.add_argument("--size", type=int, choices=CLASSES, default=32, help="pixels (default: 32)")
    parser.add_argument("--images", type=int, help="training images (default: a data set's on CUDA, 512 on a CPU)")
    parser.add_argument("--rounds", type=int, default=7, help="n: how often the arms alternate (default: 7)")
    parser.add_argument("--steps", type=int, help="steps of an arm in a round (default: 100 on CUDA, 1 on a CPU)")
    workers = min(4, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=workers, help="processes of the plain arm's data loader")
    parser.add_argument("--arms", nargs="+", help="only these, and the first one (default: all that the device has)")
    parser.add_argument(
        "--share", type=int, nargs="+", metavar="N", help="instead: N trainings of the fastest arm at once"
    )
    parser.add_argument("--positions", action="store_true", help="instead: positions of error barriers")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement with --share (default: 20)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--out", type=Path, help="CSV file of the results")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.arch = args.arch or list(PAPER_NETWORKS)
    if args.images is not None and args.images < RECIPE.batch_size:
        parser.error(f"--images should be a batch at least, {RECIPE.batch_size}")
    return args


# ---------------------------------------------------------------------------------------------------------------------
# The arms
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """What is trained, on which device."""

    arch: str
    dataset: Dataset  # on the CPU
    device: torch.device
    workers: int

    @property
    def blueprint(self) -> Blueprint:
        return Blueprint(self.arch, self.dataset.name, self.dataset.classes, self.dataset.channels)

    def network(self) -> nn.Module:
        return self.blueprint.build(self.blueprint.initialize(0), {}, self.device)

    def masks(self) -> dict[str, Tensor]:
        """A tenth of the weights, at random."""
        generator = torch.Generator().manual_seed(0)
        dense = self.blueprint.dense_masks()
        return {name: torch.rand(mask.shape, generator=generator) < 0.1 for name, mask in dense.items()}


def random_dataset(size: int, images: int) -> Dataset:
    """Random images with the classes, statistics and augmentation of CIFAR-100 or Tiny-ImageNet."""
    source = DATASETS["cifar100" if size == 32 else "tiny_imagenet"]
    generator = torch.Generator().manual_seed(0)

    def split(number: int) -> LabelledImages:
        pixels = torch.randint(0, 256, (number, size, size, 3), generator=generator, dtype=torch.uint8)
        return LabelledImages(pixels, torch.randint(0, CLASSES[size], (number,), generator=generator))

    mean, std = torch.tensor(source.mean), torch.tensor(source.std)
    test = split(min(TEST_IMAGES, images))
    return Dataset("random", split(images), test, CLASSES[size], mean, std, source.augmentation)


def plain_training(workload: Workload) -> PlainTraining:
    blueprint, dataset, device = workload.blueprint, workload.dataset, workload.device
    return PlainTraining(blueprint, workload.masks(), dataset, device, RECIPE.batch_size, workload.workers)


class OurTraining:
    """This project's step, on what it is told to use of the fast path."""

    def __init__(self, workload: Workload, speed: Speed):
        self.dataset = workload.dataset.to(workload.device)
        blueprint = workload.blueprint
        initial = blueprint.initialize(0)
        norms = {name: initial[name] for name in blueprint.norms}
        trainees = Trainees(blueprint, self.dataset, RECIPE, speed)
        self.trainee = trainees.subnetwork(initial, workload.masks(), norms)
        self.network, self.predict = self.trainee.network.train(), self.trainee.predict
        self.alpha = torch.tensor(0.5, device=workload.device)
        self.batches = self._endless()

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in count():
            for chosen, drawn in draw_epoch(self.dataset, RECIPE.batch_size, epoch):
                if len(chosen) == RECIPE.batch_size:
                    yield chosen, drawn

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.trainee.step(*next(self.batches), self.alpha)


def make_arms(device: torch.device) -> dict[str, Callable[[Workload], PlainTraining | OurTraining]]:
    """Each adds something to the one before; the last one on CUDA takes only kernels that give the same bits again."""
    if device.type == "cuda":
        speeds = {
            "data on device": Speed("tf32", channels_last=False),
            "precision, layout": Speed("bf16"),
            "compile": Speed("bf16", compile=True),
            FASTEST["cuda"]: Speed("bf16", compile=True, cuda_graph=True),
            DETERMINISTIC: Speed("bf16", compile=True, cuda_graph=True),
        }
    else:
        speeds = {
            "data in memory": Speed(channels_last=False),
            FASTEST["cpu"]: Speed(channels_last=True),
            "compile": Speed(channels_last=True, compile=True),
        }
    return {"plain": plain_training} | {name: partial(OurTraining, speed=speed) for name, speed in speeds.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Measurement:
    """Of one arm. ``start_up_seconds``: with nothing compiled before, and again with what PyTorch's cache then has;
    ``seconds``: of a round each; ``epoch_seconds`` with the evaluation of the test images."""

    training: PlainTraining | OurTraining
    start_up_seconds: tuple[float, float]
    peak_bytes: int
    seconds: list[float]
    epoch_seconds: float = 0.0


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def measure_arms(workload: Workload, args: argparse.Namespace) -> list[dict]:
    """Every arm is started and warmed up, then they take turns; one that cannot be started says why in its row."""
    device, cuda = workload.device, workload.device.type == "cuda"
    steps = args.steps or (100 if cuda else 1)
    measurements, failures = {}, []
    for name, make in chosen_arms(make_arms(device), device, args.arms).items():
        try:
            measurements[name] = start_arm(name, make, workload)
        except FAILURES as error:
            failures.append(failed_row(workload.arch, args, name, error))
    for _ in range(args.rounds):
        for name, measurement in measurements.items():
            choose_kernels_of(name, device)
            measurement.seconds.append(timed(partial(measurement.training.run, steps), device) / steps)
    evaluated = workload.dataset.to(device)
    for name, measurement in measurements.items():
        choose_kernels_of(name, device)
        evaluate_network(measurement.training, evaluated)  # libraries choose their kernels
        measurement.epoch_seconds = timed(partial(whole_epoch, measurement.training, evaluated), device)
    return rows_of(workload, measurements) + failures


def start_arm(name: str, make: Callable[[Workload], PlainTraining | OurTraining], workload: Workload) -> Measurement:
    device, cuda = workload.device, workload.device.type == "cuda"
    choose_kernels_of(name, device)
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_reserved(device) if cuda else 0

    def start() -> None:
        nonlocal training
        training = make(workload)
        training.run(1)

    training, start_ups = None, []
    with fresh_cache():  # PyTorch's, of compiled code; what an earlier arm compiled is not to count
        for _ in range(2):
            training = None
            torch._dynamo.reset()
            start_ups.append(timed(start, device))
        training.run(50 if cuda else 1)
    peak = torch.cuda.max_memory_reserved(device) - held if cuda else 0
    return Measurement(training, tuple(start_ups), peak, seconds=[])


def failed_row(arch: str, args: argparse.Namespace, arm: str, error: Exception) -> dict:
    return {"network": f"{arch} {args.size} px", "arm": arm, "failed": one_line(error)}


def choose_kernels_of(arm: str, device: torch.device) -> None:
    """Before each of an arm's turns: one arm's deterministic kernels are not to slow the others down."""
    if device.type == "cuda":
        choose_kernels(deterministic=arm == DETERMINISTIC)


def chosen_arms(arms: dict[str, Callable], device: torch.device, names: Sequence[str] | None) -> dict[str, Callable]:
    """Those named, and the first, which the others are compared with."""
    unknown = set(names or []) - set(arms)
    if unknown:
        raise DeviceError(f"{device} has no arm {', '.join(unknown)}: choose from {', '.join(arms)}")
    first = next(iter(arms))
    return {name: make for name, make in arms.items() if not names or name in names or name == first}


def whole_epoch(training: PlainTraining | OurTraining, dataset: Dataset) -> None:
    training.run(count_batches(len(dataset.train), RECIPE.batch_size))
    evaluate_network(training, dataset)


def evaluate_network(training: PlainTraining | OurTraining, dataset: Dataset) -> None:
    evaluate(training.network, evaluation_batches(dataset, dataset.test), training.predict)
    training.network.train()


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy on the device reads and writes."""
    source = torch.empty(2**29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 20 * 2 * len(source) / timed(lambda: [target.copy_(source) for _ in range(20)], device)


def rows_of(workload: Workload, measurements: dict[str, Measurement]) -> list[dict]:
    if "plain" not in measurements:
        return []  # there is nothing to compare with
    plain = measurements["plain"].seconds
    bytes_a_second = bandwidth(workload.device) if workload.device.type == "cuda" else None
    rows = []
    for name, measurement in measurements.items():
        step = statistics.median(measurement.seconds)
        ratios = [theirs / ours for theirs, ours in zip(plain, measurement.seconds, strict=True)]
        floor = BYTE_FLOORS.get((workload.arch, workload.dataset.image_size))
        if floor and bytes_a_second:
            images = EPOCH_IMAGES[workload.dataset.image_size]
            floor_of_step = floor * FLOORS_BANDWIDTH / bytes_a_second * RECIPE.batch_size / images
        cells = (
            f"{workload.arch} {workload.dataset.image_size} px",
            name,
            f"{1000 * step:.4g}",
            f"{RECIPE.batch_size / step:,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            len(ratios),
            f"{measurement.epoch_seconds:.3g}",
            f"{floor_of_step / step:.0%}" if floor and bytes_a_second else "",
            f"{measurement.peak_bytes / 1e9:.2f}" if measurement.peak_bytes else "",
            *(f"{seconds:.1f}" for seconds in measurement.start_up_seconds),
        )
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Positions of error barriers
# ---------------------------------------------------------------------------------------------------------------------


def make_position_arms(device: torch.device) -> dict[str, Callable[[Workload], Callable[[], object]]]:
    """Each makes a work that takes a position, or only the forward passes that a position cannot do without."""
    speeds = {"readable": Speed(), "compile": Speed(compile=True)}
    if device.type == "cuda":
        speeds["graph"] = Speed(cuda_graph=True)
        speeds["compile, graph"] = Speed(compile=True, cuda_graph=True)
    return {"bare passes": bare_work} | {name: partial(position_work, speed=speed) for name, speed in speeds.items()}


def bare_work(workload: Workload) -> Callable[[], None]:
    """A training-mode pass over the training images, and one over the test images."""
    network, dataset = workload.network(), workload.dataset.to(workload.device)

    @torch.no_grad()
    def passes() -> None:
        network.train()
        for images, _ in training_batches(dataset, RECIPE.batch_size, 0):
            network(images)
        network.eval()
        for images, _ in evaluation_batches(dataset, dataset.test):
            network(images)

    return passes


def position_work(workload: Workload, speed: Speed) -> Callable[[], object]:
    dataset = workload.dataset.to(workload.device)
    meter = PositionMeter(workload.network(), dataset, RECIPE.batch_size, speed=speed)
    return partial(meter.measure, workload.blueprint.initialize(1))


def compare_positions(workload: Workload, args: argparse.Namespace) -> list[dict]:
    device, works, first, failures = workload.device, {}, {}, []
    for name, make in chosen_arms(make_position_arms(device), device, args.arms).items():
        torch._dynamo.reset()
        with fresh_cache():
            try:
                work = make(workload)
                first[name] = timed(work, device)
                works[name] = work
            except FAILURES as error:
                failures.append(failed_row(workload.arch, args, name, error))
    seconds = {name: [] for name in works}
    for _ in range(args.rounds):
        for name, work in works.items():
            seconds[name].append(timed(work, device))
    return [position_row(workload, name, first[name], seconds) for name in works] + failures


def position_row(workload: Workload, arm: str, first: float, seconds: dict[str, list[float]]) -> dict:
    bare = next(iter(seconds.values()))
    ratios = [ours / theirs for ours, theirs in zip(seconds[arm], bare, strict=True)]
    return {
        "network": f"{workload.arch} {workload.dataset.image_size} px",
        "arm": arm,
        "s a position": f"{statistics.median(seconds[arm]):.4g}",
        "times its bare passes": f"{statistics.median(ratios):.2f}",
        "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
        "n": len(ratios),
        "the first one s": f"{first:.3g}",
    }


# ---------------------------------------------------------------------------------------------------------------------
# Several trainings at once
# ---------------------------------------------------------------------------------------------------------------------


def work_for_a_while(workload: Workload, seconds: float) -> None:
    """A worker: says when it is warm, waits for a line, trains for ``seconds``, and says its images a second."""
    make = make_arms(workload.device)[FASTEST[workload.device.type]]
    started = time.perf_counter()
    training = make(workload)
    training.run(50 if workload.device.type == "cuda" else 1)
    synchronize(workload.device)
    print(f"ready {time.perf_counter() - started:.1f}", flush=True)
    sys.stdin.readline()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        training.run(1)
        steps += 1
        if steps % 20 == 0:
            synchronize(workload.device)  # else the host would run ahead
    synchronize(workload.device)
    print(RECIPE.batch_size * steps / (time.perf_counter() - started), flush=True)


def share_device(arch: str, args: argparse.Namespace) -> Iterator[dict]:
    """Images a second of N processes at once, against those of the first N."""
    of_first = None
    for processes in args.share:
        try:
            start_ups, speeds = train_at_once(arch, processes, args)
        except DeviceError as error:
            yield failed_row(arch, args, f"{processes} at once", error)
            return
        of_first = of_first or sum(speeds)
        yield {
            "network": f"{arch} {args.size} px",
            "arm": f"{processes} at once",
            "images a second, all": f"{sum(speeds):,.0f}",
            f"times {args.share[0]}": f"{sum(speeds) / of_first:.2f}",
            "slowest start-up s": f"{max(start_ups):.1f}",
        }


def train_at_once(arch: str, processes: int, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Start-up seconds and images a second of each. Raises DeviceError where one fails."""
    command = [sys.executable, __file__, arch, "--worker", "--device", args.device, "--size", str(args.size)]
    command += ["--seconds", str(args.seconds)] + (["--images", str(args.images)] if args.images else [])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # The processor's threads are shared out, as in script/run_commands.sh.
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))} | os.environ
    workers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(processes)]
    try:
        start_ups = [float(worker.stdout.readline().split()[1]) for worker in workers]
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        return start_ups, [float(worker.communicate()[0]) for worker in workers]
    except (IndexError, ValueError, BrokenPipeError) as error:
        for worker in workers:
            worker.kill()
        raise DeviceError(f"one of {processes} trainings at once failed, see above: try fewer") from error


# ---------------------------------------------------------------------------------------------------------------------


def benchmark(args: argparse.Namespace) -> None:
    device = choose_device(args.device)
    cuda = device.type == "cuda"
    images = args.images or (EPOCH_IMAGES[args.size] if cuda else 512)
    if cuda:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read once: what the deterministic arm needs
        choose_kernels(deterministic=False)
    if args.worker:
        dataset = random_dataset(args.size, images)
        work_for_a_while(Workload(args.arch[0], dataset, device, 0), args.seconds)
        return
    chosen_arms(
        make_position_arms(device) if args.positions else make_arms(device), device, args.arms
    )  # or it says why
    name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} threads, {platform.machine()}"
    dataset = None if args.share else random_dataset(args.size, images)
    rows = []
    for arch in args.arch:
        gc.collect()  # the network before, with its graphs and its loader's processes
        try:
            rows += measure(arch, dataset, device, args)
        except FAILURES as error:
            rows.append(failed_row(arch, args, "all", error))
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_csv(args.out, [{"device": name, **row} for row in rows])
    print(f"{name}, torch {torch.__version__}, batch {RECIPE.batch_size}, an epoch of {images:,} training images")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(markdown_table(columns, [[row.get(column, "") for column in columns] for row in rows]))
    failed = sum("failed" in row for row in rows)
    if failed:
        raise DeviceError(f"{failed} of {len(rows)} measurements failed: the last column says why")


def measure(arch: str, dataset: Dataset | None, device: torch.device, args: argparse.Namespace) -> list[dict]:
    if args.share:
        return list(share_device(arch, args))
    workload = Workload(arch, dataset, device, args.workers)
    return compare_positions(workload, args) if args.positions else measure_arms(workload, args)


def main() -> int:
    args = parse_arguments()
    return exit_status("benchmark.py", partial(benchmark, args))


if __name__ == "__main__":
    sys.exit(main())
