"""The benchmark's one loop: start every arm, let the arms take turns, and compare each of them with the first one."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torch._dynamo
from torch._inductor.utils import fresh_cache

from utils.errors import UserError, one_line
from utils.training.devices import choose_kernels, keep_freed_memory

FAILURES = (UserError, torch.OutOfMemoryError)  # of one arm; the others go on
Work = Callable[[], object]  # one training step, or one position of an error barrier


@dataclass(eq=False)
class Arm:
    """One way to work, and what was measured of it. ``start_ups``: seconds until the work is made and done once, first
    with nothing compiled before, then with what PyTorch's cache has by then. ``seconds``: of the work, in each round. A
    ``deterministic`` arm uses only kernels that give the same bits every time. ``keeps_memory``: that of freed tensors,
    on the CPU."""

    name: str
    device: torch.device
    make: Callable[[], Work]
    deterministic: bool = False
    keeps_memory: bool = True
    work: Work | None = None
    start_ups: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def start(self, starts: int, cached: bool) -> None:
        """Make the work so many times, and keep the last one."""
        cuda, held = self.device.type == "cuda", 0
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            held = torch.cuda.memory_reserved(self.device)
        with nullcontext() if cached else fresh_cache():  # what an earlier arm has compiled does not count
            for _ in range(starts):
                self.work = None  # its memory is freed before the next one takes as much
                torch._dynamo.reset()
                self.start_ups.append(self.timed(self._make_and_work))
            self.timed(self.work)  # takes the most memory: the gradients of the step before are still there
        self.peak_bytes = torch.cuda.max_memory_reserved(self.device) - held if cuda else 0

    def settle(self) -> None:
        """On the CPU, whose other arms leave memory of their own behind, work once as a turn that does not count."""
        if self.device.type == "cpu":
            keep_freed_memory(self.keeps_memory)
            self.work()

    def _make_and_work(self) -> None:
        self.work = self.make()
        self.work()

    def timed(self, turn: Callable[[], object], repeats: int = 1) -> float:
        """The seconds that ``turn`` takes, on average over ``repeats``."""
        choose_kernels(self.deterministic)
        started = clock(self.device)
        for _ in range(repeats):
            turn()
        return (clock(self.device) - started) / repeats


def clock(device: torch.device) -> float:
    """The time in seconds, once the device has finished all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_arms(
    arms: Sequence[Arm], describe: Callable[[Arm, Arm], dict], rounds: int, repeats: int = 1, starts: int = 1,
    cached: bool = False,
) -> list[dict]:  # fmt: skip
    """A row for each arm: what ``describe`` says of it beside the first one, or why it failed. If the first one fails,
    no other has a row, because there is nothing to compare it with. ``cached``: arms start with what PyTorch's cache
    has from earlier processes."""
    started, failed = [], []
    for arm in arms:
        try:
            arm.start(starts, cached)
            started.append(arm)
        except FAILURES as error:
            arm.work = None
            failed.append(failed_row(arm.name, error))
    if arms[0] not in started:
        return failed
    for arm in started:
        # Not counted: an arm compiles again here if the start of a later one has made PyTorch forget what it needs.
        arm.timed(arm.work, repeats)
    for _ in range(rounds):
        for arm in started:
            arm.settle()
            arm.seconds.append(arm.timed(arm.work, repeats))
    return [{"arm": arm.name, **describe(arm, started[0])} for arm in started] + failed


def ratio_cells(title: str, over: Arm, under: Arm) -> dict:
    """Median and range of ``over``'s time divided by ``under``'s in the same round."""
    ratios = [first / second for first, second in zip(over.seconds, under.seconds, strict=True)]
    median, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return {title: f"{median:.2f}", "range": f"{low:.2f} to {high:.2f}", "n": len(ratios)}


def failed_row(arm: str, error: Exception) -> dict:
    return {"arm": arm, "failed": one_line(error)}
