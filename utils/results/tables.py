"""Finished trainings over trials, as tables: mean, standard deviation, n."""

import json
import os
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self, TypeVar

from utils.errors import UserError
from utils.files import read_json
from utils.flags import SETTINGS, flags_of_settings
from utils.method.methods import METHODS
from utils.method.starts import STARTS
from utils.runs.records import EARLIER_DEFAULTS, Record, barrier_file, differences
from utils.runs.run import FinalTraining

# Settings that decide nothing of a dense network, which has seeds of its own; all others do.
OF_LEVELS = (
    *("method", "seed", "warmup_epochs", "level_epochs", "prune_rate", "pruning_schedule", "rewind_epoch"),
    *("rewind_norms", "alpha_range", "alpha_per_layer", "level_ramp_epochs", "search_lr", "score_penalty"),
    "sign_in_epochs",
)
DENSE_SETTINGS = ("data", "network_version", "processes", *(name for name in SETTINGS if name not in OF_LEVELS))
GAP = "–"

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items of each key, in their order."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


@dataclass(frozen=True)
class Experiment:
    """Final trainings of one start at one level, which differ in seeds only: a row of a table, a point of a curve."""

    dataset: str
    arch: str
    method: str  # "dense" for dense networks, whichever run trained them
    start: str
    level: int | None
    precision: str | None = None  # of their training, if anything is finished
    setting: str = ""  # the value of the setting that a sweep varies, and where a signed mask or signs come from
    flipped: float = 0.0  # share of the transferred signs

    @classmethod
    def of(cls, settings: Mapping, final: FinalTraining, precision: str | None, by: Sequence[str]) -> Self:
        """Of a final training in a run with these settings, in a sweep of the settings ``by``."""
        dense = final.start == "dense"
        swept = setting_text(settings, [name for name in by if not dense or name in DENSE_SETTINGS])
        source = "" if dense else source_text(settings)
        setting = ", ".join(filter(None, [swept, source, final.signs_from and f"signs of {final.signs_source}"]))
        method = "dense" if dense else settings["method"]
        place = settings["dataset"], settings["arch"], method, final.start, final.level
        return cls(*place, precision, setting, final.flipped)

    @property
    def network(self) -> str:
        return f"{self.dataset} {self.arch}"

    @property
    def title(self) -> str:
        return "dense" if self.method == "dense" else f"{METHODS[self.method].label} {self.start}"

    @property
    def label(self) -> str:
        """The paper's formula, with the method that found the level and the value of a sweep's setting."""
        formula, name = STARTS[self.start].formula, METHODS[self.method].label
        for symbol in ("θ_T", "m_T", "s_T", "φ_T", "ψ_T"):
            formula = formula.replace(symbol, f"{symbol}^{name}")
        return "dense " * (self.method == "dense") + formula + f", {self.setting}" * bool(self.setting)

    @property
    def order(self) -> tuple:
        """Tables are sorted by network, level, method and start; dense networks come first."""
        method = -1 if self.method == "dense" else list(METHODS).index(self.method)
        start = list(STARTS).index(self.start)
        return self.dataset, self.arch, self.level or 0, method, self.setting, start, self.flipped, self.precision or ""


def source_text(settings: Mapping) -> str:
    """Where a run's signed mask was found, such as "found on cifar10 by AWS, level 11"; empty if it has none or does
    not say."""
    source = settings.get("signed_mask_source")
    by = f" by {METHODS[source['method']].label}, level {source['level']}" if source and source["method"] else ""
    return f"found on {source['dataset']}{by}" if source else ""


def shared_settings(settings: Mapping) -> list[str]:
    """The settings in which trials of one experiment agree: all but the seed. Of signed masks of one method and level,
    each trial may have its own."""
    known = (settings.get("signed_mask_source") or {}).get("method")
    return [key for key in settings if key != "seed" and not (known and key == "signed_mask")]


def setting_text(settings: Mapping, by: Iterable[str]) -> str:
    """The settings ``by`` as flags have them, without those that the run's method does not have or that are not on."""
    flags = flags_of_settings({name: settings.get(name) for name in by})
    return " ".join(flags).removeprefix("--").replace(" --", ", ")


@dataclass(frozen=True)
class Entry:
    """What is finished of an experiment. ``results``: of every training, with its ``run``. ``planned_trials``: how many
    there should be, 0 if nothing was planned; ``planned_ratio``: the remaining ratio that the level should have;
    ``planned_runs``: how many runs they should come from, if that is known."""

    experiment: Experiment
    results: Sequence[dict]
    planned_trials: int = 0
    planned_ratio: float = 1.0
    planned_runs: int = 1

    @cached_property
    def accuracies(self) -> list[float]:
        """Test accuracy in %, one a trial; empty if nothing is finished."""
        return trials(self.results, "test_accuracy", self.planned_runs)

    @property
    def remaining_ratio(self) -> float:
        """Of the prunable weights: measured, or planned if nothing is finished."""
        measured = self.ratio("remaining_ratio")
        return self.planned_ratio if measured is None else measured

    def ratio(self, key: str) -> float | None:
        """The mean of a remaining ratio that the results have."""
        values = [result[key] for result in self.results if key in result]
        return statistics.mean(values) if values else None

    @property
    def counted(self) -> str:
        """n, and how many are wanted if that is more."""
        return count_of(len(self.accuracies), self.planned_trials)


