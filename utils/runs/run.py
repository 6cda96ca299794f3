"""A run's folder: its configuration, a folder for every stage, and who works on which of them."""

import fcntl
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
import torchvision

from utils.errors import UserError
from utils.files import (
    FileError,
    advising,
    check_index,
    is_whole_archive,
    naming_damage,
    read_json,
    write_csv,
    write_json,
)
from utils.method.network import Blueprint, State, load_network
from utils.method.pruning import Masks
from utils.method.signed_mask import SignedMask, extract_signed_mask, load_subnetwork, save_signed_mask
from utils.method.starts import STARTS
from utils.runs.progress import JobProgress
from utils.runs.records import (
    CONFIG_FILE,
    NETWORK_FILE,
    RESULT_FILE,
    Record,
    is_finished,
    other_settings,
)

INITIALIZATION = "initialization"
PRUNING_FOLDER = ".pruning"
UNFINISHED_FILE = "unfinished.pt"
REWINDING_POINT_FILE = "rewinding_point.pt"  # in level_00
SIGNED_MASK_FILE = "signed_mask.npz"
METRICS_FILE = "metrics.csv"
RESULTS_FILE = "results.csv"
COMMAND_FILE = "command.txt"


def is_level(stage: str) -> bool:
    return re.fullmatch(r"level_\d+", stage) is not None


class StageInUse(UserError):
    """Another process works in the folder."""

    def __init__(self, stage: Path):
        super().__init__(f"{stage} is being worked on by another process: stop it, or wait for it")
        self.stage = stage


@dataclass(frozen=True)
class Level:
    """The warm-up (0), or what is trained after the ``level``-th pruning."""

    level: int

    @property
    def stage(self) -> str:
        """Its folder below the run's."""
        return f"level_{self.level:02d}"


@dataclass(frozen=True)
class FinalTraining:
    """A final training of a run, by what decides it; ``level`` is None if the start needs no level of this run.

    ``flipped``: the share of the transferred signs that are flipped; ``signs_from``: where they come from if not from
    the level itself, another level's folder or a file.
    """

    start: str
    level: int | None
    init_seed: int
    order_seed: int
    flipped: float = 0.0
    signs_from: str = ""

    @property
    def signs_source(self) -> str:
        """``signs_from`` as a name: a file is called by its run and stage, and by a piece of its path's digest."""
        if is_level(self.signs_from):
            return self.signs_from
        path = Path(self.signs_from).resolve()
        return "-".join([*path.parent.parts[-2:], sha256(str(path).encode()).hexdigest()[:8]]).replace("/", "")

    @property
    def name(self) -> str:
        """Its folder's name, which mentions the initialization if its seed is not the order's."""
        level = "" if self.level is None else f"{Level(self.level).stage}_"
        flipped = f"_flipped{self.flipped:g}" if self.flipped else ""
        source = f"_signs_from_{self.signs_source}" if self.signs_from else ""
        usual = self.init_seed == self.order_seed or not STARTS[self.start].new_initialization
        init = "" if usual else f"_init{self.init_seed}"
        return f"{level}{self.start}{flipped}{source}_seed{self.order_seed}{init}"

    @property
    def stage(self) -> str:
        """Its folder below the run's."""
        return f"final/{self.name}"


