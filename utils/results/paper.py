"""The paper's figures and tables from a plan: accuracy against remaining parameters, error barriers, and the work."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from utils.files import read_json
from utils.method.methods import METHODS
from utils.method.starts import STARTS
from utils.results.comparisons import Comparison
from utils.results.plan import Plan, PlannedBarrier, PlannedRun
from utils.results.plots import CategoryPanel, Curve, Panel, style_of
from utils.results.tables import (
    Entry,
    Experiment,
    count_of,
    dense_deviation,
    grouped,
    markdown_table,
    mean_and_deviation,
)
from utils.runs.records import Records

OTHER_RATIOS = ("remaining_ratio_with_classifier", "remaining_ratio_of_all")
MOST_CURVES = 8  # in one panel


@dataclass(frozen=True)
class MeasuredComparison:
    """One comparison in all runs of a method: the summary of a path for each trial that is measured."""

    dataset: str
    arch: str
    method: str
    comparison: Comparison
    planned_trials: int
    summaries: tuple[dict, ...]

    @property
    def network(self) -> str:
        return f"{self.dataset} {self.arch}"

    @property
    def label(self) -> str:
        return f"{METHODS[self.method].label} {self.comparison.title}"

    @property
    def heights(self) -> list[float]:
        return [summary["barrier"] for summary in self.summaries]

    @property
    def epsilon(self) -> float | None:
        return self.summaries[0]["epsilon"] if self.summaries else None

    @property
    def connected(self) -> int | None:
        """In how many trials the barrier is below ε, if that is known."""
        return None if self.epsilon is None else sum(height < self.epsilon for height in self.heights)

    @property
    def shown(self) -> str:
        return mean_and_deviation(self.heights)

    @property
    def counted(self) -> str:
        return count_of(len(self.summaries), self.planned_trials)

    def curve(self) -> Curve:
        """Test error at every α that all trials have."""
        errors = [{row["alpha"]: row["test_error"] for row in summary["positions"]} for summary in self.summaries]
        alphas = sorted(set.intersection(*map(set, errors))) if errors else []
        values = [[trial[alpha] for trial in errors] for alpha in alphas]
        return Curve(self.label, alphas, values, style_of(self.method, self.comparison.first))


def collect_entries(plan: Plan, records: Records) -> list[Entry]:
    """What the planned final trainings reach, experiment by experiment."""
    planned = [
        (Experiment.of(*run.network, run.method, final.start, final.level), run, final)
        for run in plan.runs
        for final in run.finals
    ]
    entries = []
    for experiment, group in grouped(planned, lambda item: item[0]).items():
        results = [(run.folder.name, records.of(run.folder).results.get(final.stage)) for _, run, final in group]
        folders = {run.folder for _, run, _ in group}
        trained = {(final.init_seed, final.order_seed) for _, _, final in group}
        # As ``trials`` will count them.
        planned_trials = len(trained if experiment.method == "dense" else folders if len(folders) > 1 else group)
        entries.append(
            Entry(
                experiment,
                results=tuple(result | {"run": name} for name, result in results if result),
                planned_trials=planned_trials,
                planned_ratio=group[0][1].planned_ratio(experiment.level),
            )
        )
    return entries


def collect_comparisons(plan: Plan, summary_of: Callable[[PlannedBarrier], dict | None]) -> list[MeasuredComparison]:
    """The plan's barriers over trials; ``summary_of`` gives what was measured of one, if it was."""
    groups = grouped(plan.barriers, lambda barrier: (*barrier.run.network, barrier.run.method, barrier.comparison))
    return [
        MeasuredComparison(*key, len(barriers), tuple(filter(None, map(summary_of, barriers))))
        for key, barriers in groups.items()
    ]


def kept_summary(records: Records, barrier: PlannedBarrier) -> dict | None:
    """What an earlier command measured, if any did, with ε of the dense networks that are there now."""
    if not barrier.file.exists():
        return None
    folder = barrier.run.folder
    epsilon, _ = dense_deviation(records.below(folder.parent), records.of(folder).settings)
    return read_json(barrier.file) | {"epsilon": epsilon}


def figure_rows(
    entries: Sequence[Entry], comparisons: Sequence[MeasuredComparison]
) -> dict[str, list[Panel | CategoryPanel]]:
    """The panels of every network: (a) accuracy against remaining parameters, then one a kind of comparison."""
    kinds = list(dict.fromkeys(row.comparison.panel for row in comparisons))
    of_network = grouped(comparisons, lambda row: row.network)
    return {
        network: [*accuracy_panels(own), *barrier_panels(of_network.get(network, []), kinds)]
        for network, own in grouped(entries, lambda entry: entry.experiment.network).items()
    }


