"""TensorBoard scalars that hold every epoch once, however often the training was interrupted."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

SCALARS_FOLDER = "tensorboard"  # of a run
TAGS = {
    "train_loss": "loss/train",
    "test_loss": "loss/test",
    "train_accuracy": "accuracy/train",
    "test_accuracy": "accuracy/test",
    "lr": "learning_rate",
}


class StageScalars:
    """The event file of one stage: begun anew from the metrics known so far, so that nothing stands in it twice."""

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
        """One epoch's row of ``metrics.csv``."""
        for key, tag in TAGS.items():
            self.writer.add_scalar(tag, row[key], self.first_step + row["epoch"])


class LevelScalars(StageScalars):
    """The sign statistics and survivors of one level, at the level's number."""

    def __init__(self, folder: Path, stage: str):
        super().__init__(folder, stage, 0, [])

    def add_level(self, result: dict) -> None:
        level = result["level"]
        for key in ("remaining_ratio", "signs_flipped_since_last_level", "signs_flipped_since_initialization"):
            self.writer.add_scalar(f"level/{key}", result[key], level)
        self.writer.add_scalar("level/test_accuracy", result["test_accuracy"], level)
        for name, count in result["survivors"].items():
            self.writer.add_scalar(f"survivors/{name}", count, level)


def group_scalars(runs: Mapping[Path, str], folder: Path) -> None:
    """Show the TensorBoard folders of ``runs`` under ``folder`` too, each in its group: links, made anew."""
    for old in folder.glob("*/*"):
        if old.is_symlink():
            old.unlink()
    for run, group in runs.items():
        target, link = run / SCALARS_FOLDER, folder / group / run.name
        if target.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(target, link.parent.resolve()))
