"""The paper's figures and tables from a plan: accuracy against remaining parameters, error barriers, and the work."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter, methodcaller
from typing import NamedTuple

from utils.files import read_json
from utils.method.methods import METHODS
from utils.method.mode_connectivity import error_barrier
from utils.method.starts import STARTS
from utils.results.comparisons import VALLEY, Comparison
from utils.results.plan import Plan, PlannedBarrier, PlannedRun
from utils.results.plots import CategoryPanel, Curve, Panel, Styles, choose_colors, choose_styles
from utils.results.tables import (
    Entry,
    Experiment,
    Item,
    count_of,
    dense_deviation,
    grouped,
    markdown_table,
    mean_and_deviation,
    precision_of,
    statistics_of,
    varying,
)
from utils.runs.records import Records
from utils.runs.run import FinalTraining

OTHER_RATIOS = ("remaining_ratio_with_classifier", "remaining_ratio_of_all")
EPSILONS = {"test_error": "epsilon", "test_loss": "loss_epsilon"}  # where a path's summary has ε of a measure
MOST_CURVES = 8  # in one panel


@dataclass(frozen=True)
class MeasuredComparison:
    """One comparison in all runs of a method: the summaries of each run's paths that are measured, one a final seed.
    ``experiment``: that of the paths' first networks; ``reference``: whether every panel shows it.

    As with accuracies, a trial is a run, with the mean over its own paths; of a single planned run, all paths count."""

    experiment: Experiment
    comparison: Comparison
    remaining_ratio: float
    reference: bool
    planned_trials: int
    planned_runs: int
    summaries: Mapping[int, Sequence[dict]]  # by the run's seed

    @property
    def label(self) -> str:
        experiment = self.experiment
        setting = f", {experiment.setting}" * bool(experiment.setting)
        kind = f" ({self.comparison.panel})" * self.reference
        return f"{METHODS[experiment.method].label} {self.comparison.title}{setting}{kind}"

    def epsilon(self, measure: str = "test_error") -> float | None:
        """Earlier versions had none for the loss."""
        return next((summary.get(EPSILONS[measure]) for own in self.summaries.values() for summary in own), None)

    def heights(self, measure: str = "test_error") -> list[float]:
        """One a trial."""
        heights = self._heights(measure)
        return next(iter(heights.values())) if self.is_alone else list(self.by_seed(measure).values())

    @property
    def is_alone(self) -> bool:
        """Whether there is only one run, and only one is planned."""
        return len(self.summaries) == self.planned_runs == 1

    @property
    def is_valley(self) -> bool:
        return self.comparison.panel == VALLEY

    def connected(self, measure: str = "test_error") -> int | None:
        """In how many trials the barrier is below ε, if that is known."""
        epsilon = self.epsilon(measure)
        if epsilon is None or self.is_valley:
            return None
        return sum(height < epsilon for height in self.heights(measure))

    def shown(self, measure: str = "test_error") -> str:
        return mean_and_deviation(self.heights(measure), digits=2 if measure == "test_error" else 3)

    @property
    def counted(self) -> str:
        return count_of(len(self.heights()), self.planned_trials)

    def paths(self, measure: str) -> dict[int, list[dict[float, float]]]:
        """``measure`` at every α of each run's paths, such as "test_error"."""
        return {
            seed: [{row["alpha"]: row[measure] for row in summary["positions"]} for summary in own]
            for seed, own in self.summaries.items()
        }

    def by_seed(self, measure: str = "test_error") -> dict[int, float]:
        """Each run's mean."""
        return {seed: statistics.mean(heights) for seed, heights in self._heights(measure).items()}

    def _heights(self, measure: str) -> dict[int, list[float]]:
        """A path's number: its barrier; for the valley, the test error at ψ_init minus that at ψ."""

        def height(path: dict[float, float]) -> float:
            return path[0] - path[1] if self.is_valley else error_barrier(list(path), list(path.values())).height

        return {seed: list(map(height, own)) for seed, own in self.paths(measure).items()}

    def curve(self, styles: Styles, measure: str = "test_error", ending: str = "") -> Curve:
        """Equation 1's E_α: a trial's test error above the mean of its paths' two ends, at every α that all paths have.
        In the valley, the measure itself."""
        runs = list(self.paths(measure).values())
        if self.is_alone:
            runs = [[path] for path in runs[0]]
        alphas = sorted(set.intersection(*(set(path) for own in runs for path in own))) if runs else []

        def mean_above_ends(own: Sequence[dict[float, float]], alpha: float) -> float:
            return statistics.mean(path[alpha] - (0 if self.is_valley else (path[0] + path[1]) / 2) for path in own)

        values = [[mean_above_ends(own, alpha) for own in runs] for alpha in alphas]
        return Curve(self.label + ending, alphas, values, styles[style_key(self.experiment)])


