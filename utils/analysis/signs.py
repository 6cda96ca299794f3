"""What a run's signed masks say, from its files alone: how signs agree over levels, and what survives where.

A position is an element of a prunable weight. All shares are between 0 and 1.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from torch import Tensor

from utils.method.methods import METHODS
from utils.method.network import load_network
from utils.method.pruning import attention_apart
from utils.method.signed_mask import SignedMask, extract_signed_mask, load_signed_mask
from utils.results.tables import Experiment
from utils.runs.records import NETWORK_FILE, Record
from utils.runs.run import INITIALIZATION, SIGNED_MASK_FILE, FinalTraining, Level

CHANCE = 0.5  # the agreement of random signs
Layers = dict[str, Tensor]  # layer -> its signs, int8, output channels first


def split_layers(signed_mask: SignedMask, names: Iterable[str]) -> Layers:
    """The signs of the weights ``names``, layer by layer; attention's packed Q, K and V apart."""
    apart = attention_apart({name: signed_mask[name] for name in names})
    return {name.removesuffix(".weight"): signs for name, signs in apart.items()}


def count_signs(layers: Layers, references: Mapping[str, Layers]) -> dict[str, Counter]:
    """Whole numbers of each layer, which add up over layers: positions, survivors, output channels and those without
    a survivor; and for each of ``references``, how many positions survive in both and how many of those agree."""
    counts = {}
    for layer, signs in layers.items():
        survives = signs != 0
        counts[layer] = Counter(positions=signs.numel(), survivors=int(survives.sum()), channels=len(signs))
        counts[layer]["dead"] = int((~survives.flatten(1).any(dim=1)).sum())
        for name, others in references.items():
            products = signs * others[layer]
            counts[layer] |= {f"both, {name}": int((products != 0).sum()), f"agree, {name}": int((products > 0).sum())}
    return counts


def agreement(counts: Counter, name: str) -> float | None:
    """Share of the positions that survive in both whose signs agree; None if there is no such position."""
    both = counts[f"both, {name}"]
    return counts[f"agree, {name}"] / both if both else None


def binary_entropy(share: float) -> float:
    """H(p) = −p log2 p − (1−p) log2 (1−p), in bits."""
    return -sum(part * math.log2(part) for part in (share, 1 - share) if part > 0)


def sign_statistics(counts: Counter) -> dict[str, float | int | None]:
    """The numbers of a layer or, from the sum of its layers' counts, of a network.

    drift = 1 − agreement(level, initialization); bits a survivor = H(drift): what the signs cost someone who has the
    seed of the initialization and the mask. A dead channel is an output channel without a surviving weight.
    """
    kept = agreement(counts, "initialization")
    return {
        "survivors": counts["survivors"],
        "remaining_ratio": counts["survivors"] / counts["positions"],
        "agreement_with_level_before": agreement(counts, "level before"),
        "agreement_with_initialization": kept,
        "agreement_with_last_level": agreement(counts, "last level"),
        "chance": CHANCE,
        "drift": None if kept is None else 1 - kept,
        "bits_a_survivor": None if kept is None else binary_entropy(1 - kept),
        "dead_channels": counts["dead"] / counts["channels"],
    }


def finished_levels(record: Record) -> list[int]:
    return [result["level"] for result in record.results.values() if result["kind"] == "level"]


class SignedRun:
    """The signs of a run's initialization and, read when they are asked for, of its levels."""

    def __init__(self, record: Record, by: Sequence[str] = ()):
        self.folder, self.levels = record.folder, finished_levels(record)
        # A level's signs are those of its solution.
        solution = FinalTraining(METHODS[record.settings["method"]].solution, None, 0, 0)
        self.experiment = Experiment.of(record.settings, solution, precision=None, by=by)
        blueprint, content = load_network(self.folder / INITIALIZATION / NETWORK_FILE)
        self.names = blueprint.prunable
        # A weight that is exactly 0 has the sign +1 here, as in a signed mask.
        self.initial = split_layers(extract_signed_mask(content["model"], {}, self.names), self.names)

    def level(self, number: int) -> Layers:
        file = load_signed_mask(self.folder / Level(number).stage / SIGNED_MASK_FILE)
        return split_layers(file.signed_mask, self.names)

    def statistics(self, last_level: int) -> tuple[list[dict], list[dict]]:
        """A row for every level up to ``last_level``, and a row for every layer of ``last_level``."""
        references = {"initialization": self.initial, "last level": self.level(last_level)}
        rows = []
        for number in (number for number in self.levels if number <= last_level):
            signs = self.level(number)
            counts = count_signs(signs, references)
            rows.append({"level": number, **sign_statistics(sum(counts.values(), Counter()))})
            references["level before"] = signs
        return rows, [{"layer": layer, **sign_statistics(own)} for layer, own in counts.items()]


def compare_runs(runs: Sequence[SignedRun], level: int) -> list[dict]:
    """Agreement of every two runs' signs at ``level``, and of their initializations, if their layers are the same."""
    rows, signs = [], [run.level(level) for run in runs]
    for (first, own), (second, others) in combinations(zip(runs, signs, strict=True), 2):
        if shapes(own) == shapes(others):
            counts = sum(count_signs(own, {"other": others}).values(), Counter())
            initial = sum(count_signs(first.initial, {"other": second.initial}).values(), Counter())
            rows.append(
                {
                    "run": first.folder.name,
                    "other_run": second.folder.name,
                    "level": level,
                    "survive_in_both": counts["both, other"],
                    "agreement": agreement(counts, "other"),
                    "chance": CHANCE,
                    "agreement_of_initializations": agreement(initial, "other"),
                }
            )
    return rows


def shapes(layers: Layers) -> dict[str, tuple[int, ...]]:
    return {layer: tuple(signs.shape) for layer, signs in layers.items()}
