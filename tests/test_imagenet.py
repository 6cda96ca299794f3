"""ImageNet in the official layout: its preparation, its crops against torchvision's transforms, and whole jobs."""

import io
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchvision import transforms

import calculate_error_barrier
import main
from data import decoding, load_dataset, prepare_imagenet
from data.augmentation import Augmentation, draw_resized_crops
from data.batches import draw_epoch, evaluation_batches, training_batches
from data.decoding import decode, fast_decoder, is_plain, open_image
from data.image_files import Crops, Task
from data.imagenet import FOLDER, LIST
from data.part import Part
from tests.commands import (
    PROJECT,
    TINY_JOB,
    assert_refused,
    assert_same_networks,
    interrupt_at,
    read_csv,
    run_in_process,
)
from utils.errors import UserError
from utils.files import FileError, load
from utils.runs.progress import JobProgress

WNIDS = ("n01440764", "n02119789", "n03995372")
SHAPES = ((500, 375), (375, 500), (90, 64), (64, 300), (257, 256), (700, 80))  # widths and heights of images
TRAIN, TEST = 6, 2  # images of a class
ON_ITS_SIDE = Image.Exif()
ON_ITS_SIDE[ExifTags.Base.Orientation] = 6
# The oddities of the real files, as what is saved: mode, format, options; by number of the image.
ODD = {
    0: ("L", "JPEG", {}),
    3: ("RGB", "JPEG", {"exif": ON_ITS_SIDE}),
    7: ("CMYK", "JPEG", {}),
    8: ("RGB", "JPEG", {"progressive": True}),
    15: ("RGB", "PNG", {}),
}


def photograph(index):
    """Smooth colours with some noise: of a JPEG that a camera might have made."""
    width, height = SHAPES[index % len(SHAPES)]
    rng = np.random.default_rng(index)
    colours = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(colours) + rng.normal(0, 4, (height, width, 3))
    mode, kind, options = ODD.get(index, ("RGB", "JPEG", {}))
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode).save(content, kind, **options)
    return content.getvalue()


