"""Tables and pictures of what is analysed: mean ± sample standard deviation over runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from utils.analysis.signs import CHANCE
from utils.method.methods import METHODS
from utils.method.starts import STARTS
from utils.results.paper import accuracy_panels, style_key
from utils.results.plots import Curve, Panel, Styles, choose_styles, panel_figure
from utils.results.tables import Entry, Experiment, grouped, mean_and_deviation, trials, varying

HEADINGS = {  # of sign statistics; shares are shown in %
    "remaining_ratio": "remaining %",
    "agreement_with_level_before": "agreement with level before % (chance 50)",
    "agreement_with_initialization": "with initialization %",
    "agreement_with_last_level": "with level {last} %",
    "drift": "drift %",
    "bits_a_survivor": "bits a survivor",
    "dead_channels": "dead channels %",
}
SURVIVORS, INITIALIZATION, DRIFT = "remaining_ratio", "agreement_with_initialization", "drift"
COMMON = "% of the weights that survive in both"
OVER_LEVELS = {  # titles and units of panels
    INITIALIZATION: ("signs as in the initialization", COMMON),
    "agreement_with_level_before": ("signs as in the level before (chance: 50 %)", COMMON),
    "agreement_with_last_level": ("signs as in level {last} (chance: 50 %)", COMMON),
}
BY_LAYER = {
    SURVIVORS: ("survivors of level {last}", "% of the layer's weights"),
    DRIFT: ("drift: signs not as in the initialization", "% of the layer's survivors"),
    "dead_channels": ("channels without a survivor", "% of the layer's output channels"),
}
MEASURES = {  # of ensembles: headings and units
    "ensemble_accuracy": ("ensemble's accuracy", "test accuracy (%)"),
    "single_accuracy": ("one network's accuracy", "test accuracy (%)"),
    "gain": ("gain", "percentage points of accuracy"),
    "disagreement": ("disagreement of two networks", "% of test images"),
}
MOST_LAYERS = 30  # whose names fit below a panel


@dataclass(frozen=True)
class LayerPanel(Panel):
    """Values by layer. The x axis counts layers and shows as many of their names as fit."""

    layers: Sequence[str] = ()
    logarithmic: bool = False

    def draw(self, axes: Axes) -> None:
        super().draw(axes)
        shown = range(0, len(self.layers), -(-len(self.layers) // MOST_LAYERS))
        axes.set_xticks(shown, [self.layers[index] for index in shown], rotation=90, fontsize=6)
        if self.logarithmic:
            axes.set_yscale("log", nonpositive="mask")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        else:
            axes.set_ylim(0, max(1, axes.get_ylim()[1]))  # of nothing but zeros too


def method_label(experiment: Experiment) -> str:
    return METHODS[experiment.method].label + f", {experiment.setting}" * bool(experiment.setting)


def shown_values(rows: Sequence[dict], key: str) -> list[float]:
    """One number a run: shares in %, bits as they are."""
    return [row[key] * (1 if key == "bits_a_survivor" else 100) for row in rows if row[key] is not None]


def sign_rows(rows: Sequence[dict], key: str, last_level: int) -> list[dict]:
    """One line for every method and value of ``key``, which is "level" or "layer", those of the last level."""
    headings = {name: heading.format(last=last_level) for name, heading in HEADINGS.items()}
    if key == "layer":
        del headings["agreement_with_last_level"]  # with itself
    return [
        {
            "network": experiment.network,
            "method": method_label(experiment),
            key: value,
            "survivors": f"{mean(row['survivors'] for row in own):,.0f}",
            **{heading: mean_and_deviation(shown_values(own, name)) for name, heading in headings.items()},
            "n": len(own),
        }
        for (experiment, value), own in grouped(rows, lambda row: (row["experiment"], row[key])).items()
    ]


def pair_rows(pairs: Sequence[dict]) -> list[dict]:
    """One line for every two runs."""
    return [
        {
            **{name.replace("_", " "): pair[name] for name in ("run", "other_run", "level", "survive_in_both")},
            "signs agree % (chance 50)": mean_and_deviation(shown_values([pair], "agreement")),
            "initializations agree %": mean_and_deviation(shown_values([pair], "agreement_of_initializations")),
        }
        for pair in pairs
    ]


def sign_figure(levels: Sequence[dict], layers: Sequence[dict], last_level: int) -> Figure:
    """One network's picture: agreement over the levels, and what survives and drifts in each layer of the last."""
    # The colours are those of each method's solution.
    styles = choose_styles(style_key(row["experiment"]) for row in levels)
    names, chance = list(dict.fromkeys(row["layer"] for row in layers)), ("chance", [100 * CHANCE])
    numbered = [row | {"layer": names.index(row["layer"])} for row in layers]
    over_levels, by_layer = [], []
    for key, (title, unit) in OVER_LEVELS.items():
        curves, reference = sign_curves(levels, key, "level", styles), chance if key == INITIALIZATION else None
        over_levels.append(Panel(title.format(last=last_level), "level", unit, curves, reference))
    for key, (title, unit) in BY_LAYER.items():
        curves, reference = sign_curves(numbered, key, "layer", styles), chance if key == DRIFT else None
        panel = LayerPanel(title.format(last=last_level), "layer", unit, curves, reference)
        by_layer.append(replace(panel, layers=names, logarithmic=key == SURVIVORS))
    title = f"{levels[0]['experiment'].network}: signs, mean and standard deviation over the runs of a method"
    return panel_figure(title, {"over levels": over_levels, f"level {last_level} by layer": by_layer})


