"""Prepare ImageNet: sort the validation images into class folders, check every image once, list them all.

    python data/prepare_imagenet.py [--data-root ./data] [--solution FILE] [--subset] [--workers N]
                                    [--cache-short-side 256]

The data root holds the official files as Kaggle has them: ``ILSVRC/Data/CLS-LOC/train`` with a folder a class,
``ILSVRC/Data/CLS-LOC/val``, and ``LOC_val_solution.csv``, which is not needed if the validation images are in class
folders already. Images are moved within ``val``, and nothing else is changed. ``imagenet.npz``, with the names, labels
and sizes of all images, tells training that they were checked. If interrupted, run it again.

``--cache-short-side 256`` also makes copies of the training images whose shorter side has 256 pixels, in
``imagenet_short_side_256``, for main.py's flag of the same name. What is there and whole is not made again.
"""

import csv
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # otherwise only data/ is on the path

from data.decoding import decode, open_image, shrunk
from data.image_files import PROCESSES, end_with_parent
from data.imagenet import FOLDER, LIST, cache_folder, load_imagenet
from utils.errors import UserError, exit_status
from utils.files import FileError, naming_damage, written_whole
from utils.flags import COUNT, POSITIVE, make_parser

PROGRAM = Path(__file__).name
OFFICIAL = {"classes": 1000, "training images": 1_281_167, "validation images": 50_000}
SUFFIX = ".JPEG"


def main() -> int:
    parser = make_parser(PROGRAM, __doc__)
    add = parser.add_argument
    add("--data-root", type=Path, default=Path("data"), help="folder of the data sets")
    add("--solution", type=Path, help="official validation labels (default: LOC_val_solution.csv in the data root)")
    add("--subset", action="store_true", help="take fewer classes or images than the official ones")
    add("--workers", type=COUNT, default=len(os.sched_getaffinity(0)), help="processes that check images")
    side = "also make training images of N pixels on the shorter side"
    add("--cache-short-side", type=POSITIVE, metavar="N", help=side)
    args = parser.parse_args()
    solution = args.solution or args.data_root / "LOC_val_solution.csv"

    def work() -> None:
        prepare(args.data_root, solution, args.subset, args.workers)
        if args.cache_short_side:
            make_copies(args.data_root, args.cache_short_side, args.workers)

    return exit_status(PROGRAM, work)


def prepare(root: Path, solution: Path, subset: bool, workers: int) -> None:
    """Write the list of all images into ``root``. Raises UserError if images are missing, misplaced or damaged."""
    target, folder = root / LIST, root / FOLDER
    found = target.exists()
    if not found:
        for split in ("train", "val"):
            if not (folder / split).is_dir():
                raise UserError(f"{folder / split} is missing: unpack or link the official ILSVRC folder into {root}")
        wnids = folders_of(folder / "train")
        sort_validation(folder / "val", solution, wnids)
        names = {split: list_images(folder, split, wnids) for split in ("train", "val")}
        check_counts(dict(zip(OFFICIAL, map(len, (wnids, *names.values())), strict=True)), subset)
        sizes = {split: check_images(folder, listed, workers) for split, listed in names.items()}
        with written_whole(target) as file:
            np.savez_compressed(file, wnids=np.array(wnids), **arrays_of(names, sizes, wnids))
    train, test, classes = load_imagenet(root)
    counts = f"{classes:,} classes, {len(train):,} training and {len(test):,} validation images, each of them decoded"
    print(f"{target} is there already ({counts}): delete it to check again" if found else f"{target}: {counts}")


def folders_of(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def images_of(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIX))


def sort_validation(folder: Path, solution: Path, wnids: Sequence[str]) -> None:
    """Move the images that lie in ``folder`` itself into the folders of their classes, and check the place of all
    that are in one. Raises UserError if there is no class for an image, or it lies in another class's folder."""
    loose = images_of(folder)
    if loose and not solution.is_file():
        raise UserError(
            f"{solution} is missing, the classes of the images in {folder}: name the file with --solution, or move the "
            "images into class folders (the devkit's ground truth has only numbers, no names of classes)"
        )
    if not solution.is_file():
        return
    wnid_of = read_solution(solution)
    unknown = [name for name in loose if wnid_of.get(name) not in wnids]
    if unknown:
        raise UserError(f"{folder / unknown[0]} has no class: {solution} and the folders in train do not fit it")
    for wnid in {wnid_of[name] for name in loose}:
        (folder / wnid).mkdir(exist_ok=True)
    for name in loose:
        (folder / name).rename(folder / wnid_of[name] / name)
    for wnid in folders_of(folder):
        for name in images_of(folder / wnid):
            if wnid_of.get(name) != wnid:
                raise UserError(f"{folder / wnid / name} is of the class {wnid_of.get(name)} in {solution}: move it")


