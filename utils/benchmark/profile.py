"""Where a training step spends its time, by kind of kernel; on the CPU, by kind of operation."""

import re
from collections import defaultdict

from torch.profiler import ProfilerActivity, profile

from utils.benchmark.arms import STEP_SPEEDS, OurTraining
from utils.benchmark.measure import Arm
from utils.benchmark.sharing import FASTEST
from utils.benchmark.workload import Workload

WARM_UP_STEPS = {"cuda": 50, "cpu": 1}
STEPS = {"cuda": 20, "cpu": 2}
# The first pattern that a name contains decides.
KINDS = {
    "compiled pointwise": r"triton_(poi|for)|graph_\d+_cpp|cpp_fused",
    "compiled reduction": r"triton_(red|per)",
    "normalization": r"batch_?norm|bn_|layer_?norm",
    "optimizer": r"[Ff]used_?(sgd|adam|[Oo]ptim)|FusedSgd|FusedAdam",
    "convolution, matrix product": r"conv|gemm|xmma|cudnn|cutlass|nvjet|wgrad|dgrad|addmm|::mm|^mm",
    "many tensors at once": r"multi_tensor|_foreach",
    "copy": r"[Mm]em(cpy|set)|copy_|_to_copy",
}


def profile_steps(workload: Workload) -> list[dict]:
    """A row for each kind, of the fastest of the default arms: launches and microseconds a step, share of the time; the
    last row is the time in which nothing ran."""
    device, steps = workload.device, STEPS[workload.device.type]
    arm = Arm("profiled", device, lambda: None)
    training = OurTraining(workload, STEP_SPEEDS[device.type][FASTEST[device.type]])
    arm.timed(training, WARM_UP_STEPS[device.type])
    with profile(activities=[ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]) as profiler:
        microseconds = 1e6 * arm.timed(training, steps)
    launches, busy = defaultdict(int), defaultdict(float)
    for event in profiler.key_averages():
        kind = kind_of(event.key)
        launches[kind] += event.count
        busy[kind] += event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    kinds = sorted(busy, key=busy.get, reverse=True)
    rows = [(kind, f"{launches[kind] / steps:.1f}", busy[kind] / steps) for kind in kinds]
    rows.append(("gaps", "", microseconds - sum(busy.values()) / steps))
    return [
        {"kind": kind, "launches a step": count, "µs a step": f"{us:.0f}", "share %": f"{100 * us / microseconds:.1f}"}
        for kind, count, us in rows
    ]


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "other")
