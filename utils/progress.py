"""What a person sees while a job trains: one bar for the whole job on a terminal, a line an epoch elsewhere."""

import sys
import time
from datetime import timedelta

from tqdm import tqdm


class JobProgress:
    """Counts images over the whole job, so that speed and time left are the job's and not an epoch's."""

    def __init__(self, total_images: int):
        self.on_terminal = sys.stdout.isatty()
        self.total, self.trained, self.skipped = total_images, 0, 0
        self.started = time.monotonic()
        self.bar = tqdm(
            total=total_images,
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
        """Images that an earlier process trained on: done, but not at this one's speed."""
        self.skipped += images
        if self.on_terminal:  # a disabled bar has no count
            self.bar.initial += images
            self.bar.n += images

    def epoch(self, text: str, row: dict) -> None:
        """Report a finished epoch from its row of ``metrics.csv``."""
        numbers = (
            f"loss {row['train_loss']:.3f}, accuracy {row['train_accuracy']:.1f} %, test {row['test_accuracy']:.1f} %"
        )
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
