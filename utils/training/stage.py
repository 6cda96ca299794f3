"""One stage of a job, trained so that it can be interrupted at any instant: the warm-up, a level, a final training."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.batches import count_batches, draw_epoch
from utils.files import FileError, load, naming_damage, save, write_csv
from utils.method.network import plain_state
from utils.method.norm_interpolation import draw_alphas
from utils.method.step import TrainingError
from utils.runs.progress import JobProgress
from utils.runs.run import METRICS_FILE, UNFINISHED_FILE
from utils.runs.tensorboard import TAGS, StageScalars
from utils.seeding import derive_seed, seed_global_generators
from utils.training.evaluation import train_one_epoch
from utils.training.optimization import optimizer_state, ramp, restore_optimizer, set_rate
from utils.training.trainer import Trainer

ORDINARY = (1.0, 1.0)  # α = 1: the normalization parameters as they are


@dataclass(frozen=True)
class Stage:
    """``seed`` and ``purpose`` decide the order of the images, their augmentation, α and dropout."""

    title: str
    folder: Path
    rates: Sequence[float]  # the learning rate of every epoch
    seed: int
    purpose: str
    scalars: Path  # TensorBoard's folder
    first_step: int = 0  # the epoch at which TensorBoard shows this stage's first one
    alpha_range: Sequence[float] = ORDINARY
    test_every: int = 1  # epochs; the last one is always tested
    alpha_layers: int | None = None  # how many layers have an α of their own; None: one for all
    ramp_epochs: int = 0  # in which the learning rate rises from 0


def train_stage(
    trainer: Trainer,
    stage: Stage,
    progress: JobProgress,
    checkpoint_seconds: float,
    after_epoch: Callable[[int], None] = lambda epochs_done: None,
) -> list[dict]:
    """Train what ``trainer`` holds, one epoch for each of the stage's rates, from where an interrupted process was.

    Returns one row of metrics an epoch; ``metrics.csv`` and TensorBoard have each of them once. ``after_epoch`` is
    called with the number of epochs done, before that state may be saved. Raises TrainingError; finished work stays.
    """
    rows = _resume(trainer, stage, progress)
    saved_at = time.monotonic()
    with StageScalars(stage.scalars, stage.folder.name, stage.first_step, rows) as scalars:
        progress.skip(len(rows))
        for epoch in range(len(rows), len(stage.rates)):
            title = f"{stage.title}, epoch {epoch + 1}/{len(stage.rates)}"
            progress.title(title)
            row = _train_epoch(trainer, stage, epoch, progress)
            rows.append(row)
            write_csv(stage.folder / METRICS_FILE, rows)
            scalars.add(row)
            progress.epoch(title, row)
            after_epoch(epoch + 1)
            if epoch + 1 < len(stage.rates) and time.monotonic() - saved_at >= checkpoint_seconds:
                _save_unfinished(trainer, stage, rows)
                saved_at = time.monotonic()
    return rows


def _train_epoch(trainer: Trainer, stage: Stage, epoch: int, progress: JobProgress) -> dict:
    dataset, batch_size, rate = trainer.dataset, trainer.recipe.batch_size, stage.rates[epoch]
    seeds = {what: derive_seed(stage.seed, stage.purpose, epoch, what) for what in ("network", "batches", "alpha")}
    seed_global_generators(seeds["network"])
    batches = draw_epoch(dataset, batch_size, seeds["batches"])
    steps = count_batches(len(dataset.train), batch_size)
    alphas = draw_alphas(steps, stage.alpha_range, seeds["alpha"], stage.alpha_layers).to(trainer.device)
    batches = _each_at_its_rate(batches, trainer.optimizer, ramp(rate, epoch, steps, stage.ramp_epochs))
    started = time.monotonic()
    try:
        train = train_one_epoch(trainer.network, trainer.step, batches, alphas, progress.advance)
        seconds = time.monotonic() - started
        tested = (epoch + 1) % stage.test_every == 0 or epoch + 1 == len(stage.rates)
        test = trainer.evaluate() if tested else None
    except TrainingError as error:
        raise TrainingError(
            f"{stage.title}, epoch {epoch + 1}: {error}; everything finished before is kept in {stage.folder.parent}; "
            f"try a lower learning rate than {max(stage.rates)} (--lr, --search-lr) with another --name"
        ) from error
    return {
        "epoch": epoch + 1,
        "lr": rate,
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "test_loss": test.loss if test else None,
        "test_accuracy": test.accuracy if test else None,
        "seconds": round(seconds, 3),
        "images_per_second": round(len(dataset.train) / seconds, 1),
    }


def _each_at_its_rate(batches: Iterable, optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> Iterator:
    """The batches, with the learning rate set before each of them."""
    last = None
    for batch, rate in zip(batches, rates, strict=True):
        if rate != last:  # on a GPU, to set one is a kernel
            set_rate(optimizer, rate)
        last = rate
        yield batch


def _save_unfinished(trainer: Trainer, stage: Stage, rows: list[dict]) -> None:
    content = {"model": plain_state(trainer.network), "rows": rows, "optimizer": optimizer_state(trainer.optimizer)}
    save(stage.folder / UNFINISHED_FILE, content)


def _resume(trainer: Trainer, stage: Stage, progress: JobProgress) -> list[dict]:
    """Load what an interrupted process saved. Without it, or if it is damaged, the stage starts from its beginning."""
    path = stage.folder / UNFINISHED_FILE
    if not path.exists():
        return []
    try:
        content = load(path)
        with naming_damage(path, "belongs to another stage or program"):
            _check_rows(content["rows"], len(stage.rates))
            expected = {name: (tensor.shape, tensor.dtype) for name, tensor in trainer.network.state_dict().items()}
            if {name: (tensor.shape, tensor.dtype) for name, tensor in content["model"].items()} != expected:
                raise ValueError("its tensors are those of another network")
            if not content["optimizer"]:
                raise ValueError("it has no state of the optimizer")
            restore_optimizer(trainer.optimizer, content["optimizer"])
    except FileError as error:
        progress.note(f"{error}: {stage.title} starts again from its beginning")
        return []
    trainer.network.load_state_dict(content["model"])
    return content["rows"]


def _check_rows(rows: list[dict], epochs: int) -> None:
    """Raises an exception unless there is a row of numbers for each of the first epochs."""
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)) or len(rows) > epochs:
        raise ValueError("its epochs are not those of the stage")
    if not all(isinstance(row[key], int | float | None) for row in rows for key in TAGS):
        raise ValueError("its metrics are not numbers")
