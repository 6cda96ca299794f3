import pickle
import sys
import zipfile
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


def test_damaged_and_missing_files_are_named(tmp_path, monkeypatch):
    folder = write_cifar100(tmp_path / "cut")
    (folder / "test").write_bytes((folder / "test").read_bytes()[:1000])
    with pytest.raises(UserError, match="cifar-100-python/test is damaged"):
        load_dataset("cifar100", tmp_path / "cut")

    folder = write_cifar100(tmp_path / "short")
    content = pickle.loads((folder / "test").read_bytes())
    (folder / "test").write_bytes(pickle.dumps(content | {"fine_labels": [0]}))
    with pytest.raises(UserError, match=r"cifar-100-python/test is damaged: delete .*1 labels do not fit images"):
        load_dataset("cifar100", tmp_path / "short")

    folder = write_fashion_mnist(tmp_path / "fashion")
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        load_dataset("fashion_mnist", tmp_path / "fashion")

    (write_cifar100(tmp_path / "gone") / "meta").unlink()
    monkeypatch.setattr("torchvision.datasets.CIFAR100.download", Mock(side_effect=OSError("no network")))
    with pytest.raises(UserError, match=r"cifar-100-python has no meta, and downloading failed \(no network\)"):
        load_dataset("cifar100", tmp_path / "gone")


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
    content = bytearray(path.read_bytes())
    content[5000] ^= 1  # one bit of one pixel
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tiny_imagenet.npz is damaged: .*again"):
        load_dataset("tiny_imagenet", tmp_path)
    path.write_bytes(content[5000:])  # whose error has no file's name: "[Errno 22] Invalid argument"
    with pytest.raises(UserError, match=r"tiny_imagenet.npz is damaged: .*again"):
        load_dataset("tiny_imagenet", tmp_path)
    assert_refused(prepare(), "tiny_imagenet.npz is damaged: delete it")
    np.savez(path, wnids=np.array(["a"]))
    with pytest.raises(UserError, match="is damaged"):
        load_dataset("tiny_imagenet", tmp_path)


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