def sign_curves(rows: Sequence[dict], key: str, x: str, styles: Styles) -> list[Curve]:
    """A method's runs are a curve."""
    curves = []
    for experiment, own in grouped(rows, lambda row: row["experiment"]).items():
        points = grouped(own, lambda row: row[x])
        values = [shown_values(point, key) for point in points.values()]
        curves.append(Curve(method_label(experiment), list(points), values, styles[style_key(experiment)]))
    return curves


def ensemble_rows(rows: Sequence[dict]) -> list[dict]:
    """One line for every start, level and number of members; of a single run, n counts its ensembles."""
    groups = grouped(rows, lambda row: (row["experiment"], row["members"]))
    return [
        {
            "network": experiment.network,
            "start": f"{experiment.title} {STARTS[experiment.start].formula}",
            **varying(experiment, [other for other, _ in groups]),
            "level": "-" if experiment.level is None else experiment.level,
            "m": size,
            **{f"{heading} %": mean_and_deviation(trials(own, key)) for key, (heading, _) in MEASURES.items()},
            "n": len(trials(own, "gain")),
        }
        for (experiment, size), own in groups.items()
    ]


def untrained_rows(rows: Sequence[dict]) -> list[dict]:
    """One line for every start, level and share of flipped signs."""
    groups = grouped(rows, lambda row: row["experiment"])
    return [
        {
            "network": experiment.network,
            "start": f"{experiment.title} {STARTS[experiment.start].formula}",
            **varying(experiment, groups),
            "level": experiment.level,
            "untrained test error %": mean_and_deviation(trials(own, "untrained_error")),
            "trained %": mean_and_deviation(trials(own, "test_error")),
            "n": len(trials(own, "test_error")),
        }
        for experiment, own in groups.items()
    ]


def ensemble_figure(rows: Sequence[dict]) -> Figure:
    """One network's picture: each measure by start or, of several levels, against the remaining ratio, with the dense
    networks' as a line; a row of panels for every number of members."""
    transfers = [row for row in rows if row["experiment"].level is not None]
    styles = choose_styles(style_key(row["experiment"]) for row in transfers)
    panels = {}
    for size in sorted({row["members"] for row in transfers}):
        groups = grouped([row for row in rows if row["members"] == size], lambda row: row["experiment"]).items()
        panels[f"m = {size}"] = []
        for key, (heading, unit) in MEASURES.items():
            # Each measure is drawn as accuracies are.
            entries = [Entry(group, [row | {"test_accuracy": row[key]} for row in found]) for group, found in groups]
            panels[f"m = {size}"] += [
                replace(panel, title=panel.title.replace("test accuracy", heading), y_label=unit)
                for panel in accuracy_panels(entries, styles)
            ]
    network = rows[0]["experiment"].network
    return panel_figure(f"{network}: the average of m networks' softmax probabilities", panels)
