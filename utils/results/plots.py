"""Plots: curves with mean and standard deviation, in panels as in the paper's figures, and heat maps."""

import io
import math
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # needs no display
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import write
from utils.method.methods import METHODS

# The paper's colours by method and start. It uses red and purple twice: the first curve of this table has it, any other
# gets a spare one, so that a colour means one thing in a figure.
PAPER_COLORS = {
    ("lrr", "subnetwork"): "tab:blue",
    ("lrr", "signs"): "tab:orange",
    ("lrr", "mask"): "tab:purple",
    ("aws", "subnetwork"): "tab:green",
    ("aws", "signs"): "tab:red",
    ("lrr", "signs-keep-norms"): "tab:red",
    ("lrr", "signs-shifted-norms"): "tab:purple",
}
COLORS = ("tab:blue", "tab:orange", "tab:purple", "tab:green", "tab:red", "tab:brown", "tab:pink", "tab:gray",
          "tab:olive", "tab:cyan")  # fmt: skip
START_LINES = {"subnetwork": "-", "rewound": "-", "signs": "--", "mask": (0, (1, 1))}
OTHER_LINE = (0, (5, 1, 1, 1, 1, 1))
PANEL_WIDTH, PANEL_HEIGHT, TITLE_HEIGHT, LEGEND_LINE_HEIGHT = 5.5, 3.6, 0.4, 0.19  # inches


Styles = dict[tuple[str, str, str], tuple[str, str | tuple]]


def choose_styles(keys: Iterable[tuple[str, str, str]]) -> Styles:
    """Colour and line of every curve of a figure, by method, start and value of a sweep: a colour a curve or, in a
    sweep and if there are too many, a colour for each method and value. The line tells the start."""
    keys, rank = list(dict.fromkeys(keys)), list(PAPER_COLORS)
    keys.sort(key=lambda key: rank.index(key[:2]) if key[:2] in rank else len(rank))
    colors: dict[str, tuple[str, str, str]] = {}
    for key in keys:
        colors.setdefault(PAPER_COLORS.get(key[:2], ""), key)
    paper = {key: color for color, key in colors.items() if color}
    spare = iter([color for color in COLORS if color not in colors])
    chosen = {key: paper.get(key) or next(spare, METHODS[key[0]].color) for key in keys}
    if len(keys) > len(COLORS) or any(setting for _, _, setting in keys):
        colors_of_kinds = choose_colors((method, setting) for method, _, setting in keys)
        chosen = {key: colors_of_kinds[key[0], key[2]] for key in keys}
    return {key: (color, START_LINES.get(key[1], OTHER_LINE)) for key, color in chosen.items()}


