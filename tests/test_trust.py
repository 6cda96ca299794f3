"""Nothing lost, nothing mixed, nothing let in: what is damaged or wrong is one line, and never another result."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.summary.writer.record_writer import RecordWriter

import calculate_error_barrier
import report
from data import load_dataset
from data.preprocess_tiny_imagenet import prepare
from tests.commands import (
    PROJECT,
    TINY_JOB,
    assert_refused,
    assert_same_networks,
    command,
    files_limited_to,
    run_in_process,
)
from tests.fake_data import write_cifar100, write_fashion_mnist, write_tiny_imagenet, write_zip
from utils.barriers.path import read_network
from utils.errors import UserError, exit_status, one_line
from utils.files import FileError, load, save, write
from utils.method.network import Blueprint, load_network
from utils.method.signed_mask import extract_signed_mask, load_signed_mask, save_signed_mask
from utils.runs.tensorboard import StageScalars

BLUEPRINT = Blueprint("resnet20", "digits", 10, 1)
PRUNED = "blocks.0.conv1.weight"
FOLDER_ATTRIBUTE = 0x10


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a network, half of one of whose layers is pruned."""
    path = tmp_path_factory.mktemp("whole") / "network.pt"
    state, masks = BLUEPRINT.initialize(0), BLUEPRINT.dense_masks()
    masks[PRUNED][::2] = False
    state[PRUNED] *= masks[PRUNED]
    norms = {name: state[name] for name in BLUEPRINT.norms}
    BLUEPRINT.save_network(path, state, masks, norms, settings={"data": "digits"}, result={"test_error": 5.0})
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, whole):
    path = tmp_path / "network.pt"
    path.write_bytes(whole)
    return path


def as_earlier_versions_wrote(whole: bytes) -> bytes:
    """Without the digest."""
    content, buffer = torch.load(io.BytesIO(whole), weights_only=True), io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def positions_of_attributes(archive: bytes) -> list[int]:
    """Where the index of a zip archive has the attributes of its entries."""
    position = zipfile.ZipFile(io.BytesIO(archive)).start_dir
    found = []
    while archive[position : position + 4] == b"PK\x01\x02":
        found.append(position + 38)
        position += 46 + sum(struct.unpack_from("<3H", archive, position + 28))
    return found


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "as earlier versions wrote"])
def test_no_entry_is_taken_for_a_folder(seal, path, whole):
    """Torch would leave the entry's tensor uninitialized, without a word."""
    archive = whole if seal else as_earlier_versions_wrote(whole)
    positions = positions_of_attributes(archive)
    assert len(positions) > 100
    for position in positions[::10]:
        damaged = bytearray(archive)
        damaged[position] ^= FOLDER_ATTRIBUTE
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"network\.pt is damaged or no file of this program \(its index is not"):
            load_network(path)


def test_networks_of_earlier_versions_are_read(path, whole):
    path.write_bytes(as_earlier_versions_wrote(whole))
    assert load_network(path)[1]["result"] == {"test_error": 5.0}


def test_a_sealed_network_is_an_ordinary_archive(path):
    for options in ({}, {"mmap": True}):
        assert torch.load(path, weights_only=True, **options)["arch"] == "resnet20"
    assert zipfile.ZipFile(path).comment.startswith(b"sha256 ")


def changed_tensor(part: str, name: str, value: float | bool):
    def change(content: dict) -> None:
        content[part][name].view(-1)[0] = value

    return change


def replaced(part: str, value: object):
    return lambda content: content.update({part: value})