def style_key(experiment: Experiment) -> tuple[str, str, str]:
    """What has a colour and a line of its own in a figure."""
    return experiment.method, experiment.start, experiment.setting


def by_precision(experiment: Experiment, found: Sequence[tuple[str, Item]]) -> dict[Experiment, list[Item]]:
    """What was found of an experiment, apart for each precision; the experiment alone if nothing was."""
    precisions = grouped(found, lambda item: item[0])
    return {
        replace(experiment, precision=precision): [item for _, item in precisions.get(precision, [])]
        for precision in precisions or [None]
    }


def collect_entries(plan: Plan, records: Records, by: Sequence[str] = ()) -> list[Entry]:
    """What the planned final trainings reach, experiment by experiment; ``by``: the settings of a sweep."""
    planned = [(Experiment.of(run.settings, final, None, by), run, final) for run in plan.runs for final in run.finals]
    entries = []
    for experiment, group in grouped(planned, lambda item: item[0]).items():
        results = [result_of(records, run, final) for _, run, final in group]
        folders = {run.folder for _, run, _ in group}
        trained = {(final.init_seed, final.order_seed) for _, _, final in group}
        # As ``trials`` will count them.
        planned_trials = len(trained if experiment.method == "dense" else folders if len(folders) > 1 else group)
        ratio = group[0][1].planned_ratio(experiment.level)
        found = [(precision_of(result), result) for result in results if result]
        entries += [Entry(*own, planned_trials, ratio, len(folders)) for own in by_precision(experiment, found).items()]
    return entries


def result_of(records: Records, run: PlannedRun, final: FinalTraining) -> dict | None:
    """With the name and the seed of its run; None if it is not finished."""
    result = records.of(run.folder).results.get(final.stage)
    return result and result | {"run": run.folder.name, "seed": run.settings["seed"]}


def collect_comparisons(
    plan: Plan, records: Records, summary_of: Callable[[PlannedBarrier], dict | None], by: Sequence[str] = ()
) -> list[MeasuredComparison]:
    """The plan's barriers over trials; ``summary_of`` gives what was measured of one, if it was."""

    def key(barrier: PlannedBarrier) -> Hashable:
        experiment = Experiment.of(barrier.run.settings, barrier.final, None, by)
        return experiment, barrier.comparison, barrier.run.planned_ratio(barrier.level), barrier.reference

    compared = []
    for (experiment, *rest), barriers in grouped(plan.barriers, key).items():
        summaries = [(barrier, summary_of(barrier)) for barrier in barriers]
        found = [
            (precision_of_ends(records, barrier), (barrier.run.settings["seed"], summary))
            for barrier, summary in summaries
            if summary
        ]
        runs = len({barrier.run.folder for barrier in barriers})
        planned_trials = runs if runs > 1 else len(barriers)
        for own, measured in by_precision(experiment, found).items():
            of_run = grouped(measured, lambda item: item[0])
            by_seed = {seed: [summary for _, summary in items] for seed, items in of_run.items()}
            compared.append(MeasuredComparison(own, *rest, planned_trials, runs, by_seed))
    return compared


def precision_of_ends(records: Records, barrier: PlannedBarrier) -> str:
    results = records.of(barrier.run.folder).results
    return " and ".join(sorted({precision_of(results[stage.stage]) for stage in barrier.stages}))