class Run:
    """A run's folder in the hands of main.py. ``made_with`` is kept with every result: device and precision, in which
    networks that are averaged may differ. With ``share``, other processes work on the same run."""

    def __init__(self, folder: Path, settings: dict, blueprint: Blueprint, made_with: Mapping[str, str], share: bool):
        self.folder, self.settings, self.blueprint = folder, settings, blueprint
        self.made_with, self.share = made_with, share

    def unfinished(
        self, stages: Iterable[Level | FinalTraining], progress: JobProgress, wait: bool = False, alone: bool = False
    ) -> Iterator[Level | FinalTraining]:
        """The stages that are still to be made, one after the other, each held against other processes meanwhile.

        A stage that another process holds is waited for with ``wait``. Otherwise it is left to that process if the run
        is shared, a level together with those after it; if not, StageInUse is raised. With ``alone``, only one process
        at a time goes through the stages.
        """
        left, claim = list(stages), claim_stage(self.folder / PRUNING_FOLDER) if alone else nullcontext()
        with self._leaving_to_others(left, progress), claim:
            while left:
                stage, folder = left[0], self.folder / left[0].stage
                leaving = self._leaving_to_others([stage], progress)
                with (
                    leaving if isinstance(stage, FinalTraining) else nullcontext(),
                    nullcontext() if is_finished(folder) else claim_stage(folder, wait),
                ):
                    if is_finished(folder):
                        progress.skip_stage(stage.stage)
                        discard_unfinished(folder)  # a process may have ended between finishing and this
                    else:
                        yield stage
                left.pop(0)

    @contextmanager
    def _leaving_to_others(self, stages: list[Level | FinalTraining], progress: JobProgress) -> Iterator[None]:
        try:
            yield
        except StageInUse as error:
            if not self.share:
                raise
            progress.note(f"left to another process: {error.stage}")
            for stage in stages:
                progress.skip_stage(stage.stage)

    def initialization(self, make: Callable[[], State]) -> State:
        """θ_init of the pruning run, made once: it holds ψ_init, signs are compared with it, IMP goes back to it."""
        folder = self.folder / INITIALIZATION
        if not is_finished(folder):
            with claim_stage(folder, wait=True):
                if not is_finished(folder):
                    self._save(folder / NETWORK_FILE, make(), self.blueprint.dense_masks())
        return self.read(INITIALIZATION)[0]

    def read(self, stage: str, file: str = NETWORK_FILE) -> tuple[State, Masks]:
        """A finished stage's network. Raises FileError with the remedy if it is lost, damaged or of another stage."""
        path, remedy = self.folder / stage / file, delete_and_repeat(self.folder / stage)
        if not path.exists():
            raise FileError(f"{path} is missing: {remedy}")
        blueprint, content = load_network(path, remedy)
        differing = other_settings(self.settings, content["settings"])
        level = (content["result"] or {}).get("level")
        if isinstance(level, int) and Level(level).stage != stage:
            differing.append(f"level {level}")
        if differing or blueprint != self.blueprint:
            raise FileError(f"{path} belongs elsewhere, it has {', '.join(differing) or blueprint}: {remedy}")
        return content["model"], content["masks"]

    def check_finished(self, levels: Iterable[Level]) -> None:
        """Raises FileError with the remedy if a network of the run is cut. Makes signed masks of finished ``levels``
        again that are lost or damaged.

        This is fast: of a network, only the index is read. All its bytes are compared whenever it is used.
        """
        for path in sorted(self.folder.rglob("*.pt")):
            if path.name != UNFINISHED_FILE:
                with advising(delete_and_repeat(path.parent)), naming_damage(path, "is damaged"):
                    check_index(path)
        for level in levels:
            folder = self.folder / level.stage
            if is_finished(folder) and not is_whole_archive(folder / SIGNED_MASK_FILE):
                with claim_stage(folder, wait=True):
                    self._save_signed_mask(level, *self.read(level.stage))

    def signed_mask(self, source: str) -> SignedMask:
        """That of a level of this run, by its folder's name, or of another run's file."""
        if is_level(source):
            state, masks = self.read(source)
            return extract_signed_mask(state, masks, self.blueprint.signed)
        return load_subnetwork(Path(source), self.blueprint).signed_mask

    def keep(self, stage: Level | FinalTraining, state: State, masks: Masks, initial: State, measured: dict) -> None:
        """Keep a finished stage: which network of which run it is, what was measured, and on what. Its network is
        written last: a stage that has one is finished."""
        folder, seed = self.folder / stage.stage, self.settings["seed"]
        result = {
            **{key: self.settings[key] for key in ("dataset", "arch", "method")},
            "kind": "level" if isinstance(stage, Level) else "final",
            **{"start": None, "level": None, "seed": seed, "init_seed": seed, "order_seed": seed},
            **asdict(stage),
            **measured,
            **self.made_with,
        }
        if isinstance(stage, Level):
            self._save_signed_mask(stage, state, masks)
        write_json(folder / RESULT_FILE, result)
        self._save(folder / NETWORK_FILE, state, masks, initial, result)
        discard_unfinished(folder)

    def _save_signed_mask(self, level: Level, state: State, masks: Masks) -> None:
        signed_mask = extract_signed_mask(state, masks, self.blueprint.signed)
        path = self.folder / level.stage / SIGNED_MASK_FILE
        save_signed_mask(path, signed_mask, self.blueprint.arch, self.blueprint.dataset)

    def keep_rewinding_point(self, state: State, initial: State) -> None:
        self._save(self.folder / Level(0).stage / REWINDING_POINT_FILE, state, self.blueprint.dense_masks(), initial)

    def rewinding_point(self, epoch: int, warmup_epochs: int) -> State:
        """The weights after ``epoch`` epochs of the warm-up."""
        return self.read(Level(0).stage, NETWORK_FILE if epoch == warmup_epochs else REWINDING_POINT_FILE)[0]

    def keep_results_table(self) -> Record:
        """Write ``results.csv`` again, one row a finished network of any command; returns the run as reports see it."""
        record = Record(self.folder)
        with claim_stage(self.folder, wait=True):
            rows = [
                {key: value for key, value in result.items() if not isinstance(value, dict)}
                for result in record.results.values()
            ]
            if rows:
                write_csv(self.folder / RESULTS_FILE, rows)
        return record

    def _save(
        self, path: Path, state: State, masks: Masks, initial: State | None = None, result: dict | None = None
    ) -> None:
        initial_norms = {name: (initial or state)[name] for name in self.blueprint.norms}
        self.blueprint.save_network(path, state, masks, initial_norms, settings=self.settings, result=result)