WRONG_NETWORKS = {
    "NaN": (changed_tensor("model", "conv1.weight", float("nan")), r"conv1\.weight in its model is not finite"),
    "infinite statistics": (changed_tensor("model", "bn1.running_var", float("inf")), "running_var .* not finite"),
    "no mask": (lambda content: content["masks"].pop(PRUNED), "masks have not the names"),
    "revived weight": (changed_tensor("model", PRUNED, 1.0), f"{PRUNED} is not 0 where its mask prunes"),
    "mask of numbers": (
        lambda content: content["masks"].update({PRUNED: content["masks"][PRUNED].float()}),
        f"the mask of {PRUNED} is not bool",
    ),
    "no tensor": (lambda content: content["model"].pop("fc.bias"), "model has not the names"),
    "another shape": (lambda content: content["model"].update({"fc.bias": torch.zeros(9)}), r"fc\.bias .* \(10,\)"),
    "another type": (
        lambda content: content["model"].update({"fc.bias": torch.zeros(10, dtype=torch.float64)}),
        r"fc\.bias in its model is not torch\.float32",
    ),
    "expanded": (
        lambda content: content["model"].update({"fc.bias": torch.zeros(1).expand(10)}),
        r"fc\.bias in its model is not",
    ),
    "sparse": (
        lambda content: content["model"].update({"fc.bias": torch.zeros(10).to_sparse()}),
        "",
    ),
    "no masks": (replaced("masks", None), "no network of this program"),
    "no settings": (replaced("settings", None), "settings or its result are no dict"),
    "a list of results": (replaced("result", [1]), "settings or its result are no dict"),
    "settings that are tensors": (replaced("settings", {"lr": torch.zeros(1)}), "not JSON serializable"),
    "a list of names": (replaced("arch", ["resnet20"]), "no network of this program"),
    "another network": (replaced("arch", "vgg11_bn"), "model has not the names"),
    "other classes": (replaced("classes", 9), r"\(9, 64\)"),
    "no classes": (replaced("classes", "ten"), "no network of this program"),
}


@pytest.mark.parametrize(
    "settings", [{}, {"data": "digits"}, {"data": "digits", "batch_size": "32", "train_images_per_class": None}]
)
def test_a_barrier_needs_the_settings_of_a_network(settings, path):
    save(path, torch.load(path, weights_only=True) | {"settings": settings})
    with pytest.raises(FileError, match=r"network\.pt does not say on what it was trained: name a network\.pt"):
        read_network(path)


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("wrong", WRONG_NETWORKS)
def test_a_network_whose_parts_do_not_fit_is_refused(wrong, path, whole):
    change, reason = WRONG_NETWORKS[wrong]
    content = torch.load(path, weights_only=True)
    change(content)
    save(path, content)
    with pytest.raises(FileError, match=rf"network\.pt is .*{reason}") as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mask_path(tmp_path):
    path = tmp_path / "signed_mask.npz"
    signs = extract_signed_mask(BLUEPRINT.initialize(0), BLUEPRINT.dense_masks(), BLUEPRINT.signed)
    save_signed_mask(path, signs, "resnet20", "digits")
    return path


def read_by_the_readme(path):
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    namespace = {}
    exec(re.search(r"```python\n(import numpy as np\n.*?)```", readme, re.DOTALL).group(1), namespace)
    return namespace["read_signed_mask"](path)


WRONG_PLANES = {
    "short": lambda arrays: arrays.update({"conv1.weight.survives": arrays["conv1.weight.survives"][:-1]}),
    "empty": lambda arrays: arrays.update({"conv1.weight.negative": arrays["conv1.weight.negative"][:0]}),
    "of two dimensions": lambda arrays: arrays.update(
        {"conv1.weight.survives": arrays["conv1.weight.survives"].reshape(2, -1)}
    ),
    "of another type": lambda arrays: arrays.update(
        {"conv1.weight.survives": arrays["conv1.weight.survives"].astype(np.int16)}
    ),
    "of a huge tensor": lambda arrays: arrays.update({"conv1.weight.shape": np.array([3_000_000_000])}),
}


