"""The device that a flag names, and how fast training may be made on it."""

import ctypes
import os
import platform
import re
from dataclasses import dataclass

import torch

from utils.errors import UserError
from utils.training.distributed import world_size

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Speed:
    """How a training step is run. ``precision``: of the forward and backward pass; weights, their updates, batch-norm
    statistics and loss are float32 in all of them. ``channels_last``: the order of images and weights in memory.
    ``combo_kernels``: compiled code does what is independent, such as each weight's cast, in common kernels."""

    precision: str = "fp32"
    compile: bool = False
    cuda_graph: bool = False
    channels_last: bool | None = None  # None: as suits the network
    combo_kernels: bool = False  # no flag yet: the benchmark measures it


def choose_device(name: str, deterministic: bool = False) -> torch.device:
    """``auto`` is CUDA if there is a GPU, else the CPU; each of several processes has its own GPU. Raises UserError for
    a device that is not there.

    A GPU becomes the process's own, on which streams and graphs are made. Convolutions keep full float32 there: cuDNN's
    default, TF32, would round every reported evaluation. The CPU's kernels are deterministic as they are.
    """
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise UserError(f"--device {name} should be auto, cpu, cuda or cuda:1")
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
        return device
    if device.index is not None and world_size() > 1:
        raise UserError(f"--device {name}: each of torchrun's processes has its own GPU; choose cuda")
    own = torch.distributed.get_node_local_rank(0) if world_size() > 1 else 0
    device = torch.device("cuda", device.index or own)
    if device.index >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    torch.cuda.set_device(device)
    choose_kernels(deterministic)
    return device


# Parameters of glibc's mallopt: how much free memory it keeps, and the size from which so many blocks have memory of
# their own. The values are those at which its own adaptation ends.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
GLIBC_DEFAULTS = {M_TRIM_THRESHOLD: 64 * 2**20, M_MMAP_THRESHOLD: 32 * 2**20, M_MMAP_MAX: 65536}


def keep_freed_memory(kept: bool = True) -> None:
    """Let the process use the memory of freed tensors again. By default, glibc gives that of large ones back to the
    system, and a step on the CPU spends up to a third of its time on getting it again, page by page. The price is a
    peak that may be 1.4 times as high. Nothing happens if the C library is another one."""
    c_library = ctypes.CDLL(None)
    if not hasattr(c_library, "mallopt"):
        return
    for parameter, value in ({M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0} if kept else GLIBC_DEFAULTS).items():
        c_library.mallopt(parameter, value)
    if not kept:
        c_library.malloc_trim(0)  # gives back what is there


def choose_kernels(deterministic: bool) -> None:
    """CUDA kernels that give the same bits every time, or the fastest ones for each shape."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False


def choose_speed(
    device: torch.device, precision: str | None = None, compile: bool | None = None, cuda_graph: bool | None = None
) -> Speed:
    """What is asked for; by default all that a CUDA device supports, and the readable step on the CPU.

    Raises UserError if the device does not support what is asked for.
    """
    cuda = device.type == "cuda"
    if cuda_graph and not cuda:
        raise UserError(f"--cuda-graph needs a CUDA device, not {device}")
    if precision == "tf32" and not cuda:
        raise UserError(f"--precision tf32 needs a CUDA device, not {device}: choose fp32")
    return Speed(
        precision=precision or ("bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"),
        compile=cuda if compile is None else compile,
        cuda_graph=cuda if cuda_graph is None else cuda_graph,
    )


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
