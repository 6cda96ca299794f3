"""One stage of a job, trained so that it can be interrupted at any instant: the warm-up, a level, a final training."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.batches import count_batches, draw_epoch
from utils.files import FileError, load, naming_damage, save, write_csv
from utils.method.network import State, plain_state
from utils.method.norm_interpolation import draw_alphas, layers_of
from utils.method.step import DivergedError, TrainingError
from utils.runs.progress import JobProgress
from utils.runs.run import METRICS_FILE, UNFINISHED_FILE
from utils.runs.tensorboard import TAGS, StageScalars
from utils.seeding import derive_seed, generator_states, restore_generators
from utils.training.batch_statistics import average_running_statistics
from utils.training.distributed import from_main_process, gather, is_main_process, rank, world_size
from utils.training.evaluation import Tally, check_finite, train_one_epoch
from utils.training.optimization import optimizer_state, ramp, restore_optimizer, set_rate
from utils.training.trainer import Trainer

ORDINARY = (1.0, 1.0)  # α = 1: the normalization parameters as they are
AGREEMENT_STEPS = 20  # after which several processes ask the main one whether to save: asking has the host wait


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
    alpha_per_layer: bool | None = None  # whether every normalization layer has an α of its own
    ramp_epochs: int = 0  # in which the learning rate rises from 0


class Epoch:
    """An epoch in training, of which an earlier process may have done a part: ``begun`` is then its ``state``."""

    def __init__(self, trainer: Trainer, number: int, begun: Mapping | None = None):
        self.trainer, self.number, self.images = trainer, number, trainer.dataset.train
        begun = begun or {"tally": {}, "seconds": 0.0, "waited": 0.0, "generators": {}}
        self.tally = Tally(trainer.device, **begun["tally"])
        self.generators = begun["generators"]
        self._clock = time.monotonic() - begun["seconds"]
        self._waiting = self.images.waited - begun["waited"]

    @property
    def steps_done(self) -> int:
        return count_batches(self.tally.images, self.trainer.recipe.batch_size)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._clock

    @property
    def waited(self) -> float:
        """Seconds in which the next batch was not there yet."""
        return self.images.waited - self._waiting

    def state(self) -> dict:
        """Beside weights and optimizer, all that the rest of the epoch needs in this process. Raises DivergedError if
        the loss is not finite, so that no such state is kept."""
        tally = self.tally.numbers()
        check_finite(tally["loss"], "training")
        return {
            "tally": tally,
            "seconds": self.seconds,
            "waited": self.waited,
            "generators": generator_states(self.trainer.device),
            # Batch norms' running statistics; the main process's are in the model.
            "buffers": {} if is_main_process() else self._buffers(),
        }

    def _buffers(self) -> State:
        return {name: buffer.cpu() for name, buffer in self.trainer.network.named_buffers()}


class Saver:
    """Saves a stage in progress, but at most every ``interval`` seconds."""

    def __init__(self, trainer: Trainer, stage: Stage, rows: list[dict], interval: float):
        self.trainer, self.stage, self.rows, self.interval = trainer, stage, rows, interval
        self.saved_at = time.monotonic()

    def save_if_due(self, epoch: Epoch | None = None) -> None:
        """Between two epochs, or within one. Raises DivergedError if its loss is not finite."""
        if epoch and world_size() > 1 and epoch.steps_done % AGREEMENT_STEPS:
            return
        if from_main_process(lambda: time.monotonic() - self.saved_at < self.interval):
            return
        epoch_states = gather(epoch.state()) if epoch else [None]
        if is_main_process():
            content = {
                "model": plain_state(self.trainer.network),
                "rows": self.rows,
                "optimizer": optimizer_state(self.trainer.optimizer),
                "epoch": epoch_states[0],
                "others": epoch_states[1:],
            }
            save(self.stage.folder / UNFINISHED_FILE, content)
        self.saved_at = time.monotonic()


def train_stage(
    trainer: Trainer,
    stage: Stage,
    progress: JobProgress,
    checkpoint_seconds: float,
    after_epoch: Callable[[int], None] = lambda epochs_done: None,
) -> list[dict]:
    """Train what ``trainer`` holds, one epoch for each of the stage's rates, from where an interrupted process was.

    Returns one row of metrics an epoch; ``metrics.csv`` and TensorBoard have each of them once. The trainer's
    ``after_epoch`` and this one are called with the number of epochs done, before that state may be saved. Raises
    TrainingError; finished work stays. Of several processes, only the main one writes.
    """
    rows, begun = _resume(trainer, stage, progress)
    if len(set(gather((len(rows), begun and begun["tally"]["images"])))) > 1:
        raise TrainingError(f"{stage.folder} is not the same on every machine: choose a --runs-dir that all share")
    saver, main = Saver(trainer, stage, rows, checkpoint_seconds), is_main_process()
    with StageScalars(stage.scalars, stage.folder.name, stage.first_step, rows) if main else nullcontext() as scalars:
        progress.skip(len(rows) * progress.images_per_epoch)
        for epoch in range(len(rows), len(stage.rates)):
            title = f"{stage.title}, epoch {epoch + 1}/{len(stage.rates)}"
            progress.title(title)
            row = _train_epoch(stage, Epoch(trainer, epoch, begun), progress, saver)
            begun = None
            rows.append(row)
            if main:
                write_csv(stage.folder / METRICS_FILE, rows)
                scalars.add(row)
            progress.epoch(title, row)
            trainer.after_epoch(epoch + 1)
            after_epoch(epoch + 1)
            if epoch + 1 < len(stage.rates):
                saver.save_if_due()
    return rows


def _train_epoch(stage: Stage, epoch: Epoch, progress: JobProgress, saver: Saver) -> dict:
    trainer, number, images = epoch.trainer, epoch.number + 1, len(epoch.images)

    def after_step(trained: int) -> None:
        progress.advance(trained)
        if epoch.tally.images < images:  # a whole epoch is saved with its row
            saver.save_if_due(epoch)

    progress.skip(epoch.tally.images)
    batches, alphas = _draw_rest(stage, epoch)
    try:
        train = train_one_epoch(trainer.network, trainer.step, batches, alphas, after_step, epoch.tally)
        average_running_statistics(trainer.network)
        seconds, waited = epoch.seconds, epoch.waited
        tested = number % stage.test_every == 0 or number == len(stage.rates)
        test = trainer.evaluate(roughly=True) if tested else None
    except DivergedError as error:
        raise DivergedError(
            f"{stage.title}, epoch {number}: {error}; everything finished before is kept in {stage.folder.parent}; "
            f"try a lower learning rate than {max(stage.rates)} (--lr, --search-lr) with another --name"
        ) from error
    return {
        "epoch": number,
        "lr": stage.rates[epoch.number],
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "test_loss": test.loss if test else None,
        "test_accuracy": test.accuracy if test else None,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 1),
        "waiting_share": round(waited / seconds, 3),
    }


def _draw_rest(stage: Stage, epoch: Epoch) -> tuple[Iterator, Tensor]:
    """The batches that the epoch still has to train on, each at its learning rate, and their α; torch's global
    generators are where they were before the first of them."""
    trainer, batch_size, done = epoch.trainer, epoch.trainer.recipe.batch_size, epoch.steps_done
    purposes = ("network", "batches", "alpha")
    seeds = {what: derive_seed(stage.seed, stage.purpose, epoch.number, what) for what in purposes}
    # Each process drops activations of its own.
    torch.manual_seed(derive_seed(seeds["network"], rank()) if rank() else seeds["network"])
    restore_generators(epoch.generators)
    batches = draw_epoch(trainer.dataset, batch_size, seeds["batches"], done)
    steps = count_batches(len(epoch.images), batch_size)
    layers = len(layers_of(trainer.initial_norms)) if stage.alpha_per_layer else None
    alphas = draw_alphas(steps, stage.alpha_range, seeds["alpha"], layers).to(trainer.device)
    rates = ramp(stage.rates[epoch.number], epoch.number, steps, stage.ramp_epochs)
    return _each_at_its_rate(batches, trainer.optimizer, rates[done:]), alphas[done:]


def _each_at_its_rate(batches: Iterable, optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> Iterator:
    """The batches, with the learning rate set before each of them."""
    last = None
    for batch, rate in zip(batches, rates, strict=True):
        if rate != last:  # on a GPU, to set one is a kernel
            set_rate(optimizer, rate)
        last = rate
        yield batch


def _resume(trainer: Trainer, stage: Stage, progress: JobProgress) -> tuple[list[dict], dict | None]:
    """Load what an interrupted process saved; returns the rows of whole epochs, and the state of an epoch that had
    begun. Without it, or if it is damaged, the stage starts from its beginning."""
    path = stage.folder / UNFINISHED_FILE
    if not path.exists():
        return [], None
    try:
        content = load(path)
        with naming_damage(path, "belongs to another stage or program"):
            _check_rows(content["rows"], len(stage.rates))
            expected = {name: (tensor.shape, tensor.dtype) for name, tensor in trainer.network.state_dict().items()}
            if {name: (tensor.shape, tensor.dtype) for name, tensor in content["model"].items()} != expected:
                raise ValueError("its tensors are those of another network")
            if not content["optimizer"]:
                raise ValueError("it has no state of the optimizer")
            begun = _begun_here(content)
            if begun and not 0 < Epoch(trainer, len(content["rows"]), begun).tally.images < len(trainer.dataset.train):
                raise ValueError("its epoch has other images")
            restore_optimizer(trainer.optimizer, content["optimizer"])
    except FileError as error:
        progress.note(f"{error}: {stage.title} starts again from its beginning")
        restore_optimizer(trainer.optimizer)  # some of it may have been filled in
        return [], None
    trainer.network.load_state_dict(content["model"])
    if begun:
        trainer.network.load_state_dict(begun.get("buffers", {}), strict=False)
    return content["rows"], begun


def _begun_here(content: Mapping) -> dict | None:
    """This process's state of the epoch that had begun, if one had. If there were another number of processes, the
    main process has the sums of all of them."""
    main = content.get("epoch")  # which files of earlier versions lack
    if main is None:
        return None
    states = [main, *content.get("others", [])]
    if len(states) == world_size():
        return states[rank()]
    sums = {what: sum(state["tally"][what] for state in states) for what in ("loss", "correct")}
    return {**main, "tally": {**(sums if is_main_process() else {}), "images": main["tally"]["images"]}}


def _check_rows(rows: list[dict], epochs: int) -> None:
    """Raises an exception unless there is a row of numbers for each of the first epochs."""
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)) or len(rows) > epochs:
        raise ValueError("its epochs are not those of the stage")
    if not all(isinstance(row[key], int | float | None) for row in rows for key in TAGS):
        raise ValueError("its metrics are not numbers")
