"""What several files of tests share: programs run in this process, nothing kept from earlier compilations."""

import os

# The tests' networks are tiny, and processes side by side would wait for each other's threads.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
import sys

import pytest
import torch

from data import preprocess_tiny_imagenet
from tests.commands import PROJECT, output_of, run_in_process
from tests.fake_data import write_cifar100, write_fashion_mnist, write_tiny_imagenet


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


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what git would clone, with small data sets in the official formats where a user puts them."""
    copy = tmp_path_factory.mktemp("clone")
    for name in output_of("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=PROJECT).splitlines():
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, copy / name)
    write_cifar100(copy / "data")
    write_fashion_mnist(copy / "data")
    write_tiny_imagenet(copy / "data" / "tiny-imagenet-200.zip")
    preprocess_tiny_imagenet.prepare(copy / "data", None)
    return copy


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
