"""What a figure or a comparison needs: runs with their final trainings, and the error barriers between those. What is
there already, and the commands that make the rest."""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from utils.errors import UserError
from utils.flags import OWN, parse_arguments, planned_finals, planned_levels, run_settings, stage_epochs
from utils.method.methods import METHODS
from utils.method.starts import STARTS
from utils.results.comparisons import COMPARISONS, LINEAR_MODE_CONNECTIVITY, Comparison
from utils.results.tables import grouped
from utils.runs.records import Records, barrier_file, differences, is_finished
from utils.runs.run import FinalTraining, Level, is_level

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PlannedRun:
    """What a line of main.py's flags asks of its run folder.

    ``settings``: those that its ``config.json`` should have, without the data's, which are known only once it is
    loaded. ``epochs``: of every level and final training that the line asks for, by folder. ``partners``: final
    trainings that the line does not ask for, but a comparison needs. ``places``: the flags that tell other programs
    its device and data.
    """

    folder: Path
    flags: tuple[str, ...]
    places: tuple[str, ...]
    settings: Mapping[str, object]
    levels: tuple[int, ...]
    epochs: Mapping[str, int]
    finals: tuple[FinalTraining, ...]
    partners: tuple[FinalTraining, ...] = ()

    @property
    def method(self) -> str:
        return self.settings["method"]

    @property
    def network(self) -> tuple[str, str]:
        """Data set and architecture."""
        return self.settings["dataset"], self.settings["arch"]

    def planned_ratio(self, level: int | None) -> float:
        """The remaining ratio of a level that is not there to be measured; 1 without a level."""
        return (1 - self.settings["prune_rate"]) ** (level or 0)

    def stages(self) -> dict[str, int]:
        """The epochs of every stage, by its folder."""
        return {**self.epochs, **{final.stage: self.settings["final_epochs"] for final in self.partners}}

    def commands_of_partners(self) -> list[tuple[str, ...]]:
        """The flags of main.py that train the missing partners, with the levels that those need."""
        missing = [final for final in self.partners if not self.has(final.stage)]
        return [last_of_each((*self.flags, *flags)) for flags in flags_of(missing, self.flags)]

    def has(self, stage: str) -> bool:
        return is_finished(self.folder / stage)

    def epochs_done(self) -> int:
        return sum(epochs for stage, epochs in self.stages().items() if self.has(stage))


@dataclass(frozen=True, eq=False)
class PlannedBarrier:
    """One comparison of two networks of one run. ``reference``: whether every panel of barriers shows it."""

    run: PlannedRun
    name: str
    reference: bool
    stages: tuple[FinalTraining | Level, ...]

    @property
    def comparison(self) -> Comparison:
        return COMPARISONS[self.name]

    @property
    def level(self) -> int:
        return self.stages[0].level

    @property
    def final(self) -> FinalTraining:
        """The path's first network; a level's own stands for a final training of none."""
        first, seed = self.stages[0], self.run.settings["seed"]
        return first if isinstance(first, FinalTraining) else FinalTraining("subnetwork", first.level, seed, seed)

    @property
    def ends(self) -> tuple[Path, ...]:
        """Folders of the networks; one if the other end is its own with ψ_init."""
        return tuple(self.run.folder / stage.stage for stage in self.stages)

    @property
    def file(self) -> Path:
        labels = [f"{self.run.folder.name}-{end.name}" for end in self.ends]
        labels += [f"{labels[0]}-initial_norms"] * (len(labels) == 1)
        return barrier_file(self.run.folder.parent, *labels)

    @property
    def is_measurable(self) -> bool:
        return all(map(is_finished, self.ends))


@dataclass(frozen=True)
class Plan:
    runs: tuple[PlannedRun, ...]
    barriers: tuple[PlannedBarrier, ...]

    def missing_stages(self) -> int:
        return sum(not run.has(stage) for run in self.runs for stage in run.stages())

    def missing_barriers(self) -> list[PlannedBarrier]:
        return [barrier for barrier in self.barriers if not barrier.file.exists()]

    def check_folders(self, records: Records) -> None:
        """Raises UserError, naming the settings, if a run folder was made with other settings than planned."""
        for run in self.runs:
            record = records.of(run.folder)
            differing = differences(run.settings, record.settings, run.settings) if record.is_run else []
            if differing:
                raise UserError(
                    f"{run.folder} was made with other settings than planned: {', '.join(differing)}; use another "
                    "folder for these runs, or the settings of the run that is there"
                )

    def commands_of_runs(self) -> list[tuple[str, ...]]:
        """The flags of main.py that finish every run one after the other."""
        commands = []
        for run in self.runs:
            if not all(map(run.has, run.epochs)):
                commands.append(last_of_each(run.flags))
            commands += run.commands_of_partners()
        return commands

    def commands_of_stages(self) -> list[tuple[str, ...]]:
        """The flags of main.py for workers side by side: one command for the levels of a run, and one for the final
        trainings at a level, which are alike enough for a process to compile its step once.

        The pruning runs come first, then what needs no level, then the lower levels before the higher ones, so that few
        workers wait for a level. A worker that waits takes over if the one that was training the level is gone.
        """
        prunings, finals = [], []
        for index, run in enumerate(self.runs):
            missing = [level for level in run.levels if not run.has(Level(level).stage)]
            if METHODS[run.method].searches:
                prunings += [(*run.flags, "--levels", str(level), "--final-levels", str(level)) for level in missing]
            elif missing:
                prunings.append(run.flags)
            both = (*run.finals, *run.partners)
            finals += [(final.level or 0, index, final) for final in both if not run.has(final.stage)]
        commands = [(*flags, "--start") for flags in prunings]
        for (_, index), group in sorted(grouped(finals, lambda item: item[:2]).items()):
            run = self.runs[index]
            commands += [(*run.flags, *flags) for flags in flags_of([final for _, _, final in group], run.flags)]
        return [last_of_each(flags) for flags in commands]

    def commands_of_barriers(self) -> list[tuple[str, ...]]:
        """The arguments of calculate_error_barrier.py for what is not measured and can be."""
        missing = [barrier for barrier in self.missing_barriers() if barrier.is_measurable]
        return [
            (*["--normalization-path"] * (len(barrier.ends) == 1), *map(str, barrier.ends), *barrier.run.places)
            for barrier in missing
        ]


