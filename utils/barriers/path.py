"""The straight line between two trained networks, measured position by position and kept on disk."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data import Dataset, load_dataset
from utils.barriers.meter import PositionMeter
from utils.errors import UserError
from utils.files import FileError, read_json, write_csv, write_json
from utils.method.mode_connectivity import barrier_above_line, error_barrier, interpolate_states
from utils.method.network import NETWORK_PARTS, Blueprint, load_network
from utils.results.plots import Curve, path_figure, save_figure
from utils.runs.records import NETWORK_FILE, SUMMARY_FILE, Record
from utils.runs.run import claim_stage

POSITIONS_FILE = "positions.csv"
FINGERPRINTS_FILE = "networks.json"
MEASURED_WITH = {"data": str, "train_images_per_class": int | None, "batch_size": int}  # settings of a network
POSITION_COLUMNS = ("alpha", "test_error", "test_loss")
TRAINING_COLUMNS = ("train_error", "train_loss")  # only of networks with batch norm


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """One end of a path. ``result`` is None if nothing is recorded of it."""

    label: str
    run: Path | None
    blueprint: Blueprint
    model: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    initial_norms: Mapping[str, Tensor]
    settings: dict
    result: dict | None

    @property
    def amount(self) -> tuple[int | None, int | None, int | None]:
        """How much of its data it was trained on: images of each class, pixels a side, and the shorter side of the
        copies; None for all."""
        return self.settings["train_images_per_class"], *map(self.settings.get, ("pixels", "cache_short_side"))

    def load_data(self, root: Path, device: torch.device, workers: int | None) -> Dataset:
        """Its data, on the device. Raises UserError if the data root holds other data than it was trained on."""
        dataset, description = _load_once(device, self.blueprint.dataset, root, *self.amount, workers)
        if description != self.settings["data"]:
            raise UserError(
                f"{self.label} was trained on {self.settings['data']}, and {root} holds {description}: "
                "name the folder of its data with --data-root"
            )
        return dataset

    def with_initial_norms(self) -> "TrainedNetwork":
        """The same network with ψ_init instead of ψ, the far end of the path that AWS is built to flatten."""
        model = {**self.model, **self.initial_norms}
        return replace(self, label=f"{self.label}-initial_norms", model=model, result=None)


@lru_cache(maxsize=1)  # one for many networks
def _load_once(device: torch.device, *asked) -> tuple[Dataset, str]:
    """What ``load_dataset`` gives, on the device, and what identifies it."""
    dataset = load_dataset(*asked)
    return dataset.to(device), dataset.description()


@dataclass(frozen=True)
class PathMeasurement:
    """How paths are measured, and where the results go. ``epsilons``: by measure, ε and what it was taken from;
    ``wait``: for a path that another process measures."""

    meter: PositionMeter
    alphas: Sequence[float]
    epsilons: Mapping[str, tuple[float | None, str]]
    folder: Path
    wait: bool


def find_network(path: Path) -> Path:
    """A ``network.pt``, named itself or by its folder. Raises UserError if there is none."""
    file = path / NETWORK_FILE if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"{file} is missing: name the folder of a level or a final training "
            "(script/calculate_error_barrier.sh trains what its comparisons lack, unless another process does)"
        )
    return file


def read_network(path: Path) -> TrainedNetwork:
    """The network that ``find_network`` finds. Raises FileError if its file is damaged."""
    file = find_network(path)
    blueprint, content = load_network(file, "name a network.pt that main.py wrote, or have it trained again")
    settings = content["settings"]
    if not all(name in settings and isinstance(settings[name], kind) for name, kind in MEASURED_WITH.items()):
        raise FileError(f"{file} does not say on what it was trained: name a network.pt that main.py wrote")
    stage = file.resolve().parent
    run = next((parent for parent in (stage.parent, stage.parent.parent) if Record(parent).is_run), None)
    own_name = stage.name if file.name == NETWORK_FILE else file.stem
    label = f"{run.name}-{own_name}" if run else own_name
    return TrainedNetwork(label, run, blueprint, **{part: content[part] for part in NETWORK_PARTS})


def check_comparable(networks: Sequence[TrainedNetwork]) -> None:
    """Raises UserError, naming both, unless all networks are of one architecture for one data set."""
    first = networks[0]
    for other in networks[1:]:
        for name in ("arch", "dataset", "classes", "channels"):
            values = getattr(first.blueprint, name), getattr(other.blueprint, name)
            if values[0] != values[1]:
                raise UserError(
                    f"{first.label} has {name} {values[0]} and {other.label} has {values[1]}: "
                    "only networks of the same kind have a path between them"
                )
        if first.settings["data"] != other.settings["data"]:
            raise UserError(
                f"{first.label} was trained on {first.settings['data']}, and {other.label} on "
                f"{other.settings['data']}: their batch-norm statistics belong to different data"
            )


def tell_apart(networks: Sequence[TrainedNetwork]) -> list[TrainedNetwork]:
    """The networks with labels that differ: equal ones get a piece of their fingerprints."""
    labels = [network.label for network in networks]
    endings = [f"-{fingerprint(network.model)[:8]}" if labels.count(network.label) > 1 else "" for network in networks]
    return [replace(network, label=network.label + ending) for network, ending in zip(networks, endings, strict=True)]


def measure_path(first: TrainedNetwork, second: TrainedNetwork, measurement: PathMeasurement) -> dict:
    """Measure the path from ``second`` (α = 0) to ``first`` (α = 1), keep numbers and picture in a folder named after
    the two, and print one line; returns the summary. Finished positions are not measured again."""
    check_comparable([first, second])
    name = f"{first.label}--{second.label}" + ("" if measurement.meter.augment else "--not_augmented")
    folder = measurement.folder / name
    with claim_stage(folder, measurement.wait):
        check_fingerprints(folder, first, second)
        rows = measure_positions(first, second, measurement, folder)
        ends = [check_end(end, row["test_error"], measurement) for end, row in ((second, rows[0]), (first, rows[-1]))]
        summary = summarize(first, second, measurement, ends, rows)
        write_json(folder / SUMMARY_FILE, summary)
        curves = [
            Curve(label, [row["alpha"] for row in rows], [[row[key]] for row in rows], (None, line_style))
            for label, key, line_style in (("test", "test_error", "-"), ("training", "train_error", "--"))
            if all(key in row for row in rows)
        ]
        description = describe(summary)
        save_figure(path_figure(description, (second.label, first.label), curves), folder / "path")
    print(f"{first.label} - {second.label}: {description}", flush=True)
    report_ends(ends, images=len(measurement.meter.dataset.test))
    return summary


def report_ends(ends: Sequence[dict], images: int) -> None:
    """Say if an end's test error differs, by at least one image, from the one that its training recorded."""
    reasons = {
        "test_error": "in its file here: other data, another device, or a changed file",
        "reestimated_test_error": "with re-estimated batch-norm statistics, as on the path",
    }
    for end in ends:
        label, recorded = end["network"], end["recorded_test_error"]
        for key, reason in reasons.items():
            if recorded is not None and abs(end[key] - recorded) > 50 / images:  # half an image, in %
                text = f"{label} was recorded with {recorded:.2f} % test error and has {end[key]:.2f} % {reason}"
                print(f"note: {text}", file=sys.stderr)
                break