def write_imagenet(root):
    """Kaggle's layout: training images in class folders, validation images together, and their classes in a table."""
    folder = root / FOLDER
    (folder / "val").mkdir(parents=True)
    solution = ["ImageId,PredictionString"]
    for label, wnid in enumerate(WNIDS):
        (folder / "train" / wnid).mkdir(parents=True)
        for index in range(TRAIN):
            content = photograph(label * TRAIN + index)
            (folder / "train" / wnid / f"{wnid}_{index}.JPEG").write_bytes(content)
    for index in range(TEST * len(WNIDS)):
        name, wnid = f"ILSVRC2012_val_{index + 1:08d}", WNIDS[index % len(WNIDS)]
        (folder / "val" / f"{name}.JPEG").write_bytes(photograph(100 + index))
        solution.append(f"{name},{wnid} 85 1 499 272 {wnid} 3 4 20 30 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(solution) + "\n")
    return folder


def prepare(root, subset=True, workers=0):
    prepare_imagenet.prepare(root, root / "LOC_val_solution.csv", subset, workers)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    write_imagenet(root)
    prepare(root)
    return root


# ---------------------------------------------------------------------------------------------------------------------
# Preparation
# ---------------------------------------------------------------------------------------------------------------------


def test_the_preparation(tmp_path, run_program, monkeypatch):
    """From another folder, with worker processes. Done again, nothing is left to do."""
    folder = write_imagenet(tmp_path / "kaggle")
    monkeypatch.chdir(tmp_path)
    flags = ("--data-root", "kaggle", "--subset", "--workers", 1)
    status, output, error = run_program(prepare_imagenet, *flags)
    assert status == 0, error
    assert output == f"kaggle/{LIST}: 3 classes, 18 training and 6 validation images, each of them decoded\n"
    sorted_images = sorted(str(path.relative_to(folder / "val")) for path in (folder / "val").rglob("*.JPEG"))
    assert sorted_images == [
        f"{wnid}/ILSVRC2012_val_{number:08d}.JPEG"
        for wnid, numbers in zip(WNIDS, ((1, 4), (2, 5), (3, 6)), strict=True)
        for number in numbers
    ]
    status, output, _ = run_program(prepare_imagenet, *flags)
    assert (status, "is there already (3 classes" in output) == (0, True)


def test_a_sorting_that_was_interrupted(tmp_path):
    folder = write_imagenet(tmp_path)
    (folder / "val" / WNIDS[1]).mkdir()
    for number in (2, 5):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (folder / "val" / name).rename(folder / "val" / WNIDS[1] / name)
    prepare(tmp_path)
    assert load_dataset("imagenet", tmp_path).test.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_validation_images_that_others_sorted(tmp_path):
    """They need no official labels; with those, a wrong place is noticed."""
    folder = write_imagenet(tmp_path)
    prepare(tmp_path)
    (tmp_path / LIST).unlink()
    (tmp_path / "LOC_val_solution.csv").rename(tmp_path / "kept")
    prepare(tmp_path)
    (tmp_path / LIST).unlink()
    (tmp_path / "kept").rename(tmp_path / "LOC_val_solution.csv")
    name = "ILSVRC2012_val_00000001.JPEG"
    (folder / "val" / WNIDS[0] / name).rename(folder / "val" / WNIDS[1] / name)
    with pytest.raises(Exception, match=f"{name} is of the class {WNIDS[0]}"):
        prepare(tmp_path)


def test_damaged_images_are_named(tmp_path, run_program):
    folder = write_imagenet(tmp_path)
    cut, empty = folder / "train" / WNIDS[2] / f"{WNIDS[2]}_0.JPEG", folder / "val" / "ILSVRC2012_val_00000004.JPEG"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    status, _, error = run_program(prepare_imagenet, "--data-root", tmp_path, "--subset", "--workers", 0)
    assert (status, "1 of 18 images cannot be used" in error) == (2, True)
    assert f"{cut} is damaged: fetch it again" in error.splitlines()[-2]
    assert not (tmp_path / LIST).exists()
    cut.write_bytes(photograph(12))
    (folder / "val" / WNIDS[0] / empty.name).write_bytes(b"")
    status, _, error = run_program(prepare_imagenet, "--data-root", tmp_path, "--subset", "--workers", 0)
    assert (status, f"{folder / 'val' / WNIDS[0] / empty.name} is damaged" in error) == (2, True)


def test_what_the_preparation_refuses(tmp_path, run_program):
    def refused(*expected, flags=("--subset",)):
        shown = run_program(prepare_imagenet, "--data-root", tmp_path, "--workers", 0, *flags)
        assert_refused(shown, *expected)

    refused(f"{tmp_path / FOLDER / 'train'} is missing: unpack or link the official ILSVRC folder")
    folder = write_imagenet(tmp_path)
    solution = tmp_path / "LOC_val_solution.csv"
    official = solution.read_text()
    solution.write_text("name,class\n")
    refused("ILSVRC2012_val_00000001.JPEG has no class")
    for other in (official.replace("PredictionString", "prediction"), "490\n361\n"):  # the devkit's ground truth
        solution.write_text(other)
        refused("is not the official LOC_val_solution.csv", "no file of the devkit")
    solution.unlink()
    refused("LOC_val_solution.csv is missing", "--solution")
    solution.write_text(official)
    refused("there are 3 classes, not 1,000", "--subset", flags=())
    (folder / "val" / "n99999999").mkdir()
    refused(f"{folder / 'val' / 'n99999999'} has no .JPEG images")
    assert not (tmp_path / LIST).exists()


def test_data_that_are_not_prepared(tmp_path):
    write_imagenet(tmp_path)
    with pytest.raises(Exception, match=r"imagenet.npz is missing: .* run python data/prepare_imagenet.py"):
        load_dataset("imagenet", tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Smaller copies of the training images
# ---------------------------------------------------------------------------------------------------------------------

SIDE = 80


@pytest.fixture(scope="module")
def copied(prepared):
    """Copies of 80 pixels on the shorter side, of images with 375, 375, 64, 64, 256 and 80."""
    prepare_imagenet.make_copies(prepared, SIDE, workers=0)
    return prepared / f"imagenet_short_side_{SIDE}"


def test_copies_of_the_training_images(prepared, copied):
    """Resized as torchvision does; what is small enough is the same file."""
    for path in training_paths(prepared)[0]:
        copy, image = copied / path.relative_to(prepared / FOLDER), Image.open(path).convert("RGB")
        if min(image.size) <= SIDE:
            assert copy.read_bytes() == path.read_bytes()
            continue
        ours, expected = Image.open(copy), transforms.functional.resize(image, SIDE)
        assert (ours.size, min(ours.size)) == (expected.size, SIDE)
        difference = np.asarray(ours).astype(float) - np.asarray(expected)
        assert np.abs(difference).mean() < 4  # of 256 grey levels, for quality 95


def test_an_interrupted_copying_goes_on(prepared, copied, tmp_path, run_program):
    """One copy is cut, one is missing: those two are made, and no other."""
    root = tmp_path / "again"
    shutil.copytree(prepared, root)
    target = root / copied.name
    (target / LIST).unlink()
    copies = sorted(target.rglob("*.JPEG"))
    cut, missing = copies[0], copies[5]
    cut.write_bytes(cut.read_bytes()[:500])
    missing.unlink()
    before = {path: path.stat().st_mtime_ns for path in copies if path != missing}
    status, shown, error = run_program(
        prepare_imagenet, "--data-root", root, "--workers", 1, "--cache-short-side", SIDE
    )
    assert status == 0, error
    assert f"{target}: 18 copies, 0.0 GB: train on them with --cache-short-side {SIDE}" in shown
    assert {path for path in copies if path.stat().st_mtime_ns != before.get(path)} == {cut, missing}
    for path in copies:
        assert path.read_bytes() == (copied / path.relative_to(target)).read_bytes()


def test_training_on_copies(prepared, copied, tmp_path, run_program):
    """Test images are the official ones. What is trained on is a setting, also of what is measured later."""
    whole, small = (load_dataset("imagenet", prepared, None, 32, side, workers=0) for side in (None, SIDE))
    assert small.train.folder == copied
    assert (small.train.labels.tolist(), small.test.folder) == (whole.train.labels.tolist(), prepared / FOLDER)
    assert whole.description() != small.description()
    job = [*JOB, "--data-root", str(prepared), "--start"]
    run = run_in_process(tmp_path, *job, "--cache-short-side", str(SIDE))
    flags = ("--points", 2, "--data-root", prepared, "--workers", 0, "--device", "cpu")
    status, shown, error = run_program(calculate_error_barrier, "--normalization-path", run / "level_01", *flags)
    assert (status, "error barrier" in shown, "in its file here" in error) == (0, True, False), error
    with pytest.raises(UserError, match=r"--cache-short-side None \(there: 80\)"):
        run_in_process(tmp_path, *job)


def test_copies_that_are_not_there(prepared, tmp_path, run_program):
    command = r"run python data/prepare_imagenet.py --data-root .* --cache-short-side 70"
    with pytest.raises(UserError, match=f"imagenet.npz is missing: {command}"):
        load_dataset("imagenet", prepared, cache_short_side=70)
    refused = run_program(main, "--dataset", "cifar100", "--cache-short-side", "70", "--runs-dir", tmp_path)
    assert_refused(refused, "--cache-short-side goes with --dataset imagenet")


# ---------------------------------------------------------------------------------------------------------------------
# Crops, as torchvision's transforms of PIL images make them
# ---------------------------------------------------------------------------------------------------------------------


def training_paths(root):
    paths = [root / FOLDER / "train" / wnid / f"{wnid}_{index}.JPEG" for wnid in WNIDS for index in range(TRAIN)]
    return paths, list(map(str, paths))


def assert_close_pixels(ours, expected):
    """Two resizings of the same pixels, each rounded to whole grey levels."""
    difference = (ours.int() - torch.from_numpy(np.array(expected)).int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.05


@pytest.mark.parametrize("size", [224, 64])
def test_training_crops_are_torchvision_s(prepared, size):
    """With the boxes that are drawn here, for images of every kind."""
    paths, names = training_paths(prepared)
    augmentation = Augmentation(flip=True, crop_areas=(0.08, 1.0))
    crops, drawn = Crops()[Task(names, [0] * len(names), size, augmentation, seed=7)]
    images = [Image.open(path).convert("RGB") for path in paths]
    widths, heights = torch.tensor([image.size for image in images]).split(1, dim=1)
    boxes = draw_resized_crops((0.08, 1.0), heights, widths, torch.Generator().manual_seed(7))
    for crop, image, box in zip(crops, images, boxes.tolist(), strict=True):
        assert_close_pixels(crop, transforms.functional.resized_crop(image, *box, [size, size]))
    assert 0 < drawn[:, 1].sum() < len(names)  # flips, which are for the device


@pytest.mark.parametrize("size", [224, 64])
def test_evaluation_crops_are_torchvision_s(prepared, size):
    paths, names = training_paths(prepared)
    crops, drawn = Crops()[Task(names, list(range(len(names))), size)]
    side = {224: 256, 64: 73}[size]
    transform = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(size)])
    for crop, path in zip(crops, paths, strict=True):
        assert_close_pixels(crop, transform(Image.open(path).convert("RGB")))
    assert drawn.tolist() == [[label, 0] for label in range(len(names))]


@pytest.mark.parametrize(
    ("width", "height", "areas"),
    [(500, 375, (0.08, 1.0)), (64, 300, (0.08, 1.0)), (700, 80, (0.08, 1.0)), (64, 64, (0.5, 1.0))],
)
def test_boxes_are_drawn_as_torchvision_s(width, height, areas):
    """In distribution; narrow images often have none of ten boxes, and then the same one in the middle."""
    count = 4000
    heights, widths = torch.full((count, 1), height), torch.full((count, 1), width)
    ours = draw_resized_crops(areas, heights, widths, torch.Generator().manual_seed(0))
    assert ((ours[:, 0] + ours[:, 2] <= height) & (ours[:, 1] + ours[:, 3] <= width) & (ours >= 0).all(dim=1)).all()
    torch.manual_seed(0)
    image, draw = torch.empty(3, height, width), transforms.RandomResizedCrop.get_params
    theirs = torch.tensor([draw(image, areas, [3 / 4, 4 / 3]) for _ in range(count)]).float()
    deviation = theirs.std(dim=0).clamp(min=1)
    assert (((ours.float().mean(dim=0) - theirs.mean(dim=0)).abs() / deviation) < 0.1).all()
    assert (((ours.float().std(dim=0) - theirs.std(dim=0)).abs() / deviation) < 0.1).all()
    middle = draw(image, [4.0, 4.0], [3 / 4, 4 / 3])  # no box has four times the image's area
    none_fits = draw_resized_crops((4.0, 4.0), heights[:1], widths[:1], torch.Generator())
    assert none_fits.tolist() == [list(middle)]


def test_every_kind_of_file_has_pillow_s_pixels(prepared, monkeypatch):
    """Three channels, not turned by EXIF; by torchcodec if it is there, which is not asked for every kind."""
    asked = []
    for index, path in enumerate(training_paths(prepared)[0]):
        pixels = decode(open_image(path), path)
        assert torch.equal(pixels, torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1))
        monkeypatch.setattr(decoding, "fast_decoder", lambda index=index: lambda _: asked.append(index))
        decode(open_image(path), path)
        monkeypatch.undo()
    assert {*range(TRAIN * len(WNIDS))} - {*asked} == {3, 7, 15}


