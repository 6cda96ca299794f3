"""Every data set in its official format: what is read of it, how it is prepared, and what is refused."""

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from data import DATASETS, load_dataset, preprocess_tiny_imagenet
from data.batches import evaluation_batch_size
from data.dataset import keep_images_per_class
from tests.commands import PROJECT, assert_refused, command
from tests.fake_data import gunzip, write_cifar10, write_cifar100, write_fashion_mnist, write_tiny_imagenet, write_zip
from tests.toys import toy_dataset
from utils.errors import UserError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def prepare(run_program, tmp_path):
    """The preparation in this process, in ``tmp_path``: exit status, output, errors."""
    return partial(run_program, preprocess_tiny_imagenet, "--data-root", tmp_path)


def assert_statistics(dataset, tolerance):
    """Mean and deviation are those of the training images."""
    pixels = dataset.train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(dataset.mean.item(), abs=tolerance)
    assert pixels.std().item() == pytest.approx(dataset.std.item(), abs=tolerance)


@pytest.mark.parametrize(
    ("name", "write", "lengths", "shape"),
    [
        ("digits", lambda folder: None, (1437, 360, 10), (8, 8, 1)),
        ("cifar100", write_cifar100, (20, 10, 5), (32, 32, 3)),
        ("cifar10", write_cifar10, (20, 4, 10), (32, 32, 3)),  # of five files with 4 images
        ("fashion_mnist", write_fashion_mnist, (20, 20, 10), (28, 28, 1)),
    ],
)
def test_data_sets_in_their_official_formats(name, write, lengths, shape, tmp_path):
    write(tmp_path)
    dataset = load_dataset(name, tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.classes) == lengths
    assert dataset.train.images.shape == (lengths[0], *shape)
    assert (dataset.image_size, dataset.channels) == shape[1:]


def test_the_digits_are_scaled_to_bytes():
    digits = load_dataset("digits", Path("nowhere"))
    assert digits.train.images.max() == 255
    assert_statistics(digits, 1e-3)


