"""The commands that the README promises, run in a copy of the project with small data.

A new process takes seconds to import torch. So most scripts run with a ``python`` that only notes what it is asked for,
and the programs themselves then do that in this process.
"""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import calculate_error_barrier
import main
import report
from data import preprocess_tiny_imagenet
from models import build_network
from tests.commands import (
    PROJECT,
    assert_refused,
    command,
    executable,
    output_of,
    read_csv,
    recorded,
    with_this_python,
)
from utils.analysis import __main__ as analysis
from utils.benchmark import __main__ as benchmark
from utils.flags import parse_arguments
from utils.method.methods import METHODS
from utils.method.network import Blueprint
from utils.method.signed_mask import extract_signed_mask, load_signed_mask, save_signed_mask

READMES = [PROJECT / folder / "README.md" for folder in (".", "script", "utils", "utils/runs", "data")]
README = "\n".join(path.read_text(encoding="utf-8") for path in READMES)
LAUNCHERS = sorted(
    path.name for path in (PROJECT / "script").glob("*_*_*.sh") if path.name != "calculate_error_barrier.sh"
)

# What makes any launcher's job a matter of seconds.
SMALL = (
    "--warmup-epochs 1 --levels 1 --final-levels 1 --level-epochs 1 --final-epochs 1 --batch-size 8 "
    "--train-images-per-class 2 --device cpu"
).split()
BENCHMARK = "--images 128 --rounds 1 --workers 0 --seconds 1".split()
SMALLER = {"main.py": SMALL, "calculate_error_barrier.py": ["--points", "2"], "utils.benchmark": BENCHMARK}
# The same for a figure on the digits; Gem-Miner needs six epochs.
SMALL_FIGURE = {
    "SCALE": "small",
    "FLAGS": "--train-images-per-class 2 --batch-size 20 --warmup-epochs 2 --level-epochs 6 --final-epochs 1 "
    "--test-every 6",
}
PROGRAMS = {Path(program.__file__).name: program for program in (main, report, calculate_error_barrier)}
PROGRAMS |= {"preprocess_tiny_imagenet.py": preprocess_tiny_imagenet}
PROGRAMS |= {"utils.benchmark": benchmark, "utils.analysis": analysis}


@pytest.fixture
def run_here(run_program):
    """A program in this process; returns its output."""

    def run(program, *arguments):
        status, output, error = run_program(PROGRAMS[Path(program).name], *arguments)
        assert status == 0, error
        return output

    return run


@pytest.fixture
def run_listed(run_here):
    """The commands that a program lists, but for the last ``leave`` ones."""

    def run(*asked, leave=0):
        lines = run_here(*asked).strip().splitlines()
        for line in lines[: len(lines) - leave]:
            run_here(*shlex.split(line)[1:])

    return run


