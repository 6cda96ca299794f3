"""The device that a flag names."""

import os
import re

import torch


class DeviceError(ValueError):
    """A device that is not there; the message says what is."""


def choose_kernels(deterministic: bool) -> None:
    """Before the first work on a GPU: kernels that give the same bits every time, or, for each shape, the fastest."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS refuses


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one. Raises DeviceError, which says what is there, for a device that is not.

    Convolutions keep full float32 there: cuDNN's default, TF32, would round every reported evaluation.
    """
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceError(f"--device {name} should be auto, cpu, cuda or cuda:1")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device