def delete_and_repeat(folder: Path) -> str:
    """The remedy for a stage that is damaged."""
    return f"delete the folder {folder} and run the same command again"


def discard_unfinished(folder: Path) -> None:
    """Remove the state of a stage in progress, once the stage is finished."""
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)


def open_run_folder(run: Path, settings: dict, about: dict) -> None:
    """Create the run's folder with its configuration, or check that the existing one was made with the same settings.

    ``settings`` decide the results; ``about`` (versions, every other flag) is only kept. This command is added to the
    list of commands. Raises UserError naming the settings that differ.
    """
    with claim_stage(run, wait=True):
        there = _settings_there(run)
        differing = [] if there is None else other_settings(settings, there)
        if differing:
            only_processes = all(text.startswith("processes ") for text in differing)
            remedy = "have torchrun start as many" if only_processes else "give this run another folder with --name"
            raise UserError(f"{run} was made with other settings: {', '.join(differing)}; {remedy}")
        if not (run / CONFIG_FILE).exists():
            write_json(run / CONFIG_FILE, {"settings": settings if there is None else there, "about": about})
        with (run / COMMAND_FILE).open("a", encoding="utf-8") as file:
            file.write(shlex.join(["python", *sys.argv]) + "\n")


def _settings_there(run: Path) -> dict | None:
    """The settings that a run's folder was made with: its configuration's or, if that is lost, those that each of its
    networks has. None for a new run. Raises FileError if they are damaged, or lost with training in progress."""
    config = run / CONFIG_FILE
    if config.exists():
        settings = read_json(config).get("settings")
        if not isinstance(settings, dict):
            raise FileError(f"{config} holds no settings: delete that file and run the same command again")
        return settings
    network = next(run.rglob(NETWORK_FILE), None)
    if network is not None:
        _, content = load_network(network, delete_and_repeat(network.parent))
        return content["settings"]
    if any(run.rglob(UNFINISHED_FILE)):
        raise FileError(f"{config} is missing, with training in progress: delete {run}, or give another --name")
    return None


def provenance(flags: Mapping[str, object], device: str) -> dict:
    """Where the results come from: every flag, the versions and the project's commit."""
    return {
        "flags": {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()},
        "commit": project_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": device,
    }


def project_commit() -> str:
    """The commit of this program, followed by "-dirty" if files were changed; "unknown" without git."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


@contextmanager
def claim_stage(stage: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder while it is worked on. The hold ends with the process, however it ends.

    If another process holds it, waits until that one lets go, or raises StageInUse.
    """
    stage.mkdir(parents=True, exist_ok=True)
    with (stage / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise StageInUse(stage) from error
        yield
