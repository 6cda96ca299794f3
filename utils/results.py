"""What is reported of a finished network, and several runs as one table: mean, standard deviation, n."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from data.batches import evaluation_batches
from data.dataset import Dataset
from utils.blueprint import State
from utils.pruning import Masks, remaining_ratio, remaining_ratio_of_all
from utils.run_folder import CONFIG_FILE, RunFolderError, read_json, read_results
from utils.signed_mask import count_sign_flips
from utils.starts import STARTS
from utils.training import evaluate

# Settings that tell trials of one experiment apart; any other difference makes another experiment.
TRIAL_SETTINGS = {"seed"}
METHOD_NAMES = {"dense": "dense", "lrr": "LRR", "aws": "AWS", "signed_mask": "signed mask"}  # in a table's order
COLUMNS = ("network", "start", "level", "remaining", "test accuracy %", "n")


def measure(network: nn.Module, masks: Masks, dataset: Dataset, rows: Sequence[dict]) -> dict:
    """What is measured of every finished network; ``rows`` are its training's metrics. Accuracies and errors in %."""
    test = evaluate(network, evaluation_batches(dataset, dataset.test))
    return {
        "epochs": len(rows),
        "remaining_ratio": remaining_ratio(masks),
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


def comparable_results(runs: Sequence[Path]) -> list[dict]:
    """The final trainings' results of all runs.

    Raises RunFolderError where two runs of one data set, architecture and method differ in a setting: their mean would
    mean nothing.
    """
    settings_of: dict[tuple, tuple[Path, dict]] = {}
    results = []
    for run in runs:
        settings = read_json(run / CONFIG_FILE)["settings"]
        experiment = (settings["dataset"], settings["arch"], settings["method"])
        first, expected = settings_of.setdefault(experiment, (run, settings))
        differing = [
            key
            for key in dict.fromkeys([*expected, *settings])
            if key not in TRIAL_SETTINGS and expected.get(key) != settings.get(key)
        ]
        if differing:
            listed = ", ".join(f"{key} {expected.get(key)} and {settings.get(key)}" for key in differing)
            raise RunFolderError(f"{first} and {run} cannot be averaged, they differ in {listed}: name the runs to use")
        results += [result for result in read_results(run) if result["kind"] == "final"]
    return results


def summary_rows(results: Sequence[dict]) -> list[dict]:
    """One row a data set, network, method, start and level: mean and sample standard deviation of the test accuracy."""
    groups = defaultdict(list)
    for result in results:
        # The dense network is the same whatever the method of the run that it was trained in.
        method = -1 if result["start"] == "dense" else list(METHOD_NAMES).index(result["method"])
        key = (result["dataset"], result["arch"], result["level"] or 0, method, list(STARTS).index(result["start"]))
        groups[key].append(result)
    return [_summary_row(groups[key]) for key in sorted(groups)]


def _summary_row(results: list[dict]) -> dict:
    first, accuracies = results[0], [result["test_accuracy"] for result in results]
    method = METHOD_NAMES[first["method"]]
    dense = first["start"] == "dense"
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    remaining = statistics.mean(result["remaining_ratio"] for result in results)
    return {
        "network": f"{first['dataset']} {first['arch']}",
        "start": f"dense {STARTS['dense'].formula}"
        if dense
        else f"{method} {first['start']} {STARTS[first['start']].formula}",
        "level": "-" if first["level"] is None else first["level"],
        "remaining": f"{remaining:.3f}",
        "test accuracy %": f"{statistics.mean(accuracies):.2f}{spread}",
        "n": len(accuracies),
    }


def markdown_table(rows: Sequence[dict]) -> str:
    """The rows as a Markdown table with aligned columns."""
    cells = [list(COLUMNS), *[[str(row[column]) for column in COLUMNS] for row in rows]]
    widths = [max(len(line[index]) for line in cells) for index in range(len(COLUMNS))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in cells]
    lines = [f"| {' | '.join(line)} |" for line in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