def kept_summary(records: Records, barrier: PlannedBarrier) -> dict | None:
    """What an earlier command measured, if any did, with ε of the dense networks that are there now."""
    if not (barrier.file.exists() and barrier.is_measurable):
        return None
    folder, precision = barrier.run.folder, precision_of_ends(records, barrier)
    dense, settings = records.below(folder.parent), records.of(folder).settings
    epsilons = {key: dense_deviation(dense, settings, precision, measure)[0] for measure, key in EPSILONS.items()}
    return read_json(barrier.file) | epsilons


def figure_rows(
    entries: Sequence[Entry], comparisons: Sequence[MeasuredComparison]
) -> dict[str, list[Panel | CategoryPanel]]:
    """The panels of every network: (a) accuracy against remaining parameters, then one a kind of comparison."""
    experiments = [item.experiment for item in (*entries, *comparisons)]
    styles = choose_styles(style_key(experiment) for experiment in experiments if experiment.method != "dense")
    kinds = list(dict.fromkeys(row.comparison.panel for row in comparisons if not row.reference))
    rows = {}
    for network in dict.fromkeys(experiment.network for experiment in experiments):
        own_entries, own_comparisons = (
            [item for item in items if item.experiment.network == network] for items in (entries, comparisons)
        )
        accuracies = accuracy_panels(own_entries, styles) if entries else []
        rows[network] = [*accuracies, *barrier_panels(own_comparisons, styles, kinds)]
    return rows


class Axis(NamedTuple):
    """What the points of a line differ in; ``x`` is that of an entry or a comparison."""

    label: str
    x: Callable[[Entry | MeasuredComparison], float]
    shrinking: bool = False

    def panel(self, title: str, unit: str, items: Sequence[Item], styles: Styles, label: Callable, values: Callable,
              reference: tuple[str, Sequence[float]] | None = None) -> Panel:  # fmt: skip
        """A line for each label and style, with gaps where nothing is finished; over flipped signs, for each level."""
        levels = {item.experiment.level for item in items} if self is DOSES else {}

        def line_of(item: Item) -> tuple[str, tuple[str, str, str]]:
            return label(item) + f", level {item.experiment.level}" * (len(levels) > 1), style_key(item.experiment)

        curves = []
        for (name, key), line in grouped(items, line_of).items():
            line.sort(key=lambda item: (item.experiment.level, item.experiment.flipped))
            curves.append(Curve(name, list(map(self.x, line)), list(map(values, line)), styles[key]))
        return Panel(title, self.label, unit, curves, reference, self.shrinking)


DOSES = Axis("share of the transferred signs that are flipped", lambda item: item.experiment.flipped)
LEVELS = Axis("remaining ratio", lambda item: item.remaining_ratio, shrinking=True)


def choose_axis(items: Sequence[Entry | MeasuredComparison]) -> Axis | None:
    """The share of flipped signs if any are, else the remaining ratio; None if there is one level."""
    if any(item.experiment.flipped for item in items):
        return DOSES
    return None if len({item.experiment.level for item in items}) == 1 else LEVELS


def barrier_panels(comparisons: Sequence[MeasuredComparison], styles: Styles, kinds: Sequence[str]) -> list[Panel]:
    """One panel a kind of comparison, with the references in each of them: E_α at the one level, or the barriers over
    what else is planned."""
    panels = []
    for kind in kinds:
        rows = [row for row in comparisons if row.reference or row.comparison.panel == kind]
        axis = choose_axis(rows)
        if kind == VALLEY:
            rows = [row for row in rows if row.is_valley]
            for measure, unit in (("test_error", "test error (%)"), ("test_loss", "test loss")):
                endings = [f", level {row.experiment.level}" * (axis is LEVELS) for row in rows]
                curves = [row.curve(styles, measure, ending) for row, ending in zip(rows, endings, strict=True)]
                panels.append(Panel(f"{kind}: {unit}", "α, from ψ_init (0) to ψ (1)", unit, curves))
        elif axis and rows:
            heights = methodcaller("heights")
            panels.append(axis.panel(kind, "error barrier (points)", rows, styles, attrgetter("label"), heights))
        else:
            panels.append(
                Panel(kind, "α", "test error above the ends' mean (points)", [row.curve(styles) for row in rows])
            )
    return panels