@pytest.mark.parametrize("wrong", WRONG_PLANES)
@pytest.mark.parametrize("read", [load_signed_mask, read_by_the_readme])
def test_bit_planes_that_do_not_fit_are_refused(wrong, read, mask_path):
    with np.load(mask_path) as file:
        arrays = dict(file)
    WRONG_PLANES[wrong](arrays)
    np.savez_compressed(mask_path, **arrays)
    with pytest.raises((FileError, ValueError), match=r"survives|negative|a bit plane"):
        read(mask_path)


def test_a_mask_is_not_unpacked_before_its_shapes_fit_the_network(mask_path):
    """Its planes would fit the 24 billion weights that it declares, and take 3 GB."""
    with zipfile.ZipFile(mask_path) as archive:
        rest = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    rest["conv1.weight.shape.npy"] = npy(np.array([24_000_000_000]))
    with zipfile.ZipFile(mask_path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in rest.items():
            archive.writestr(name, content)
    with pytest.raises(FileError, match=r"belongs to another network: conv1\.weight is \(24000000000,\) in the file"):
        load_signed_mask(mask_path, BLUEPRINT)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_the_advice_of_torch_to_run_code_is_not_passed_on(tmp_path):
    class Harmful:
        def __reduce__(self):
            return print, ("harm",)

    torch.save({"model": Harmful()}, tmp_path / "network.pt")
    with pytest.raises(FileError, match="torch cannot read it as data alone") as caught:
        load(tmp_path / "network.pt")
    assert "weights_only" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------

JOB = "--method wr --warmup-epochs 2 --rewind-epoch 1 --level-epochs 1 --final-epochs 1 --start signs".split()


def again(copy_of_run, *flags):
    run_in_process(copy_of_run.parent, *JOB, *flags)


@pytest.mark.parametrize("damage", ["lost", "deleted as its message says"])
def test_the_settings_of_a_run_are_those_of_its_networks(damage, copy_of_run):
    config = copy_of_run / "config.json"
    settings = json.loads(config.read_text())["settings"]
    if damage == "lost":
        config.unlink()
    else:
        config.write_text("{")
        with pytest.raises(FileError, match=r"config\.json is damaged: delete that file and run the same"):
            again(copy_of_run)
        config.unlink()
    with pytest.raises(UserError, match=r"was made with other settings: --lr 0\.05 \(there: 0\.1\)"):
        again(copy_of_run, "--lr", "0.05")
    assert not config.exists()
    again(copy_of_run)
    assert json.loads(config.read_text())["settings"] == settings


def test_settings_that_are_lost_with_training_in_progress(copy_of_run):
    for path in (*copy_of_run.rglob("network.pt"), copy_of_run / "config.json"):
        path.unlink()
    (copy_of_run / "level_00" / "unfinished.pt").touch()
    with pytest.raises(FileError, match=r"config\.json is missing, with training in progress: delete .*--name"):
        again(copy_of_run)


@pytest.mark.parametrize("settings", [None, [], {}])
def test_a_configuration_without_settings(settings, copy_of_run):
    (copy_of_run / "config.json").write_text(json.dumps({"settings": settings} if settings != {} else {}))
    with pytest.raises(FileError, match=r"config\.json holds no settings: delete that file"):
        again(copy_of_run)


def test_a_signed_mask_is_made_again_from_its_network(copy_of_run, finished_run):
    masks = sorted(copy_of_run.glob("level_*/signed_mask.npz"))
    masks[0].unlink()
    masks[1].write_bytes(masks[1].read_bytes()[:-1000])
    flip(masks[2], 1000)
    again(copy_of_run)
    for mask in masks:
        assert mask.read_bytes() == (finished_run / mask.relative_to(copy_of_run)).read_bytes()


def flip(path, position):
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.write_bytes(damaged)


NETWORKS = ("initialization/network.pt", "level_00/rewinding_point.pt", "level_02/network.pt", "network.pt of final")


@pytest.mark.parametrize("cut", ["end", "middle", "beginning"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_cut_network_is_named_before_anything_is_trained(network, cut, copy_of_run):
    path = copy_of_run / network if "final" not in network else next(copy_of_run.glob("final/*/network.pt"))
    whole = path.read_bytes()
    start = {"end": len(whole) - 4096, "middle": 500_000, "beginning": 0}[cut]
    path.write_bytes(whole[:start] + whole[start + 4096 :])
    with pytest.raises(FileError, match=rf"{path.name} is damaged \(.*\): delete the folder {path.parent} and run"):
        again(copy_of_run, "--final-seeds", "7")
    assert len(list(copy_of_run.glob("final/*"))) == 1


def test_a_level_of_another_network_run_or_number_is_refused(copy_of_run, tmp_path):
    shutil.rmtree(copy_of_run / "level_02")
    (copy_of_run / "level_01" / "network.pt").rename(tmp_path / "level_01.pt")
    other_run = run_in_process(tmp_path / "other", *JOB, "--levels", "1", "--seed", "2", "--start")
    other_arch = Blueprint("vgg11_bn", "digits", 10, 1)
    state = other_arch.initialize(0)
    norms = {name: state[name] for name in other_arch.norms}
    content = torch.load(tmp_path / "level_01.pt", weights_only=True)
    about = {"settings": content["settings"], "result": None}
    other_arch.save_network(tmp_path / "vgg.pt", state, other_arch.dense_masks(), norms, **about)
    for source, reason in (
        (tmp_path / "vgg.pt", "it has Blueprint.*vgg11_bn"),
        (other_run / "level_01" / "network.pt", r"it has --seed 1 \(there: 2\)"),
        (copy_of_run / "level_00" / "network.pt", "it has level 0"),
    ):
        shutil.copy(source, copy_of_run / "level_01" / "network.pt")
        with pytest.raises(FileError, match=rf"level_01/network\.pt belongs elsewhere, {reason}.*: delete the folder"):
            again(copy_of_run)


def test_a_lost_rewinding_point_is_named(copy_of_run):
    shutil.rmtree(copy_of_run / "level_02")
    (copy_of_run / "level_00" / "rewinding_point.pt").unlink()
    with pytest.raises(FileError, match=r"rewinding_point\.pt is missing: delete the folder .*level_00"):
        again(copy_of_run)


WRONG_UNFINISHED = {
    "optimizer": None,
    "model": [],
    "rows": [{"epoch": 1}],
}


@pytest.mark.parametrize("part", WRONG_UNFINISHED)
def test_a_wrong_unfinished_stage_starts_again(part, copy_of_run, finished_run, capsys):
    shutil.rmtree(copy_of_run / "level_02")
    (copy_of_run / "level_02").mkdir()
    whole = {"model": load(copy_of_run / "level_01" / "network.pt")["model"], "optimizer": [{}], "rows": []}
    save(copy_of_run / "level_02" / "unfinished.pt", whole | {part: WRONG_UNFINISHED[part]})
    again(copy_of_run)
    assert "unfinished.pt belongs to another stage or program" in capsys.readouterr().out
    assert_same_networks(copy_of_run, finished_run)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", ["08 2", "abc", "1 x", "-1", "1.5", "PATH[$(touch harm)]", "*"])
@pytest.mark.parametrize("name", ["--seeds", "--levels", "--barrier-levels", "PER_GPU", "SEEDS"])
def test_a_list_of_a_script_is_of_whole_numbers(name, numbers, tmp_path):
    figure = [PROJECT / "script/paper/figure3.sh", "--dry-run", name, numbers]
    script, environment = {
        "PER_GPU": ([PROJECT / "script/run_commands.sh"], {"PER_GPU": numbers}),
        "SEEDS": ([PROJECT / "script/compare_precision.sh"], {"SEEDS": numbers, "CHECKED_PYTHON": sys.executable}),
    }.get(name, (figure, {"CHECKED_PYTHON": sys.executable}))
    result = command("bash", *script, cwd=tmp_path, **environment)
    assert_refused(
        (result.returncode, result.stdout, result.stderr),
        f'error: {name} "{numbers}" should be whole numbers, such as "1 2 3"',
    )
    assert not (tmp_path / "harm").exists()


# ---------------------------------------------------------------------------------------------------------------------


def write_idx(path, values: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">{1 + values.ndim}i", 2048 + values.ndim, *values.shape) + values.tobytes())


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        ("train-labels-idx1-ubyte", np.full(20, 200, np.uint8), "labels are not whole numbers from 0 to 9"),
        ("train-images-idx3-ubyte", np.zeros((20, 28, 14), np.uint8), "not square"),
        ("t10k-labels-idx1-ubyte", np.zeros(3, np.uint8), "3 labels do not fit images"),
        (
            "t10k-images-idx3-ubyte",
            np.zeros((20, 14, 14), np.uint8),
            r"training images of \(28, 28, 1\) and test images",
        ),
    ],
)
def test_wrong_fashion_mnist(file, values, reason, tmp_path):
    folder = write_fashion_mnist(tmp_path)
    write_idx(folder / file, values)
    with pytest.raises(UserError, match=reason):
        load_dataset("fashion_mnist", tmp_path)


