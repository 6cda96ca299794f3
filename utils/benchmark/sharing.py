"""Several trainings at once on one device, each in a process of its own."""

import os
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

import torch
from torch.multiprocessing.spawn import ProcessException, spawn

from utils.benchmark.arms import STEP_SPEEDS, OurTraining
from utils.benchmark.measure import clock, failed_row
from utils.benchmark.workload import BATCH_SIZE, Workload, random_dataset
from utils.errors import UserError
from utils.training.devices import choose_device

FASTEST = {"cuda": "graph", "cpu": "kept memory"}  # of the arms that are the default there


def share_device(workload: Workload, counts: Sequence[int], seconds: float) -> Iterator[dict]:
    """For each count, a row with the images a second of so many processes at once, also as multiples of the first
    row's. If one process fails, its row is the last one."""
    first, context = None, get_context("spawn")
    for count in counts:
        arm, ready, results = f"{count} at once", context.Barrier(count), context.SimpleQueue()
        try:
            spawn(train_for_a_while, (workload, count, seconds, ready, results), count)
        except ProcessException as error:  # the others have been ended
            reason = str(error).strip().splitlines()[-1]
            yield failed_row(arm, UserError(f"one of {count} trainings at once failed ({reason}): try fewer"))
            return
        start_ups, speeds = zip(*[results.get() for _ in range(count)], strict=True)
        first = first or sum(speeds)
        yield {
            "arm": arm,
            "images a second, all": f"{sum(speeds):,.0f}",
            f"times {counts[0]}": f"{sum(speeds) / first:.2f}",
            "slowest start-up s": f"{max(start_ups):.1f}",
        }


def train_for_a_while(
    index: int, workload: Workload, count: int, seconds: float, ready: Barrier, results: SimpleQueue
) -> None:
    """One process: gives its start-up seconds, and its images a second from when all processes are ready."""
    if "OMP_NUM_THREADS" not in os.environ:  # the processor's threads are shared out, as in script/run_commands.sh
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // count))
    device = choose_device(str(workload.device))
    warm_up, burst = (50, 20) if device.type == "cuda" else (1, 1)  # the host waits only after a burst
    random_dataset(workload.size, workload.images)  # made before the clock starts
    started = clock(device)
    training = OurTraining(workload, STEP_SPEEDS[device.type][FASTEST[device.type]])
    for _ in range(warm_up):
        training()
    start_up = clock(device) - started
    ready.wait()
    steps, started = 0, clock(device)
    while (elapsed := clock(device) - started) < seconds:
        for _ in range(burst):
            training()
        steps += burst
    results.put((start_up, BATCH_SIZE * steps / elapsed))