def count_of(n: int, planned: int) -> str:
    return f"{n} of {planned}" if n < planned else str(n)


def trials(results: Sequence[dict], key: str, planned_runs: int = 1) -> list[float]:
    """The values of ``key`` whose mean and deviation are reported, for results of one experiment.

    A trial is a run, with the mean of its own results; of a single run, if no more are planned, all results count.
    Dense networks count once each, even if several runs trained the same one.
    """
    measured = [result for result in results if result.get(key) is not None]
    if measured and measured[0]["start"] == "dense":
        return list({(result["init_seed"], result["order_seed"]): result[key] for result in measured}.values())
    of_run = grouped(measured, lambda result: result["run"])
    if len(of_run) == 1 and planned_runs == 1:
        return [result[key] for result in measured]
    return [statistics.mean(result[key] for result in results) for results in of_run.values()]


def mean_and_deviation(values: Sequence[float], digits: int = 2) -> str:
    """``mean ± sample standard deviation``; the mean alone of one value, a gap of none."""
    if not values:
        return GAP
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def statistics_of(name: str, values: Sequence[float]) -> dict[str, float | int | None]:
    """Three cells of a CSV file's row."""
    return {
        f"{name}_mean": statistics.mean(values) if values else None,
        f"{name}_std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def check_same_experiments(records: Sequence[Record], by: Sequence[str] = ()) -> None:
    """Raises UserError if two runs of one data set, architecture and method differ in a setting not in ``by``, or
    two runs with dense networks in a setting that decides those, because their mean would mean nothing; if a trial is
    there twice; and if a folder is no run."""
    first_of: dict[tuple, Record] = {}
    for record in records:
        settings = record.settings
        kinds = {" ".join(filter(None, [settings["method"], source_text(settings)])): shared_settings(settings)}
        if any(result["start"] == "dense" for result in record.finals):
            kinds["dense networks"] = list(DENSE_SETTINGS)
        for kind, keys in kinds.items():
            value = setting_text(settings, [name for name in by if name in keys])
            first = first_of.setdefault((settings["dataset"], settings["arch"], kind, value), record)
            differing = differences(settings, first.settings, keys)
            if differing:
                raise UserError(
                    f"{record.folder} cannot be averaged with {first.folder} ({kind}): {', '.join(differing)}; "
                    "name the runs to use, or the setting that they differ in with --by"
                )
    check_no_twins(records)


def check_no_twins(records: Sequence[Record]) -> None:
    """Raises UserError if two runs of the same settings, seed included, trained the same network in one precision: they
    would count as two trials."""
    first_of: dict[tuple, Record] = {}
    for record in records:
        settings = json.dumps(record.settings, sort_keys=True)
        for stage, result in record.results.items():
            first = first_of.setdefault((settings, stage, precision_of(result)), record)
            if first is not record:
                raise UserError(
                    f"{record.folder} and {first.folder} are one trial: {stage} is in both, with equal settings and "
                    "seed; name one of them"
                )


def collect_results(records: Sequence[Record], by: Sequence[str] = ()) -> list[dict]:
    """The final trainings' results of all runs, with their experiment, their run and, if it was measured, their error
    barrier to the solution. Raises UserError as ``check_same_experiments`` does."""
    check_same_experiments([record for record in records if record.settings and record.finals], by)
    results = []
    for record in records:
        for result in record.finals:
            final = final_of(result)
            experiment = Experiment.of(record.settings, final, precision_of(result), by)
            barrier = barrier_to_solution(record, final)
            found = {"run": record.folder.name, "experiment": experiment, "barrier_to_solution": barrier}
            results.append(result | found)
    return results


def precision_of(result: dict) -> str:
    """In which precision a network was trained: networks of two precisions are never averaged."""
    return result.get("precision", "unknown precision")


def barrier_to_solution(record: Record, final: FinalTraining) -> float | None:
    """The error barrier between a final training and the solution of the same level, if it was measured."""
    solution = replace(final, start=METHODS[record.settings["method"]].solution, flipped=0.0, signs_from="")
    file = barrier_file(record.folder.parent, *(f"{record.folder.name}-{end.name}" for end in (final, solution)))
    # os.path says no of a name that is too long for a folder's, which Path refuses
    return read_json(file)["barrier"] if os.path.exists(file) else None


def final_of(result: dict) -> FinalTraining:
    """The final training that left a result; those of earlier versions transfer every sign as it is."""
    own = (result[part] for part in ("start", "level", "init_seed", "order_seed"))
    return FinalTraining(*own, result.get("flipped", 0.0), result.get("signs_from", ""))


def dense_deviation(
    records: Sequence[Record], settings: dict, precision: str, measure: str = "test_error"
) -> tuple[float | None, str]:
    """The paper's ε: the sample standard deviation over seeds of the test errors of dense networks trained alike, in
    percentage points, or of another ``measure``; and what it was taken from. None if there are fewer than two."""
    errors, settings = {}, EARLIER_DEFAULTS | settings
    for record in records:
        if all(record.settings.get(name) == settings.get(name) for name in DENSE_SETTINGS):
            for result in record.finals:
                if result["start"] == "dense" and precision_of(result) == precision and measure in result:
                    errors[result["init_seed"], result["order_seed"]] = result[measure]
    if len(errors) < 2:
        return None, f"no dense networks of two seeds, {precision}"
    return statistics.stdev(errors.values()), f"deviation of {len(errors)} dense networks, {precision}"


def summary_rows(results: Sequence[dict]) -> list[dict]:
    """One row an experiment: mean and sample standard deviation of the test accuracy, and of the error barrier."""
    groups = grouped(results, lambda result: result["experiment"])
    entries = sorted((Entry(*group) for group in groups.items()), key=lambda entry: entry.experiment.order)
    rows = []
    for entry in entries:
        experiment, barriers = entry.experiment, trials(entry.results, "barrier_to_solution")
        rows.append(
            {
                "network": experiment.network,
                "start": f"{experiment.title} {STARTS[experiment.start].formula}",
                **varying(experiment, groups),
                "level": "-" if experiment.level is None else experiment.level,
                "remaining": f"{entry.remaining_ratio:.3f}",
                "test accuracy %": mean_and_deviation(entry.accuracies),
                "n": len(entry.accuracies),
                **({"barrier to solution": mean_and_deviation(barriers), "its n": len(barriers)} if barriers else {}),
            }
        )
    return rows


def varying(experiment: Experiment, among: Iterable[Experiment]) -> dict[str, str]:
    """The cells that tell an experiment from others of the same start: settings of a sweep, the share of flipped signs,
    and the precision, if these differ."""
    among, cells = list(among), {}
    if any(other.setting for other in among):
        cells["setting"] = experiment.setting
    if any(other.flipped for other in among):
        cells["flipped"] = f"{experiment.flipped:g}"
    if len({other.precision for other in among} - {None}) > 1:
        cells["precision"] = experiment.precision or GAP
    return cells


def trained_in(experiments: Iterable[Experiment]) -> str:
    """The precisions of the trainings, for a caption; empty if nothing is finished."""
    return " and ".join(sorted({experiment.precision for experiment in experiments} - {None}))


def summary_table(results: Sequence[dict]) -> str:
    """``summary_rows`` as a Markdown table, with the precision below it; empty without results."""
    experiments = [result["experiment"] for result in results]
    return f"{markdown_table(summary_rows(results))}\ntrained in {trained_in(experiments)}" if results else ""


def rows_of_twins(first: Sequence[Record], second: Sequence[Record]) -> list[dict]:
    """Runs of one name trained twice: final trainings of the same name, the second one's test accuracy minus the
    first's, by experiment. A trial is a run: its own pairs are averaged first.

    Raises UserError if no training was made in both.
    """
    twins = {record.folder.name: record for record in second}
    pairs = []
    for record in first:
        twin = twins.get(record.folder.name)
        theirs = {final_of(result): result["test_accuracy"] for result in twin.finals} if twin else {}
        for result in record.finals:
            other = theirs.get(final_of(result))
            if other is not None:
                compared = {"second": other, "difference": other - result["test_accuracy"]}
                experiment = Experiment.of(record.settings, final_of(result), precision_of(result), ())
                pairs.append(result | compared | {"run": record.folder.name, "experiment": experiment})
    if not pairs:
        raise UserError("no final training was made in both folders: name two folders with runs of the same names")
    groups = grouped(pairs, lambda pair: pair["experiment"])
    return [_paired_row(experiment, group) for experiment, group in groups.items()]


def _paired_row(experiment: Experiment, pairs: Sequence[dict]) -> dict:
    differences = trials(pairs, "difference")
    return {
        "network": experiment.network,
        "start": experiment.title,
        "level": "-" if experiment.level is None else experiment.level,
        "first %": mean_and_deviation(trials(pairs, "test_accuracy")),
        "second %": mean_and_deviation(trials(pairs, "second")),
        "paired difference": mean_and_deviation(differences),
        "n": len(differences),
        "pairs": len(pairs),
    }


def markdown_table(rows: Sequence[dict]) -> str:
    """A Markdown table whose columns are aligned, with the columns of all rows; empty without rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *[[str(row.get(column, "")) for column in columns] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in cells]
    lines = [f"| {' | '.join(line)} |" for line in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) if rows else ""