@pytest.mark.parametrize(
    "labels", [["a"] * 10, None, [[0]] * 10, [0.5] * 10, [5] * 10, [-1] * 10, [True] * 10, [2**70]]
)
def test_wrong_cifar_labels(labels, tmp_path):
    path = write_cifar100(tmp_path) / "test"
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | {"fine_labels": labels}))
    with pytest.raises(UserError, match=r"cifar-100-python/test is damaged: delete .* to fetch it again"):
        load_dataset("cifar100", tmp_path)


PREPARED = {
    "wnids": np.array(["a", "b"]),
    **{f"{split}_images": np.zeros((4, 64, 64, 3), np.uint8) for split in ("train", "test")},
    **{f"{split}_labels": np.array([0, 1, 0, 1], np.uint8) for split in ("train", "test")},
}


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("train_labels", np.array([0, 1, 0, 99], np.uint8), "labels are not whole numbers from 0 to 1"),
        ("train_labels", np.array([0.0, 1.0, 0.5, 0.0]), "Cannot cast"),
        ("test_images", np.zeros((4, 64, 64, 1), np.uint8), "3 channels"),
        ("test_images", np.zeros((4, 64, 64), np.uint8), "do not fit"),
        ("wnids", np.array(3), "unsized"),
    ],
)
def test_a_wrong_prepared_file(name, values, reason, tmp_path):
    np.savez(tmp_path / "tiny_imagenet.npz", **PREPARED | {name: values})
    with pytest.raises(UserError, match=rf"tiny_imagenet\.npz is damaged: delete it and run .*{reason}"):
        load_dataset("tiny_imagenet", tmp_path)


