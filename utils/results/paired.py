"""Paired differences over seeds: one initialization and one order of images under two methods or starts."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

from utils.method.methods import METHODS
from utils.method.starts import LEVEL, STARTS
from utils.results.comparisons import LINEAR_MODE_CONNECTIVITY
from utils.results.paper import MeasuredComparison
from utils.results.tables import Entry, Experiment, grouped, varying

# Student's t at 97.5 % for 1, 2 .. 30 degrees of freedom.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def one_part_apart() -> Iterator[tuple[str, str]]:
    """Pairs of starts that differ in one part's source, or only in how they are trained. The second has that part from
    the level, or else is the earlier one in the table."""
    for (earlier, one), (later, other) in combinations(STARTS.items(), 2):
        ways = ([*start.parts.values(), start.holds_signs, start.factorizes] for start in (one, other))
        differing = [pair for pair in zip(*ways, strict=True) if pair[0] != pair[1]]
        if len(differing) == 1:
            yield (earlier, later) if differing[0][1] == LEVEL else (later, earlier)


# Quantities of one method that are compared with each other: what each part of a level is worth.
PAIRED_QUANTITIES = {
    ("barrier of mask to solution", "barrier of signs to solution"),
    *((f"test error of {first}", f"test error of {second}") for first, second in one_part_apart()),
}


class Quantity(NamedTuple):
    """Something measured in every trial of a method, in percentage points."""

    name: str
    method: str
    by_seed: Mapping[int, float]
    experiment: Experiment

    @property
    def place(self) -> tuple[str, int | None]:
        return self.experiment.network, self.experiment.level

    @property
    def is_variant(self) -> bool:
        return bool(self.experiment.setting or self.experiment.flipped)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean of at least two differences, and half the width of its 95 % interval: t · s / √n."""
    n = len(differences)
    quantile = T_975[min(n - 1, len(T_975)) - 1]
    return statistics.mean(differences), quantile * statistics.stdev(differences) / n**0.5


def paired_rows(entries: Sequence[Entry], comparisons: Sequence[MeasuredComparison]) -> list[dict]:
    """A row for every quantity of the first method and another one, of a method and its variants (flipped signs, signs
    of another level, a setting), and of one method's starts that differ in one part; the rise in the valley of ψ is the
    test error at ψ_init minus that at ψ. The two of a pair share a seed; fewer than two pairs make no row."""
    found = list(quantities(entries, comparisons))
    pairs = []
    for own in grouped(found, lambda quantity: (*quantity.place, quantity.name)).values():
        plain = [quantity for quantity in own if not quantity.is_variant] or own[:1]
        pairs += [
            (f"{first.name}: {first.method} − {second.method}", first, second)
            for first, second in product(plain, own)
            if second is not first and (first is plain[0] or second.experiment.method == first.experiment.method)
        ]
    for own in grouped(found, lambda quantity: (*quantity.place, quantity.method)).values():
        pairs += [
            (f"{first.method}: {first.name} − {second.name}", first, second)
            for first, second in product(own, own)
            if (first.name, second.name) in PAIRED_QUANTITIES
        ]
    return [row for label, first, second in pairs for row in _row(label, first, second)]


def _row(label: str, first: Quantity, second: Quantity) -> Iterator[dict]:
    seeds = first.by_seed.keys() & second.by_seed.keys()
    if len(seeds) > 1:
        mean, half = interval([first.by_seed[seed] - second.by_seed[seed] for seed in sorted(seeds)])
        yield {
            "Model": first.experiment.network,
            "level": first.experiment.level,
            "paired difference (percentage points)": label,
            "mean": f"{mean:.2f}",
            "95 % interval": f"{mean - half:.2f} to {mean + half:.2f}",
            "n": len(seeds),
        }


def quantities(entries: Sequence[Entry], comparisons: Sequence[MeasuredComparison]) -> Iterator[Quantity]:
    """Barriers and the valley's rise of every method, and test errors at a network's last level."""
    experiments = [item.experiment for item in (*entries, *comparisons)]
    for row in comparisons:
        noise = "" if row.comparison.panel == LINEAR_MODE_CONNECTIVITY else f", {row.comparison.panel}"
        name = "rise from ψ to ψ_init" if row.is_valley else f"barrier of {row.comparison.title}{noise}"
        yield Quantity(name, method_label(row.experiment, experiments), row.by_seed(), row.experiment)
    last: dict[str, int] = {}
    for experiment in (entry.experiment for entry in entries):
        last[experiment.network] = max(last.get(experiment.network, 0), experiment.level or 0)
    for entry in entries:
        own = entry.experiment
        if own.level == last[own.network]:  # that of dense networks is None
            errors = grouped(entry.results, lambda result: result["seed"])
            by_seed = {seed: statistics.mean(one["test_error"] for one in found) for seed, found in errors.items()}
            yield Quantity(f"test error of {own.start}", method_label(own, experiments), by_seed, own)


def method_label(experiment: Experiment, among: Sequence[Experiment]) -> str:
    cells = [f"{name} {text}" if name == "flipped" else text for name, text in varying(experiment, among).items()]
    return ", ".join(filter(None, (METHODS[experiment.method].label, *cells)))