def choose_colors(kinds: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A colour for each kind, a method with what it varies in: the methods' own colours if none varies in anything."""
    kinds = sorted(set(kinds), key=lambda kind: (list(METHODS).index(kind[0]), kind[1]))
    if len({method for method, _ in kinds}) == len(kinds):
        return {kind: METHODS[kind[0]].color for kind in kinds}
    return dict(zip(kinds, cycle(COLORS), strict=False))


@dataclass(frozen=True)
class Curve:
    """``values``: for each of ``xs``, one value per trial; an empty list leaves a gap in the line."""

    label: str
    xs: Sequence[float]
    values: Sequence[Sequence[float]]
    style: tuple[str | None, str | tuple] = (None, "-")

    def draw(self, axes: Axes) -> None:
        """Draw the mean over trials and, if there are several, their sample standard deviation as a shaded band."""
        color, line_style = self.style
        mean = [statistics.mean(values) if values else math.nan for values in self.values]
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in self.values]
        (line,) = axes.plot(
            self.xs, mean, linestyle=line_style, label=self.label, color=color, marker="o", markersize=3, linewidth=1.6
        )
        low = [value - deviation for value, deviation in zip(mean, spread, strict=True)]
        high = [value + deviation for value, deviation in zip(mean, spread, strict=True)]
        axes.fill_between(self.xs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


@dataclass(frozen=True)
class Panel:
    """One panel of a figure. ``reference``: label and trials of a horizontal dotted line; ``shrinking``: whether the x
    axis is logarithmic, with the remaining ratio falling to the right."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    reference: tuple[str, Sequence[float]] | None = None
    shrinking: bool = False

    def draw(self, axes: Axes) -> None:
        for curve in self.curves:
            curve.draw(axes)
        if self.reference:
            draw_reference(axes, *self.reference)
        axes.set_title(self.title, fontsize=10)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        if not any(values for curve in self.curves for values in curve.values):
            axes.text(0.5, 0.5, "nothing measured yet", ha="center", transform=axes.transAxes, color="gray")
            axes.set_xlim(0, 1)
        if self.shrinking and self.curves:
            mark_ratios(axes, sorted({x for curve in self.curves for x in curve.xs}, reverse=True))


@dataclass(frozen=True)
class CategoryPanel:
    """One panel of values by category: for each of ``groups``, in its own colour, the mean with an error bar of one
    standard deviation. ``groups``: label -> (colour, category -> trials)."""

    title: str
    y_label: str
    groups: Mapping[str, tuple[str, Mapping[str, Sequence[float]]]]
    reference: tuple[str, Sequence[float]] | None = None

    def draw(self, axes: Axes) -> None:
        categories = list(dict.fromkeys(name for _, values in self.groups.values() for name in values))
        apart = min(0.15, 0.8 / max(1, len(self.groups)))  # a category's points stay beside its name
        for index, (label, (color, values)) in enumerate(self.groups.items()):
            shown = {name: trials for name, trials in values.items() if trials}
            shift = apart * (index - (len(self.groups) - 1) / 2)
            axes.errorbar(
                [categories.index(name) + shift for name in shown],
                [statistics.mean(trials) for trials in shown.values()],
                [statistics.stdev(trials) if len(trials) > 1 else 0.0 for trials in shown.values()],
                fmt="o", color=color, label=label, capsize=3, markersize=5,
            )  # fmt: skip
        if self.reference:
            draw_reference(axes, *self.reference)
        axes.set_xticks(range(len(categories)), categories, rotation=40, ha="right", fontsize=8)
        axes.set_xlim(-0.5, len(categories) - 0.5)
        axes.set_title(self.title, fontsize=10)
        axes.set_ylabel(self.y_label)


def draw_reference(axes: Axes, label: str, values: Sequence[float]) -> None:
    """Draw a dotted line at the mean, with a band of one standard deviation."""
    mean = statistics.mean(values)
    axes.axhline(mean, color="black", linestyle=":", linewidth=1.4, label=label)
    if len(values) > 1:
        spread = statistics.stdev(values)
        axes.axhspan(mean - spread, mean + spread, color="black", alpha=0.08, linewidth=0)


def mark_ratios(axes: Axes, ratios: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{ratio:.2g}" for ratio in ratios], fontsize=8)
    axes.minorticks_off()
    axes.set_xlim(ratios[0] * 1.1, ratios[-1] / 1.1)


def path_figure(title: str, ends: tuple[str, str], curves: Sequence[Curve]) -> Figure:
    """The errors along one path; ``ends`` name the networks at α = 0 and α = 1."""
    panel = Panel(textwrap.fill(title, 75), f"α = 0: {ends[0]}\nα = 1: {ends[1]}", "error (%)", curves)
    return panel_figure("", {"": [panel]})


def panel_figure(title: str, rows: Mapping[str, Sequence[Panel | CategoryPanel]]) -> Figure:
    """A row of panels for every name. A column's legend is below it, or inside its last panel if it has categories."""
    columns = max(map(len, rows.values()))
    figure, all_axes = plt.subplots(len(rows) + 1, columns, squeeze=False, layout="constrained")
    for row_axes, (name, panels) in zip(all_axes, rows.items(), strict=False):
        for axes, panel in zip(row_axes, panels, strict=False):
            panel.draw(axes)
        for axes in row_axes[len(panels) :]:
            axes.axis("off")
        if name:
            row_axes[0].set_ylabel(f"{name}\n{row_axes[0].get_ylabel()}")
    legend_lines = 0
    for column, (*column_axes, below) in enumerate(all_axes.T):
        below.axis("off")
        handles = {}  # from all rows: a curve may be missing in the last
        for axes in column_axes:
            handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        inside = any(isinstance(panels[column], CategoryPanel) for panels in rows.values() if column < len(panels))
        if inside:
            column_axes[-1].legend(handles.values(), handles, fontsize=8, frameon=False, loc="best")
        elif handles:
            below.legend(handles.values(), handles, fontsize=8, frameon=False, loc="upper center", borderaxespad=0)
            legend_lines = max(legend_lines, len(handles))
    heights = [PANEL_HEIGHT] * len(rows) + [max(LEGEND_LINE_HEIGHT * legend_lines, 0.01)]
    all_axes[0, 0].get_gridspec().set_height_ratios(heights)
    figure.set_size_inches(PANEL_WIDTH * columns, sum(heights) + TITLE_HEIGHT)
    figure.suptitle(title, fontsize=11)
    return figure


def heat_map(title: str, labels: Sequence[str], matrix: Sequence[Sequence[float]]) -> Figure:
    """A symmetric matrix of barriers, with the numbers written in."""
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
    """Save as .png and .pdf; ``path`` has no suffix. The PDF has no date, so that equal figures give equal files."""
    for ending, options in ((".png", {"dpi": 150}), (".pdf", {"metadata": {"CreationDate": None}})):
        picture = io.BytesIO()
        figure.savefig(picture, format=ending[1:], **options)
        write(path.with_suffix(ending), picture.getbuffer())
    plt.close(figure)