def make_plan(
    runs_asked: Iterable[PlannedRun],
    comparisons: Sequence[str],
    levels: Sequence[int],
    reference: tuple[str, str] | None = None,
) -> Plan:
    """The runs, and the comparisons at ``levels`` in each of them whose levels are trained; ``reference``: a method and
    a further comparison of its runs, which every panel shows.

    Final trainings that a comparison needs and a run does not have are planned beside its own.
    """
    runs, barriers = [], []
    for run in runs_asked:
        names = [*comparisons, *([reference[1]] if reference and run.method == reference[0] else [])]
        # Gem-Miner's levels are searches: its final trainings start from no trained weights.
        trained = () if METHODS[run.method].searches else [level for level in levels if level in run.levels]
        pairs = [(name, pair) for level in trained for name in names for pair in pairs_of(run, name, level)]
        needed = dict.fromkeys(stage for _, pair in pairs for stage in pair if isinstance(stage, FinalTraining))
        run = replace(run, partners=tuple(final for final in needed if final not in run.finals))
        runs.append(run)
        barriers += [PlannedBarrier(run, name, name not in comparisons, pair) for name, pair in pairs]
    return Plan(tuple(runs), tuple(barriers))


def pairs_of(run: PlannedRun, name: str, level: int) -> list[tuple[FinalTraining | Level, ...]]:
    """The networks of one comparison at a level: one pair and, if it connects a start with the solution, one for every
    further final seed, source or share of flipped signs that the run plans of that start."""
    stages = partial(COMPARISONS[name].stages, run.method, run.settings["seed"], level)
    pairs = [stages()]
    if COMPARISONS[name].panel == LINEAR_MODE_CONNECTIVITY:
        for final in run.finals:
            first, solution = stages(final.order_seed)
            if first == replace(final, flipped=0.0, signs_from=""):
                pairs.append((final, solution))
    return list(dict.fromkeys(pairs))


def planned_run(flags: Sequence[str], folder: Path | None = None) -> PlannedRun:
    """What a line of main.py's flags asks for, in their own folder or in the run's ``folder``."""
    flags = [part for text in flags for part in (text.split("=", 1) if text.startswith("--") else [text])]
    args = parse_arguments(flags)
    place = () if folder is None else ("--runs-dir", str(folder.parent), "--name", folder.name)
    return PlannedRun(
        folder=folder or args.runs_dir / args.name,
        flags=(*flags, *place),
        places=("--device", args.device, "--data-root", str(args.data_root)),
        settings=run_settings(args),
        levels=tuple(level.level for level in planned_levels(args)),
        epochs=stage_epochs(args),
        finals=tuple(planned_finals(args)),
    )


def flags_of(finals: Sequence[FinalTraining], run_flags: Sequence[str]) -> list[list[str]]:
    """The flags of main.py that, added to a run's own, ask for these final trainings and no other: one list for all
    that share level, seeds and signs."""

    def shared(final: FinalTraining) -> tuple[int | None, int, int, float, str]:
        # A start that draws no initialization fits any seed: with the order's it can share a list.
        init_seed = final.init_seed if STARTS[final.start].new_initialization else final.order_seed
        return final.level, init_seed, final.order_seed, final.flipped, final.signs_from

    lists = []
    for (level, init_seed, order_seed, flipped, source), group in grouped(finals, shared).items():
        number = int(source.removeprefix("level_")) if is_level(source) else None
        last = max(level or 0, number or 0)
        flags = [] if level is None else ["--levels", str(last), "--final-levels", str(level)]
        flags += ["--start", *(final.start for final in group)]
        flags += ["--init-seed", str(init_seed), "--final-seeds", str(order_seed)]
        if flipped or "--flip-signs" in run_flags:
            flags += ["--flip-signs", str(flipped)]
        if source or "--signs-from" in run_flags:
            flags += ["--signs-from", source or OWN if number is None else str(number)]
        lists.append(flags)
    return lists


def last_of_each(flags: Sequence[str]) -> tuple[str, ...]:
    """The flags without those that a later one of the same name replaces."""
    groups: dict[str, list[str]] = {}
    for text in flags:
        if text.startswith("--"):
            groups.pop(text, None)
            groups[text] = []
        groups[next(reversed(groups))].append(text)
    return tuple(text for group in groups.values() for text in group)


def command_line(program: str, arguments: Sequence[str]) -> str:
    """A plain command that runs one of the project's programs, from any folder."""
    return shlex.join([sys.executable, str(PROJECT / program), *arguments])
