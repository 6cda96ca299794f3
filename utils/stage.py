"""One stage of the job, trained so that it can be interrupted at any instant: warm-up, a level, a final training."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.batches import count_batches, draw_epoch, evaluation_batches
from data.dataset import Dataset
from utils import checkpoint
from utils.blueprint import Blueprint, State
from utils.checkpoint import CheckpointError
from utils.norm_interpolation import draw_alphas
from utils.optimization import momenta, set_momenta, set_rate
from utils.progress import JobProgress
from utils.pruning import Masks
from utils.run_folder import METRICS_FILE, NETWORK_FILE, RESULT_FILE, write_csv, write_json
from utils.seeding import derive_seed, seed_global_generators
from utils.tensorboard import StageScalars
from utils.trainee import Recipe, Trainee
from utils.training import TrainingError, evaluate, train_one_epoch

UNFINISHED_FILE = "unfinished.pt"


@dataclass(frozen=True)
class Stage:
    """``purpose`` and ``order_seed`` decide the order of the images, their augmentation, α and dropout."""

    title: str
    folder: Path
    epochs: int
    order_seed: int
    purpose: str
    rate: Callable[[float, int, int], float]  # (lr, epoch, epochs) -> the epoch's learning rate
    scalars: Path  # TensorBoard's folder
    rate_flag: str = "--lr"
    first_step: int = 0  # the epoch that TensorBoard counts this stage's first one as
    # Called with the number of epochs that are done, before that state may be saved.
    after_epoch: Callable[[int], None] = lambda epochs_done: None


def train_stage(trainee: Trainee, dataset: Dataset, stage: Stage, recipe: Recipe, progress: JobProgress) -> list[dict]:
    """Train ``trainee`` in place for the stage's epochs, going on from where an interrupted process was.

    Returns one row of metrics an epoch, which are also in ``metrics.csv`` and TensorBoard, each epoch once. Raises
    TrainingError; what was finished stays.
    """
    rows = _resume(trainee, stage, progress)
    saved_at = time.monotonic()
    with StageScalars(stage.scalars, stage.folder.name, stage.first_step, rows) as scalars:
        progress.skip(len(rows) * len(dataset.train))
        for epoch in range(len(rows), stage.epochs):
            title = f"{stage.title}, epoch {epoch + 1}/{stage.epochs}"
            progress.title(title)
            row = _train_epoch(trainee, dataset, stage, recipe, epoch, progress)
            rows.append(row)
            write_csv(stage.folder / METRICS_FILE, rows)
            scalars.add(row)
            progress.epoch(title, row)
            stage.after_epoch(epoch + 1)
            if epoch + 1 < stage.epochs and time.monotonic() - saved_at >= recipe.checkpoint_seconds:
                _save_unfinished(trainee, stage, rows)
                saved_at = time.monotonic()
    return rows


def _train_epoch(trainee, dataset, stage, recipe, epoch, progress) -> dict:
    device = dataset.train.images.device
    seed_global_generators(derive_seed(stage.order_seed, stage.purpose, epoch, "network"))
    batches = draw_epoch(dataset, recipe.batch_size, derive_seed(stage.order_seed, stage.purpose, epoch, "batches"))
    alphas = draw_alphas(
        count_batches(len(dataset.train), recipe.batch_size),
        recipe.alpha_range,
        derive_seed(stage.order_seed, stage.purpose, epoch, "alpha"),
    ).to(device)
    set_rate(trainee.optimizer, stage.rate(recipe.lr, epoch, stage.epochs))
    started = time.monotonic()
    try:
        train = train_one_epoch(trainee.network, trainee.step, batches, alphas, progress.advance)
        seconds = time.monotonic() - started
        test = evaluate(trainee.network, evaluation_batches(dataset, dataset.test), trainee.predict)
    except TrainingError as error:
        raise TrainingError(
            f"{stage.title}, epoch {epoch + 1}: {error}; everything finished before is kept in {stage.folder.parent}; "
            f"try a lower {stage.rate_flag} than {recipe.lr} with another --name"
        ) from error
    return {
        "epoch": epoch + 1,
        "lr": stage.rate(recipe.lr, epoch, stage.epochs),
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "seconds": round(seconds, 3),
        "images_per_second": round(len(dataset.train) / seconds, 1),
    }


def _save_unfinished(trainee: Trainee, stage: Stage, rows: list[dict]) -> None:
    content = {"model": checkpoint.plain_state(trainee.network), "momenta": momenta(trainee.optimizer), "rows": rows}
    checkpoint.save(stage.folder / UNFINISHED_FILE, content)


def _resume(trainee: Trainee, stage: Stage, progress: JobProgress) -> list[dict]:
    """Load what an interrupted process saved; without it, or where it is damaged, the stage starts anew."""
    path = stage.folder / UNFINISHED_FILE
    if not path.exists():
        return []
    try:
        content = checkpoint.load(path)
        model, rows = content["model"], content["rows"]
        expected = {name: tensor.shape for name, tensor in trainee.network.state_dict().items()}
        if {name: tensor.shape for name, tensor in model.items()} != expected:
            raise CheckpointError(f"{path} belongs to another network")
        set_momenta(trainee.optimizer, content["momenta"])
    except (CheckpointError, KeyError, ValueError) as error:
        progress.note(f"{error}: {stage.title} starts again from its beginning")
        return []
    trainee.network.load_state_dict(model)
    return rows


def finish_stage(
    folder: Path, blueprint: Blueprint, state: State, masks: Masks, initial_norms: State, settings: dict, result: dict
) -> None:
    """Keep what the stage is for. The network is written last: where it is, the stage is finished."""
    write_json(folder / RESULT_FILE, result)
    blueprint.save_network(folder / NETWORK_FILE, state, masks, initial_norms, settings=settings, result=result)
    discard_unfinished(folder)


def discard_unfinished(folder: Path) -> None:
    """Remove the state of a stage in progress, once the stage is finished."""
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)