@pytest.mark.skipif(not fast_decoder(), reason="needs torchcodec")
def test_torchcodec_s_pixels_are_pillow_s():
    """Of all it is given: sizes, qualities, subsampling of colours, restarts. A file that is cut is damaged to both."""
    options = ({}, {"progressive": True}, {"restart_marker_blocks": 3})
    for shape, mode, quality, subsampling, option in product(SHAPES, ("RGB", "L"), (50, 95), (0, 1, 2), options):
        content = io.BytesIO()
        drawn = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)).convert(mode)
        drawn.resize((shape[0] // 3, shape[1])).save(
            content, "JPEG", quality=quality, subsampling=subsampling, **option
        )
        ours, theirs = (decode(Image.open(content), Path("image"), fast) for fast in (True, False))
        assert torch.equal(ours, theirs)
    for end in range(2, 5000, 500):
        cut = Image.open(io.BytesIO(content.getvalue()[:-end]))
        assert is_plain(cut)
        with pytest.raises(FileError, match="is damaged"):
            decode(cut, Path("image"))


def test_batches_are_flipped_and_normalized(prepared):
    """As ToTensor, RandomHorizontalFlip and Normalize would; every image once an epoch."""
    dataset = load_dataset("imagenet", prepared, pixels=64, workers=0)
    assert (dataset.image_size, dataset.channels, dataset.classes, len(dataset.train)) == (64, 3, 3, 18)
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    labels = []
    batches = training_batches(dataset, 7, seed=5)
    drawn = list(dataset.train.draw_epoch(dataset.augmentation, 7, 5, first=0))
    for (images, batch_labels), (about, crops) in zip(batches, drawn, strict=True):
        for image, crop, (_, flip) in zip(images, crops, about.tolist(), strict=True):
            expected = normalize(transforms.functional.to_tensor(crop.numpy()))
            torch.testing.assert_close(image, expected.flip(2) if flip else expected)
        labels += batch_labels.tolist()
    assert sorted(labels) == [0] * 6 + [1] * 6 + [2] * 6
    assert [len(about) for about, _ in drawn] == [7, 7, 4]
    evaluated = list(evaluation_batches(dataset, dataset.test))
    assert torch.cat([labels for _, labels in evaluated]).tolist() == [0, 0, 1, 1, 2, 2]


def test_an_epoch_is_a_function_of_its_seed_alone(prepared):
    """Not of the number of workers, and not of the batch that it begins at; nor of a pass that was left half-way."""

    def drawn(workers_dataset, seed=3, first=0):
        batches = workers_dataset.train.draw_epoch(workers_dataset.augmentation, 4, seed, first)
        return [(about.clone(), crops.clone()) for about, crops in batches]

    alone, helped = (load_dataset("imagenet", prepared, pixels=32, workers=workers) for workers in (0, 2))
    expected = drawn(alone)
    next(helped.train.draw_epoch(helped.augmentation, 4, 9, 0))
    for ours in (drawn(helped), drawn(helped, first=2), drawn(alone, first=4)):
        for batch, other in zip(ours, expected[-len(ours) :], strict=True):
            assert all(map(torch.equal, batch, other))
    assert len(drawn(helped, first=2)) == 3
    assert not torch.equal(drawn(alone, seed=4)[0][1], expected[0][1])


def test_the_parts_of_several_processes_are_the_whole(prepared):
    """Each decodes its own images only, with the boxes and flips of the whole batch; 18 = 7 + 7 + 4 images in 5 parts
    leave one of them without any."""
    dataset = load_dataset("imagenet", prepared, pixels=32, workers=0)
    parts = [dataset.divided(Part(index, 5)) for index in range(5)]
    batches = [list(training_batches(data, 7, seed=5)) for data in (dataset, *parts)]
    for whole, *divided in zip(*batches, strict=True):
        for ours, expected in zip(zip(*divided, strict=True), whole, strict=True):
            assert torch.equal(torch.cat(ours), expected)
    assert [len(part.test) for part in parts] == [2, 1, 1, 1, 1]
    (_, crops), *_ = draw_epoch(parts[4], 7, seed=5)
    assert len(crops) == 1


def test_two_passes_at_once_are_refused(prepared):
    dataset = load_dataset("imagenet", prepared, workers=0)
    first, second = (evaluation_batches(dataset, dataset.train) for _ in range(2))
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="another pass"):
        next(first)