def barrier_panels(comparisons: Sequence[MeasuredComparison], kinds: Sequence[str] = ()) -> list[Panel]:
    """One panel a kind of comparison, in the order of ``kinds`` if given."""
    of_kind = grouped(comparisons, lambda row: row.comparison.panel)
    return [
        Panel(kind, "α", "test error (%)", [row.curve() for row in of_kind.get(kind, [])]) for kind in kinds or of_kind
    ]


def accuracy_panels(entries: Sequence[Entry]) -> list[Panel | CategoryPanel]:
    """Accuracy over the remaining ratio, in one panel or, if there are many curves, one a start; accuracy by start if
    there is a single level."""
    dense = [value for entry in entries if entry.experiment.method == "dense" for value in entry.accuracies]
    reference = (f"dense {STARTS['dense'].formula}", dense) if dense else None
    pruned = [entry for entry in entries if entry.experiment.level is not None]
    if len({entry.experiment.level for entry in pruned}) == 1:
        return [start_panel(pruned, reference)]
    lines = grouped(pruned, lambda entry: (entry.experiment.method, entry.experiment.start))
    curves: dict[str, list[Curve]] = {}
    for (method, start), line in lines.items():
        line = sorted(line, key=lambda entry: entry.experiment.level)
        experiment, xs = line[0].experiment, [entry.remaining_ratio for entry in line]
        label = f"{experiment.title} {experiment.label}"
        curve = Curve(label, xs, [entry.accuracies for entry in line], style_of(method, start))
        curves.setdefault(f"test accuracy, {start}" if len(lines) > MOST_CURVES else "test accuracy", []).append(curve)
    return [
        Panel(title, "remaining ratio", "test accuracy (%)", own, reference, shrinking=True)
        for title, own in (curves or {"test accuracy": []}).items()
    ]


def start_panel(pruned: Sequence[Entry], reference: tuple[str, Sequence[float]] | None) -> CategoryPanel:
    groups = {
        METHODS[method].label: (METHODS[method].color, {entry.experiment.start: entry.accuracies for entry in own})
        for method, own in grouped(pruned, lambda entry: entry.experiment.method).items()
    }
    title = f"test accuracy at level {pruned[0].experiment.level}, remaining ratio {pruned[0].remaining_ratio:.2g}"
    return CategoryPanel(title, "test accuracy (%)", groups, reference)


def level_tables(entries: Sequence[Entry], parts: bool) -> str:
    """A Markdown table for every level, in the layout of the paper's tables 1 and 2; with ``parts``, one that says
    where each part of the subnetwork comes from instead."""
    levels = sorted({entry.experiment.level for entry in entries} - {None})
    sections = []
    for level in levels:
        rows = [entry for entry in entries if entry.experiment.level in (None, level)]
        rows.sort(key=lambda entry: entry.experiment.network)  # stable: a network's dense row stays where it was
        ratio = next(row.remaining_ratio for row in rows if row.experiment.level == level)
        table = markdown_table([level_row(row, parts) for row in rows])
        sections.append(f"## Level {level}, remaining ratio {ratio:.3f}\n\n{table}\n")
    return "\n".join(sections)


def level_row(entry: Entry, parts: bool) -> dict:
    experiment, start = entry.experiment, STARTS[entry.experiment.start]
    if parts:
        origin = {"start": experiment.start, **start.parts}
    else:
        found = {"Use AWS subnetwork": METHODS[experiment.method].interpolates, "Trained from θ_init": start.is_new}
        origin = {column: "-" if experiment.method == "dense" else "✓" if yes else "×" for column, yes in found.items()}
    remaining = f"{entry.remaining_ratio:.3g}"
    if METHODS[experiment.method].searches and entry.results:  # it prunes the classifier too
        remaining += f" ({entry.ratio('remaining_ratio_with_classifier'):.3g} with the classifier)"
    return {
        "Model": experiment.network,
        "Method": experiment.label,
        **origin,
        "Top-1 Acc. (%)": mean_and_deviation(entry.accuracies),
        "Remaining Params.": remaining,
        "n": entry.counted,
    }


def barrier_table(comparisons: Sequence[MeasuredComparison]) -> str:
    title = "error barrier (percentage points)"
    return markdown_table(
        [
            {
                "Model": row.network,
                "kind": row.comparison.panel,
                "networks": row.label,
                title: row.shown,
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
            **_statistics("test_accuracy", entry.accuracies),
            "planned": entry.planned_trials,
        }
        for entry in entries
    ]


def barrier_records(comparisons: Sequence[MeasuredComparison]) -> list[dict]:
    return [
        {
            **{key: getattr(row, key) for key in ("dataset", "arch", "method")},
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
