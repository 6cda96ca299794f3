"""The paper's comparisons between final trainings of one run (figures 2, 3 and 6, b and c), by name."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.run_folder import CONFIG_FILE, is_finished, read_json, settings_of
from utils.starts import final_name

LINEAR_MODE_CONNECTIVITY = "linear mode connectivity"
NOISE_STABILITY = "SGD-noise stability"
NOISE_AND_INITIALIZATION = "stability against SGD noise and initialization"


@dataclass(frozen=True)
class FinalNetwork:
    """A final training by what decides it."""

    start: str
    init_seed: int
    order_seed: int

    def folder(self, run: Path, level: int) -> Path:
        return run / "final" / final_name(self.start, level, self.init_seed, self.order_seed)


@dataclass(frozen=True)
class Comparison:
    """Two final trainings of one level. ``first`` and ``second`` are starts; with ``same_order`` both see the images in
    the same order, with ``same_initialization`` both begin from the same parameters."""

    title: str
    panel: str
    first: str
    second: str
    same_order: bool
    same_initialization: bool

    def networks(self, run: Path) -> tuple[FinalNetwork, FinalNetwork]:
        """The two networks in a run: its default final seed, and where another is needed the one after it."""
        seed = settings_of(run)["seed"] + 1
        second_init = seed if self.same_initialization else seed + 1
        second_order = seed if self.same_order else seed + 1
        return FinalNetwork(self.first, seed, seed), FinalNetwork(self.second, second_init, second_order)


COMPARISONS = {
    "lmc-signs": Comparison("signs to solution", LINEAR_MODE_CONNECTIVITY, "signs", "subnetwork", True, True),
    "lmc-signs-keep-norms": Comparison(
        "signs keeping ψ to solution", LINEAR_MODE_CONNECTIVITY, "signs-keep-norms", "subnetwork", True, True
    ),
    "noise-signs": Comparison("signs", NOISE_STABILITY, "signs", "signs", False, True),
    "noise-subnetwork": Comparison("subnetwork", NOISE_STABILITY, "subnetwork", "subnetwork", False, True),
    "noise-signs-keep-norms": Comparison(
        "signs keeping ψ", NOISE_STABILITY, "signs-keep-norms", "signs-keep-norms", False, True
    ),
    "noise-and-initialization-signs": Comparison(
        "signs, two initializations", NOISE_AND_INITIALIZATION, "signs", "signs", False, False
    ),
}
# The paper's colours where it has one: by method and the start that is compared.
COLORS = {
    ("lrr", "subnetwork"): "tab:blue",
    ("lrr", "signs"): "tab:orange",
    ("lrr", "signs-keep-norms"): "tab:purple",
    ("aws", "subnetwork"): "tab:green",
    ("aws", "signs"): "tab:red",
    ("aws", "signs-keep-norms"): "tab:brown",
}
PAPER_COMPARISONS = ("lmc-signs", "noise-signs", "noise-subnetwork", "noise-signs-keep-norms")


def missing_trainings(run: Path, level: int, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """The flags of main.py that train, in this run, the networks that the comparisons need and it has not."""
    starts_of: dict[tuple[int, int], list[str]] = defaultdict(list)
    for network in dict.fromkeys(network for comparison in comparisons for network in comparison.networks(run)):
        if not is_finished(network.folder(run, level)):
            starts_of[network.init_seed, network.order_seed].append(network.start)
    own = run_flags(run)
    level_flags = ["--levels", str(level), "--final-levels", str(level)]
    return [
        [*own, *level_flags, "--start", *starts, "--init-seed", str(init_seed), "--final-seeds", str(order_seed)]
        for (init_seed, order_seed), starts in starts_of.items()
    ]


def run_flags(run: Path) -> list[str]:
    """The flags that continue a run in its folder, with its settings."""
    flags = []
    for name, value in (settings_of(run) | {"runs_dir": run.resolve().parent, "name": run.resolve().name}).items():
        if value is not None and name != "data":
            values = value if isinstance(value, list) else [value]
            flags += [f"--{name.replace('_', '-')}", *map(str, values)]
    return flags


def planned_level(run: Path) -> int:
    """The last level that the run has finished, or that its first command asked for."""
    finished = [int(level.name.removeprefix("level_")) for level in run.glob("level_*") if is_finished(level)]
    return max([read_json(run / CONFIG_FILE)["about"]["flags"]["levels"], *finished])