def test_fewer_images_and_what_identifies_them(prepared):
    whole, few = load_dataset("imagenet", prepared), load_dataset("imagenet", prepared, train_images_per_class=2)
    assert few.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [name.decode()[-6:] for name in few.train.names] == ["0.JPEG", "1.JPEG"] * 3
    assert whole.description().startswith("3 classes, 18 training and 6 test images, checksum ")
    assert few.description() != whole.description() == load_dataset("imagenet", prepared, pixels=64).description()


@pytest.mark.slow
def test_a_worker_that_is_killed(prepared):
    """An expected error; the job goes on with the same command."""
    dataset = load_dataset("imagenet", prepared, pixels=32, workers=1)
    batches = training_batches(dataset, 2, seed=0)
    next(batches)
    dataset.train.stream.loader._iterator._workers[0].kill()
    with pytest.raises(UserError, match="a process that decodes images was ended"):
        list(batches)


def test_a_list_that_is_damaged(prepared, tmp_path):
    with np.load(prepared / LIST) as file:
        content = dict(file)
    shifted = content | {"val_labels": content["val_labels"] + 1}
    for wrong in (shifted, content | {"train_bytes": content["train_bytes"][1:]}, {"wnids": content["wnids"]}):
        np.savez(tmp_path / LIST, **wrong)
        with pytest.raises(FileError, match=r"imagenet\.npz is damaged: delete it and run python data/prepare"):
            load_dataset("imagenet", tmp_path)


