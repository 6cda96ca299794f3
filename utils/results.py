"""What is reported of a finished network, and several runs as one table: mean, standard deviation, n."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from data.batches import evaluation_batches
from data.dataset import Dataset
from utils.blueprint import Blueprint, State
from utils.pruning import Masks, remaining_ratio, remaining_ratio_of_all
from utils.run_folder import (
    BARRIERS_FOLDER,
    CONFIG_FILE,
    EARLIER_DEFAULTS,
    SUMMARY_FILE,
    RunFolderError,
    is_run,
    label_of_stage,
    read_json,
    read_results,
    settings_of,
)
from utils.signed_mask import count_sign_flips
from utils.starts import STARTS, FinalTraining
from utils.training import evaluate

# Settings that tell trials of one experiment apart; any other difference makes another experiment.
TRIAL_SETTINGS = {"seed"}
# Settings that decide a dense network.
DENSE_SETTINGS = (
    *("dataset", "arch", "data", "final_epochs", "decays_at"),
    *("lr", "momentum", "weight_decay", "batch_size"),
)
METHOD_NAMES = {  # in a table's order
    "dense": "dense",
    "imp": "IMP",
    "wr": "WR",
    "lrr": "LRR",
    "aws": "AWS",
    "gm": "GM",
    "signed_mask": "signed mask",
}
COLUMNS = ("network", "start", "level", "remaining", "test accuracy %", "n")
BARRIER_COLUMN = "barrier to solution"


def measure(network: nn.Module, masks: Masks, blueprint: Blueprint, dataset: Dataset, rows: Sequence[dict]) -> dict:
    """What is measured of every finished network; ``rows`` are its training's metrics. Accuracies and errors in %.

    Ratios are over the prunable weights, over those and the classifier's (as Gem-Miner counts), over all parameters."""
    test = evaluate(network, evaluation_batches(dataset, dataset.test))
    unpruned = {name: torch.ones(shape, dtype=torch.bool) for name, shape in blueprint.shapes(blueprint.scored).items()}
    return {
        "epochs": len(rows),
        "remaining_ratio": remaining_ratio({name: masks[name] for name in blueprint.prunable}),
        "remaining_ratio_with_classifier": remaining_ratio(unpruned | masks),
        "remaining_ratio_of_all": remaining_ratio_of_all(network, masks),
        "test_accuracy": test.accuracy,
        "test_error": test.error,
        "test_loss": test.loss,
        "train_loss": rows[-1]["train_loss"] if rows else None,
        "train_accuracy": rows[-1]["train_accuracy"] if rows else None,
    }


def sign_statistics(trained: State, previous: State, initial: State, masks: Masks) -> dict:
    """Signs flipped since the last level and since initialization, in shares of the surviving weights, and the
    survivors a layer."""
    survivors = {name: int(mask.sum()) for name, mask in masks.items()}
    total = sum(survivors.values())
    return {
        "signs_flipped_since_last_level": count_sign_flips(trained, previous, masks) / total,
        "signs_flipped_since_initialization": count_sign_flips(trained, initial, masks) / total,
        "survivors": survivors,
    }


def check_same_experiments(runs: Sequence[Path]) -> None:
    """Raises RunFolderError where two runs of one data set, architecture and method differ in a setting, or two runs
    with dense networks in one that decides those: their mean would mean nothing. And where a folder is no run."""
    first_of: dict[tuple, tuple[Path, dict]] = {}
    for run in runs:
        settings = settings_of(run)
        kinds = {settings["method"]: [key for key in settings if key not in TRIAL_SETTINGS]}
        if any(result["start"] == "dense" for result in read_results(run)):
            kinds["dense networks"] = list(DENSE_SETTINGS)
        for kind, keys in kinds.items():
            first, expected = first_of.setdefault((settings["dataset"], settings["arch"], kind), (run, settings))
            differing = [key for key in keys if expected.get(key) != settings.get(key)]
            if differing:
                listed = ", ".join(f"{key} {expected.get(key)} and {settings.get(key)}" for key in differing)
                raise RunFolderError(
                    f"{first} and {run} cannot be averaged ({kind}), they differ in {listed}: name the runs to use"
                )


def comparable_results(runs: Sequence[Path]) -> list[dict]:
    """The final trainings' results of all runs, with their run and, where it was measured, their error barrier to the
    solution. Raises RunFolderError as ``check_same_experiments`` does."""
    runs_with_results = [run for run in runs if any(r["kind"] == "final" for r in read_results(run))]
    for run in runs:
        settings_of(run)
    check_same_experiments(runs_with_results)
    results = []
    for run in runs_with_results:
        barriers = read_barriers(run)
        for result in read_results(run):
            if result["kind"] == "final":
                # Two solutions have a barrier between them too: that is SGD noise.
                own = None if result["start"] == "subnetwork" else label_of(run, result, result["start"])
                results.append(result | {"run": run.name, "barrier_to_solution": barriers.get(own)})
    return results


def read_barriers(run: Path) -> dict[str, float]:
    """Label of a final training -> its error barrier to the solution of the same level, where it was measured."""
    solutions = {label_of(run, result, "subnetwork") for result in read_results(run) if result["kind"] == "final"}
    measured = [
        read_json(file) for file in sorted(run.parent.glob(f"{BARRIERS_FOLDER}/{run.name}-*--*/{SUMMARY_FILE}"))
    ]
    return {path["first"]: path["barrier"] for path in measured if path["second"] in solutions and path["augmented"]}