# Optimizer, learning rate, weight decay, batch size; levels and epochs of final trainings.
IMAGENET_RECIPES = {
    "resnet50_224": ("adam", 0.001, 1e-5, 256, [6, 7, 8, 9], 120),
    "mobilenetv2_224": ("sgd", 0.05, 5e-5, 256, [4, 5, 6, 7], 120),
    "mlpmixer_224": ("adam", 0.001, 5e-5, 512, [7, 8, 9, 10], 200),
    "vit_224": ("adamw", 0.001, 1e-4, 1024, [7, 8, 9, 10], 90),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_s_recipe(launcher):
    """Data set, network and method are its name's, everything else the protocol's."""
    listed = command("bash", PROJECT / "script" / launcher, LIST_FLAGS="1").stdout
    args = parse_arguments(shlex.split(listed))
    assert f"{args.dataset}_{args.arch.removesuffix('_224')}_{args.method}.sh" == launcher
    assert f"bash script/{launcher}" in (PROJECT / "script" / launcher).read_text()  # its usage line
    shorter = {"tiny": 8, "224": 10}  # by the end of the name
    assert args.levels == shorter.get(args.arch.rpartition("_")[2], 15)
    assert args.device == "auto"
    if args.dataset == "imagenet":
        optimization = args.optimizer, args.lr, args.weight_decay, args.batch_size
        assert (*optimization, args.final_levels, args.final_epochs) == IMAGENET_RECIPES[args.arch]
        assert (args.warmup_epochs, args.level_epochs, args.final_schedule) == (20, 5, "cosine")
        assert args.start == ["dense", "subnetwork", "signs"]
        return
    if args.method == "gm":
        assert (args.search_lr, args.lr, args.weight_decay) == (0.1, 0.01, 1e-4)
        assert args.start == ["subnetwork"]
    else:
        rates = {"mobilenetv2": ("sgd", 0.05, 5e-4), "mlpmixer": ("adam", 0.001, 5e-5), "vit": ("adamw", 0.001, 0.05),
                 "mobilenetv2_tiny": ("sgd", 0.1, 2e-3)}  # fmt: skip
        assert (args.optimizer, args.lr, args.weight_decay) == rates.get(args.arch, ("sgd", 0.1, 5e-4))
        assert args.final_schedule == ("step" if args.optimizer == "sgd" else "cosine")
        assert args.batch_size == {"mobilenetv2_tiny": 32, "mlpmixer_tiny": 64}.get(args.arch, 128)
        assert args.start[-3:] == [METHODS[args.method].solution, "signs", "mask"]
    if args.dataset != "digits" and not args.arch.endswith("_tiny"):
        assert args.final_levels == [3, 5, 7, 9, 11, 13, 15]
        classic = args.method in ("imp", "wr")
        epochs = {"gm": (0, 150, 150), "imp": (100, 100, 100), "wr": (100, 90, 100)}.get(args.method, (10, 10, 100))
        assert (args.warmup_epochs, args.level_epochs, args.final_epochs) == epochs
        assert args.pruning_schedule == ("dense" if classic else "constant")


def test_every_launcher_is_in_the_readme():
    named = re.findall(r"`((?:cifar100|tiny_imagenet|imagenet|fashion_mnist|digits)_\w+\.sh)`", README)
    assert set(named) == set(LAUNCHERS)


def plan_of(folder, project, figure, *flags, **options):
    """What a figure's script asks report.py for."""
    script = project / "script" / "paper" / f"{figure}.sh"
    (asked,) = recorded(folder, "bash", script, *flags, "--dry-run", **options)
    return [argument for argument in asked if argument != "--dry-run"]


def assert_complete(figure, project, shown):
    """The picture and the tables are there, without a gap."""
    folder = project / "runs" / "small" / "figures" / figure
    assert (folder / f"{figure}.png").stat().st_size > 10_000
    assert (folder / f"{figure}.pdf").exists()
    text = (folder / f"{figure}.md").read_text()
    assert text in shown
    assert not re.search(r"\d of \d", text)  # n is what was planned
    assert "–" not in text
    assert "missing" not in shown
    assert any((folder / "tensorboard").glob("*_*/*"))


SECOND_LEVEL = ("--levels", "2", "--barrier-levels", "2")


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["figure4", "parts", "baselines", "table2"])
def test_a_small_figure_from_nothing_to_the_picture(figure, project, tmp_path, run_here, run_listed):
    """One trial at one level."""
    asked = plan_of(tmp_path, project, figure, "--seeds", "1", *SECOND_LEVEL, **SMALL_FIGURE)
    for kind in ("runs", "barriers"):
        run_listed(*asked, "--list", kind)
    assert_complete(figure, project, run_here(*asked))


@pytest.mark.slow
def test_a_script_makes_what_its_figure_lacks(project, tmp_path, run_listed):
    """A training and a barrier. Called again, it trains and measures nothing."""
    trial = ("--seeds", "2", *SECOND_LEVEL)  # of which no other test makes a part
    asked = plan_of(tmp_path, project, "figure3", *trial, **SMALL_FIGURE)
    for kind, leave in (("runs", 1), ("barriers", 0)):
        run_listed(*asked, "--list", kind, leave=leave)
    script = ("bash", project / "script" / "paper" / "figure3.sh", *trial)
    shown = output_of(*script, **SMALL_FIGURE)
    assert "3 of 4 stages are finished" in shown  # the levels are, their final training is not
    assert_complete("figure3", project, shown)
    again = output_of(*script, **SMALL_FIGURE)
    assert shown.endswith(again)
    assert "stages are finished" not in again


