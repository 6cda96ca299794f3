"""What a person sees while a job trains: one bar for the whole job on a terminal, a line an epoch elsewhere."""

import sys
import time
from collections.abc import Mapping
from datetime import timedelta

from tqdm import tqdm

WORTH_MENTIONING = 0.1  # of the time


class JobProgress:
    """Counts images over the whole job, so that speed and time left are the job's and not an epoch's. ``stages``: the
    epochs of every stage, by its folder."""

    def __init__(self, stages: Mapping[str, int], images_per_epoch: int):
        self.on_terminal = sys.stdout.isatty()
        self.stages, self.images_per_epoch = stages, images_per_epoch
        self.total, self.trained, self.skipped = sum(stages.values()) * images_per_epoch, 0, 0
        self.started = time.monotonic()
        self.bar = tqdm(
            total=self.total,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            file=sys.stdout,
            disable=not self.on_terminal,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def title(self, text: str) -> None:
        self.bar.set_description(text, refresh=False)

    def advance(self, images: int) -> None:
        self.trained += images
        self.bar.update(images)

    def skip(self, images: int) -> None:
        """What an earlier process has trained, or another one trains: not at this one's speed."""
        self.skipped += images
        if self.on_terminal:  # a disabled bar has no count
            self.bar.initial += images
            self.bar.n += images

    def skip_stage(self, stage: str) -> None:
        self.skip(self.stages[stage] * self.images_per_epoch)

    def epoch(self, text: str, row: dict) -> None:
        """Report a finished epoch from its row of ``metrics.csv``."""
        test = "" if row["test_accuracy"] is None else f", test {row['test_accuracy']:.1f} %"
        numbers = f"loss {row['train_loss']:.3f}, accuracy {row['train_accuracy']:.1f} %{test}"
        if row["waiting_share"] > WORTH_MENTIONING:
            numbers += f", {100 * row['waiting_share']:.0f} % of the time waiting for images (more --workers?)"
        self.bar.set_postfix_str(numbers, refresh=False)
        if not self.on_terminal:
            left = timedelta(seconds=round(self.seconds_left()))
            print(f"{text}: {numbers}, {row['images_per_second']:,.0f} images/s, {left} left", flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        self.bar.write(text, file=sys.stdout)

    def seconds_left(self) -> float:
        left = self.total - self.skipped - self.trained
        return (time.monotonic() - self.started) / self.trained * left if self.trained else 0.0
