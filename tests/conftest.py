"""What several files of tests share: nothing kept from earlier compilations, and full float32."""

import os

# The tests' networks are tiny, and processes side by side would wait for each other's threads.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch


@pytest.fixture
def nothing_compiled():
    torch._dynamo.reset()


@pytest.fixture
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def no_code_generated(nothing_compiled, monkeypatch):
    """torch.compile makes its graphs, with their autograd, and no code of them, which would take minutes."""
    generating = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: generating(function, backend="aot_eager", **options)
    )
