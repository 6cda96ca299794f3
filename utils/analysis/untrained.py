"""Transfers before their final training: the test error that a mask or signs alone give a new initialization."""

from collections.abc import Sequence
from pathlib import Path

import torch

from utils.barriers.meter import PositionMeter
from utils.barriers.path import TrainedNetwork, read_network
from utils.method.methods import METHODS
from utils.method.network import State
from utils.method.signed_mask import extract_signed_mask
from utils.method.starts import LEVEL, NEW, STARTS, change_signs, compose
from utils.results.tables import Experiment, final_of, precision_of
from utils.runs.records import Record
from utils.runs.run import FinalTraining, Level


def measure_untrained(
    record: Record, by: Sequence[str], data_root: Path, device: torch.device, workers: int | None
) -> list[dict]:
    """A row for every finished transfer of one of the run's levels to a new initialization: test errors in % at its
    start, with batch-norm statistics of its own, and after its training."""
    rows, meter = [], None
    for result in record.finals:
        final = final_of(result)
        if not can_be_composed(record, final):
            continue
        level = read_network(record.folder / Level(final.level).stage)
        if not meter:
            dataset = level.load_data(data_root, device, workers)
            meter = PositionMeter(level.blueprint.build(device), dataset, level.settings["batch_size"])
        _, untrained = meter.measure(compose_start(level, final))
        experiment = Experiment.of(record.settings, final, precision_of(result), by)
        about = {key: result[key] for key in ("start", "level", "init_seed", "order_seed", "test_error")}
        rows.append({"run": record.folder.name, "experiment": experiment, **about, "untrained_error": untrained.error})
    return rows


def can_be_composed(record: Record, final: FinalTraining) -> bool:
    """Whether all parts are a level's or a new initialization's. Gem-Miner's initialization is not a drawn one."""
    own = STARTS[final.start].new_initialization and final.level is not None and not final.signs_from
    return own and not METHODS[record.settings["method"]].searches


def compose_start(level: TrainedNetwork, final: FinalTraining) -> State:
    """The network that the final training begins with, as main.py composes it."""
    blueprint, new = level.blueprint, level.blueprint.initialize(final.init_seed)
    signs = extract_signed_mask(level.model, level.masks, blueprint.signed)
    signs = change_signs(signs, None, final.flipped, new, final.init_seed)
    sources = {NEW: new, LEVEL: level.model}
    return compose(STARTS[final.start], sources, level.masks, signs, blueprint.norms, final.init_seed)[0]