def check_fingerprints(folder: Path, first: TrainedNetwork, second: TrainedNetwork) -> None:
    """Raises UserError unless the positions that are kept belong to these very weights and data."""
    fingerprints = {
        "first": fingerprint(first.model),
        "second": fingerprint(second.model),
        "data": first.settings["data"],
        "batch_size": first.settings["batch_size"],
    }
    file = folder / FINGERPRINTS_FILE
    if not file.exists():
        write_json(file, fingerprints)
    elif read_json(file) != fingerprints:
        raise UserError(f"{folder} holds the path of earlier networks of these names: delete it, or give --out")


def fingerprint(state: Mapping[str, Tensor]) -> str:
    digest = sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def check_end(end: TrainedNetwork, reestimated: float, measurement: PathMeasurement) -> dict:
    """The test errors of an end in %: recorded by its training, as it was saved, and as it stands on the path."""
    errors = {"network": end.label, "reestimated_test_error": reestimated}
    if end.result is None:
        return errors | {"recorded_test_error": None, "test_error": None}
    as_saved = measurement.meter.evaluate(end.model)
    return errors | {"recorded_test_error": end.result.get("test_error"), "test_error": as_saved.error}


def measure_positions(
    first: TrainedNetwork, second: TrainedNetwork, measurement: PathMeasurement, folder: Path
) -> list[dict]:
    """One row a position, in the order of α: errors in % and losses of αθ + (1−α)θ' with batch-norm statistics of its
    own, on the training images only if it has any. Those of earlier commands are included: a coarser grid later must
    not lower a barrier that was found."""
    known = {row["alpha"]: row for row in read_positions(folder / POSITIONS_FILE)}
    for alpha in tqdm(measurement.alphas, desc="positions", leave=False, disable=not sys.stderr.isatty()):
        if alpha not in known:
            # What survives in either network survives between them: there is nothing to mask.
            state = interpolate_states(first.model, second.model, first.blueprint.learnable, alpha=alpha)
            training, test = measurement.meter.measure(state)
            known[alpha] = dict(zip(POSITION_COLUMNS, (alpha, test.error, test.loss), strict=True))
            if training:
                known[alpha] |= dict(zip(TRAINING_COLUMNS, (training.error, training.loss), strict=True))
            write_csv(folder / POSITIONS_FILE, [known[key] for key in sorted(known)])
    return [known[alpha] for alpha in sorted(known)]


