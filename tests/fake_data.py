"""Small data sets in the official files' own formats."""

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_pickle(file: Path, content: dict) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


def write_cifar100(root: Path, classes: int = 5, train: int = 20, test: int = 10) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("test", test)):
        content = {
            "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": [index % classes for index in range(count)],
            "coarse_labels": [0] * count,
            "filenames": [f"{index}.png" for index in range(count)],
            "batch_label": "training batch 1 of 1",
        }
        write_pickle(folder / name, content)
    meta = {"fine_label_names": [f"class {index}" for index in range(classes)], "coarse_label_names": ["all"]}
    write_pickle(folder / "meta", meta)
    return folder


def write_cifar10(root: Path, count: int = 4) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        write_pickle(folder / name, {"data": pixels, "labels": [index % 10 for index in range(count)]})
    write_pickle(folder / "batches.meta", {"label_names": list("abcdefghij")})
    return folder


def write_fashion_mnist(root: Path, count: int = 20) -> Path:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return folder


def jpeg(color: tuple[int, int, int], mode: str = "RGB", size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).convert(mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_tiny_imagenet(path: Path, classes: int = 3, train: int = 4, test: int = 2) -> dict[str, bytes]:
    """The official archive's layout; returns its members. Class c's images have the red value 40·c, one is gray."""
    top, wnids = "tiny-imagenet-200", [f"n{index:08d}" for index in range(classes)]
    members = {f"{top}/wnids.txt": "".join(f"{wnid}\n" for wnid in wnids).encode()}
    annotations = []
    for label, wnid in enumerate(wnids):
        names = [f"{wnid}_{index}.JPEG" for index in range(train)]
        boxes = "".join(f"{name}\t0\t0\t63\t63\n" for name in names)
        members[f"{top}/train/{wnid}/{wnid}_boxes.txt"] = boxes.encode()
        for index, name in enumerate(names):
            mode = "L" if index == 0 else "RGB"
            members[f"{top}/train/{wnid}/images/{name}"] = jpeg((40 * label, index, 100), mode)
        for index in range(test):
            name = f"val_{label * test + index}.JPEG"
            members[f"{top}/val/images/{name}"] = jpeg((40 * label, index, 200))
            annotations.append(f"{name}\t{wnid}\t0\t0\t62\t62\n")
    members[f"{top}/val/val_annotations.txt"] = "".join(annotations).encode()
    members[f"{top}/test/images/test_0.JPEG"] = jpeg((1, 2, 3))
    write_zip(path, members)
    return members


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def gunzip(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.decompress(source.read_bytes()))