def test_a_prepared_file_without_images(tmp_path):
    nothing = {"train_images": np.zeros((0, 64, 64, 3), np.uint8), "train_labels": np.zeros(0, np.uint8)}
    np.savez(tmp_path / "tiny_imagenet.npz", **PREPARED | nothing)
    with pytest.raises(UserError, match="are none"):
        load_dataset("tiny_imagenet", tmp_path)


def image(kind: str, size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, kind)
    return buffer.getvalue()


def test_only_small_jpegs_are_decoded(tmp_path):
    """Pillow would start Ghostscript for an EPS, and unpack what a small PNG or JPEG declares."""
    archive = tmp_path / "tiny-imagenet-200.zip"
    for content in (image("PNG", 64), image("EPS", 64), image("JPEG", 65), image("JPEG", 10_000)):
        members = write_tiny_imagenet(archive)
        write_zip(archive, members | {"tiny-imagenet-200/train/n00000001/images/n00000001_2.JPEG": content})
        with pytest.raises(FileError, match=r"n00000001_2\.JPEG is damaged: fetch the archive again"):
            prepare(tmp_path, None)


def test_more_than_256_classes(tmp_path):
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200.zip", classes=300, train=1, test=1)
    prepare(tmp_path, None)
    assert load_dataset("tiny_imagenet", tmp_path).train.labels.tolist() == list(range(300))


