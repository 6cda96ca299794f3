"""The commands that the README promises, run as they stand in a copy of the project with small data."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from models import build_network
from tests.commands import PROJECT, command, networks, run_in_process
from tests.fake_data import write_cifar100, write_tiny_imagenet
from utils.signed_mask import load_signed_mask

README = (PROJECT / "README.md").read_text(encoding="utf-8")
LAUNCHERS = sorted(
    path.name for path in (PROJECT / "script").glob("*_*_*.sh") if path.name != "calculate_error_barrier.sh"
)

# What makes any launcher's job a matter of seconds.
SMALL = (
    "--warmup-epochs 1 --levels 1 --final-levels 1 --level-epochs 1 --final-epochs 1 --batch-size 8 "
    "--train-images-per-class 2 --device cpu"
).split()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what git would clone, with small data sets in the official formats where a user puts them."""
    copy = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, copy / name)
    write_cifar100(copy / "data")
    write_tiny_imagenet(copy / "data" / "tiny-imagenet-200.zip")
    result = command("python3", "data/preprocess_tiny_imagenet.py", cwd=copy)
    assert result.returncode == 0, result.stderr
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launcher(launcher, project, tmp_path):
    """From another folder, in seconds; the recipe's own numbers are read off its announcement and its config."""
    result = command("bash", project / "script" / launcher, *SMALL, "--runs-dir", tmp_path)
    assert result.returncode == 0, result.stderr
    dataset, arch, method = re.fullmatch(r"(cifar100|tiny_imagenet)_(\w+)_(lrr|aws)\.sh", launcher).groups()
    run = tmp_path / f"{dataset}_{arch}_{method}_seed1"
    starts = ["subnetwork", "signs", "mask"] + (["dense"] if method == "lrr" else [])
    assert f"1 warm-up + 1 levels x 1 + {len(starts)} final trainings x 1 = {2 + len(starts)} epochs" in result.stdout
    assert len(networks(run)) == 3 + len(starts)
    lr = float(re.search(r"--lr ([\d.]+)", (project / "script" / launcher).read_text()).group(1))
    assert lr == (0.05 if arch == "mobilenetv2" else 0.1)


def test_every_launcher_is_there_and_in_the_readme():
    small = {f"{d}_{a}_{m}.sh" for d in ("cifar100", "tiny_imagenet") for m in ("lrr", "aws")
             for a in ("resnet50", "mobilenetv2", "shufflenet", "efficientnet")}  # fmt: skip
    assert set(LAUNCHERS) == small | {f"cifar100_{a}_{m}.sh" for a in ("vgg11_bn", "resnet32") for m in ("lrr", "aws")}
    assert set(re.findall(r"`((?:cifar100|tiny_imagenet)_\w+\.sh)`", README)) == set(LAUNCHERS)
    for launcher in LAUNCHERS:
        text = (PROJECT / "script" / launcher).read_text()
        assert f"bash script/{launcher}" in text  # its usage line
        assert "--levels 15 " in text
        assert "--final-epochs 100 " in text


def readme_commands():
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_every_command_of_the_readme(project, tmp_path):
    """As it stands, with flags after it that only make it small."""
    flags = "--dataset cifar100 --arch resnet50 --train-images-per-class 2 --warmup-epochs 0 --level-epochs 1 --start"
    run = run_in_process(tmp_path, "--data-root", str(project / "data"), *flags.split())
    shutil.copy(run / "level_02" / "signed_mask.npz", project)
    for line in readme_commands():
        if line.startswith("wget") or line == "bash script/test.sh":
            continue  # needs the network; runs this test
        small = SMALL if re.search(r"main\.py|quickstart|(lrr|aws)\.sh", line) else []
        line = line.replace("level_11", "level_01")  # the small runs' last
        result = command("bash", "-c", f"{line} {' '.join(small)}", cwd=project)
        assert result.returncode == 0, f"{line}: {result.stderr}"
        if "report.py" in line:
            assert "AWS signs A(abs(θ_init) ⊙ s_T)" in result.stdout
    assert len(list((project / "runs" / "quickstart").glob("*/results.csv"))) == 9
    assert (project / "runs" / "barriers" / "cifar100_efficientnet_level_1" / "comparisons.pdf").exists()


def test_the_readme_s_code_for_other_programs(tmp_path, monkeypatch):
    """The three Python blocks, one after the other, on a network that this project does not know."""
    monkeypatch.chdir(tmp_path)
    reader, imposer, finder = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
    assert np.array_equal(namespace["read_signed_mask"]("signed_mask.npz")["fc.bias"], file.signed_mask["fc.bias"])


def test_setup_refuses_in_one_line(project, tmp_path):
    """A Python that is too old, and none at all."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    result = command("bash", "script/setup.sh", cwd=project, PYTHON="python3", PATH=path)
    assert result.returncode == 2
    assert result.stderr == "setup.sh: error: python3 is 3.8.1: install Python 3.10 or newer\n"