def accuracy_panels(entries: Sequence[Entry], styles: Styles) -> list[Panel | CategoryPanel]:
    """Accuracy over the share of flipped signs or over the remaining ratio, in one panel or, if there are many curves,
    one a start; by start if there is a single level."""
    dense = [value for entry in entries if entry.experiment.method == "dense" for value in entry.accuracies]
    reference = (f"dense {STARTS['dense'].formula}", dense) if dense else None
    pruned = [entry for entry in entries if entry.experiment.level is not None]
    axis = choose_axis(pruned)
    if axis is None:
        return [start_panel(pruned, reference)]
    if axis is DOSES:
        pruned = [entry for entry in pruned if STARTS[entry.experiment.start].transfers_signs]
    among = [entry.experiment for entry in pruned]

    def label(entry: Entry) -> str:
        precision = varying(entry.experiment, among).get("precision", "")
        return f"{entry.experiment.title} {entry.experiment.label}" + f", {precision}" * bool(precision)

    def panel(title: str, own: Sequence[Entry]) -> Panel:
        return axis.panel(title, "test accuracy (%)", own, styles, label, attrgetter("accuracies"), reference)

    whole = panel("test accuracy", pruned)
    starts = grouped(pruned, lambda entry: entry.experiment.start) if len(whole.curves) > MOST_CURVES else {}
    return [panel(f"test accuracy, {start}", own) for start, own in starts.items()] or [whole]


def untitled(experiment: Experiment, among: Iterable[Experiment]) -> dict[str, str]:
    """What ``varying`` gives beside the setting, which labels have."""
    return {name: text for name, text in varying(experiment, among).items() if name != "setting"}


def start_panel(pruned: Sequence[Entry], reference: tuple[str, Sequence[float]] | None) -> CategoryPanel:
    among = [entry.experiment for entry in pruned]

    def kind(entry: Entry) -> tuple[str, str]:
        cells = varying(entry.experiment, among).values()
        return entry.experiment.method, ", ".join(filter(None, cells))

    found = grouped(pruned, kind)
    colors = choose_colors(found)
    groups = {
        ", ".join(filter(None, [METHODS[method].label, text])): (
            colors[method, text],
            {entry.experiment.start: entry.accuracies for entry in own},
        )
        for (method, text), own in found.items()
    }
    title = f"test accuracy at level {pruned[0].experiment.level}, remaining ratio {pruned[0].remaining_ratio:.2g}"
    return CategoryPanel(title, "test accuracy (%)", groups, reference)


def level_tables(entries: Sequence[Entry], parts: bool) -> str:
    """A Markdown table for every level, in the layout of the paper's tables 1 and 2; with ``parts``, one that says
    where each part of the subnetwork comes from instead."""
    levels, among = sorted({entry.experiment.level for entry in entries} - {None}), [row.experiment for row in entries]
    if not levels:
        return markdown_table([level_row(row, parts, among) for row in entries]) + "\n"
    sections = []
    for level in levels:
        rows = [entry for entry in entries if entry.experiment.level in (None, level)]
        rows.sort(key=lambda entry: entry.experiment.network)  # stable: a network's dense row stays where it was
        ratio = next(row.remaining_ratio for row in rows if row.experiment.level == level)
        table = markdown_table([level_row(row, parts, among) for row in rows])
        sections.append(f"## Level {level}, remaining ratio {ratio:.3f}\n\n{table}\n")
    return "\n".join(sections)