@pytest.mark.slow
def test_what_a_figure_lacks_is_submitted_as_arrays(project, tmp_path):
    """To a Slurm that only notes it: two prunings and six trainings, in arrays of at most three tasks, then a job that
    draws. A task runs its line of the list."""
    for name, does in {"scontrol": "echo MaxArraySize = 4", "sbatch": f'echo "$@" >> {tmp_path}/told; echo 7'}.items():
        executable(tmp_path / name, f"#!/bin/bash\n{does}\n")
    submit = "bash script/slurm.sh script/paper/figure3.sh --seeds 3 --levels 10 -- -c 1".split()
    shown = output_of(*submit, cwd=project, **SMALL_FIGURE, PATH=f"{tmp_path}:{with_this_python()}")
    assert "submitted 8 commands (jobs 7 7 7), then the figure (job 7)" in shown
    told = (tmp_path / "told").read_text().splitlines()
    assert all("--requeue --open-mode=append" in line and " -c 1 " in line for line in told)
    assert [re.findall(r"--array=(\S+)", line) for line in told] == [["1-3"], ["1-3"], ["1-2"], []]
    assert "--dependency=afterany:7:7:7" in told[-1]
    (folder,) = (project / "runs" / "slurm").iterdir()
    assert (folder / "finish.sh").read_text().rstrip().endswith("--seeds 3 --levels 10 --finish")
    assert (folder / "commands.txt").read_text().count(" --start --share\n") == 2
    (folder / "commands.txt").write_text("".join(f"echo {number}\n" for number in range(1, 9)))
    assert output_of("bash", folder / "trainings_3.sh", SLURM_ARRAY_TASK_ID="2") == "5\n"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        # 8 networks x 3 trials: dense 100 epochs; LRR 160 + 7 levels x 3 starts x 100 + another order; AWS likewise.
        # LRR's solution with a third order is the reference of all panels of barriers.
        ("figure3", ["| 72 runs ", " 936 ", " 101,280 ", "\n48 error barriers, 0 measured", "\n24 error barriers, 0"]),
        # Two final trainings a trial: dense 1; LRR 7 levels x 3 starts x 2, and other orders of signs and solution; AWS
        # 7 x 2 x 2, and another order.
        ("figure3 --networks cifar100_mobilenetv2 --seeds 1 --finals 2",
         ["| 3 runs ", " 74 ", " 7,720 ", "\n4 error barriers, 0 measured: linear"]),
        # 4 networks x 3 trials: dense 100; LRR 160 + 7 levels x 4 starts x 100 + another order of three starts.
        ("figure2", ["| 24 runs ", " 40,320 "]),
        # 3 trials: dense 100; AWS 160 + 7 x 2 x 100; Gem-Miner 7 searches x 150 + 7 x 150.
        ("figure4", ["| 9 runs ", " 66 ", " 11,280 "]),
        # The same without barriers and with 3 starts; 3 trials: dense 100; LRR 160 + 23 x 100, AWS 160 + 15 x 100.
        ("figure5", ["| 24 runs ", " 28,320 "]),
        ("figure6", ["| 9 runs ", " 12,660 "]),
        # 2 networks x 3 trials, each at its own levels: dense 120; 20 + 9 x 5 or 20 + 7 x 5, + 4 x 2 x 120, twice.
        ("table1", ["| 18 runs ", " 102 ", " 12,960 ", "signs, level 6 7 8 9\n", "signs, level 4 5 6 7\n"]),
        # dense 200; 20 + 10 x 5 + 4 x 2 x 200, twice.
        ("table2", ["| 9 runs ", " 51 ", " 10,620 "]),
    ],
)  # fmt: skip
def test_a_figure_of_the_paper_is_planned_whole(asked, expected, tmp_path, run_here):
    shown = run_here(*plan_of(tmp_path, PROJECT, *asked.split()), "--dry-run")
    for text in expected:
        assert text in shown


def test_trials_share_no_final_seed_and_no_setting_comes_from_the_environment(tmp_path):
    script, environment = PROJECT / "script" / "paper" / "figure4.sh", {"CHECKED_PYTHON": sys.executable}
    flags = ("--list", "--networks", "digits_resnet20", "--seeds", "1 2", "--finals", "3", "--levels", "3")
    shown = output_of("bash", script, *flags, **environment)
    seeds = {(seed, own) for seed, own in re.findall(r"--seed (\d).*--start sub.* --final-seeds (\d+)", shown)}
    assert seeds == {("1", "2"), ("1", "1002"), ("1", "2002"), ("2", "3"), ("2", "1003"), ("2", "2003")}
    assert output_of("bash", script, *flags, **environment, BARRIER_LEVELS="20", PARTS="yes") == shown


def test_a_figure_s_flags_are_checked():
    figure = PROJECT / "script" / "paper" / "figure3.sh"
    for flags, scale, expected in (
        (("--seed", "1"), "", "--seed is none of --dry-run, --list, --finish, --networks, --seeds, --finals, --"),
        (("--seeds",), "", "--seeds wants a value; a list in quotes"),
        (("--finals", "0"), "", '--finals "0" should be a whole number from 1, such as 3'),
        ((), "large", "SCALE=large should be small, or not set"),
        (("--networks", "cifar100_alexnet"), "", "cifar100_alexnet has no recipe for dense"),
    ):
        result = command("bash", figure, *flags, CHECKED_PYTHON=sys.executable, SCALE=scale)
        assert result.returncode == 2, flags
        assert expected in result.stderr


