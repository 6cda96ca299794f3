"""The device that a flag names."""

import os
import re

import torch


class DeviceError(ValueError):
    """A device that is not there; the message says what is."""


def choose_kernels(deterministic: bool) -> None:
    """Before the first work on a GPU: kernels that give the same bits every time, or, for each shape, the fastest."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one. Raises DeviceError, which says what is there, for a device that is not.

    A GPU becomes the process's own, on which streams and graphs are made. Convolutions keep full float32 there:
    cuDNN's default, TF32, would round every reported evaluation.
    """
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceError(f"--device {name} should be auto, cpu, cuda or cuda:1")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device
