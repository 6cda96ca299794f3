"""How fast training is, part by part: the plain step, then data on the device, precision, layout, compilation, graph.

    python -m utils.benchmark mobilenetv2 shufflenet        # on CUDA if there is a GPU, else what makes sense on a CPU
    python -m utils.benchmark mobilenetv2 --share 1 2 4     # several trainings at once on the one device
    python -m utils.benchmark mobilenetv2 --positions       # a position of an error barrier against its bare passes
    python -m utils.benchmark --input FOLDER                # ImageNet's input alone, from a folder of JPEGs
    python -m utils.benchmark mobilenetv2 --profile         # where a step's time goes, by kind of kernel

The arms alternate in one process, on random images; a ratio is the plain step's time divided by the arm's in the same
round. On a CPU, each arm works once before its turn is timed: arms share the process's free memory. "Plain" is how
existing implementations train (utils/benchmark/plain.py).
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import torch

from models import ARCHITECTURES
from utils.benchmark.arms import STEP_SPEEDS, describe_positions, describe_steps, position_arms, step_arms
from utils.benchmark.input import GENERATED, measure_input
from utils.benchmark.measure import FAILURES, failed_row, measure_arms
from utils.benchmark.profile import profile_steps
from utils.benchmark.sharing import share_device
from utils.benchmark.workload import BATCH_SIZE, CLASSES, EPOCH_IMAGES, Workload
from utils.errors import UserError, exit_status
from utils.files import write_csv
from utils.flags import COUNT, POSITIVE, RATE, make_parser, number
from utils.results.tables import markdown_table
from utils.training.devices import choose_device, device_name

PROGRAM = "python -m utils.benchmark"
PAPER_NETWORKS = ("resnet50", "mobilenetv2", "shufflenet", "efficientnet")
ARMS = dict.fromkeys(name for speeds in STEP_SPEEDS.values() for name in speeds)


def main(argv: list[str] | None = None) -> int:
    return exit_status(PROGRAM, lambda: benchmark(parse_arguments(argv)))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser(PROGRAM, __doc__)
    add = parser.add_argument
    add("arch", nargs="*", choices=[*ARCHITECTURES, []], metavar="ARCH",  # [] is what argparse takes for no name
        help=f"networks out of {', '.join(ARCHITECTURES)} (default: the paper's four)")  # fmt: skip
    add("--size", type=int, choices=CLASSES, default=32, help="of the images, in pixels")
    add("--images", type=number(int, BATCH_SIZE),
        help="training images, at least a batch (default: the data set's number on CUDA, 512 on the CPU)")  # fmt: skip
    add("--rounds", type=POSITIVE, default=7, help="n: how often the arms alternate")
    add("--steps", type=POSITIVE, help="steps of an arm in a round (default: 100 on CUDA, 1 on the CPU)")
    add("--workers", type=COUNT, default=min(4, len(os.sched_getaffinity(0))),
        help="processes of the plain arm's data loader")  # fmt: skip
    add("--share", type=POSITIVE, nargs="+", metavar="N", help="instead: N trainings of the fastest arm at once")
    add("--positions", action="store_true", help="instead: positions of error barriers")
    add("--input", type=Path, nargs="?", const=GENERATED, metavar="FOLDER",
        help="instead: ImageNet's input alone, of the JPEGs below FOLDER (default: of generated ones)")  # fmt: skip
    add("--profile", action="store_true", help="instead: the time of a step by kind of kernel")
    add("--arms", nargs="+", choices=ARMS, metavar="NAME",
        help=f"beside plain, of {', '.join(ARMS)} (default: the device's)")  # fmt: skip
    add("--cached", action="store_true", help="start once, with what PyTorch's cache has, not as a first process would")
    add("--seconds", type=RATE, default=20.0, help="of each measurement with --share")
    add("--device", default="auto", help="auto (CUDA if there is a GPU), cpu, cuda, cuda:1")
    add("--out", type=Path, help="CSV file of the results")
    return parser.parse_args(argv)


def benchmark(args: argparse.Namespace) -> None:
    if args.input:
        rows = measure_input(args.input, args.rounds)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_csv(args.out, rows)
        print(f"ImageNet's training crops, by one core of {device_name(torch.device('cpu'))}")
        return print(markdown_table(rows))
    device = choose_device(args.device)
    cuda = device.type == "cuda"
    if cuda:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what the deterministic arm needs; cuBLAS reads it only once
    images = args.images or (EPOCH_IMAGES[args.size] if cuda else 512)
    name = device_name(device) if cuda else f"{torch.get_num_threads()} threads, {device_name(device)}"
    rows = []
    for arch in args.arch or PAPER_NETWORKS:
        measured = measure(Workload(arch, args.size, images, device, args.workers), args)
        rows += [{"network": f"{arch} {args.size} px", **row} for row in measured]
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_csv(args.out, [{"device": name, **row} for row in rows])
    print(f"{name}, torch {torch.__version__}, batch {BATCH_SIZE}, an epoch of {images:,} training images")
    print(markdown_table(rows))
    failed = sum("failed" in row for row in rows)
    if failed:
        raise UserError(f"{failed} of {len(rows)} measurements failed: the last column says why")


def measure(workload: Workload, args: argparse.Namespace) -> list[dict]:
    try:
        if args.share:
            return list(share_device(workload, args.share, args.seconds))
        if args.positions:
            return measure_arms(position_arms(workload), describe_positions, args.rounds, cached=args.cached)
        if args.profile:
            return profile_steps(workload)
        steps = args.steps or (100 if workload.device.type == "cuda" else 1)
        arms, describe = step_arms(workload, args.arms), partial(describe_steps, workload)
        return measure_arms(arms, describe, args.rounds, steps, starts=1 if args.cached else 2, cached=args.cached)
    except FAILURES as error:
        return [failed_row("all", error)]


if __name__ == "__main__":
    sys.exit(main())