def label_of(run: Path, result: dict, start: str) -> str:
    """How paths name the final training of ``start`` beside a result of the same run, level and seeds."""
    return label_of_stage(run, FinalTraining(start, result["level"], result["init_seed"], result["order_seed"]).name)


def dense_deviation(runs: Path, settings: dict) -> tuple[float | None, str]:
    """The paper's ε: the sample standard deviation over seeds of the test errors of dense networks trained alike, in
    percentage points, and what it was taken from. None where there are fewer than two."""
    errors, settings = {}, EARLIER_DEFAULTS | settings
    for run in sorted(config.parent for config in runs.glob(f"*/{CONFIG_FILE}")):
        if is_run(run) and all(settings_of(run).get(name) == settings.get(name) for name in DENSE_SETTINGS):
            for result in read_results(run):
                if result["start"] == "dense":
                    errors[result["init_seed"], result["order_seed"]] = result["test_error"]
    if len(errors) < 2:
        return None, "no dense networks"
    return statistics.stdev(errors.values()), f"deviation of {len(errors)} dense networks"


def summary_rows(results: Sequence[dict]) -> list[dict]:
    """One row a data set, network, method, start and level: mean and sample standard deviation of the test accuracy.

    A trial is a run: what a run has trained several times, with other order seeds say, is averaged first.
    """
    groups = defaultdict(list)
    for result in results:
        method = -1 if result["start"] == "dense" else list(METHOD_NAMES).index(result["method"])
        key = (result["dataset"], result["arch"], result["level"] or 0, method, list(STARTS).index(result["start"]))
        groups[key].append(result)
    return [_summary_row(groups[key]) for key in sorted(groups)]


def _summary_row(results: list[dict]) -> dict:
    first = results[0]
    what = "dense" if first["start"] == "dense" else f"{METHOD_NAMES[first['method']]} {first['start']}"
    remaining = statistics.mean(result["remaining_ratio"] for result in results)
    accuracies, barriers = (trials(results, key) for key in ("test_accuracy", "barrier_to_solution"))
    return {
        "network": f"{first['dataset']} {first['arch']}",
        "start": f"{what} {STARTS[first['start']].formula}",
        "level": "-" if first["level"] is None else first["level"],
        "remaining": f"{remaining:.3f}",
        "test accuracy %": mean_and_deviation(accuracies),
        "n": len(accuracies),
        BARRIER_COLUMN: mean_and_deviation(barriers) if barriers else "",
    }


def paired_rows(first: Sequence[Path], second: Sequence[Path]) -> list[dict]:
    """Runs of one name trained twice: final trainings of the same name, the second one's test accuracy minus the
    first's, by network, method, start and level. A trial is a run: its own pairs are averaged first. Raises
    RunFolderError where no training was made in both."""
    twins = {run.name: run for run in second}
    groups = defaultdict(list)
    for run in first:
        ours = {result_name(result): result for result in read_results(run) if result["kind"] == "final"}
        theirs = read_results(twins[run.name]) if run.name in twins else []
        for other in theirs:
            one = ours.get(result_name(other))
            if one is not None:
                key = (one["dataset"], one["arch"], one["method"], one["start"], one["level"])
                groups[key].append((one | {"run": run.name}, other | {"run": run.name}))
    if not groups:
        raise RunFolderError("no final training was made in both folders: name two folders with runs of the same names")
    return [_paired_row(key, pairs) for key, pairs in groups.items()]


def result_name(result: dict) -> tuple:
    return tuple(result[key] for key in ("kind", "start", "level", "init_seed", "order_seed"))


def _paired_row(key: tuple, pairs: Sequence[tuple[dict, dict]]) -> dict:
    dataset, arch, method, start, level = key
    compared = [
        one | {"difference": other["test_accuracy"] - one["test_accuracy"], "second": other["test_accuracy"]}
        for one, other in pairs
    ]
    accuracies = [trials(compared, "test_accuracy"), trials(compared, "second")]
    differences = trials(compared, "difference")
    return {
        "network": f"{dataset} {arch}",
        "start": f"{METHOD_NAMES[method]} {start}",
        "level": "-" if level is None else level,
        "first %": mean_and_deviation(accuracies[0]),
        "second %": mean_and_deviation(accuracies[1]),
        "paired difference": mean_and_deviation(differences),
        "n": len(differences),
        "pairs": len(pairs),
    }


def trials(results: Sequence[dict], key: str) -> list[float]:
    """The values of ``key`` whose mean and deviation are reported, for results that differ in run and seeds only: one
    of each run, the mean of its own; of a single run, all. Dense networks count once each."""
    measured = [result for result in results if result.get(key) is not None]
    if measured and measured[0]["start"] == "dense":
        return list({(result["init_seed"], result["order_seed"]): result[key] for result in measured}.values())
    values_of_run = defaultdict(list)
    for result in measured:
        values_of_run[result["run"]].append(result[key])
    if len(values_of_run) == 1:
        return [result[key] for result in measured]
    return [statistics.mean(values) for values in values_of_run.values()]


def mean_and_deviation(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def summary_table(results: Sequence[dict]) -> str:
    """``summary_rows`` as a Markdown table; barriers are a column where any was measured."""
    rows = summary_rows(results)
    columns = [*COLUMNS, BARRIER_COLUMN] if any(row[BARRIER_COLUMN] for row in rows) else COLUMNS
    return markdown_table(columns, [[row[column] for column in columns] for row in rows])


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table whose columns are aligned."""
    cells = [list(columns), *[list(map(str, row)) for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in cells]
    lines = [f"| {' | '.join(line)} |" for line in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