def test_a_pixel_s_colours_and_the_labels_of_cifar100(tmp_path):
    folder = write_cifar100(tmp_path)
    dataset = load_dataset("cifar100", tmp_path)
    raw = pickle.loads((folder / "train").read_bytes())["data"]
    red, green, blue = raw[3][:1024], raw[3][1024:2048], raw[3][2048:]
    pixel = dataset.train.images[3, 2, 5]  # row 2, column 5
    assert pixel.tolist() == [red[69], green[69], blue[69]]  # 2 · 32 + 5
    assert dataset.train.labels[:6].tolist() == [0, 1, 2, 3, 4, 0]


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_fashion_mnist(tmp_path):
    for source in DEBIAN_FASHION_MNIST.glob("*.gz"):
        gunzip(source, tmp_path / "FashionMNIST" / "raw" / source.stem)
    dataset = load_dataset("fashion_mnist", tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert_statistics(dataset, 1e-4)


def test_statistics_and_augmentation_follow_the_protocol():
    assert DATASETS["cifar100"].augmentation.crop_padding == 4
    assert DATASETS["cifar100"].augmentation.flip
    assert DATASETS["tiny_imagenet"].augmentation.crop_areas == (0.5, 1.0)
    assert DATASETS["tiny_imagenet"].mean == (0.485, 0.456, 0.406)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    folder = write_cifar100(tmp_path)

    class Harmful:
        def __reduce__(self):
            return print, ("this must never be printed",)

    (folder / "train").write_bytes(pickle.dumps({"data": Harmful(), "fine_labels": []}))
    with pytest.raises(UserError, match=r"builtins\.print, which is not data"):
        load_dataset("cifar100", tmp_path)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    folder = write_cifar100(tmp_path)
    for name in ("train", "test", "meta"):
        content = pickle.loads((folder / name).read_bytes())
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    assert len(load_dataset("cifar100", tmp_path).train) == 20


def with_labels(labels: object) -> Callable[[bytes], bytes]:
    return lambda whole: pickle.dumps(pickle.loads(whole) | {"fine_labels": labels})


def idx(values: np.ndarray) -> Callable[[bytes], bytes]:
    """A file of Fashion-MNIST's format."""
    header = struct.pack(f">{1 + values.ndim}i", 2048 + values.ndim, *values.shape)
    return lambda _: header + values.tobytes()


PREPARED = {
    "wnids": np.array(["a", "b"]),
    **{f"{split}_images": np.zeros((4, 64, 64, 3), np.uint8) for split in ("train", "test")},
    **{f"{split}_labels": np.array([0, 1, 0, 1], np.uint8) for split in ("train", "test")},
}


def prepared(**changes: np.ndarray | None) -> Callable[[bytes], bytes]:
    """A prepared Tiny-ImageNet, with other arrays or, for None, without."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in (PREPARED | changes).items() if array is not None})
    return lambda _: buffer.getvalue()


NO_LABELS = (["a"] * 10, None, [[0]] * 10, [0.5] * 10, [5] * 10, [-1] * 10, [True] * 10, [2**70])
CIFAR, RAW, TINY = "cifar-100-python/test", "FashionMNIST/raw", "tiny_imagenet.npz"
WRONG_FILES = [
    *(("cifar100", CIFAR, with_labels(labels), "") for labels in NO_LABELS),
    ("cifar100", CIFAR, with_labels([0]), "1 labels do not fit images"),
    ("fashion_mnist", f"{RAW}/train-labels-idx1-ubyte", idx(np.full(20, 200, np.uint8)),
     "labels are not whole numbers from 0 to 9"),
    ("fashion_mnist", f"{RAW}/train-images-idx3-ubyte", idx(np.zeros((20, 28, 14), np.uint8)), "not square"),
    ("fashion_mnist", f"{RAW}/t10k-labels-idx1-ubyte", idx(np.zeros(3, np.uint8)), "3 labels do not fit images"),
    ("fashion_mnist", f"{RAW}/t10k-images-idx3-ubyte", idx(np.zeros((20, 14, 14), np.uint8)),
     r"training images of \(28, 28, 1\) and test images"),
    ("tiny_imagenet", TINY, prepared(train_labels=np.array([0, 1, 0, 99], np.uint8)), "whole numbers from 0 to 1"),
    ("tiny_imagenet", TINY, prepared(train_labels=np.array([0.0, 1.0, 0.5, 0.0])), "Cannot cast"),
    ("tiny_imagenet", TINY, prepared(test_images=np.zeros((4, 64, 64, 1), np.uint8)), "3 channels"),
    ("tiny_imagenet", TINY, prepared(test_images=np.zeros((4, 64, 64), np.uint8)), "do not fit"),
    ("tiny_imagenet", TINY, prepared(wnids=np.array(3)), "unsized"),
    ("tiny_imagenet", TINY, prepared(train_labels=None), ""),
    ("tiny_imagenet", TINY, prepared(train_images=np.zeros((0, 64, 64, 3), np.uint8),
                                     train_labels=np.zeros(0, np.uint8)), "are none"),
]  # fmt: skip
REFUSALS = {
    "cifar100": "cifar-100-python/test is damaged: delete .* to fetch it again.*",
    "fashion_mnist": "",
    "tiny_imagenet": r"tiny_imagenet\.npz is damaged: delete it and run .*",
}


@pytest.mark.parametrize(("name", "file", "change", "reason"), WRONG_FILES)
def test_wrong_files_are_named(name, file, change, reason, tmp_path):
    if name == "tiny_imagenet":
        (tmp_path / file).touch()
    else:
        {"cifar100": write_cifar100, "fashion_mnist": write_fashion_mnist}[name](tmp_path)
    (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    with pytest.raises(UserError, match=REFUSALS[name] + reason):
        load_dataset(name, tmp_path)


def test_a_file_that_is_missing_and_cannot_be_fetched(tmp_path, monkeypatch):
    (write_cifar100(tmp_path) / "meta").unlink()
    monkeypatch.setattr("torchvision.datasets.CIFAR100.download", Mock(side_effect=OSError("no network")))
    with pytest.raises(UserError, match=r"cifar-100-python has no meta, and downloading failed \(no network\)"):
        load_dataset("cifar100", tmp_path)


def test_images_per_class_are_the_first_ones():
    split = toy_dataset(count=20, classes=3).train
    kept = keep_images_per_class(split, 2, classes=3)
    assert kept.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(kept.images, split.images[:6])
    with pytest.raises(UserError, match="class 2 has 6 training images, fewer than --train-images-per-class 7"):
        keep_images_per_class(split, 7, classes=3)


def test_tiny_imagenet_is_prepared_from_the_archive_or_the_folder_and_checked(prepare, tmp_path):
    archive = tmp_path / "tiny-imagenet-200.zip"
    write_tiny_imagenet(archive)
    status, output, errors = prepare()
    assert status == 0, errors
    assert "3 classes, 12 training and 6 validation images" in output
    dataset = load_dataset("tiny_imagenet", tmp_path)
    assert (dataset.classes, dataset.image_size) == (3, 64)
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train.images[9, 30, 30].tolist() == pytest.approx([80, 1, 100], abs=3)  # class 2, its second image
    gray = dataset.train.images[0, 30, 30].tolist()
    assert gray[0] == gray[1] == gray[2]

    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "tiny-imagenet-200"
    status, _, errors = prepare("--data-root", tmp_path / "other", "--archive", folder)
    assert status == 0, errors
    assert torch.equal(load_dataset("tiny_imagenet", tmp_path / "other").train.images, dataset.train.images)

    status, output, _ = prepare()  # a finished preparation is not repeated
    assert status == 0
    assert "is there already (3 classes, 12 training and 6 validation images)" in output

    path = tmp_path / "tiny_imagenet.npz"
    path.write_bytes(path.read_bytes()[5000:])  # whose error has no file's name: "[Errno 22] Invalid argument"
    assert_refused(prepare(), "tiny_imagenet.npz is damaged: delete it")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train/n00000001/images/n00000001_2.JPEG", None, "incomplete"),
        ("train/n00000001/images/n00000001_2.JPEG", b"\xff\xd8", "damaged"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn99999999\t0\t0\t1\t1\n", "does not fit wnids.txt"),
        ("val/val_annotations.txt", b"\n", "is empty"),
    ],
    ids=["missing", "damaged", "unknown class", "empty"],
)
def test_a_damaged_archive_leaves_one_line_and_no_file(name, content, reason, prepare, tmp_path):
    members = write_tiny_imagenet(tmp_path / "tiny-imagenet-200.zip")
    del members[f"tiny-imagenet-200/{name}"]
    added = {} if content is None else {f"tiny-imagenet-200/{name}": content}
    write_zip(tmp_path / "tiny-imagenet-200.zip", members | added)
    status, _, errors = prepare()
    assert status == 2
    line = errors.strip().splitlines()[-1]  # after the bar
    assert Path(name).name in line
    assert reason in line
    assert not list(tmp_path.glob("tiny_imagenet*"))


def test_without_an_archive_there_is_a_line_that_says_what_to_do(prepare, tmp_path):
    assert_refused(prepare(), "tiny-imagenet-200.zip", "fetch")
    with pytest.raises(UserError, match=r"run python data/preprocess_tiny_imagenet.py"):
        load_dataset("tiny_imagenet", tmp_path)


def test_an_archive_without_its_middle(prepare, tmp_path):
    """Its error has no file's name, as above."""
    archive = tmp_path / "tiny-imagenet-200.zip"
    write_tiny_imagenet(archive)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:5000] + whole[9000:])
    assert_refused(prepare(), "tiny-imagenet-200.zip/tiny-imagenet-200/wnids.txt is damaged: fetch the archive again")


@pytest.mark.slow
def test_half_an_archive_in_a_program_of_its_own(tmp_path):
    archive = tmp_path / "tiny-imagenet-200.zip"
    write_tiny_imagenet(archive)
    archive.write_bytes(archive.read_bytes()[:5000])
    result = command(sys.executable, PROJECT / "data" / "preprocess_tiny_imagenet.py", "--data-root", tmp_path)
    shown = (result.returncode, result.stdout, result.stderr)
    assert_refused(shown, "tiny-imagenet-200.zip is not a whole zip archive")


@pytest.mark.parametrize(("pixels", "images"), [(8, 500), (32, 500), (64, 125), (224, 50)])
def test_larger_images_are_evaluated_in_smaller_batches(pixels, images):
    assert evaluation_batch_size(pixels) == images
