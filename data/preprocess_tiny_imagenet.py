"""Prepare Tiny-ImageNet: decode the official archive once, into the single file that training loads.

    python data/preprocess_tiny_imagenet.py [--data-root ./data] [--archive FILE]

Reads ``tiny-imagenet-200.zip`` or the folder unpacked from it and writes ``tiny_imagenet.npz``: uint8 images
(N, 64, 64, 3), labels and the classes' WordNet IDs. The validation images become the test split. If interrupted, it
leaves no partial file; run it again.
"""

import io
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # otherwise only data/ is on the path

from data.tiny_imagenet import IMAGE_SIZE, PREPARED_FILE, load_tiny_imagenet
from utils.errors import UserError, exit_status
from utils.files import FileError, check_entries, naming_damage, written_whole
from utils.flags import make_parser

PROGRAM = Path(__file__).name
FOLDER = "tiny-imagenet-200"
LARGEST_ENTRY = 2**24  # bytes, of which the official archive's largest file has a sixth

# The same code reads an unpacked folder (pathlib.Path) and the archive (zipfile.Path).
Folder = Path | zipfile.Path


def main() -> int:
    parser = make_parser(PROGRAM, __doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument(
        "--archive", type=Path, help=f"the archive or the unpacked folder (default: {FOLDER}[.zip] in the data root)"
    )
    args = parser.parse_args()
    return exit_status(PROGRAM, lambda: prepare(args.data_root, args.archive))


def prepare(root: Path, archive: Path | None) -> None:
    """Write the prepared file into ``root``. Raises UserError if the archive is missing, damaged or incomplete."""
    target = root / PREPARED_FILE
    found = target.exists()
    if not found:
        root.mkdir(parents=True, exist_ok=True)
        folder = open_archive(root, archive)
        with written_whole(target) as file:
            np.savez(file, **decode(folder))
    train, test, classes = load_tiny_imagenet(root)
    counts = f"{classes:,} classes, {len(train):,} training and {len(test):,} validation images"
    print(f"{target} is there already ({counts}): delete it to prepare it again" if found else f"{target}: {counts}")


def open_archive(root: Path, archive: Path | None) -> Folder:
    """The folder that holds ``wnids.txt``: the top one or one level below it."""
    candidates = [archive] if archive else [root / f"{FOLDER}.zip", root / FOLDER]
    path = next(filter(Path.exists, candidates), None)
    if path is None:
        raise UserError(
            f"there is no {' or '.join(map(str, candidates))}: fetch http://cs231n.stanford.edu/tiny-imagenet-200.zip "
            f"into {root}, or give its path with --archive"
        )
    with naming_damage(path, "is not a whole zip archive: fetch it again"):
        top = path if path.is_dir() else zipfile.Path(path)
        if isinstance(top, zipfile.Path):
            check_entries(top.root, {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}, LARGEST_ENTRY)
    for folder in (top, *top.iterdir()):
        if (folder / "wnids.txt").is_file():
            return folder
    raise UserError(f"{path} holds no wnids.txt: it is not the Tiny-ImageNet archive, or it is incomplete")


def decode(folder: Folder) -> dict[str, np.ndarray]:
    train, validation = folder / "train", folder / "val"
    wnids = dict.fromkeys(wnid for wnid, *_ in rows(folder / "wnids.txt"))
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    labelled = [
        (train / wnid / "images" / name, label)
        for wnid, label in label_of.items()
        for name, *_ in rows(train / wnid / f"{wnid}_boxes.txt")
    ]
    count = len(labelled)
    annotations = validation / "val_annotations.txt"
    with naming_damage(annotations, "does not fit wnids.txt: fetch the archive again"):
        labelled += [(validation / "images" / name, label_of[wnid]) for name, wnid, *_ in rows(annotations)]
    labels = np.array([label for _, label in labelled], dtype=np.int64)
    images = np.empty((len(labelled), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    with tqdm(labelled, desc="decoding", unit="img", disable=None) as progress:
        for index, (path, _) in enumerate(progress):
            with reading(path):  # the few grayscale images are converted to three equal channels
                images[index] = decode_image(path.read_bytes())
    return {
        "wnids": np.array(list(label_of)),
        "train_images": images[:count],
        "train_labels": labels[:count],
        "test_images": images[count:],
        "test_labels": labels[count:],
    }


def decode_image(content: bytes) -> Image.Image:
    """Of JPEG alone, as other decoders would start programs, and only of the right size, before it is unpacked."""
    with warnings.catch_warnings(action="error"):  # of very large images
        image = Image.open(io.BytesIO(content), formats=["JPEG"])
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"it has {image.size} pixels")
    return image.convert("RGB")


def rows(path: Folder) -> list[list[str]]:
    with reading(path):
        found = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not found:
            raise ValueError("it is empty")
        return found


@contextmanager
def reading(path: Folder) -> Iterator[None]:
    if not path.is_file():
        raise FileError(f"{path} is missing: the archive is incomplete, fetch it again")
    with naming_damage(path, "is damaged: fetch the archive again"):
        yield


if __name__ == "__main__":
    sys.exit(main())
