"""Ensembles of finished final trainings: the average of their softmax probabilities, without any training."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from data import Dataset
from data.batches import evaluation_batches
from utils.barriers.path import check_comparable, read_network
from utils.method.starts import STARTS
from utils.results.tables import Experiment, final_of, grouped, precision_of
from utils.runs.records import Record

SMALLEST = 2  # members


@dataclass(frozen=True)
class Team:
    """Final trainings that may be averaged: of one run, level and start; or dense networks, which belong to no run."""

    experiment: Experiment
    run: str
    members: Sequence[dict]  # their results, with their ``folder``

    @property
    def label(self) -> str:
        level = "" if self.experiment.level is None else f"level {self.experiment.level}"
        return " ".join(filter(None, [self.run or self.experiment.network, self.experiment.title, level]))


def find_teams(records: Sequence[Record], by: Sequence[str] = ()) -> list[Team]:
    """Every team of the runs, dense networks first."""
    found = []
    for record in records:
        for stage, result in record.results.items():
            if result["kind"] == "final":
                experiment = Experiment.of(record.settings, final_of(result), precision_of(result), by)
                run = None if result["start"] == "dense" else record.folder
                found.append((experiment, run, result | {"folder": record.folder / stage}))
    teams = [
        Team(experiment, run.name if run else "", choose_members([result for *_, result in group]))
        for (experiment, run), group in grouped(found, lambda item: item[:2]).items()
    ]
    return sorted(teams, key=lambda team: (team.experiment.order, team.run))


def choose_members(results: Sequence[dict]) -> list[dict]:
    """Trainings of one start that share neither their order nor, if the start has a new one, their initialization.

    Those whose two seeds are equal come first, as --final-seeds alone makes them; of a pair that differs in SGD noise
    only, one is left out."""
    chosen: list[dict] = []
    for result in sorted(results, key=lambda own: (own["init_seed"] != own["order_seed"], own["order_seed"])):
        seeds = ["order_seed"] + ["init_seed"] * STARTS[result["start"]].new_initialization
        if all(result[seed] != other[seed] for other in chosen for seed in seeds):
            chosen.append(result)
    return chosen


def common_size(teams: Sequence[Team]) -> int:
    """The most members that every team has, of those that have two: a table then compares like with like."""
    return min((len(team.members) for team in teams if len(team.members) >= SMALLEST), default=SMALLEST)


def note_missing(teams: Sequence[Team], size: int) -> None:
    """Say which teams have too few members."""
    small = [f"{team.label} has {len(team.members)}" for team in teams if len(team.members) < size]
    if small:
        text = f"{', '.join(small)}: main.py makes more with --final-seeds"
        print(f"note: an ensemble of {size} needs as many networks with seeds of their own; {text}", file=sys.stderr)


def ensemble_statistics(probabilities: Sequence[Tensor], labels: Tensor) -> dict[str, float]:
    """Of m members' class probabilities p_i, (N, C), in % of the N test images: the accuracy of argmax_c Σ_i p_i(c) / m
    (Lakshminarayanan et al., NeurIPS 2017); the members' mean accuracy; the gain of the first over the second; and
    disagreement, the share of images to which two members give different classes, averaged over pairs (Fort et al.,
    arXiv 1912.02757)."""
    classes = [own.argmax(dim=1) for own in probabilities]
    together = percentage(torch.stack(list(probabilities)).mean(dim=0).argmax(dim=1) == labels)
    alone = mean(percentage(own == labels) for own in classes)
    return {
        "ensemble_accuracy": together,
        "single_accuracy": alone,
        "gain": together - alone,
        "disagreement": mean(percentage(first != second) for first, second in combinations(classes, 2)),
    }


def percentage(hits: Tensor) -> float:
    return 100 * int(hits.sum()) / len(hits)


def measure_team(
    team: Team, sizes: Sequence[int], data_root: Path, device: torch.device, workers: int | None = None
) -> list[dict]:
    """A row for every ensemble. The members in their order are cut into as many ensembles of a size as there are, so
    that no network is in two of them."""
    there, rows = len(team.members), []
    fitting = [size for size in sizes if size <= there]
    probabilities, labels = predict_all(team, data_root, device, workers) if fitting else ([], None)
    for size in fitting:
        for first in range(0, there - size + 1, size):
            chosen, own = team.members[first : first + size], probabilities[first : first + size]
            # As the first member's, whose seeds tell the ensembles apart.
            about = {key: chosen[0][key] for key in ("start", "level", "init_seed", "order_seed", "remaining_ratio")}
            about |= {"members": size, "networks": " ".join(member["folder"].name for member in chosen)}
            rows.append({"run": team.run, "experiment": team.experiment, **about, **ensemble_statistics(own, labels)})
    return rows


def predict_all(team: Team, data_root: Path, device: torch.device, workers: int | None) -> tuple[list[Tensor], Tensor]:
    """The class probabilities of every member on the test images, and the labels; says if a member's accuracy differs
    from what its training recorded, by at least one image. Raises UserError if members have different data or classes.
    """
    first, probabilities = None, []
    for member in team.members:
        network = read_network(member["folder"])
        first = first or network
        check_comparable([first, network])
        dataset = network.load_data(data_root, device, workers)
        labels = dataset.test.labels
        probabilities.append(predict(network.blueprint.build(device, network.model), dataset))
        recorded, accuracy = network.result["test_accuracy"], percentage(probabilities[-1].argmax(dim=1) == labels)
        if abs(accuracy - recorded) > 50 / len(labels):  # half an image, in %
            text = f"{network.label} was recorded with {recorded:.2f} % test accuracy and has {accuracy:.2f} % here"
            print(f"note: {text}", file=sys.stderr)
    return probabilities, labels


@torch.no_grad()
def predict(network: nn.Module, dataset: Dataset) -> Tensor:
    """Softmax probabilities of the test images in evaluation mode, float32, (N, C)."""
    network.eval()
    return torch.cat([network(images).softmax(dim=1) for images, _ in evaluation_batches(dataset, dataset.test)])
