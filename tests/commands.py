"""The programs run as a user runs them, and what they leave compared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import main

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PROJECT = Path(__file__).parent.parent

# A whole job in a second or two: 100 real images, one epoch of warm-up, two levels.
TINY_JOB = (
    "--dataset digits --arch resnet20 --train-images-per-class 10 --batch-size 32 --device cpu "
    "--warmup-epochs 1 --levels 2 --level-epochs 2 --final-epochs 2"
).split()


def run_in_process(runs: Path, *flags: str) -> Path:
    """Run main.py's job here, without the seconds that a new process takes to import torch; returns the run folder."""
    args = main.parse_arguments([*TINY_JOB, "--runs-dir", str(runs), *flags])
    main.run_job(args)
    return runs / args.name


def command(*arguments, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Run a command and wait for it; its scripts use this Python."""
    return subprocess.run(
        list(map(str, arguments)),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env=os.environ | {"PYTHON": sys.executable, "CHECKED_PYTHON": "", "PATH": with_this_python()} | environment,
    )


def with_this_python() -> str:
    """A PATH on which ``python`` and ``python3`` are the ones that run the tests."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def main_program(*flags) -> subprocess.CompletedProcess:
    return command(sys.executable, PROJECT / "main.py", *flags)


def networks(run: Path) -> dict[str, dict]:
    """Every network of a run by its stage."""
    return {str(path.parent.relative_to(run)): torch.load(path, weights_only=True) for path in run.rglob("network.pt")}


def assert_same_networks(ours: Path, expected: Path) -> None:
    ours, expected = networks(ours), networks(expected)
    assert ours.keys() == expected.keys()
    for stage in expected:
        for part in ("model", "masks", "initial_norms"):
            assert ours[stage][part].keys() == expected[stage][part].keys()
            for name, tensor in expected[stage][part].items():
                assert torch.equal(ours[stage][part][name], tensor), f"{stage}: {name}"
        assert ours[stage]["result"] == expected[stage]["result"]


def assert_one_line_error(result: subprocess.CompletedProcess, *expected: str) -> None:
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for text in expected:
        assert text in result.stderr