def test_memory_holds_a_few_batches(prepared, tmp_path):
    """Not an epoch's images, which are 25 MB of crops: 2,000 of a small training set, as files."""
    paths, count = training_paths(prepared)[0], 2000
    for index in range(count):
        (tmp_path / str(index)).symlink_to(paths[2])  # of 90 x 64 pixels
    train = load_dataset("imagenet", prepared, pixels=64, workers=0).train
    names, classes = np.array([*map(str, range(count))], dtype=bytes), torch.zeros(count, dtype=torch.int64)
    dataset = replace(train, names=names, classes=classes, file_sizes=classes, folder=tmp_path)
    held = []
    for _, crops in dataset.draw_epoch(Augmentation(crop_areas=(0.08, 1.0)), 50, seed=0, first=0):
        assert crops.shape == (50, 64, 64, 3)
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    assert max(held[5:]) - held[5] < 8e6


def test_an_image_that_is_gone_or_damaged(tmp_path):
    """Named, whether a worker meets it or this process does."""
    folder = write_imagenet(tmp_path)
    prepare(tmp_path)
    path = folder / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    path.write_bytes(path.read_bytes()[:2000])
    for workers in (0, 1):
        dataset = load_dataset("imagenet", tmp_path, workers=workers)
        with pytest.raises(Exception, match=f"{path} is damaged: fetch it again"):
            list(training_batches(dataset, 8, seed=0))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)):
        list(training_batches(dataset, 8, seed=0))