@pytest.mark.parametrize("change", ["encrypted", "bzip2", "lzma", "twice", "huge"])
def test_odd_archives(change, tmp_path):
    path = tmp_path / "tiny-imagenet-200.zip"
    members = write_tiny_imagenet(path)
    compression = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}.get(change, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings(action="ignore"):
        for name, content in members.items():
            archive.writestr(name, content + bytes(2**25 if change == "huge" and name.endswith("wnids.txt") else 0))
        if change == "twice":
            archive.writestr(name, b"another")
        if change == "encrypted":
            archive.filelist[0].flag_bits |= 1
    with pytest.raises(FileError, match=r"zip is not a whole zip archive: fetch it again \(its tiny-imagenet-200/"):
        prepare(tmp_path, None)


def test_a_file_without_its_middle_is_named(tmp_path, mask_path, path):
    """Its error has no file's name: "[Errno 22] Invalid argument"."""
    np.savez(tmp_path / "tiny_imagenet.npz", **PREPARED)
    archive = tmp_path / "tiny-imagenet-200.zip"
    write_tiny_imagenet(archive)
    for file, read in (
        (path, load_network),
        (mask_path, load_signed_mask),
        (tmp_path / "tiny_imagenet.npz", lambda _: load_dataset("tiny_imagenet", tmp_path)),
        (archive, lambda archive: prepare(tmp_path / "elsewhere", archive)),
    ):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 4] + whole[len(whole) // 4 + 4096 :])
        with pytest.raises(FileError, match=file.name):
            read(file)


# ---------------------------------------------------------------------------------------------------------------------


def shell(line: str, *flags: str) -> subprocess.CompletedProcess:
    """main.py in a shell's ``line``, in which "$@" is the program with its flags."""
    return command("bash", "-c", line, "bash", sys.executable, PROJECT / "main.py", *TINY_JOB, *flags)


NO_TRAINING = ("--method", "dense", "--start")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        ('"$@" >&-', 0, ""),
        ('"$@" 2>&-', 0, ""),
        ('"$@" --lr 0 2>&-', 2, ""),
        ('"$@" | true; exit ${PIPESTATUS[0]}', 2, ""),
        (
            '"$@" >/dev/full',
            2,
            "main.py: error: No space left on device: free some space and run the same command again",
        ),
        ('"$@" --lr 0 2>/dev/full', 2, ""),
        ('"$@" --name "$(printf "\\377")"', 2, "--name '\\udcff' should be one folder's name"),
        ('"$@" --runs-dir "$(printf "\\377")"', 2, "a name or a file has bytes that are no text: rename or correct it"),
    ],
)
def test_streams_and_names_that_cannot_be_written(line, status, error, tmp_path):
    result = shell(f"cd {tmp_path}; {line}", *NO_TRAINING)
    assert result.returncode == status, result.stderr
    assert result.stderr.count("\n") == bool(error), result.stderr
    assert error in result.stderr


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--batch-size", "9" * 30], f"--batch-size: {'9' * 30} is above 1000000"),
        (["--device", "cuda:99999999999999999999"], "should be auto, cpu, cuda or cuda:1"),
    ],
)
def test_numbers_beyond_all_bounds(flags, error, capsys):
    with pytest.raises((SystemExit, UserError)) as caught:
        run_in_process(None, *NO_TRAINING, *flags)
    assert error in f"{caught.value}{capsys.readouterr().err}"


