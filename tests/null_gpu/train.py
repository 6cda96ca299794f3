"""Train ARCH at SIZE pixels on the null GPU, and print what it counted, as JSON. tests/test_null_gpu.py builds the null
GPU and starts this under it."""

import ctypes
import json
import sys

import torch
from torch._inductor import async_compile

from data.batches import draw_epoch
from utils.barriers.meter import PositionMeter
from utils.benchmark.workload import BATCH_SIZE, RECIPE, Workload
from utils.training.devices import Speed, choose_device
from utils.training.evaluation import train_one_epoch
from utils.training.trainer import SubnetworkTrainer

gpu = ctypes.CDLL(None)
FAST = Speed("bf16", compile=True, cuda_graph=True)


class CountedKernel:
    """Stands for a compiled kernel, which only a GPU's driver could load."""

    def __init__(self, name, *_, **__):
        self.name = name.encode()

    def run(self, *_, stream, **__):
        gpu.null_gpu_launch(self.name, ctypes.c_void_p(stream))


def watch(action) -> dict:
    """Launches, waits and the memory reserved, while ``action`` is done."""
    torch.cuda.reset_peak_memory_stats()
    before = gpu.null_gpu_launches(), gpu.null_gpu_waits()
    action()
    launches, waits = gpu.null_gpu_launches() - before[0], gpu.null_gpu_waits() - before[1]
    return {"launches": launches, "waits": waits, "GB": torch.cuda.max_memory_reserved() / 1e9}


def watch_training(workload: Workload) -> dict:
    """Two epochs with their evaluations, and what ends a level."""
    blueprint, dataset = workload.blueprint, workload.dataset.to(workload.device)
    initial, seen = blueprint.initialize(0), {}
    trainer = SubnetworkTrainer(blueprint, dataset, RECIPE, FAST, blueprint.learnable)
    trainer.begin(initial, workload.masks(), {name: initial[name] for name in blueprint.norms})
    alphas = torch.rand(8, device=workload.device)

    def epoch() -> None:
        batches = draw_epoch(dataset, BATCH_SIZE, 0)
        train_one_epoch(trainer.network, trainer.step, batches, alphas, lambda images: None)

    for name in ("first", "second"):
        seen[f"{name} epoch"] = watch(epoch)
        seen[f"{name} evaluation"] = watch(lambda: trainer.evaluate(roughly=True))
    for name in ("first", "second"):
        seen[f"{name} statistics"] = watch(lambda: trainer.reestimate(0))
    seen["reported evaluation"] = watch(trainer.evaluate)
    return seen


def watch_position(workload: Workload) -> dict:
    """The first one of an error barrier."""
    state = workload.blueprint.initialize(0)
    network, dataset = workload.blueprint.build(workload.device, state), workload.dataset.to(workload.device)
    meter = PositionMeter(network, dataset, BATCH_SIZE, speed=Speed(cuda_graph=True))
    return {"position": watch(lambda: meter.measure(state))}


def main(arch: str, size: str) -> None:
    workload = Workload(arch, int(size), 1000, choose_device("cuda"), workers=0)  # the last batch has 104 images
    phases = watch_training(workload)
    nodes = [gpu.null_gpu_nodes(graph) for graph in range(gpu.null_gpu_graphs())]
    torch.cuda.empty_cache()
    phases |= watch_position(workload)
    print(json.dumps({"violations": gpu.null_gpu_violations(), "nodes": nodes, "phases": phases}))


async_compile.AsyncCompile.triton = CountedKernel
async_compile.AsyncCompile.wait = lambda compiler, scope: None
if __name__ == "__main__":
    main(*sys.argv[1:])
