"""What several files of tests share: programs run in this process, nothing kept from earlier compilations."""

import os

# The tests' networks are tiny, and processes side by side would wait for each other's threads.
os.environ["OMP_NUM_THREADS"] = "1"

import sys

import pytest
import torch


@pytest.fixture
def run_program(monkeypatch, capsys):
    """A program's own main in this process: exit status, output, errors."""

    def run(program, *flags):
        capsys.readouterr()  # of whatever was before
        monkeypatch.setattr(sys, "argv", [program.__file__.rpartition("/")[2], *map(str, flags)])
        try:
            status = program.main()
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


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


@pytest.fixture
def small_evaluations(monkeypatch):
    """Whole evaluation batches, which are compiled and captured, of the few images here."""
    monkeypatch.setattr("data.batches.EVALUATION_BATCH_SIZE", 8)
