"""What a run leaves on disk: its configuration, its stages' folders, and tables of their results."""

import csv
import fcntl
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.checkpoint import load, write_atomically

NETWORK_FILE = "network.pt"
SIGNED_MASK_FILE = "signed_mask.npz"
METRICS_FILE = "metrics.csv"
RESULT_FILE = "result.json"
RESULTS_FILE = "results.csv"
CONFIG_FILE = "config.json"
BARRIERS_FOLDER = "barriers"  # beside the runs
FIGURES_FOLDER = "figures"
SUMMARY_FILE = "barrier.json"
# What a run folder means that was made before these could be set.
EARLIER_DEFAULTS = {"pruning_schedule": "constant", "decays_at": [0.5, 0.75]}
COMMAND_FILE = "command.txt"


class RunFolderError(Exception):
    """A run folder that does not fit the command; the message says what differs and what to do."""


class StageInUse(RunFolderError):
    """Another process works in the folder."""

    def __init__(self, stage: Path):
        super().__init__(f"{stage} is being worked on by another process: stop it, or wait for it")
        self.stage = stage


def level_name(level: int) -> str:
    return f"level_{level:02d}"


def is_finished(stage: Path) -> bool:
    """A stage writes its network last, so the file means that everything is there."""
    return (stage / NETWORK_FILE).exists()


def open_run_folder(run: Path, settings: dict, about: dict, command: str) -> None:
    """Create the run's folder with its configuration, or check that the one there was made with the same settings.

    ``settings`` decide the results; ``about`` (versions, every other flag) is only kept. ``command`` is added to the
    list of commands. Raises RunFolderError naming the settings that differ.
    """
    run.mkdir(parents=True, exist_ok=True)
    with _lock(run, wait=True):
        config = run / CONFIG_FILE
        if config.exists():
            _check_settings(config, settings)
        else:
            write_json(config, {"settings": settings, "about": about})
        with (run / COMMAND_FILE).open("a", encoding="utf-8") as file:
            file.write(command + "\n")


def _check_settings(config: Path, settings: dict) -> None:
    before = EARLIER_DEFAULTS | read_json(config).get("settings", {})
    # As they would be read: tuples are lists in the file.
    settings = EARLIER_DEFAULTS | json.loads(json.dumps(settings))
    differences = [
        f"{'' if key == 'data' else '--'}{key.replace('_', '-')} {settings.get(key)} (there: {before.get(key)})"
        for key in dict.fromkeys([*settings, *before])
        if settings.get(key) != before.get(key)
    ]
    if differences:
        raise RunFolderError(
            f"{config.parent} was made with other settings: {', '.join(differences)}; "
            "give this run another folder with --name"
        )


@contextmanager
def claim_stage(stage: Path, wait: bool = False) -> Iterator[None]:
    """Hold a stage's folder while it is trained. The hold ends with the process, however it ends.

    Where another process holds it: waits until that one lets go, or raises StageInUse.
    """
    stage.mkdir(parents=True, exist_ok=True)
    with _lock(stage, wait):
        yield


@contextmanager
def _lock(folder: Path, wait: bool) -> Iterator[None]:
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise StageInUse(folder) from error
        yield


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict:
    """Raises RunFolderError where the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged ({error}): delete that file and run the same command again") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged: delete that file and run the same command again")
    return content


def is_run(folder: Path) -> bool:
    """Whether the folder is a run of this program, and no other program's folder with a ``config.json``."""
    return (folder / CONFIG_FILE).exists() and "dataset" in read_json(folder / CONFIG_FILE).get("settings", {})


def settings_of(run: Path) -> dict:
    """The settings of a run. Raises RunFolderError where the folder is no run."""
    if not is_run(run):
        raise RunFolderError(f"{run} is no run folder, it has no {CONFIG_FILE} of a run: name one that main.py made")
    return EARLIER_DEFAULTS | read_json(run / CONFIG_FILE)["settings"]


def label_of_stage(run: Path, stage: str) -> str:
    """How paths name a network of a run."""
    return f"{run.name}-{stage}"


def path_name(first: str, second: str, augment: bool) -> str:
    """The folder of the path between two networks, below the barriers' folder."""
    return f"{first}--{second}" + ("" if augment else "--not_augmented")


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """The rows under all their keys; what a row has not is left empty."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def read_results(run: Path) -> list[dict]:
    """The results of every finished network of a run: its levels, then its final trainings, by name."""
    stages = [*sorted(run.glob("level_*")), *sorted(run.glob("final/*"))]
    return [read_result(stage) for stage in stages if is_finished(stage)]


def read_result(stage: Path) -> dict:
    """A finished stage's ``result.json``; where it is lost or damaged, written again from the network, which has it."""
    try:
        result = read_json(stage / RESULT_FILE)
        if "kind" in result:
            return result
    except (FileNotFoundError, RunFolderError):
        pass
    result = load(stage / NETWORK_FILE)["result"]
    write_json(stage / RESULT_FILE, result)
    return result


def write_results_table(run: Path) -> None:
    """``results.csv``, one row a finished network, made anew from the ``result.json`` files."""
    with _lock(run, wait=True):
        rows = [
            {key: value for key, value in result.items() if not isinstance(value, dict)} for result in read_results(run)
        ]
        if rows:
            write_csv(run / RESULTS_FILE, rows)