def run_commands(lines, tmp_path, **environment):
    """The script fed with the lines."""
    (tmp_path / "commands").write_text("".join(f"{line}\n" for line in lines))
    script = f"bash {PROJECT / 'script' / 'run_commands.sh'} < {tmp_path / 'commands'}"
    return command("bash", "-c", script, LOGS=str(tmp_path / "logs"), **environment)


def test_commands_one_after_the_other(tmp_path):
    result = run_commands(["echo one", "exit 3", "echo $CUDA_VISIBLE_DEVICES"], tmp_path, GPUS="5")
    assert result.stdout == "one\n5\n"  # the one that failed stopped nothing
    assert result.returncode == 1


def test_commands_over_gpus(tmp_path):
    """Two on each of two GPUs at a time: four are at work before any may end, each GPU has two of them."""
    work = "echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS; until [ $(ls {logs} | wc -l) -ge 4 ]; do sleep 0.01; done"
    lines = [work.format(logs=tmp_path / "logs")] * 4 + ['echo quote "\'" $((1 + 1))', "echo why >&2; exit 3"]
    result = run_commands(lines, tmp_path, GPUS="2 7", PER_GPU="2", OMP_NUM_THREADS="")
    assert result.returncode == 1
    assert "failed 6 (status 3)" in result.stderr
    assert "why" in result.stderr
    logs = [(tmp_path / "logs" / f"{index}.log").read_text() for index in range(1, 6)]
    threads = max(1, len(os.sched_getaffinity(0)) // 4)  # the processors are shared out
    assert sorted(logs[:4]) == [f"{gpu} {threads}\n" for gpu in (2, 2, 7, 7)]
    assert logs[4] == "quote ' 2\n"


def test_the_multi_process_service_lasts_as_long_as_the_command(tmp_path):
    """Its control program is one that notes what it is told."""
    log, name = tmp_path / "told", "nvidia-cuda-mps-control"
    executable(tmp_path / name, f'#!/bin/bash\n(echo "$CUDA_MPS_PIPE_DIRECTORY" "$@"; [ $# -gt 0 ] || cat) >> {log}\n')
    script, path = PROJECT / "script" / "with_mps.sh", f"{tmp_path}:{os.environ['PATH']}"
    result = command("bash", script, "bash", "-c", f"echo $CUDA_MPS_PIPE_DIRECTORY works >> {log}; exit 3", PATH=path)
    assert result.returncode == 3
    told = log.read_text().splitlines()
    folder = told[0].split()[0]
    assert told == [f"{folder} -d", f"{folder} works", folder, "quit"]
    assert not Path(folder).exists()
    if not shutil.which(name):
        without = command("bash", script, "true")
        assert (without.returncode, "there is no nvidia-cuda-mps-control" in without.stderr) == (2, True)


def test_every_link_of_the_readmes_leads_to_a_file():
    for page in READMES:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def readme_commands():
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = dict.fromkeys(line for block in blocks for line in block.splitlines() if line.strip())
    # Figures of the paper's size first: their plans refuse the small runs that the others leave.
    return sorted(lines, key=lambda line: "script/paper/" not in line)


@pytest.mark.slow
def test_the_benchmark_starts_from_any_folder(tmp_path):
    """In a process of its own: an import that another program's modules hide is found only there."""
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").write_text("raise ImportError('not ours')")
    assert "--positions" in output_of("bash", PROJECT / "script/benchmark.sh", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_every_command_of_the_readme(project, tmp_path, monkeypatch, run_here, run_listed):
    """As it stands, with flags after it that only make it small."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # the benchmark's last arms
    blueprint = Blueprint("resnet20", "cifar100", classes=5, channels=3)
    signed_mask = extract_signed_mask(blueprint.initialize(1), blueprint.dense_masks(), blueprint.signed)
    save_signed_mask(project / "signed_mask.npz", signed_mask, "resnet20", "cifar100")
    for line in readme_commands():
        if line.startswith("wget") or line == "bash script/test.sh" or "quickstart" in line:
            continue  # needs the network; runs this test; has a test of its own
        environment = SMALL_FIGURE if "SCALE=small" in line else {"COMPARISONS": "noise-signs", "SEEDS": "1"}
        line = line.replace("level_11", "level_01")  # the small runs' last
        planned = "script/paper/" in line or "demonstration" in line
        line += " --dry-run" * planned + " --arch resnet20" * line.startswith("python main.py")
        line = line.replace("mobilenetv2 efficientnet shufflenet", "resnet20")
        line = line.replace("mobilenetv2 --share 1 2 4", "resnet20 --share 1")
        line = line.replace("mobilenetv2 --positions", "resnet20 --positions")
        for program, *arguments in recorded(tmp_path, "bash", "-c", line, **environment):
            if "--list-missing" in arguments:
                run_listed(program, *arguments)
            else:
                shown = run_here(program, *arguments, *SMALLER.get(Path(program).name, ()))
        if "report.py" in line:
            assert "AWS signs A(abs(θ_init) ⊙ s_T)" in shown
    assert (project / "runs" / "barriers" / "cifar100_efficientnet_level_1" / "comparisons.pdf").exists()


@pytest.mark.slow
def test_the_quickstart(project, tmp_path, run_listed):
    """All but one of its nine runs are made here first."""
    script = ("bash", project / "script" / "quickstart.sh", *SMALL)
    asked = next(asked for asked in recorded(tmp_path, *script) if "--plan" in asked)
    run_listed(*asked, "--list", "runs", leave=1)
    shown = output_of(*script)
    assert "0 of 5 stages are finished" in shown
    assert "AWS signs A(abs(θ_init) ⊙ s_T)" in shown
    assert len(list((project / "runs" / "quickstart").glob("*/results.csv"))) == 9


def test_the_readme_s_code_for_other_programs(tmp_path, monkeypatch):
    """The three Python blocks, one after the other, on a network that this project does not know; the one that reads a
    signed mask needs NumPy alone."""
    monkeypatch.chdir(tmp_path)
    reader, imposer, finder = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert re.findall(r"^(?:import|from) (\w+)", reader, re.MULTILINE) == ["numpy"]
    torch.manual_seed(0)
    network = build_network("resnet20", 4)
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,))) for _ in range(3)]
    exec(finder, {"network": network, "batches": batches})

    file = load_signed_mask(tmp_path / "signed_mask.npz")
    conv = torch.cat([signs.flatten() for name, signs in file.signed_mask.items() if "conv" in name])
    expected = conv.numel()
    for _ in range(2):
        expected -= expected // 5
    assert int((conv != 0).sum()) == expected

    other = build_network("resnet20", 4)
    magnitude = other.conv1.weight.detach().abs().clone()
    namespace = {"network": other}
    exec(reader, namespace)
    exec(imposer, namespace)
    namespace["impose"]()
    assert torch.equal(other.conv1.weight, magnitude * file.signed_mask["conv1.weight"])
    with torch.no_grad():
        other.conv1.weight.add_(1.0)
    namespace["keep_zeros"]()
    assert torch.equal(other.conv1.weight == 0, file.signed_mask["conv1.weight"] == 0)
    read = namespace["read_signed_mask"]("signed_mask.npz")
    assert list(read) == list(file.signed_mask)
    for name, signs in read.items():
        assert signs.dtype == np.int8
        assert np.array_equal(signs, file.signed_mask[name])


@pytest.mark.slow
def test_measuring_a_gpu_tried_on_the_cpu(tmp_path):
    small = {"DEVICE": "cpu", "NETWORKS": "resnet20", "FLAGS": "--images 128 --rounds 1 --workers 0"}
    result = command("bash", PROJECT / "script" / "measure_gpu.sh", tmp_path, **small)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [row["arm"] for row in read_csv(tmp_path / "steps_32.csv")] == ["plain"]
    assert "convolution, matrix product" in (tmp_path / "summary.md").read_text()
    result = command("bash", PROJECT / "script" / "measure_gpu.sh", tmp_path, "128", **small)
    assert_refused((result.returncode, "", result.stderr), "no part is called 128")


@pytest.mark.parametrize(
    ("script", "answers", "expected"),
    [
        ("measure_gpu.sh", '[ "$1" != -c ]', "there is no CUDA device"),  # it has every package
        ("setup.sh", '[ "$1" = --version ] && echo "Python 3.8.1"', "python3 is 3.8.1: install Python 3."),
    ],
)
def test_an_unfit_machine_is_refused(script, answers, expected, tmp_path):
    shutil.copytree(PROJECT / "script", tmp_path / "script")
    executable(tmp_path / "python3", f"#!/bin/sh\n{answers}\n")
    result = command("bash", tmp_path / "script" / script, PYTHON="python3", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert_refused((result.returncode, result.stdout, result.stderr), f"{script}: error: {expected}")