def read_solution(path: Path) -> dict[str, str]:
    """An image's name -> the WordNet ID of its class, the first word of its prediction string."""
    complaint = "is not the official LOC_val_solution.csv, and no file of the devkit can replace it: fetch it again"
    with naming_damage(path, complaint), path.open(newline="", encoding="utf-8") as file:
        return {row["ImageId"] + SUFFIX: row["PredictionString"].split()[0] for row in csv.DictReader(file)}


def list_images(folder: Path, split: str, wnids: Sequence[str]) -> list[str]:
    """Names below ``folder``, class by class. Raises UserError unless each class has images, and no other folder is
    there."""
    there = folders_of(folder / split)
    by_class = {wnid: images_of(folder / split / wnid) for wnid in there}
    odd = [wnid for wnid in {*wnids, *there} if wnid not in wnids or not by_class.get(wnid)]
    if odd:
        raise UserError(f"{folder / split / min(odd)} has no {SUFFIX} images, or no such class is in train")
    return [f"{split}/{wnid}/{name}" for wnid in wnids for name in by_class[wnid]]


def check_counts(found: dict[str, int], subset: bool) -> None:
    """Raises UserError if the numbers are not those of the official images."""
    for what, expected in OFFICIAL.items():
        if found[what] != expected and not subset:
            raise UserError(
                f"there are {found[what]:,} {what}, not {expected:,}: unpack the official files again, "
                "or take what is there with --subset"
            )


class Images(torch.utils.data.Dataset):
    """What ``work`` returns for an image's name, a number of bytes, and what is wrong with the image."""

    def __init__(self, work: Callable[[str], int], names: Sequence[str]):
        self.work, self.names = work, np.array(names, dtype=bytes)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[int, str]:
        try:
            return self.work(self.names[index].decode()), ""
        except (UserError, OSError) as error:
            return 0, str(error)


def check_image(folder: Path, name: str) -> int:
    """Its bytes. Raises FileError if it is damaged."""
    path = folder / name
    decode(open_image(path), path)
    return path.stat().st_size


def copy_image(folder: Path, target: Path, short_side: int, name: str) -> int:
    """The bytes of an image's copy, which is made unless a whole one is there."""
    with suppress(FileNotFoundError, FileError):  # a copy that was interrupted is cut, and made again
        return check_image(target, name)
    copy = target / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    return copy.write_bytes(shrunk(folder / name, short_side))


def look_at(images: Images, what: str, workers: int) -> Iterator[tuple[int, str]]:
    """What is said of each image, in order."""
    loader = DataLoader(
        images,
        batch_size=64,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=end_with_parent,
        multiprocessing_context=PROCESSES if workers else None,
    )
    with tqdm(total=len(images), desc=what, unit="img", disable=None) as progress:
        for said in loader:
            yield from said
            progress.update(len(said))


def check_images(folder: Path, names: Sequence[str], workers: int) -> list[int]:
    """The bytes of every image, each of which was decoded. Raises UserError if any cannot be, after a line for each."""
    sizes, damaged = [], []
    for size, error in look_at(Images(partial(check_image, folder), names), "checking", workers):
        sizes.append(size)
        if error:
            damaged.append(error)
            tqdm.write(error, file=sys.stderr)
    if damaged:
        raise UserError(f"{len(damaged)} of {len(names):,} images cannot be used, the first: {damaged[0]}")
    return sizes


def make_copies(root: Path, short_side: int, workers: int) -> None:
    """Copies of the training images, and the list that says that all are there. Raises UserError at the first that
    cannot be made."""
    target = cache_folder(root, short_side)
    if not (target / LIST).exists():
        with np.load(root / LIST, allow_pickle=False) as file:
            wnids, names, labels = (file[part] for part in ("wnids", "train_names", "train_labels"))
        sizes = []
        copies = Images(partial(copy_image, root / FOLDER, target, short_side), names)
        for size, error in look_at(copies, "copying", workers):
            if error:
                raise UserError(f"no copy can be made: {error}")
            sizes.append(size)
        os.sync()  # before the list says so
        with written_whole(target / LIST) as file:
            arrays = {"train_names": names, "train_labels": labels, "train_bytes": np.array(sizes, dtype=np.int64)}
            np.savez_compressed(file, wnids=wnids, **arrays)
    train, *_ = load_imagenet(root, cache_short_side=short_side)
    size = f"{len(train):,} copies, {int(train.file_sizes.sum()) / 1e9:,.1f} GB"
    print(f"{target}: {size}: train on them with --cache-short-side {short_side}")


def arrays_of(names: dict[str, list[str]], sizes: dict[str, list[int]], wnids: Sequence[str]) -> dict[str, np.ndarray]:
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    arrays = {}
    for split, listed in names.items():
        arrays[f"{split}_names"] = np.array(listed, dtype=bytes)
        arrays[f"{split}_labels"] = np.array([label_of[name.split("/")[1]] for name in listed], dtype=np.int64)
        arrays[f"{split}_bytes"] = np.array(sizes[split], dtype=np.int64)
    return arrays


if __name__ == "__main__":
    sys.exit(main())
