"""Nothing lost, nothing mixed, nothing let in: what is damaged or wrong is one line, and never another result."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from itertools import product

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
    BLUEPRINT,
    PROJECT,
    TINY_JOB,
    assert_refused,
    assert_same_networks,
    command,
    run_in_process,
    save_fresh_network,
)
from tests.fake_data import write_tiny_imagenet, write_zip
from utils.errors import UserError, exit_status
from utils.files import FileError, load, save
from utils.method.network import Blueprint, load_network
from utils.method.signed_mask import extract_signed_mask, load_signed_mask, save_signed_mask
from utils.runs.tensorboard import StageScalars

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


def test_no_entry_is_taken_for_a_folder(path):
    """Torch would leave the entry's tensor uninitialized, without a word. Of a file as earlier versions wrote it,
    without a digest."""
    torch.save(torch.load(path, weights_only=True), path)
    assert load_network(path)[1]["result"] == {"test_error": 5.0}
    archive = bytearray(path.read_bytes())
    archive[zipfile.ZipFile(path).start_dir + 38] ^= FOLDER_ATTRIBUTE
    path.write_bytes(archive)
    with pytest.raises(FileError, match=r"network\.pt is damaged or no file of this program \(its index is not"):
        load_network(path)


def beginning_with(value: float):
    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


# Part, tensor or all of the part, what becomes of it (nothing: it is removed), reason.
WRONG_NETWORKS = [
    ("model", "conv1.weight", beginning_with(float("nan")), r"conv1\.weight in its model is not finite"),
    ("model", "bn1.running_var", beginning_with(float("inf")), "running_var .* not finite"),
    ("model", PRUNED, beginning_with(1.0), f"{PRUNED} is not 0 where its mask prunes"),
    ("model", "fc.bias", None, "model has not the names"),
    ("model", "fc.bias", lambda _: torch.zeros(9), r"fc\.bias .* \(10,\)"),
    ("model", "fc.bias", torch.Tensor.double, r"fc\.bias in its model is not torch\.float32"),
    ("model", "fc.bias", lambda _: torch.zeros(1).expand(10), r"fc\.bias in its model is not"),
    ("model", "fc.bias", torch.Tensor.to_sparse, ""),
    ("masks", PRUNED, None, "masks have not the names"),
    ("masks", PRUNED, torch.Tensor.float, f"the mask of {PRUNED} is not bool"),
    ("masks", "", lambda _: None, "no network of this program"),
    ("settings", "", lambda _: None, "settings or its result are no dict"),
    ("settings", "", lambda _: {"lr": torch.zeros(1)}, "not JSON serializable"),
    ("result", "", lambda _: [1], "settings or its result are no dict"),
    ("arch", "", lambda name: [name], "no network of this program"),
    ("arch", "", lambda _: "vgg11_bn", "model has not the names"),
    ("classes", "", lambda _: 9, r"\(9, 64\)"),
    ("classes", "", str, "no network of this program"),
]


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(("part", "name", "change", "reason"), WRONG_NETWORKS)
def test_a_network_whose_parts_do_not_fit_is_refused(part, name, change, reason, path):
    content = torch.load(path, weights_only=True)
    inside, key = (content[part], name) if name else (content, part)
    old = inside.pop(key)
    if change is not None:
        inside[key] = change(old)
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


WRONG_PLANES = [
    ("survives", lambda plane: plane[:-1]),
    ("negative", lambda plane: plane[:0]),
    ("survives", lambda plane: plane.reshape(2, -1)),
    ("survives", lambda plane: plane.astype(np.int16)),
    ("shape", lambda _: np.array([24_000_000_000])),  # of which the planes alone would take 6 GB
]


@pytest.mark.parametrize(("plane", "change"), WRONG_PLANES)
def test_bit_planes_that_do_not_fit_are_refused(plane, change, mask_path):
    with np.load(mask_path) as file:
        arrays = dict(file)
    arrays[f"conv1.weight.{plane}"] = change(arrays[f"conv1.weight.{plane}"])
    np.savez_compressed(mask_path, **arrays)
    for read in (load_signed_mask, read_by_the_readme):
        with pytest.raises((FileError, ValueError), match=r"survives|negative|a bit plane"):
            read(mask_path)
    if plane == "shape":  # looked at before anything is unpacked
        belongs = r"belongs to another network: conv1\.weight is \(24000000000,\) in the file"
        with pytest.raises(FileError, match=belongs):
            load_signed_mask(mask_path, BLUEPRINT)


# ---------------------------------------------------------------------------------------------------------------------

JOB = "--method wr --warmup-epochs 2 --rewind-epoch 1 --level-epochs 1 --final-epochs 1 --start signs".split()


def again(copy_of_run, *flags):
    run_in_process(copy_of_run.parent, *JOB, *flags)


def test_the_settings_of_a_run_are_those_of_its_networks(copy_of_run):
    """Its configuration may be damaged, and deleted as the message says."""
    config = copy_of_run / "config.json"
    settings = json.loads(config.read_text())["settings"]
    for damaged, reason in (
        ("{", "is damaged"),
        ("{}", "holds no settings"),
        ('{"settings": []}', "holds no settings"),
    ):
        config.write_text(damaged)
        with pytest.raises(FileError, match=rf"config\.json {reason}: delete that file"):
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


@pytest.mark.parametrize(
    ("network", "start"),
    [
        ("initialization/network.pt", -4096),
        ("level_00/rewinding_point.pt", 500_000),
        ("level_02/network.pt", 0),
        ("final/*/network.pt", 500_000),
    ],
)
def test_a_cut_network_is_named_before_anything_is_trained(network, start, copy_of_run):
    (path,) = copy_of_run.glob(network)
    whole = bytearray(path.read_bytes())
    start %= len(whole)  # counted from the end if negative
    del whole[start : start + 4096]
    path.write_bytes(whole)
    with pytest.raises(FileError, match=rf"{path.name} is damaged \(.*\): delete the folder {path.parent} and run"):
        again(copy_of_run, "--final-seeds", "7")
    assert len(list(copy_of_run.glob("final/*"))) == 1


def test_a_level_of_another_network_run_or_number_is_refused(copy_of_run, tmp_path):
    shutil.rmtree(copy_of_run / "level_02")
    (copy_of_run / "level_01" / "network.pt").rename(tmp_path / "level_01.pt")
    other_run = run_in_process(tmp_path / "other", *JOB, "--levels", "1", "--seed", "2", "--start")
    settings = torch.load(tmp_path / "level_01.pt", weights_only=True)["settings"]
    save_fresh_network(tmp_path / "vgg.pt", Blueprint("vgg11_bn", "digits", 10, 1), settings=settings)
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


@pytest.mark.parametrize("wrong", [{"optimizer": None}, {"model": []}, {"rows": [{"epoch": 1}]}])
def test_a_wrong_unfinished_stage_starts_again(wrong, copy_of_run, finished_run, capsys):
    shutil.rmtree(copy_of_run / "level_02")
    (copy_of_run / "level_02").mkdir()
    whole = {"model": load(copy_of_run / "level_01" / "network.pt")["model"], "optimizer": [{}], "rows": []}
    save(copy_of_run / "level_02" / "unfinished.pt", whole | wrong)
    again(copy_of_run)
    assert "unfinished.pt belongs to another stage or program" in capsys.readouterr().out
    assert_same_networks(copy_of_run, finished_run)


# ---------------------------------------------------------------------------------------------------------------------


NUMBERS = ("08 2", "abc", "1 x", "-1", "1.5", "PATH[$(touch harm)]", "*")


@pytest.mark.parametrize(
    ("name", "numbers"),
    [*product(["--seeds"], NUMBERS), *product(["--levels", "--barrier-levels", "PER_GPU", "SEEDS"], NUMBERS[:1])],
)
def test_a_list_of_a_script_is_of_whole_numbers(name, numbers, tmp_path):
    figure = [PROJECT / "script/paper/figure3.sh", "--dry-run", name, numbers]
    script, environment = {
        "PER_GPU": ([PROJECT / "script/run_commands.sh"], {"PER_GPU": numbers}),
        "SEEDS": ([PROJECT / "script/compare_precision.sh"], {"SEEDS": numbers, "CHECKED_PYTHON": sys.executable}),
    }.get(name, (figure, {"CHECKED_PYTHON": sys.executable}))
    result = command("bash", *script, cwd=tmp_path, **environment)
    expected = f'error: {name} "{numbers}" should be whole numbers, such as "1 2 3"'
    assert_refused((result.returncode, result.stdout, result.stderr), expected)
    assert not (tmp_path / "harm").exists()


# ---------------------------------------------------------------------------------------------------------------------


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
        ('"$@" --lr 0 2>&-', 2, ""),
        ('"$@" | true; exit ${PIPESTATUS[0]}', 2, ""),
        ('"$@" >/dev/full', 2, "main.py: error: No space left on device: free some space and run the same command"),
        ('"$@" --lr 0 2>/dev/full', 2, ""),
        ('"$@" --runs-dir "$(printf "\\377")"', 2, "a name or a file has bytes that are no text: rename or correct it"),
    ],
)
def test_streams_and_names_that_cannot_be_written(line, status, error, tmp_path):
    result = shell(f"cd {tmp_path}; {line}", *NO_TRAINING)
    assert result.returncode == status, result.stderr
    assert result.stderr.count("\n") == bool(error), result.stderr
    assert error in result.stderr


def test_a_thread_that_meets_a_full_disk(tmp_path, monkeypatch, capsys):
    """TensorBoard writes in one, and raises its error again."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsencode(tmp_path / "events"))

    monkeypatch.setattr(RecordWriter, "write", refuse)
    assert exit_status("main.py", lambda: StageScalars(tmp_path, "level_00", 0, [])) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"main.py: error: No space left on device: {tmp_path / 'events'}: free some space and run")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "seconds"), [("main.py", 0.3), ("report.py", 0.6), ("calculate_error_barrier.py", 1.0)]
)
def test_an_interrupt_while_packages_are_imported(program, seconds):
    started = subprocess.Popen(
        [sys.executable, PROJECT / program, "--help"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    time.sleep(seconds)
    started.send_signal(signal.SIGINT)
    _, error = started.communicate()
    assert error.count(b"\n") <= 1, error.decode()
    assert started.returncode in (-signal.SIGINT, 130, 0)


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


def test_an_oddly_named_run_does_not_stop_the_others(copy_of_run, run_program):
    odd = shutil.copytree(copy_of_run, copy_of_run.parent / "a (copy)")
    flags = ("--list-missing", "--level", "2", "--device", "cpu", "--comparisons", "lmc-signs")
    status, commands, note = run_program(calculate_error_barrier, "--runs", copy_of_run, odd, *flags)
    assert status == 0
    assert copy_of_run.name in commands
    assert "copy" not in commands
    assert note == f"note: passed over: main.py does not take the name of {odd}; rename that folder\n"
