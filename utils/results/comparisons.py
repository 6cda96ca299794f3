"""The paper's comparisons between networks of one run (figures 2, 3 and 6, b and c), and controls, by name."""

from dataclasses import dataclass

from utils.method.methods import METHODS
from utils.method.starts import STARTS
from utils.runs.run import FinalTraining, Level

LINEAR_MODE_CONNECTIVITY = "linear mode connectivity"
NOISE_STABILITY = "SGD-noise stability"
NOISE_AND_INITIALIZATION = "stability against SGD noise and initialization"
VALLEY = "valley of ψ"
SOLUTION = "solution"  # stands for the start of the method's solution


@dataclass(frozen=True)
class Comparison:
    """Two final trainings of one level. ``first`` and ``second`` are starts or SOLUTION; with ``same_order`` both see
    the images in the same order, with ``same_initialization`` both begin from the same parameters."""

    title: str
    panel: str
    first: str
    second: str
    same_order: bool
    same_initialization: bool

    def stages(
        self, method: str, run_seed: int, level: int, final_seed: int | None = None
    ) -> tuple[FinalTraining, FinalTraining] | tuple[Level]:
        """The two trainings in a run of ``--seed`` ``run_seed``. They have ``final_seed``, by default the run's default
        one; what has to differ in the second one has the seed after it. For the valley, the level itself, whose path
        leads from ψ to ψ_init."""
        if self.panel == VALLEY:
            return (Level(level),)
        seed = run_seed + 1 if final_seed is None else final_seed

        def training(start: str, init_seed: int, order_seed: int) -> FinalTraining:
            start = METHODS[method].solution if start == SOLUTION else start
            # A start without a new initialization descends from the pruning run's own.
            return FinalTraining(start, level, init_seed if STARTS[start].new_initialization else run_seed, order_seed)

        later_init, later_order = seed + (not self.same_initialization), seed + (not self.same_order)
        return training(self.first, seed, seed), training(self.second, later_init, later_order)


COMPARISONS = {
    "valley": Comparison("subnetwork from ψ to ψ_init", VALLEY, "subnetwork", "subnetwork", True, True),
    "lmc-signs": Comparison("signs to solution", LINEAR_MODE_CONNECTIVITY, "signs", SOLUTION, True, True),
    "lmc-signs-keep-norms": Comparison(
        "signs keeping ψ to solution", LINEAR_MODE_CONNECTIVITY, "signs-keep-norms", SOLUTION, True, True
    ),
    # Controls: how much of the connection is the mask's alone, or that of any signs.
    "lmc-mask": Comparison("mask to solution", LINEAR_MODE_CONNECTIVITY, "mask", SOLUTION, True, True),
    "lmc-random-signs": Comparison(
        "random signs to solution", LINEAR_MODE_CONNECTIVITY, "random-signs", SOLUTION, True, True
    ),
    "noise-signs": Comparison("signs", NOISE_STABILITY, "signs", "signs", False, True),
    "noise-subnetwork": Comparison("solution", NOISE_STABILITY, SOLUTION, SOLUTION, False, True),
    "noise-signs-keep-norms": Comparison(
        "signs keeping ψ", NOISE_STABILITY, "signs-keep-norms", "signs-keep-norms", False, True
    ),
    "noise-and-initialization-signs": Comparison(
        "signs, two initializations", NOISE_AND_INITIALIZATION, "signs", "signs", False, False
    ),
}
PAPER_COMPARISONS = ("lmc-signs", "noise-signs", "noise-subnetwork", "noise-signs-keep-norms")