# ---------------------------------------------------------------------------------------------------------------------
# Whole jobs, interrupted within an epoch
# ---------------------------------------------------------------------------------------------------------------------

JOB = (
    "--dataset imagenet --arch mobilenetv2_tiny --method aws --pixels 32 --train-images-per-class 6 --batch-size 4 "
    "--start signs --levels 1 --level-epochs 1 --final-epochs 1 --checkpoint-seconds 0 --workers 0"
).split()


@pytest.mark.slow
def test_a_job_interrupted_within_epochs(prepared, tmp_path):
    """Five steps an epoch, each saved. Of the warm-up, the level and the final training, one is interrupted in the
    middle; the rest is done with other workers, and the bits are those of an undisturbed job."""
    job = [*JOB, "--data-root", str(prepared)]
    expected = run_in_process(tmp_path / "undisturbed", *job)
    for stage, (call, workers) in enumerate(((3, 0), (8, 1), (12, 0))):
        runs = tmp_path / str(stage)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(call, JobProgress, "advance", patch)
            run_in_process(runs, *job)
        (unfinished,) = runs.rglob("unfinished.pt")
        state = load(unfinished)
        assert state["rows"] == []
        assert state["epoch"]["tally"]["images"] == 4 * (call - 1 - 5 * stage)
        with pytest.MonkeyPatch.context() as patch:
            steps = interrupt_at(0, JobProgress, "advance", patch)
            run = run_in_process(runs, *job, "--workers", str(workers))
        assert len(steps) == 15 - (call - 1)
        assert_same_networks(run, expected)
        for ours, theirs in zip(sorted(run.rglob("metrics.csv")), sorted(expected.rglob("metrics.csv")), strict=True):
            for row, other in zip(read_csv(ours), read_csv(theirs), strict=True):
                assert [row[key] for key in ("train_loss", "train_accuracy", "test_loss")] == [
                    other[key] for key in ("train_loss", "train_accuracy", "test_loss")
                ]


@pytest.mark.slow
def test_killed_within_an_epoch(prepared, tmp_path):
    """kill -9 of a job with two workers, which end with it."""
    job = [*JOB, "--data-root", prepared, "--final-epochs", "12", "--runs-dir", tmp_path, "--workers", "2"]
    program = [*map(str, (sys.executable, PROJECT / "main.py", *TINY_JOB, *job))]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        final = tmp_path / "imagenet_mobilenetv2_tiny_aws_seed1" / "final" / "level_01_signs_seed2"
        while not (final / "unfinished.pt").exists():
            time.sleep(0.05)
        descendants = processes_below(process.pid)
        assert len(descendants) >= 2
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert load(final / "unfinished.pt")["epoch"] is None or load(final / "unfinished.pt")["epoch"]["tally"]["images"]
    patience = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in descendants):
        assert time.monotonic() < patience
        time.sleep(0.1)


def processes_below(pid):
    """The processes that a process has started, and theirs."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in processes_below(child)]