def test_a_thread_that_meets_a_full_disk(tmp_path, monkeypatch, capsys):
    """TensorBoard writes in one, and raises its error again."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsencode(tmp_path / "events"))

    monkeypatch.setattr(RecordWriter, "write", refuse)
    assert exit_status("main.py", lambda: StageScalars(tmp_path, "level_00", 0, [])) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"main.py: error: No space left on device: {tmp_path / 'events'}: free some space and run")
    assert error.count("\n") == 1


def test_a_full_disk_names_the_folder(tmp_path, capsys):
    with files_limited_to(1000):
        assert exit_status("main.py", lambda: write(tmp_path / "network.pt", bytes(2000))) == 2
    assert capsys.readouterr().err.startswith(f"main.py: error: File too large: {tmp_path}: allow larger files")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["main.py", "report.py", "calculate_error_barrier.py"])
@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0])
def test_an_interrupt_while_packages_are_imported(program, seconds):
    started = subprocess.Popen(
        [sys.executable, PROJECT / program, "--help"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    time.sleep(seconds)
    started.send_signal(signal.SIGINT)
    _, error = started.communicate()
    assert error.count(b"\n") <= 1, error.decode()
    assert started.returncode in (-signal.SIGINT, 130, 0)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EEXIST, "name a folder"), (errno.ELOOP, "mend the links"), (errno.EMFILE, "ulimit -n")],
)
def test_errors_of_the_system_have_a_remedy(number, remedy):
    assert re.fullmatch(rf".*: file: .*{remedy}.*", one_line(OSError(number, os.strerror(number), "file")))


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "foreign", ["[]", '{"theme": "dark"}', '{"settings": null}', '{"settings": {"dataset": "digits"}}', "{", "\xff"]
)
def test_other_folders_are_passed_over_with_a_note(foreign, copy_of_run, run_program):
    (copy_of_run.parent / "other").mkdir()
    (copy_of_run.parent / "other" / "config.json").write_bytes(foreign.encode("latin1"))
    status, shown, note = run_program(report, "--runs-dir", copy_of_run.parent)
    assert (status, note.count("\n")) == (0, 1)
    assert "WR signs" in shown
    assert note.startswith(f"note: passed over: {copy_of_run.parent / 'other'}")
    assert "delete" not in note
    shown = run_program(report, copy_of_run.parent / "other")
    assert_refused(shown, str(copy_of_run.parent / "other"), "name")
    assert "delete" not in shown[2]


def test_a_folder_that_is_not_there(run_program):
    assert_refused(run_program(report, "--runs-dir", "/nope"), "no folder /nope")
    assert_refused(run_program(report, "/nope/run"), "no folder /nope/run")


@pytest.mark.parametrize("plan", [b"--lr 'open", b"--name \xff"])
def test_a_plan_that_is_none(plan, tmp_path, run_program):
    (tmp_path / "plan.txt").write_bytes(plan)
    assert_refused(run_program(report, "--plan", tmp_path / "plan.txt"), "plan.txt is no plan")


def test_a_result_without_content_is_taken_from_its_network(copy_of_run):
    stage = next(copy_of_run.glob("final/*"))
    (stage / "result.json").write_text('{"kind": "final"}')
    again(copy_of_run)
    assert json.loads((stage / "result.json").read_text())["test_accuracy"] > 0


def test_one_network_many_times_has_no_barrier(copy_of_run, run_program):
    stage = copy_of_run / "level_02"
    shown = run_program(calculate_error_barrier, stage, stage, stage)
    assert_refused(shown, f"there is no pair: {stage} is named several times")


def test_an_oddly_named_run_does_not_stop_the_others(copy_of_run, run_program):
    odd = shutil.copytree(copy_of_run, copy_of_run.parent / "a (copy)")
    flags = ("--list-missing", "--level", "2", "--device", "cpu", "--comparisons", "lmc-signs")
    status, commands, note = run_program(calculate_error_barrier, "--runs", copy_of_run, odd, *flags)
    assert status == 0
    assert copy_of_run.name in commands
    assert "copy" not in commands
    assert note == f"note: passed over: main.py does not take the name of {odd}; rename that folder\n"
