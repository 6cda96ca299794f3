"""What several files of tests share: programs run in this process, nothing kept from earlier compilations."""

import os

# The tests' networks are tiny, and processes side by side would wait for each other's threads.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import sys

import pytest
import torch

from tests.commands import run_in_process


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


@pytest.fixture(scope="module")
def finished_run(request, tmp_path_factory):
    """What main.py makes of the flags JOB of a file of tests, all of which only look at it."""
    return run_in_process(tmp_path_factory.mktemp("runs"), *request.module.JOB)


@pytest.fixture
def copy_of_run(finished_run, tmp_path):
    """The same, to be changed; it lies in ``tmp_path``."""
    return shutil.copytree(finished_run, tmp_path / finished_run.name)


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
