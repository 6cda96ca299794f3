"""The programs run as a user runs them, and what they leave, made up or compared."""

import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import main
from utils.files import write_json
from utils.flags import parse_arguments
from utils.method.network import Blueprint, State
from utils.runs.records import NETWORK_FILE, RESULT_FILE
from utils.runs.run import FinalTraining

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PROJECT = Path(__file__).parent.parent
THOROUGH = os.environ.get("THOROUGH") == "1"  # minutes instead of seconds
BLUEPRINT = Blueprint("resnet20", "digits", 10, 1)

# A whole job in a second or two: 100 real images, one epoch of warm-up, two levels.
TINY_JOB = (
    "--dataset digits --arch resnet20 --train-images-per-class 10 --batch-size 32 --device cpu "
    "--warmup-epochs 1 --levels 2 --level-epochs 2 --final-epochs 2"
).split()


def run_in_process(runs: Path, *flags: str) -> Path:
    """Run main.py's job here, without the seconds that a new process takes to import torch; returns the run folder."""
    args = parse_arguments([*TINY_JOB, "--runs-dir", str(runs), *flags])
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


def output_of(*arguments, **options) -> str:
    """Of a command that ends well."""
    result = command(*arguments, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def with_this_python() -> str:
    """A PATH on which ``python`` and ``python3`` are the ones that run the tests."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def executable(path: Path, text: str) -> Path:
    """A script of this text, which begins with its interpreter."""
    path.write_text(text)
    path.chmod(0o755)
    return path


RECORDER = """#!{python} -IS
import json, sys
asked = sys.argv[1:]
if "--plan" in asked:
    place = asked.index("--plan") + 1
    with open(asked[place]) as plan, open("{folder}/plan", "w") as copy:
        copy.write(plan.read())
    asked[place] = "{folder}/plan"
with open("{folder}/recorded", "a") as file:
    print(json.dumps(asked), file=file)
"""


def recorded(folder: Path, *arguments, **options) -> list[list[str]]:
    """Run a command whose Python only notes in ``folder`` what it is asked for, with a copy of a plan that it is given;
    returns the argument lists."""
    recorder = executable(folder / "python", RECORDER.format(python=sys.executable, folder=folder))
    (folder / "recorded").write_text("")
    options |= {"PYTHON": str(recorder), "CHECKED_PYTHON": str(recorder), "PATH": f"{folder}:{os.environ['PATH']}"}
    output_of(*arguments, **options)
    asked = [json.loads(line) for line in (folder / "recorded").read_text().splitlines()]
    return [arguments[arguments.index("-m") + 1 if "-m" in arguments[:2] else 0 :] for arguments in asked]


def save_fresh_network(path: Path, blueprint: Blueprint = BLUEPRINT, **about: object) -> None:
    """A network of seed 0 of which nothing is pruned."""
    state = blueprint.initialize(0)
    norms = {name: state[name] for name in blueprint.norms}
    blueprint.save_network(path, state, blueprint.dense_masks(), norms, **{"settings": {}, "result": None} | about)


def finish(stage: Path, **result: object) -> None:
    """Make a finished stage of a made-up run: its result, and an empty file in the place of its network."""
    stage.mkdir(parents=True, exist_ok=True)
    write_json(stage / RESULT_FILE, result)
    (stage / NETWORK_FILE).write_bytes(b"")


def finish_final(
    run: Path, method: str, final: FinalTraining, accuracy: float, ratio: float = 1.0, precision: str = "fp32",
    dataset: str = "digits",
) -> None:  # fmt: skip
    """Make a finished final training of a made-up run of ResNet-20."""
    network = {"dataset": dataset, "arch": "resnet20", "method": method, "seed": final.order_seed - 1}
    result = {"remaining_ratio": ratio, "test_accuracy": accuracy, "test_error": 100 - accuracy}
    result["test_loss"] = result["test_error"] / 10
    finish(run / final.stage, kind="final", precision=precision, **network, **asdict(final), **result)


def interrupt_at(call: int, owner: object, name: str, patch: pytest.MonkeyPatch) -> list:
    """The ``call``-th call of the function is an interrupt; returns the arguments of each call, as they come."""
    function, calls = getattr(owner, name), []

    def count_and_call(*arguments, **options):
        calls.append((arguments, options))
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    patch.setattr(owner, name, count_and_call)
    return calls


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes within: what a full disk looks like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cells_of(text: str) -> list[list[str]]:
    """The cells of the lines of all tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]


def networks(run: Path) -> dict[str, dict]:
    """Every network of a run by its stage."""
    return {str(path.parent.relative_to(run)): torch.load(path, weights_only=True) for path in run.rglob("network.pt")}


def assert_equal_states(ours: State, expected: State) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name


def assert_same_networks(ours: Path, expected: Path) -> None:
    ours, expected = networks(ours), networks(expected)
    assert ours.keys() == expected.keys()
    for stage in expected:
        for part in ("model", "masks", "initial_norms"):
            assert_equal_states(ours[stage][part], expected[stage][part])
        assert ours[stage]["result"] == expected[stage]["result"]


def assert_exactly_sparse(run: Path) -> None:
    """Every pruned weight of a run's networks is exactly 0. (So may be a surviving one: some initial weights are.)"""
    for stage, content in networks(run).items():
        for name, mask in content["masks"].items():
            assert mask.dtype == torch.bool
            assert not content["model"][name][~mask].any(), f"{stage}: {name}"


def assert_refused(shown: tuple[int, str, str], *expected: str) -> None:
    """By one line that has what is expected, of a program's exit status, output and errors."""
    status, _, error = shown
    assert status == 2, error
    assert error.count("\n") == 1, error
    for text in expected:
        assert text in error