def level_row(entry: Entry, parts: bool, among: Sequence[Experiment]) -> dict:
    experiment, start = entry.experiment, STARTS[entry.experiment.start]
    if parts:
        origin = {"start": experiment.start, **start.parts}
    else:
        found = {"Use AWS subnetwork": METHODS[experiment.method].interpolates, "Trained from θ_init": start.is_initial}
        origin = {column: "-" if experiment.method == "dense" else "✓" if yes else "×" for column, yes in found.items()}
    remaining = f"{entry.remaining_ratio:.3g}"
    if METHODS[experiment.method].searches and entry.results:  # it prunes the classifier too
        remaining += f" ({entry.ratio('remaining_ratio_with_classifier'):.3g} with the classifier)"
    return {
        "Model": experiment.network,
        "Method": experiment.label,
        **origin,
        **untitled(experiment, among),
        "Top-1 Acc. (%)": mean_and_deviation(entry.accuracies),
        "Remaining Params.": remaining,
        "n": entry.counted,
    }


def barrier_table(comparisons: Sequence[MeasuredComparison]) -> str:
    experiments = [row.experiment for row in comparisons]
    return markdown_table(
        [
            {
                "Model": row.experiment.network,
                "kind": row.comparison.panel,
                "networks": row.label,
                **untitled(row.experiment, experiments),
                "level": row.experiment.level,
                "error barrier, or rise from ψ to ψ_init (points)": row.shown(),
                "the same of the loss": row.shown("test_loss"),
                "n": row.counted,
            }
            for row in comparisons
        ]
    )


def accuracy_records(entries: Sequence[Entry]) -> list[dict]:
    """The rows of the CSV table."""
    return [
        {
            **asdict(entry.experiment),
            "formula": entry.experiment.label,
            "remaining_ratio": entry.remaining_ratio,
            **STARTS[entry.experiment.start].parts,
            **{key: entry.ratio(key) for key in OTHER_RATIOS},
            **statistics_of("test_accuracy", entry.accuracies),
            "planned": entry.planned_trials,
        }
        for entry in entries
    ]


def barrier_records(comparisons: Sequence[MeasuredComparison]) -> list[dict]:
    return [
        {
            **{key: value for key, value in asdict(row.experiment).items() if key != "start"},
            "kind": row.comparison.panel,
            "networks": row.comparison.title,
            **statistics_of("barrier", row.heights()),
            "connected": row.connected(),
            "epsilon": row.epsilon(),
            **statistics_of("loss_barrier", row.heights("test_loss")),
            "loss_connected": row.connected("test_loss"),
            "loss_epsilon": row.epsilon("test_loss"),
            "planned": row.planned_trials,
        }
        for row in comparisons
    ]


def describe_plan(plan: Plan) -> list[str]:
    """The starts and levels that every method's runs plan, and the error barriers."""
    lines = []
    for run in plan.runs:
        levels = " ".join(dict.fromkeys(str(final.level) for final in run.finals if final.level is not None))
        starts = ", ".join(dict.fromkeys(map(describe_start, run.finals)))
        lines.append(f"{METHODS[run.method].label}: {starts}" + f", level {levels}" * bool(levels))
    for comparison, barriers in grouped(plan.barriers, lambda barrier: barrier.comparison).items():
        levels = " ".join(dict.fromkeys(str(barrier.level) for barrier in barriers))
        measured = sum(barrier.file.exists() for barrier in barriers)
        lines.append(
            f"{len(barriers)} error barrier{'s' * (len(barriers) > 1)}, {measured} measured: "
            f"{comparison.panel} of {comparison.title}, level {levels}"
        )
    return ["", *dict.fromkeys(lines)]


def describe_start(final: FinalTraining) -> str:
    flipped = f"{final.flipped:g} flipped" * bool(final.flipped)
    return " ".join(filter(None, [final.start, flipped, final.signs_from and f"signs of {final.signs_source}"]))


def work_table(runs: Sequence[PlannedRun]) -> str:
    """Every run with its epochs, those that are done, and the totals."""
    counts = {
        run.folder.name: (len(run.finals) + len(run.partners), sum(run.stages().values()), run.epochs_done())
        for run in runs
    }
    counts[f"{len(runs)} runs"] = tuple(map(sum, zip(*counts.values(), strict=True)))
    return markdown_table(
        [
            {"run": name, "final trainings": finals, "epochs": f"{epochs:,}", "of which done": f"{done:,}"}
            for name, (finals, epochs, done) in counts.items()
        ]
    )
