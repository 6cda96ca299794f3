"""PyTorch's CUDA build on a GPU that counts instead of computing (tests/null_gpu): real dispatch, autocast, allocator,
compiler and captures, with their rules. What it cannot show is any number or time, the libraries' own workspaces, and
kernels that are chosen by speed."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.commands import PROJECT, THOROUGH, command, output_of
from utils.benchmark.__main__ import PAPER_NETWORKS

pytestmark = pytest.mark.slow
SOURCES = PROJECT / "tests" / "null_gpu"
# Kernels of a training step at batch 128, at most.
KERNELS = {"resnet20": 310, "mobilenetv2": 800, "shufflenet": 640, "efficientnet": 1000, "resnet50": 800}
SLOWEST = pytest.mark.skipif(not THOROUGH, reason="compiles for minutes; THOROUGH=1 does it")


def cuda_headers() -> Path | None:
    """Those that come with Triton, or a toolkit's."""
    places = [Path(path, "triton/backends/nvidia/include") for path in sys.path]
    places.append(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "include"))
    return next((place for place in places if (place / "cuda_runtime_api.h").exists()), None)


@pytest.fixture(scope="module")
def null_gpu(tmp_path_factory) -> Path:
    """The library, which stands for CUDA's runtime, driver, cuDNN and cuBLAS."""
    headers, folder = cuda_headers(), tmp_path_factory.mktemp("null_gpu")
    if not (torch.version.cuda and headers and shutil.which("g++")):
        pytest.skip("needs PyTorch's CUDA build, CUDA's headers and g++")
    for compiler, source in (("g++ -std=c++17", "null_gpu.cpp"), ("gcc", "nothing.c")):
        flags = ["-O1", "-fPIC", "-w", "-c", "-o", folder / f"{source}.o"]
        output_of(*compiler.split(), *flags, SOURCES / source, f"-I{headers}")
    library, parts = folder / "libcuda.so.1", [folder / "null_gpu.cpp.o", folder / "nothing.c.o"]
    output_of("g++", "-shared", "-Wl,-soname,libcuda.so.1", "-o", library, *parts)
    return library


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("resnet20", 32),
        *(pytest.param(arch, 32, marks=SLOWEST) for arch in PAPER_NETWORKS),
        pytest.param("resnet50", 64, marks=SLOWEST),
    ],
)
def test_training_on_the_null_gpu(arch, size, null_gpu):
    """Captures break no rule, an epoch waits once (for its loss and hits), a step has no more kernels than it
    had, and every phase fits on a card of 24 GB."""
    environment = {"LD_PRELOAD": str(null_gpu), "LD_LIBRARY_PATH": str(null_gpu.parent), "PYTHONPATH": str(PROJECT)}
    result = command(sys.executable, SOURCES / "train.py", arch, size, **environment)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    assert seen["violations"] == 0, result.stderr
    # Whole and last batches of a step, evaluations in TF32 and float32, whole and last batches of the statistics.
    assert len(seen["nodes"]) == 6
    assert seen["nodes"][0] <= KERNELS[arch]
    for phase, waits in {"second epoch": 1, "second evaluation": 1, "second statistics": 0}.items():
        assert seen["phases"][phase]["waits"] == waits
        assert seen["phases"][phase]["launches"] <= 16 * 8
    assert max(phase["GB"] for phase in seen["phases"].values()) < 20
