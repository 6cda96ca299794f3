"""What a figure needs: runs with their final trainings, and the barriers between those. What of it is there already,
and the commands that make the rest."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.comparisons import COMPARISONS, Comparison, flags_of
from utils.run_folder import (
    BARRIERS_FOLDER,
    SUMMARY_FILE,
    RunFolderError,
    is_finished,
    is_run,
    label_of_stage,
    level_name,
    path_name,
    settings_of,
)
from utils.starts import FinalTraining


@dataclass(frozen=True)
class PlannedRun:
    """What a line of main.py's flags asks of its run folder.

    ``settings``: those that its ``config.json`` should have; the data's are known only once it is loaded.
    ``level_epochs``: level -> epochs, the warm-up as level 0. ``separate_levels``: none needs the one before.
    ``partners``: final trainings that the line does not ask for, but a comparison needs. ``places``: the flags that
    tell other programs its device and data.
    """

    folder: Path
    flags: tuple[str, ...]
    places: tuple[str, ...]
    settings: Mapping[str, object]
    level_epochs: Mapping[int, int]
    separate_levels: bool
    final_epochs: int
    finals: tuple[FinalTraining, ...]
    partners: tuple[FinalTraining, ...] = ()

    @property
    def method(self) -> str:
        return self.settings["method"]

    @property
    def network(self) -> tuple[str, str]:
        """Data set and architecture."""
        return self.settings["dataset"], self.settings["arch"]

    def planned_ratio(self, level: int) -> float:
        """The remaining ratio of a level that is not there to be measured."""
        return (1 - self.settings["prune_rate"]) ** level

    def stages(self) -> dict[str, int]:
        """Every stage's folder and epochs."""
        levels = {level_name(level): epochs for level, epochs in self.level_epochs.items()}
        return levels | {final.stage: self.final_epochs for final in (*self.finals, *self.partners)}

    def has(self, stage: str) -> bool:
        return is_finished(self.folder / stage)

    def epochs_done(self) -> int:
        return sum(epochs for stage, epochs in self.stages().items() if self.has(stage))


@dataclass(frozen=True)
class PlannedBarrier:
    """One comparison of two final trainings of one run."""

    run: PlannedRun
    name: str
    first: FinalTraining
    second: FinalTraining

    @property
    def comparison(self) -> Comparison:
        return COMPARISONS[self.name]

    @property
    def ends(self) -> tuple[Path, Path]:
        return self.run.folder / self.first.stage, self.run.folder / self.second.stage

    @property
    def file(self) -> Path:
        labels = [label_of_stage(self.run.folder, final.name) for final in (self.first, self.second)]
        return self.run.folder.parent / BARRIERS_FOLDER / path_name(*labels, augment=True) / SUMMARY_FILE

    @property
    def is_measurable(self) -> bool:
        return all(is_finished(end) for end in self.ends)


def plan_barriers(runs: Sequence[PlannedRun], names: Sequence[str], level: int) -> list[PlannedBarrier]:
    """The comparisons ``names`` at ``level``, in every run that prunes."""
    return [
        PlannedBarrier(run, name, *COMPARISONS[name].trainings(run.settings["seed"], level))
        for run in runs
        if level in run.level_epochs
        for name in names
    ]


def check_folders(runs: Iterable[PlannedRun]) -> None:
    """Raises RunFolderError, naming the settings, where a run folder was made with others than planned."""
    for run in runs:
        if not is_run(run.folder):
            continue
        there = settings_of(run.folder)
        differing = [
            f"{key} {there.get(key)} (planned: {value})"
            for key, value in run.settings.items()
            if there.get(key) != value
        ]
        if differing:
            raise RunFolderError(
                f"{run.folder} was made with other settings than this figure's: {', '.join(differing)}: its results "
                "cannot stand in it; use another folder for the figure's runs, or the settings of this run"
            )


def last_of_each(flags: Sequence[str]) -> tuple[str, ...]:
    """The flags without those that a later one of the same name replaces."""
    groups: dict[str, list[str]] = {}
    for text in flags:
        if text.startswith("--"):
            groups.pop(text, None)
            groups[text] = []
        groups[next(reversed(groups))].append(text)
    return tuple(text for group in groups.values() for text in group)


def commands_of_runs(runs: Sequence[PlannedRun]) -> list[tuple[str, ...]]:
    """The flags of main.py that finish every run one after the other."""
    commands = []
    for run in runs:
        own = [level_name(level) for level in run.level_epochs] + [final.stage for final in run.finals]
        if not all(map(run.has, own)):
            commands.append(run.flags)
        missing = [final for final in run.partners if not run.has(final.stage)]
        commands += [(*run.flags, *flags) for flags in flags_of(missing)]
    return commands


def commands_of_stages(runs: Sequence[PlannedRun]) -> list[tuple[str, ...]]:
    """The flags of main.py for workers side by side: one command for the levels of a run, and one for the final
    trainings at a level, which are alike enough for a process to compile its step once.

    The pruning runs come first, then what needs no level, then the lower levels before the higher ones, so that few
    workers wait for a level. A worker that does wait takes over when the one that was training the level is gone.
    """
    prunings: list[tuple[str, ...]] = []
    finals_of: dict[tuple[int, int], list[FinalTraining]] = defaultdict(list)  # level and run
    for index, run in enumerate(runs):
        missing = [level for level in run.level_epochs if not run.has(level_name(level))]
        if run.separate_levels:
            prunings += [(*run.flags, "--levels", str(level), "--final-levels", str(level)) for level in missing]
        elif missing:
            prunings.append(run.flags)
        for final in (*run.finals, *run.partners):
            if not run.has(final.stage):
                finals_of[final.level or 0, index].append(final)
    commands = [(*flags, "--start") for flags in prunings]
    for (_, index), finals in sorted(finals_of.items(), key=lambda item: item[0]):
        commands += [(*runs[index].flags, *flags) for flags in flags_of(finals)]
    return commands


def commands_of_barriers(barriers: Sequence[PlannedBarrier]) -> list[tuple[str, ...]]:
    """The arguments of calculate_error_barrier.py for what is not measured and can be."""
    return [
        (*map(str, barrier.ends), *barrier.run.places)
        for barrier in barriers
        if barrier.is_measurable and not barrier.file.exists()
    ]
