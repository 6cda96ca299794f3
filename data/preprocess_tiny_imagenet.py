"""Prepare Tiny-ImageNet: decode the official archive once, into the single file that training loads.

    python data/preprocess_tiny_imagenet.py [--data-root ./data] [--archive FILE]

Reads ``tiny-imagenet-200.zip`` or the folder unpacked from it and writes ``tiny_imagenet.npz``: uint8 images
(N, 64, 64, 3), labels and the classes' WordNet IDs. The validation images become the test split. If interrupted, it
leaves no partial file; run it again.
"""

import argparse
import io
import sys
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # otherwise only data/ is on the path

from data.tiny_imagenet import IMAGE_SIZE, PREPARED_FILE
from utils.errors import UserError, exit_status, refuse
from utils.files import written_whole

FOLDER = "tiny-imagenet-200"

# The same code reads an unpacked folder (pathlib.Path) and the archive (zipfile.Path).
Folder = Path | zipfile.Path


def main() -> int:
    return exit_status(Path(__file__).name, run)


def run() -> None:
    parser = argparse.ArgumentParser(description="Decode the official Tiny-ImageNet archive into one file.")
    parser.error = partial(refuse, parser)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    parser.add_argument(
        "--archive", type=Path, help=f"the archive or the unpacked folder (default: {FOLDER}[.zip] in the data root)"
    )
    args = parser.parse_args()
    prepare(args.data_root, args.archive)


def prepare(root: Path, archive: Path | None) -> None:
    """Write the prepared file into ``root``. Raises UserError if the archive is missing, damaged or incomplete."""
    target = root / PREPARED_FILE
    if target.exists():
        print(f"{target} is there already ({describe(target)}): delete it to prepare it again")
        return
    root.mkdir(parents=True, exist_ok=True)
    arrays = decode(open_archive(find_archive(root, archive)))
    with written_whole(target) as file:
        np.savez(file, **arrays)
    print(f"{target}: {describe(target)}")


def describe(prepared: Path) -> str:
    try:
        with np.load(prepared, allow_pickle=False) as file:
            counts = len(file["wnids"]), len(file["train_labels"]), len(file["test_labels"])
    except OSError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(f"{prepared} is damaged ({error}): delete it and run this again") from error
    return "{:,} classes, {:,} training and {:,} validation images".format(*counts)


def find_archive(root: Path, archive: Path | None) -> Path:
    candidates = [archive] if archive else [root / f"{FOLDER}.zip", root / FOLDER]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise UserError(
        f"there is no {' or '.join(map(str, candidates))}: fetch http://cs231n.stanford.edu/tiny-imagenet-200.zip "
        f"into {root}, or give its path with --archive"
    )


def open_archive(path: Path) -> Folder:
    """The folder that holds ``wnids.txt``: the top one or one level below it."""
    try:
        top = path if path.is_dir() else zipfile.Path(zipfile.ZipFile(path))
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a whole zip archive ({error}): fetch it again") from error
    for folder in (top, *top.iterdir()):
        if (folder / "wnids.txt").is_file():
            return folder
    raise UserError(f"{path} holds no wnids.txt: it is not the Tiny-ImageNet archive, or it is incomplete")


def decode(folder: Folder) -> dict[str, np.ndarray]:
    wnids = first_column(folder / "wnids.txt")
    train = [
        (folder / "train" / wnid / "images" / name, label)
        for label, wnid in enumerate(wnids)
        for name in first_column(folder / "train" / wnid / f"{wnid}_boxes.txt")
    ]
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    validation = folder / "val"
    try:
        test = [
            (validation / "images" / name, label_of[wnid])
            for name, wnid, *_ in rows(validation / "val_annotations.txt")
        ]
    except (KeyError, ValueError) as error:
        raise UserError(f"val/val_annotations.txt does not fit wnids.txt ({error}): fetch the archive again") from error
    with tqdm(total=len(train) + len(test), desc="decoding", unit="img", disable=None) as progress:
        return {
            "wnids": np.array(wnids),
            "train_images": decode_images([path for path, _ in train], progress),
            "train_labels": np.array([label for _, label in train], dtype=np.uint8),
            "test_images": decode_images([path for path, _ in test], progress),
            "test_labels": np.array([label for _, label in test], dtype=np.uint8),
        }


def read_bytes(path: Folder) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, KeyError) as error:
        raise UserError(f"{path} is missing: the archive is incomplete, fetch it again") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): fetch the archive again") from error


def read_text(path: Folder) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}): fetch the archive again") from error


def rows(path: Folder) -> list[list[str]]:
    found = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if not found:
        raise UserError(f"{path} is empty: the archive is incomplete, fetch it again")
    return found


def first_column(path: Folder) -> list[str]:
    return [row[0] for row in rows(path)]


def decode_images(paths: list[Folder], progress: tqdm) -> np.ndarray:
    """uint8 (N, 64, 64, 3); the few grayscale images are converted to three equal channels."""
    images = np.empty((len(paths), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for index, path in enumerate(paths):
        try:
            images[index] = Image.open(io.BytesIO(read_bytes(path))).convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:  # ValueError: not 64x64 pixels
            raise UserError(f"{path} is damaged ({error}): fetch the archive again") from error
        progress.update()
    return images


if __name__ == "__main__":
    sys.exit(main())
