"""The paper's figures and tables from planned runs: accuracy against remaining parameters, error barriers, and what of
it is missing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from utils.comparisons import Comparison
from utils.figures import METHOD_COLORS, CategoryPanel, Curve, Panel, style_of
from utils.plan import PlannedBarrier, PlannedRun
from utils.results import METHOD_NAMES, dense_deviation, markdown_table, mean_and_deviation, trials
from utils.run_folder import is_run, read_json, read_result, settings_of
from utils.starts import NEW, STARTS

GAP = "–"
OTHER_RATIOS = ("remaining_ratio_with_classifier", "remaining_ratio_of_all")
PAPER_COLUMNS = (
    "Model", "Method", "Use AWS subnetwork", "Trained from θ_init", "Top-1 Acc. (%)", "Remaining Params.", "n"
)  # fmt: skip
PART_COLUMNS = ("Model", "Method", "start", "mask", "signs", "magnitudes", "ψ", "Top-1 Acc. (%)", "n")
BARRIER_TABLE_COLUMNS = ("Model", "kind", "networks", "error barrier (percentage points)", "n")
MOST_CURVES = 8  # in one panel


@dataclass(frozen=True)
class PlannedAccuracy:
    """One point of a figure, or row of a table: the test accuracies of one start at one level, over trials."""

    network: tuple[str, str]
    method: str
    start: str
    level: int | None
    planned_ratio: float
    planned_trials: int
    results: tuple[dict, ...]

    @cached_property
    def accuracies(self) -> list[float]:
        """Test accuracy in %, one a trial; empty where nothing is finished."""
        return trials(self.results, "test_accuracy") if self.results else []

    @property
    def remaining_ratio(self) -> float:
        """Of the prunable weights: measured, or where nothing is finished, planned."""
        measured = self.ratio("remaining_ratio")
        return self.planned_ratio if measured is None else measured

    def ratio(self, key: str) -> float | None:
        """The mean of a remaining ratio that the results have."""
        values = [result[key] for result in self.results if key in result]
        return statistics.mean(values) if values else None

    @property
    def label(self) -> str:
        """What the paper calls it: the formula, with the method that found the level."""
        formula = STARTS[self.start].formula
        name = METHOD_NAMES[self.method]
        if self.method == "dense":
            return f"dense {formula}"
        for symbol in ("θ_T", "m_T", "s_T", "φ_T", "ψ_T"):
            formula = formula.replace(symbol, f"{symbol}^{name}")
        return formula

    @property
    def counted(self) -> str:
        """n, and how many are wanted where that is more."""
        return count_of(len(self.accuracies), self.planned_trials)

    @property
    def shown(self) -> str:
        return mean_and_deviation(self.accuracies) if self.accuracies else GAP


def collect_accuracies(runs: Sequence[PlannedRun]) -> list[PlannedAccuracy]:
    """What the planned final trainings reach, by network, method, start and level."""
    wanted: dict[tuple, list[tuple[PlannedRun, str]]] = {}
    for run in runs:
        for final in run.finals:
            wanted.setdefault((run.network, run.method, final.start, final.level), []).append((run, final.stage))
    accuracies = []
    for (network, method, start, level), trainings in wanted.items():
        run_of_any = trainings[0][0]
        folders = {run.folder for run, _ in trainings}
        finished = [(run, run.folder / stage) for run, stage in trainings if run.has(stage)]
        accuracies.append(
            PlannedAccuracy(
                network=network,
                method=method,
                start=start,
                level=level,
                planned_ratio=1.0 if level is None else run_of_any.planned_ratio(level),
                planned_trials=len(folders) if len(folders) > 1 else len(trainings),
                results=tuple(read_result(stage) | {"run": run.folder.name} for run, stage in finished),
            )
        )
    return accuracies


@dataclass(frozen=True)
class MeasuredComparison:
    """One comparison in all runs of a method: the summary of a path for each trial that is measured."""

    network: tuple[str, str]
    method: str
    comparison: Comparison
    planned_trials: int
    summaries: tuple[dict, ...]
    epsilon: float | None

    @property
    def label(self) -> str:
        return f"{METHOD_NAMES[self.method]} {self.comparison.title}"

    @property
    def heights(self) -> list[float]:
        return [summary["barrier"] for summary in self.summaries]

    @property
    def connected(self) -> int | None:
        """In how many trials the barrier is below ε, where that is known."""
        return None if self.epsilon is None else sum(height < self.epsilon for height in self.heights)

    @property
    def shown(self) -> str:
        return mean_and_deviation(self.heights) if self.summaries else GAP

    @property
    def counted(self) -> str:
        return count_of(len(self.summaries), self.planned_trials)

    def curve(self) -> Curve:
        """Test error at every α that all trials have."""
        errors = [{row["alpha"]: row["test_error"] for row in summary["positions"]} for summary in self.summaries]
        alphas = sorted(set.intersection(*map(set, errors))) if errors else []
        values = [[trial[alpha] for trial in errors] for alpha in alphas]
        return Curve(self.label, alphas, values, style_of(self.method, self.comparison.first))


def collect_comparisons(barriers: Sequence[PlannedBarrier]) -> list[MeasuredComparison]:
    groups: dict[tuple, list[PlannedBarrier]] = {}
    for barrier in barriers:
        groups.setdefault((barrier.run.network, barrier.run.method, barrier.name), []).append(barrier)
    return [
        MeasuredComparison(
            network,
            method,
            group[0].comparison,
            len(group),
            tuple(read_json(barrier.file) for barrier in group if barrier.file.exists()),
            _epsilon(group[0].run),
        )
        for (network, method, _), group in groups.items()
    ]


def _epsilon(run: PlannedRun) -> float | None:
    """Of the dense networks that are there now, whatever was known when a path was measured."""
    return dense_deviation(run.folder.parent, settings_of(run.folder))[0] if is_run(run.folder) else None


def count_of(n: int, planned: int) -> str:
    return str(n) if n == planned else f"{n} of {planned}"


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------


def figure_rows(
    accuracies: Sequence[PlannedAccuracy], comparisons: Sequence[MeasuredComparison]
) -> dict[str, list[Panel]]:
    """The panels of every network: (a) accuracy against remaining parameters, then one a kind of comparison."""
    kinds = list(dict.fromkeys(comparison.comparison.panel for comparison in comparisons))
    rows = {}
    for network in dict.fromkeys(accuracy.network for accuracy in accuracies):
        own = [comparison for comparison in comparisons if comparison.network == network]
        panels = accuracy_panels([accuracy for accuracy in accuracies if accuracy.network == network])
        rows[" ".join(network)] = [*panels, *barrier_panels(own, kinds)]
    return rows


def barrier_panels(comparisons: Sequence[MeasuredComparison], kinds: Sequence[str] = ()) -> list[Panel]:
    """One panel a kind of comparison, in the order of ``kinds`` where given."""
    kinds = kinds or list(dict.fromkeys(comparison.comparison.panel for comparison in comparisons))
    curves = {kind: [row.curve() for row in comparisons if row.comparison.panel == kind] for kind in kinds}
    return [Panel(kind, "α", "test error (%)", curves[kind]) for kind in kinds]


def accuracy_panels(accuracies: Sequence[PlannedAccuracy]) -> list[Panel | CategoryPanel]:
    """Accuracy over the remaining ratio, in one panel or, of many curves, one a start; of a single level, by start."""
    dense = [value for accuracy in accuracies if accuracy.level is None for value in accuracy.accuracies]
    level_line = (f"dense {STARTS['dense'].formula}", dense) if dense else None
    if len({accuracy.level for accuracy in accuracies} - {None}) == 1:
        return [start_panel(accuracies, level_line)]
    points: dict[tuple[str, str], list[PlannedAccuracy]] = {}
    for accuracy in accuracies:
        if accuracy.level is not None:
            points.setdefault((accuracy.method, accuracy.start), []).append(accuracy)
    curves: dict[str, list[Curve]] = {}
    for (method, start), line in points.items():
        line = sorted(line, key=lambda accuracy: accuracy.level)
        xs = [accuracy.remaining_ratio for accuracy in line]
        label = f"{METHOD_NAMES[method]} {start} {line[0].label}"
        curve = Curve(label, xs, [accuracy.accuracies for accuracy in line], style_of(method, start))
        curves.setdefault(f"test accuracy, {start}" if len(points) > MOST_CURVES else "test accuracy", []).append(curve)
    return [
        Panel(title, "remaining ratio", "test accuracy (%)", own, level_line, shrinking=True)
        for title, own in (curves or {"test accuracy": []}).items()
    ]


def start_panel(accuracies: Sequence[PlannedAccuracy], level_line: tuple[str, Sequence[float]] | None) -> CategoryPanel:
    pruned = [accuracy for accuracy in accuracies if accuracy.level is not None]
    groups = {}
    for method in dict.fromkeys(accuracy.method for accuracy in pruned):
        values = {accuracy.start: accuracy.accuracies for accuracy in pruned if accuracy.method == method}
        groups[METHOD_NAMES[method]] = (METHOD_COLORS[method], values)
    title = f"test accuracy at level {pruned[0].level}, remaining ratio {pruned[0].remaining_ratio:.2g}"
    return CategoryPanel(title, "test accuracy (%)", groups, level_line)


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------


def level_tables(accuracies: Sequence[PlannedAccuracy], parts: bool) -> str:
    """A Markdown table for every level, in the layout of the paper's tables 1 and 2; with ``parts``, one that says
    where each part of the subnetwork comes from instead."""
    levels = sorted({accuracy.level for accuracy in accuracies if accuracy.level is not None})
    sections = []
    for level in levels:
        rows = [accuracy for accuracy in accuracies if accuracy.level in (None, level)]
        rows.sort(key=lambda accuracy: accuracy.network)  # stable: a network's dense row stays where it was
        ratio = next(row.remaining_ratio for row in rows if row.level == level)
        if parts:
            table = markdown_table(PART_COLUMNS, [part_cells(row) for row in rows])
        else:
            table = markdown_table(PAPER_COLUMNS, [paper_cells(row) for row in rows])
        sections.append(f"## Level {level}, remaining ratio {ratio:.3f}\n\n{table}\n")
    return "\n".join(sections)


def paper_cells(row: PlannedAccuracy) -> list[str]:
    if row.method == "dense":
        marks = ["-", "-"]
    else:
        marks = ["✓" if mark else "×" for mark in (row.method == "aws", STARTS[row.start].magnitudes == NEW)]
    remaining = f"{row.remaining_ratio:.3g}"
    if row.method == "gm" and row.results:  # it counts the classifier among the prunable weights
        remaining += f" ({row.ratio('remaining_ratio_with_classifier'):.3g} with the classifier)"
    return [" ".join(row.network), row.label, *marks, row.shown, remaining, row.counted]


def part_cells(row: PlannedAccuracy) -> list[str]:
    start = STARTS[row.start]
    parts = [start.mask, start.signs, start.magnitudes, start.norms]
    return [" ".join(row.network), row.label, row.start, *parts, row.shown, row.counted]


def barrier_table(comparisons: Sequence[MeasuredComparison]) -> str:
    rows = [
        [" ".join(comparison.network), comparison.comparison.panel, comparison.label, comparison.shown,
         comparison.counted]
        for comparison in comparisons
    ]  # fmt: skip
    return markdown_table(BARRIER_TABLE_COLUMNS, rows)


def accuracy_records(accuracies: Sequence[PlannedAccuracy]) -> list[dict]:
    """The rows of the CSV table."""
    return [
        {
            "dataset": row.network[0],
            "arch": row.network[1],
            "method": row.method,
            "start": row.start,
            "formula": row.label,
            "level": row.level,
            "remaining_ratio": row.remaining_ratio,
            "mask": STARTS[row.start].mask,
            "signs": STARTS[row.start].signs,
            "magnitudes": STARTS[row.start].magnitudes,
            "norms": STARTS[row.start].norms,
            **{key: row.ratio(key) for key in OTHER_RATIOS},
            **_statistics("test_accuracy", row.accuracies),
            "planned": row.planned_trials,
        }
        for row in accuracies
    ]


def barrier_records(comparisons: Sequence[MeasuredComparison]) -> list[dict]:
    return [
        {
            "dataset": row.network[0],
            "arch": row.network[1],
            "method": row.method,
            "kind": row.comparison.panel,
            "networks": row.comparison.title,
            **_statistics("barrier", row.heights),
            "connected": row.connected,
            "epsilon": row.epsilon,
            "planned": row.planned_trials,
        }
        for row in comparisons
    ]


def _statistics(name: str, values: Sequence[float]) -> Mapping[str, float | int | None]:
    return {
        f"{name}_mean": statistics.mean(values) if values else None,
        f"{name}_std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def work_table(runs: Sequence[PlannedRun]) -> str:
    """Every run with its epochs, those that are done, and the totals."""
    rows = [
        [run.folder.name, len(run.finals) + len(run.partners), sum(run.stages().values()), run.epochs_done()]
        for run in runs
    ]
    rows.append([f"{len(runs)} runs", *(sum(row[column] for row in rows) for column in (1, 2, 3))])
    cells = [[name, finals, f"{epochs:,}", f"{done:,}"] for name, finals, epochs, done in rows]
    return markdown_table(("run", "final trainings", "epochs", "of which done"), cells)