def read_positions(path: Path) -> list[dict]:
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            columns = POSITION_COLUMNS + TRAINING_COLUMNS * (TRAINING_COLUMNS[0] in (rows.fieldnames or ()))
            return [{key: float(row[key]) for key in columns} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run the same command again") from error


def summarize(
    first: TrainedNetwork, second: TrainedNetwork, measurement: PathMeasurement, ends: list[dict], rows: list[dict]
) -> dict:
    """What ``barrier.json`` holds. Barriers are in percentage points of test error; ``loss_``: in nats of test loss."""
    return {
        "first": first.label,
        "second": second.label,
        **summarize_barrier("", rows, "test_error", *measurement.epsilons["test_error"]),
        **summarize_barrier("loss_", rows, "test_loss", *measurement.epsilons["test_loss"]),
        "survive_only_in_first": count_only_in(first.masks, second.masks),
        "survive_only_in_second": count_only_in(second.masks, first.masks),
        "augmented": measurement.meter.augment,
        "ends": ends,
        "positions": rows,
    }


def summarize_barrier(prefix: str, rows: Sequence[dict], measure: str, epsilon: float | None, source: str) -> dict:
    """Both barriers of a measure, each with its α, and the verdict."""
    alphas, values = [row["alpha"] for row in rows], [row[measure] for row in rows]
    barrier, above_line = error_barrier(alphas, values), barrier_above_line(alphas, values)
    return {
        f"{prefix}barrier": barrier.height,
        f"{prefix}barrier_alpha": barrier.alpha,
        f"{prefix}barrier_above_line": above_line.height,
        f"{prefix}barrier_above_line_alpha": above_line.alpha,
        f"{prefix}epsilon": epsilon,
        f"{prefix}connected": None if epsilon is None else barrier.height < epsilon,
        f"{prefix}epsilon_source": source,
    }


def count_only_in(masks: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> int:
    """Weights of one mask that another lacks; what has no mask there survives (Gem-Miner prunes the classifier too)."""
    return sum(int((mask & ~others[name]).sum()) for name, mask in masks.items() if name in others)


def describe(summary: dict) -> str:
    """The summary as one line."""
    if summary["connected"] is None:
        verdict = f"no verdict without --epsilon ({summary['epsilon_source']})"
    else:
        relation = "linearly mode-connected" if summary["connected"] else "not linearly mode-connected"
        verdict = f"{relation} at ε = {summary['epsilon']:.2f} ({summary['epsilon_source']})"
    loss = f"loss barrier {summary['loss_barrier']:.3f}"
    if summary["loss_connected"] is not None:
        loss += f" {'<' if summary['loss_connected'] else '≥'} ε = {summary['loss_epsilon']:.3f}"
    same = summary["survive_only_in_first"] == summary["survive_only_in_second"] == 0
    masks = "" if same else "; the masks differ, between the ends their union survives"
    return (
        f"error barrier {summary['barrier']:.2f} at α = {summary['barrier_alpha']:.2f}, "
        f"{summary['barrier_above_line']:.2f} above the line, {verdict}; {loss}{masks}"
    )
