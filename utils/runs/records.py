"""What a run has left on disk, as reports read it: its settings and the results of its finished networks."""

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from utils.errors import UserError
from utils.files import FileError, load, read_json, write_json
from utils.method.methods import METHODS

CONFIG_FILE = "config.json"
NETWORK_FILE = "network.pt"
RESULT_FILE = "result.json"
BARRIERS_FOLDER = "barriers"  # beside the runs
FIGURES_FOLDER = "figures"
SUMMARY_FILE = "barrier.json"
# What a run folder means that was made before these could be set.
EARLIER_DEFAULTS = {
    **{"pruning_schedule": "constant", "decays_at": [0.5, 0.75], "network_version": 1},
    **{"optimizer": "sgd", "final_schedule": "step", "level_ramp_epochs": 0, "final_ramp_epochs": 0},
    **{"clip_norm": None, "label_smoothing": 0.0, "micro_batch_size": None, "sign_in_epochs": 1, "processes": 1},
    **dict.fromkeys(("pixels", "cache_short_side", "rewind_norms", "alpha_per_layer", "signed_mask_source")),
}
NOT_FLAGS = ("data", "network_version", "signed_mask_source", "processes")  # settings that no flag sets


def barrier_file(runs_dir: Path, first: str, second: str) -> Path:
    """What was measured of the path between two networks, which their labels name."""
    return runs_dir / BARRIERS_FOLDER / f"{first}--{second}" / SUMMARY_FILE


def is_finished(stage: Path) -> bool:
    """A stage writes its network last, so the file means that everything is there."""
    return (stage / NETWORK_FILE).exists()


class Record:
    """A run's folder, of which every file is read once."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def config(self) -> dict:
        """Empty without a ``config.json``; raises FileError if it is damaged."""
        path = self.folder / CONFIG_FILE
        remedy = "if it is a run's, run that command of main.py again, else name other folders"
        return read_json(path, remedy) if path.exists() else {}

    @property
    def is_run(self) -> bool:
        """Whether the folder is a run of this program, and no other program's folder with a ``config.json``."""
        settings = self.config.get("settings")
        if not isinstance(settings, dict):
            return False
        return settings.get("method") in list(METHODS) and {"dataset", "arch", "seed"} <= settings.keys()

    @property
    def settings(self) -> dict:
        """Raises UserError if the folder is no run."""
        if not self.is_run:
            raise UserError(
                f"{self.folder} is no run folder, it has no {CONFIG_FILE} of a run: name one that main.py made"
            )
        return EARLIER_DEFAULTS | self.config["settings"]

    @cached_property
    def results(self) -> dict[str, dict]:
        """The results of every finished network by its stage: the levels, then the final trainings, by name."""
        stages = [*sorted(self.folder.glob("level_*")), *sorted(self.folder.glob("final/*"))]
        finished = [stage for stage in stages if is_finished(stage)]
        return {stage.relative_to(self.folder).as_posix(): read_result(stage) for stage in finished}

    @property
    def finals(self) -> list[dict]:
        """The results of the final trainings."""
        return [result for result in self.results.values() if result["kind"] == "final"]

    @property
    def last_level(self) -> int:
        """The last level that the run has finished, or that its first command asked for."""
        finished = [result["level"] for result in self.results.values() if result["kind"] == "level"]
        asked = self.config.get("about", {}).get("flags", {}).get("levels", 0)
        return max([asked, *finished])


def read_result(stage: Path) -> dict:
    """A finished stage's ``result.json``. If it is lost or damaged, it is written again from the network, which has it
    too. Raises FileError if that has none."""
    with suppress(FileNotFoundError, FileError):
        result = read_json(stage / RESULT_FILE)
        if is_result(result):
            return result
    result = load(stage / NETWORK_FILE).get("result")
    if not is_result(result):
        raise FileError(f"{stage} has no whole {RESULT_FILE}: delete the folder and run main.py's command again")
    write_json(stage / RESULT_FILE, result)
    return result


def is_result(found: object) -> bool:
    """Whether it has everything that reports need of a level or a final training."""
    of_final = {"start", "level", "init_seed", "order_seed", "test_accuracy", "test_error"}
    kinds = {"level": {"level"}, "final": of_final}
    return isinstance(found, dict) and found.get("kind") in list(kinds) and kinds[found["kind"]] <= found.keys()


def other_settings(settings: Mapping, there: Mapping) -> list[str]:
    """The settings that differ from those of a run's folder or network, which an earlier version may have made."""
    # Tuples are lists in a file.
    ours, theirs = (EARLIER_DEFAULTS | json.loads(json.dumps(found)) for found in (settings, there))
    if theirs["signed_mask_source"] is None:  # an earlier version's, whose digest says which signed mask it is
        ours["signed_mask_source"] = None
    return differences(ours, theirs)


def differences(settings: Mapping, there: Mapping, names: Iterable[str] = ()) -> list[str]:
    """The settings that differ, of ``names`` or of all, as flags with both values."""
    return [
        f"{name.replace('_', ' ') if name in NOT_FLAGS else '--' + name.replace('_', '-')} {settings.get(name)} "
        f"(there: {there.get(name)})"
        for name in names or dict.fromkeys([*settings, *there])
        if settings.get(name) != there.get(name)
    ]


class Records:
    """The runs that a report looks at, each read once."""

    def __init__(self):
        self._of_folder: dict[Path, Record] = {}
        self._passed_over: set[Path] = set()

    def of(self, folder: Path) -> Record:
        return self._of_folder.setdefault(folder.resolve(), Record(folder))

    def below(self, folder: Path) -> list[Record]:
        """The runs directly below ``folder``. Says once of each other folder with a ``config.json`` that it is none."""
        found = [self.of(config.parent) for config in sorted(folder.glob(f"*/{CONFIG_FILE}"))]
        return [record for record in found if self._is_run(record)]

    def _is_run(self, record: Record) -> bool:
        reason = f"{record.folder} is no run of main.py"
        try:
            if record.is_run:
                return True
        except FileError as error:
            reason = str(error)
        if record.folder not in self._passed_over:
            print(f"note: passed over: {reason}", file=sys.stderr)
            self._passed_over.add(record.folder)
        return False
