"""The paper's comparisons between final trainings of one run (figures 2, 3 and 6, b and c), by name."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.run_folder import CONFIG_FILE, is_finished, read_json, settings_of
from utils.starts import STARTS, FinalTraining

LINEAR_MODE_CONNECTIVITY = "linear mode connectivity"
NOISE_STABILITY = "SGD-noise stability"
NOISE_AND_INITIALIZATION = "stability against SGD noise and initialization"


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

    def trainings(self, run_seed: int, level: int) -> tuple[FinalTraining, FinalTraining]:
        """The two in a run of ``--seed`` ``run_seed``: its default final seed, and where another is needed the one
        after it."""
        seed = run_seed + 1
        return (
            _training(self.first, level, run_seed, seed, seed),
            _training(
                self.second,
                level,
                run_seed,
                seed if self.same_initialization else seed + 1,
                seed if self.same_order else seed + 1,
            ),
        )


def _training(start: str, level: int, run_seed: int, init_seed: int, order_seed: int) -> FinalTraining:
    """A start without a new initialization descends from the pruning run's own."""
    return FinalTraining(start, level, init_seed if STARTS[start].new_initialization else run_seed, order_seed)


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
PAPER_COMPARISONS = ("lmc-signs", "noise-signs", "noise-subnetwork", "noise-signs-keep-norms")


def missing_trainings(run: Path, level: int, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """The flags of main.py that train, in this run, the networks that the comparisons need and it has not."""
    seed = settings_of(run)["seed"]
    needed = dict.fromkeys(final for comparison in comparisons for final in comparison.trainings(seed, level))
    missing = [final for final in needed if not is_finished(run / final.stage)]
    return [[*run_flags(run), *flags] for flags in flags_of(missing)]


def flags_of(finals: Sequence[FinalTraining]) -> list[list[str]]:
    """The flags of main.py that, added to a run's own, ask for these final trainings and no other: one list for all
    that share level and seeds."""
    starts_of: dict[tuple[int | None, int, int], list[str]] = defaultdict(list)
    for final in finals:
        # Where it draws no initialization, any seed is right: the order's lets it share a list.
        init_seed = final.init_seed if STARTS[final.start].new_initialization else final.order_seed
        starts_of[final.level, init_seed, final.order_seed].append(final.start)
    return [
        [
            *([] if level is None else ["--levels", str(level), "--final-levels", str(level)]),
            *("--start", *starts, "--init-seed", str(init_seed), "--final-seeds", str(order_seed)),
        ]
        for (level, init_seed, order_seed), starts in starts_of.items()
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
