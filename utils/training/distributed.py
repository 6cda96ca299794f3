"""One training in several processes, which torchrun starts, a GPU each: every process has its part of each batch, and
all of them have the same weights.

Torch's process group is the only state. Without torchrun there is none: one process does everything, and what is here
leaves everything as it is. Objects and tensors on the CPU are exchanged by gloo, those on GPUs by NCCL.
"""

import gc
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from datetime import timedelta
from secrets import token_hex
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from data.part import Part
from utils.errors import EXPECTED, INTERRUPTED, REFUSED, UserError

LONGEST_WAIT = timedelta(days=20)  # the main process may wait for a level that another job makes

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Within, the processes that torchrun started, if it did, are one job, of which only the main process prints.

    An expected error is raised in the first process that has one, which says it; the others end silently.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    store, rank, size = next(iter(rendezvous("env://")))
    store = _store_of_attempt(store, rank, size)
    dist.init_process_group(store=store, rank=rank, world_size=size, timeout=LONGEST_WAIT)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if rank else nullcontext():
            yield
    except (*EXPECTED, KeyboardInterrupt) as error:
        with suppress(RuntimeError):  # torchrun, which holds the store, may have ended too
            if store.add("ended", 1) > 1:
                sys.exit(INTERRUPTED if isinstance(error, KeyboardInterrupt) else REFUSED)
        raise
    gc.collect()  # of captured steps, whose end NCCL would wait for
    dist.destroy_process_group()


def _store_of_attempt(store: dist.Store, rank: int, size: int) -> dist.Store:
    """A part of torchrun's store for the processes that are there now. After a restart, the rest may still have the
    addresses of those that were lost: the first process names the attempt, and confirms each answer to that name."""
    own = token_hex(8)
    if rank == 0:
        store.set("attempt", own)
        for other in range(1, size):
            store.set(f"{own}/{other}/{store.get(f'{own}/{other}').decode()}", "")
        return dist.PrefixStore(own, store)
    while True:
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/{rank}", own)
        with suppress(RuntimeError):  # not confirmed: the name is an earlier attempt's
            store.wait([f"{attempt}/{rank}/{own}"], timedelta(seconds=1))
            return dist.PrefixStore(attempt, store)


def check_processes(batch_size: int, searches: bool) -> None:
    """Raises UserError if the processes cannot divide the work; ``searches``: Gem-Miner's."""
    if world_size() > 1 and searches:
        raise UserError("--method gm searches in one process: start it without torchrun")
    if batch_size % world_size():
        raise UserError(f"--batch-size {batch_size} should be a multiple of torchrun's {world_size()} processes")


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this is the one that writes files, holds locks and prints."""
    return rank() == 0


def own_part() -> Part:
    """This process's part of every batch."""
    return Part(rank(), world_size())


def own_workers(workers: int | None) -> int | None:
    """``workers`` if it is given; by default, the processes of a machine share its processors."""
    if workers is None and dist.is_initialized():
        return max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"]))
    return workers


@contextmanager
def _noticing_lost_processes(device: str = "cpu") -> Iterator[None]:
    """Within, an error of gloo's means that another process was lost. Of NCCL's, most have other reasons."""
    try:
        yield
    except RuntimeError as error:  # the only type that gloo has
        if device != "cpu":
            raise
        raise UserError(
            f"another process of this training was lost ({str(error).splitlines()[0]}): run the same command again"
        ) from error


def gather(value: T) -> list[T]:
    """Every process's value, in the order of their ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        with _noticing_lost_processes():
            dist.all_gather_object(values, value)
    return values


def from_main_process(make: Callable[[], T]) -> T:
    """What ``make`` returns in the main process, in every process."""
    made = [make() if is_main_process() else None]
    if world_size() > 1:
        with _noticing_lost_processes():
            dist.broadcast_object_list(made)
    return made[0]


def follow_main_process(items: Iterable[T]) -> Iterator[T]:
    """The main process's items, one after the other, in every process; only there are they taken."""
    left = iter(items)
    while (item := from_main_process(lambda: next(left, None))) is not None:
        yield item


@contextmanager
def main_process_first() -> Iterator[None]:
    """The others begin when the main process has done what is within, and find what it left."""
    if not is_main_process():
        gather(None)
    yield
    if is_main_process():
        gather(None)


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Add up each tensor over the processes, in place and in one message. They have one type and device; every process
    has the same bits afterwards."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _noticing_lost_processes(flat.device.type):
        dist.all_reduce(flat)
    sums = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [total.view(like.shape) for total, like in zip(sums, tensors, strict=True)])


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up the gradients over the processes. One that had no images has none, and takes part with zeros."""
    if world_size() == 1:
        return
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    sum_over_processes([parameter.grad for parameter in parameters])


def check_same_weights(what: str, remedy: str, *parts: Mapping[str, Tensor]) -> None:
    """Raises UserError, ending with ``remedy``, unless every process has the same tensors, which are on the CPU."""
    if world_size() == 1:
        return
    checksum = 0
    for tensor in (tensor for part in parts for tensor in part.values()):
        checksum = zlib.crc32(tensor.contiguous().numpy(), checksum)
    if len(set(gather(checksum))) > 1:
        raise UserError(f"{what}: the processes no longer have the same weights: use GPUs of one kind, {remedy}")
