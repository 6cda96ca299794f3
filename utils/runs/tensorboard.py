"""TensorBoard scalars that contain every epoch once, however often the training was interrupted."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

SCALARS_FOLDER = "tensorboard"  # in a run folder
TAGS = {
    "train_loss": "loss/train",
    "test_loss": "loss/test",
    "train_accuracy": "accuracy/train",
    "test_accuracy": "accuracy/test",
    "lr": "learning_rate",
}


class StageScalars:
    """One stage's event file. It replaces older ones and starts with the metrics so far: no epoch is in it twice."""

    def __init__(self, folder: Path, stage: str, first_step: int, rows: list[dict]):
        for old in folder.glob(f"events.out.tfevents.*.{stage}"):
            old.unlink()
        self.writer = SummaryWriter(folder, filename_suffix=f".{stage}", flush_secs=10)
        self.first_step = first_step
        for row in rows:
            self.add(row)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.writer.close()

    def add(self, row: dict) -> None:
        """Add one epoch's row of ``metrics.csv``."""
        for key, tag in TAGS.items():
            if row[key] is None:  # not tested in this epoch
                continue
            self.writer.add_scalar(tag, row[key], self.first_step + row["epoch"])


def add_level_scalars(folder: Path, stage: str, level: int, measured: dict) -> None:
    """Write the sign statistics and survivors of one level, with the level's number as the step."""
    with StageScalars(folder, f"{stage}.statistics", 0, []) as scalars:
        for key in ("remaining_ratio", "signs_flipped_since_last_level", "signs_flipped_since_initialization"):
            scalars.writer.add_scalar(f"level/{key}", measured[key], level)
        scalars.writer.add_scalar("level/test_accuracy", measured["test_accuracy"], level)
        for name, count in measured["survivors"].items():
            scalars.writer.add_scalar(f"survivors/{name}", count, level)


def group_scalars(runs: Mapping[Path, str], folder: Path) -> None:
    """Link the TensorBoard folder of each of ``runs`` into ``folder``, under the run's group."""
    for old in folder.glob("*/*"):
        if old.is_symlink():
            old.unlink()
    for run, group in runs.items():
        target, link = run / SCALARS_FOLDER, folder / group / run.name
        if target.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(target, link.parent.resolve()))
