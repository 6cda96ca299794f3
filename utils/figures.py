"""The pictures of error barriers: curves over α with mean and standard deviation, and heat maps of all pairs."""

import io
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.checkpoint import write_atomically

# Curves are told apart by colour and by line style, so that they survive a printer.
LINE_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """``trials``: for every trial one value at every α. Without a colour it gets the next one."""

    label: str
    alphas: Sequence[float]
    trials: Sequence[Sequence[float]]
    color: str | None = None

    def draw(self, axes: Axes, line_style: str = "-") -> None:
        """The mean over trials at every α, and its sample standard deviation as a shaded band."""
        columns = list(zip(*self.trials, strict=True))
        mean = [statistics.mean(column) for column in columns]
        (line,) = axes.plot(
            self.alphas, mean, line_style, label=self.label, color=self.color, marker="o", markersize=3, linewidth=1.6
        )
        if len(self.trials) > 1:
            spread = [statistics.stdev(column) for column in columns]
            low = [value - deviation for value, deviation in zip(mean, spread, strict=True)]
            high = [value + deviation for value, deviation in zip(mean, spread, strict=True)]
            axes.fill_between(self.alphas, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def path_figure(title: str, ends: tuple[str, str], curves: Sequence[Curve]) -> Figure:
    """The errors along one path; ``ends`` name the networks at α = 0 and α = 1."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for curve, line_style in zip(curves, LINE_STYLES, strict=False):
        curve.draw(axes, line_style)
    axes.set_title(textwrap.fill(title, 95), fontsize=8)
    axes.set_xlabel(f"α = 0: {ends[0]}\nα = 1: {ends[1]}", fontsize=8)
    axes.set_ylabel("error (%)")
    axes.legend(fontsize=8)
    return figure


def comparison_figure(title: str, panels: Mapping[str, Sequence[Curve]]) -> Figure:
    """One panel a kind of comparison, test error over α."""
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(5.5 * len(panels), 4.6), squeeze=False, sharey=True, layout="constrained"
    )
    for axes, (name, curves) in zip(all_axes[0], panels.items(), strict=True):
        for curve in curves:
            curve.draw(axes)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("α")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8, frameon=False)
    all_axes[0][0].set_ylabel("test error (%)")
    figure.suptitle(title, fontsize=11)
    return figure


def heat_map(title: str, labels: Sequence[str], matrix: Sequence[Sequence[float]]) -> Figure:
    """A symmetric matrix of barriers, its numbers written in."""
    size = 2.5 + 0.8 * len(labels)
    figure, axes = plt.subplots(figsize=(size + 2, size), layout="constrained")
    image = axes.imshow(matrix, cmap="viridis")
    middle = (max(map(max, matrix)) + min(map(min, matrix))) / 2
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            color = "black" if value > middle else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=7)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, label="error barrier (percentage points)")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """``path`` without its ending, as .png and .pdf. A PDF's date would make equal pictures differ."""
    for ending, options in ((".png", {"dpi": 150}), (".pdf", {"metadata": {"CreationDate": None}})):
        picture = io.BytesIO()
        figure.savefig(picture, format=ending[1:], **options)
        write_atomically(path.with_suffix(ending), picture.getbuffer())
    plt.close(figure)
