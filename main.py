"""Find a winning sign: warm-up -> levels -> signed masks -> final trainings -> results.

    python main.py --dataset cifar100 --arch efficientnet --method aws --final-levels 11 --final-seeds 2 3 4

Every stage leaves its result in the run folder and is skipped when it is there: the same command goes on after any
interruption. The method is told in utils/ (pruning, norm_interpolation, signed_mask, starts), one training step in
utils/training.py.
"""

import argparse
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
import torchvision
from torch import nn

from data import DATASETS, Dataset, load_dataset
from data.batches import training_batches
from models import ARCHITECTURES
from utils.batch_statistics import reestimate_batch_statistics
from utils.blueprint import Blueprint, State, load_network
from utils.checkpoint import CheckpointError, plain_state
from utils.devices import choose_device, choose_kernels
from utils.errors import exit_status, refuse
from utils.fast_path import PRECISIONS, choose_speed
from utils.gem_miner import freeze_rate, freezes_after, signed_constants
from utils.optimization import constant_rate, cosine_rate, decayed_rate
from utils.plan import PlannedRun
from utils.progress import JobProgress
from utils.pruning import Masks, planned_survivors, prune_by_magnitude
from utils.results import comparable_results, measure, sign_statistics, summary_table
from utils.rewinding import INITIALIZATION_EPOCH, rewinding_epoch
from utils.run_folder import (
    BARRIERS_FOLDER,
    FIGURES_FOLDER,
    NETWORK_FILE,
    SIGNED_MASK_FILE,
    StageInUse,
    claim_stage,
    is_finished,
    level_name,
    open_run_folder,
    write_results_table,
)
from utils.seeding import derive_seed
from utils.signed_mask import (
    SignedMask,
    check_signed_mask,
    extract_signed_mask,
    load_signed_mask,
    masks_of,
    save_signed_mask,
)
from utils.stage import Stage, discard_unfinished, finish_stage, train_stage
from utils.starts import STARTS, FinalTraining, Origin, choose_masks
from utils.tensorboard import SCALARS_FOLDER, LevelScalars
from utils.trainee import Recipe, Trainee, Trainees
from utils.training import check_batch

METHODS = ("dense", "lrr", "aws", "imp", "wr", "gm")
INITIALIZATION = "initialization"
PRUNING_FOLDER = ".pruning"
REWINDING_POINT_FILE = "rewinding_point.pt"  # in level_00


# ---------------------------------------------------------------------------------------------------------------------
# Flags
# ---------------------------------------------------------------------------------------------------------------------


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """With every default, but for flags without one, whose text says what happens then."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="main.py", description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.error = partial(refuse, parser)
    add_run_flags(parser)
    add_pruning_flags(parser)
    add_final_flags(parser)
    add_optimization_flags(parser)
    add_search_flags(parser)
    add_machine_flags(parser)
    args = parser.parse_args(argv)
    complete_arguments(parser, args)
    return args


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to train")
    what.add_argument("--dataset", choices=DATASETS, default="cifar100", help="data set")
    what.add_argument("--arch", choices=ARCHITECTURES, default="resnet50", help="network")
    what.add_argument(
        "--method",
        choices=METHODS,
        default="aws",
        help="how to prune: learning-rate rewinding without and with interpolated normalization, rewinding of the "
        "weights to the initialization (imp) or into the warm-up (wr), Gem-Miner (gm; its recipe is in "
        "script/cifar100_resnet32_gm.sh); dense trains the whole network and needs no level",
    )
    what.add_argument("--seed", type=int, default=1, help="initialization and order of the warm-up and the levels")
    what.add_argument(
        "--train-images-per-class", type=positive_int, metavar="N", help="train on the first N images of a class only"
    )


def add_pruning_flags(parser: argparse.ArgumentParser) -> None:
    pruning = parser.add_argument_group("warm-up and levels")
    pruning.add_argument("--warmup-epochs", type=count, default=10, help="dense epochs before the first level")
    pruning.add_argument("--levels", type=count, default=15, help="how often to prune and train")
    pruning.add_argument("--level-epochs", type=positive_int, default=10, help="epochs of a level")
    pruning.add_argument("--prune-rate", type=fraction, default=0.2, help="share of the survivors that a level removes")
    pruning.add_argument(
        "--pruning-schedule",
        choices=("constant", "dense"),
        default="constant",
        help="learning rate within the warm-up and within each level: constant as in the paper, or decayed as in a "
        "final training (classic LRR and IMP, with as many epochs as those)",
    )
    pruning.add_argument(
        "--rewind-epoch",
        type=count,
        metavar="EPOCH",
        help="epoch of the warm-up whose end the weights go back to, with --method wr (default: its last)",
    )
    pruning.add_argument(
        "--alpha-range", type=share, nargs=2, default=[0.0, 1.0], metavar=("LOW", "HIGH"), help="of AWS's uniform α"
    )


def add_final_flags(parser: argparse.ArgumentParser) -> None:
    final = parser.add_argument_group("final trainings")
    final.add_argument(
        "--start",
        choices=STARTS,
        nargs="*",
        help="where they begin; nothing after the flag: none (default: dense for --method dense, signs mask with "
        "--signed-mask, else subnetwork signs mask)",
    )
    final.add_argument(
        "--final-levels",
        type=count,
        nargs="+",
        help="levels to start from (default: the last; a dense network has none)",
    )
    final.add_argument("--final-epochs", type=positive_int, default=100, help="epochs of a final training")
    final.add_argument(
        "--final-seeds",
        type=int,
        nargs="+",
        help="one training for each: order of the images and, without --init-seed, the new initialization "
        "(default: --seed for --method dense, else the seed after it)",
    )
    final.add_argument("--init-seed", type=int, help="one initialization for all --final-seeds")
    final.add_argument(
        "--signed-mask",
        type=Path,
        metavar="FILE",
        help="start from this signed-mask file; --method and levels are not used",
    )


def add_optimization_flags(parser: argparse.ArgumentParser) -> None:
    optimization = parser.add_argument_group("optimization")
    optimization.add_argument("--lr", type=positive_float, default=0.1, help="initial learning rate")
    optimization.add_argument("--momentum", type=share, default=0.9, help="of SGD")
    optimization.add_argument("--weight-decay", type=share, default=5e-4, help="on every parameter")
    optimization.add_argument("--batch-size", type=positive_int, default=128, help="images a step")
    optimization.add_argument(
        "--decays-at",
        type=share,
        nargs="+",
        default=[0.5, 0.75],
        metavar="SHARE",
        help="of a final training's epochs, at which its learning rate is divided by ten",
    )


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("Gem-Miner's search, of --level-epochs for every level in --final-levels")
    search.add_argument("--search-lr", type=positive_float, default=0.1, help="initial learning rate of the scores")
    search.add_argument("--score-penalty", type=not_negative, default=1e-5, help="λ, weight of the scores' squares")


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("machine and folders")
    machine.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda, cuda:1")
    machine.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of training's forward and backward passes (default: bf16 on CUDA, fp32 on the CPU); evaluations are fp32",
    )
    machine.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the forward and backward pass (default: on CUDA)",
    )
    machine.add_argument(
        "--cuda-graph",
        action=argparse.BooleanOptionalAction,
        help="run each training step as one CUDA graph (default: on CUDA)",
    )
    machine.add_argument(
        "--deterministic", action="store_true", help="on CUDA: the same weights, bit for bit, from the same command"
    )
    machine.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the data sets")
    machine.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the run folders")
    machine.add_argument("--name", help="the run folder's name (default: <dataset>_<arch>_<method>_seed<seed>)")
    machine.add_argument(
        "--share",
        action="store_true",
        help="share the run with other processes: leave to them what they work on, but wait for levels that a final "
        "training needs",
    )
    machine.add_argument(
        "--checkpoint-seconds", type=not_negative, default=60.0, help="least time between two saves inside a stage"
    )


def complete_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Fill the defaults that depend on other flags, and refuse what does not go together."""
    if args.signed_mask:
        args.method = "signed_mask"
    if not prunes(args):
        args.levels, args.final_levels = 0, None
    if args.start is None:
        args.start = {"dense": ["dense"], "signed_mask": ["signs", "mask"]}.get(
            args.method, ["subnetwork", "signs", "mask"]
        )
    if args.final_seeds is None:
        args.final_seeds = [args.seed if args.method == "dense" else args.seed + 1]
    if args.final_levels is None:
        args.final_levels = [args.levels]
    for start in args.start:
        if start == "rewound" and args.method not in ("imp", "wr"):
            parser.error("--start rewound goes with --method imp or wr: the others set no weight back")
        if STARTS[start].needs_level and args.method == "dense":
            parser.error(f"--start {start} needs a level, which --method dense has not: choose lrr or aws")
        if STARTS[start].needs_trained and not prunes(args):
            parser.error(f"--start {start} needs a level's own weights: a --signed-mask alone cannot give them")
    if args.method == "gm":
        args.warmup_epochs = 0  # it searches at initialization
        if 0 in args.final_levels:
            parser.error("--method gm searches for a mask: --final-levels counts from 1")
    else:
        args.search_lr = args.score_penalty = None
    try:
        rewound_to = rewinding_epoch(args.method, args.warmup_epochs, args.rewind_epoch)
    except ValueError as error:
        parser.error(f"--rewind-epoch: {error}")
    if args.method == "wr":
        args.rewind_epoch = rewound_to
    too_high = [level for level in args.final_levels if level > args.levels]
    if too_high:
        parser.error(f"--final-levels {too_high[0]} is above --levels {args.levels}: ask for more levels")
    if args.alpha_range[0] > args.alpha_range[1]:
        parser.error("--alpha-range wants the low end first")
    if args.name is None:
        args.name = f"{args.dataset}_{args.arch}_{args.method}_seed{args.seed}"
    if not re.fullmatch(r"\w[\w.,+= -]{0,150}", args.name) or args.name in (BARRIERS_FOLDER, FIGURES_FOLDER):
        parser.error(f"--name {args.name!r} should be one folder's name of letters, digits and .,+=-_")


def prunes(args: argparse.Namespace) -> bool:
    return args.method not in ("dense", "signed_mask")


def positive_int(text: str) -> int:
    return checked(int(text), lambda value: value > 0, "at least 1")


def count(text: str) -> int:
    return checked(int(text), lambda value: value >= 0, "at least 0")


def not_negative(text: str) -> float:
    return checked(float(text), lambda value: value >= 0, "at least 0")


def positive_float(text: str) -> float:
    return checked(float(text), lambda value: 0 < value < float("inf"), "above 0")


def fraction(text: str) -> float:
    return checked(float(text), lambda value: 0 < value < 1, "between 0 and 1")


def share(text: str) -> float:
    return checked(float(text), lambda value: 0 <= value <= 1, "from 0 to 1")


def checked(value, is_good, wanted: str):
    if not is_good(value):
        raise argparse.ArgumentTypeError(f"{value} should be {wanted}")
    return value


# ---------------------------------------------------------------------------------------------------------------------
# The job, told in order
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What the stages of a run share."""

    args: argparse.Namespace
    device: torch.device
    run: Path
    settings: dict
    blueprint: Blueprint
    dataset: Dataset
    recipe: Recipe
    trainees: Trainees
    progress: JobProgress

    def read(self, stage: str, file: str = NETWORK_FILE) -> tuple[State, Masks]:
        """A finished stage's network. Raises CheckpointError with the remedy where it is damaged."""
        try:
            _, content = load_network(self.run / stage / file)
        except CheckpointError as error:
            remedy = f"delete the folder {self.run / stage} and run the same command again"
            raise CheckpointError(f"{error}: {remedy}") from error
        return content["model"], content["masks"]

    def norms_of(self, state: State) -> State:
        return {name: state[name] for name in self.blueprint.norms}


def run_job(args: argparse.Namespace) -> None:
    job, finals = prepare(args), planned_finals(args)
    with job.progress:
        # Of processes that make levels and nothing else one is enough, where a level needs the one before.
        alone = not finals and args.method != "gm"
        with leaving_to_others(job), claim_stage(job.run / PRUNING_FOLDER) if alone else nullcontext():
            make_levels(job, wait=args.share and (alone or bool(finals)))
        for final in finals:
            with leaving_to_others(job):
                once(job, final.stage, args.final_epochs, partial(train_final, job, final))
    conclude(job)


def make_levels(job: Job, wait: bool) -> None:
    """All that pruning leaves. With ``wait``, a level that another process trains is waited for, and trained here if
    that one ends."""
    args = job.args
    if prunes(args):
        once(job, INITIALIZATION, 0, partial(keep_initialization, job), wait)
    for level in planned_levels(args):
        make = search_gem if args.method == "gm" else prune_and_train if level else warm_up
        once(job, level_name(level), level_epochs(args, level), partial(make, job, level), wait)


@contextmanager
def leaving_to_others(job: Job) -> Iterator[None]:
    """With --share, what another process works on is its own to finish."""
    try:
        yield
    except StageInUse as error:
        if not job.args.share:
            raise
        job.progress.note(f"left to another process: {error.stage}")


def once(job: Job, stage: str, epochs: int, make: Callable[[Path], None], wait: bool = False) -> None:
    """Have ``make`` fill the stage's folder, unless it is finished; no other process works on it meanwhile.

    Raises StageInUse where one does, or with ``wait`` stands by: should that process end, this one goes on.
    """
    folder = job.run / stage
    if not is_finished(folder):
        with claim_stage(folder, wait):
            if not is_finished(folder):
                make(folder)
                return
    job.progress.skip(epochs * len(job.dataset.train))
    discard_unfinished(folder)  # a process may have ended between finishing and this


def keep_initialization(job: Job, folder: Path) -> None:
    """θ_init: it holds ψ_init for AWS, later signs are compared with it, and IMP goes back to it."""
    initial = initialize(job, job.args.seed)
    masks = job.blueprint.dense_masks()
    job.blueprint.save_network(
        folder / NETWORK_FILE, initial, masks, job.norms_of(initial), settings=job.settings, result=None
    )


def initialize(job: Job, seed: int) -> State:
    """θ_init: the network's own, or Gem-Miner's constants with its signs."""
    initial = job.blueprint.initialize(seed)
    if job.args.method == "gm":
        return signed_constants(initial, job.blueprint.scored, job.blueprint.norms)
    return initial


def warm_up(job: Job, level: int, folder: Path) -> None:
    """Dense training before the first level; weight rewinding keeps a state from the middle of it."""
    initial, masks = job.read(INITIALIZATION)
    trainee = job.trainees.subnetwork(initial, masks, interpolated_norms(job))

    def keep_rewinding_point(epochs_done: int) -> None:
        if epochs_done == job.args.rewind_epoch < job.args.warmup_epochs:
            file = folder / REWINDING_POINT_FILE
            norms = job.norms_of(initial)
            job.blueprint.save_network(
                file, plain_state(trainee.network), masks, norms, settings=job.settings, result=None
            )

    hook = {"after_epoch": keep_rewinding_point} if job.args.method == "wr" else {}
    stage = pruning_stage(job, level, folder, title="warm-up", **hook)
    train_level(job, stage, level, trainee, initial, masks)


def prune_and_train(job: Job, level: int, folder: Path) -> None:
    """Remove the smallest of the surviving weights, then train on from the weights as they are (section 3.1), or from
    where the method sets them back to."""
    args = job.args
    previous, masks = job.read(level_name(level - 1))
    masks = prune_by_magnitude(previous, masks, args.prune_rate)
    trainee = job.trainees.subnetwork(rewind(job, previous), masks, interpolated_norms(job))
    stage = pruning_stage(job, level, folder, title=f"level {level}/{args.levels}")
    train_level(job, stage, level, trainee, previous, masks)


def rewind(job: Job, trained: State) -> State:
    """What the surviving weights are when a level's training begins."""
    epoch = rewound_to(job.args)
    if epoch is None:
        return trained
    if epoch == INITIALIZATION_EPOCH:
        return job.read(INITIALIZATION)[0]
    return job.read(level_name(0), NETWORK_FILE if epoch == job.args.warmup_epochs else REWINDING_POINT_FILE)[0]


def rewound_to(args: argparse.Namespace) -> int | None:
    return rewinding_epoch(args.method, args.warmup_epochs, args.rewind_epoch)


def pruning_stage(job: Job, level: int, folder: Path, **described) -> Stage:
    args = job.args
    return Stage(
        folder=folder,
        epochs=level_epochs(args, level),
        order_seed=args.seed,
        purpose=level_name(level),
        rate=pruning_rate(args, level),
        scalars=job.run / SCALARS_FOLDER / "pruning",
        first_step=sum(level_epochs(args, before) for before in range(level)),
        **described,
    )


def final_rate(args: argparse.Namespace) -> Callable[[float, int, int], float]:
    return partial(decayed_rate, decays_at=args.decays_at)


def pruning_rate(args: argparse.Namespace, level: int) -> Callable[[float, int, int], float]:
    """The schedule of the warm-up or a level. Weights that go back to an epoch go back to its place in the schedule."""
    if args.pruning_schedule == "constant":
        return constant_rate
    ahead = (rewound_to(args) or 0) if level else 0
    rate = final_rate(args)
    return lambda lr, epoch, epochs: rate(lr, epoch + ahead, epochs + ahead)


def interpolated_norms(job: Job) -> State:
    """ψ_init, where normalization is interpolated with it in the warm-up and the levels."""
    return job.norms_of(job.read(INITIALIZATION)[0]) if job.args.method == "aws" else {}


def train_level(job: Job, stage: Stage, level: int, trainee: Trainee, previous: State, masks: Masks) -> None:
    """Train the subnetwork and keep the level with its signed mask."""
    rows = train_stage(trainee, job.dataset, stage, job.recipe, job.progress)
    keep_level(job, stage, level, trainee.network, previous, masks, rows)


def search_gem(job: Job, level: int, folder: Path) -> None:
    """Gem-Miner: a mask at initialization that leaves what level t of the other methods does; each level is a search of
    its own."""
    args, blueprint = job.args, job.blueprint
    initial, _ = job.read(INITIALIZATION)
    seed = derive_seed(args.seed, level_name(level), "scores")
    recipe = replace(job.recipe, lr=args.search_lr, weight_decay=0.0)
    trainee = job.trainees.miner(initial, seed, recipe, args.score_penalty)
    miner = trainee.network
    rho = freeze_rate((1 - args.prune_rate) ** level, args.level_epochs)

    def freeze(epochs_done: int) -> None:
        if freezes_after(epochs_done, args.level_epochs):
            miner.freeze_smallest(rho)

    stage = replace(
        pruning_stage(job, level, folder, title=f"search for level {level}", after_epoch=freeze),
        rate=cosine_rate,
        rate_flag="--search-lr",
        scalars=job.run / SCALARS_FOLDER / f"search_{level_name(level)}",
        first_step=0,
    )
    rows = train_stage(trainee, job.dataset, stage, recipe, job.progress)
    masks = miner.masks()
    keep_level(job, stage, level, blueprint.build(initial, masks, job.device), initial, masks, rows)


def keep_level(
    job: Job, stage: Stage, level: int, network: nn.Module, previous: State, masks: Masks, rows: list[dict]
) -> None:
    """Measure a level's network, and keep it with its signed mask."""
    args, blueprint = job.args, job.blueprint
    initial, _ = job.read(INITIALIZATION)
    # AWS's running statistics belong to a random α: the level is reported and kept with those of its own ψ.
    statistics_seed = derive_seed(args.seed, stage.purpose, "statistics")
    reestimate_batch_statistics(network, training_batches(job.dataset, args.batch_size, statistics_seed))
    trained = plain_state(network)
    result = {
        **identity(args, "level", None, level, args.seed, args.seed),
        **measure(network, masks, blueprint, job.dataset, rows),
        **circumstances(job),
        **sign_statistics(trained, previous, initial, masks),
    }
    with LevelScalars(stage.scalars, f"{stage.folder.name}.statistics") as scalars:
        scalars.add_level(result)
    signed_mask = extract_signed_mask(trained, masks, blueprint.signed)
    save_signed_mask(stage.folder / SIGNED_MASK_FILE, signed_mask, args.arch, args.dataset)
    finish_stage(stage.folder, blueprint, trained, masks, job.norms_of(initial), job.settings, result)
    job.progress.note(
        f"{stage.title}: {result['remaining_ratio']:.4f} of the prunable weights remain, "
        f"test accuracy {result['test_accuracy']:.2f} %, "
        f"{100 * result['signs_flipped_since_last_level']:.2f} % of the signs flipped"
    )


def train_final(job: Job, final: FinalTraining, folder: Path) -> None:
    """Transfer what the start takes from a level to an initialization, and train it normally (section 3.2)."""
    args, origin = job.args, find_origin(job, final)
    masks = choose_masks(final.start, origin)
    # Gem-Miner's networks have no bias and no parameters of normalization: those stay what they are.
    trained = job.blueprint.scored if args.method == "gm" else None
    trainee = job.trainees.subnetwork(STARTS[final.start].state(origin), masks, {}, trained)
    stage = Stage(
        title=f"final {final.name}",
        folder=folder,
        epochs=args.final_epochs,
        order_seed=final.order_seed,
        purpose="final",
        rate=final_rate(args),
        scalars=job.run / SCALARS_FOLDER / f"final_{final.name}",
    )
    rows = train_stage(trainee, job.dataset, stage, job.recipe, job.progress)
    result = {
        **identity(args, "final", final.start, final.level, final.init_seed, final.order_seed),
        **measure(trainee.network, masks, job.blueprint, job.dataset, rows),
        **circumstances(job),
    }
    initial_norms = job.norms_of(origin.initial)
    finish_stage(folder, job.blueprint, plain_state(trainee.network), masks, initial_norms, job.settings, result)
    job.progress.note(f"{stage.title}: test accuracy {result['test_accuracy']:.2f} %")


def find_origin(job: Job, final: FinalTraining) -> Origin:
    """What the start may use: an initialization, and the level or the signed-mask file."""
    blueprint = job.blueprint
    if STARTS[final.start].new_initialization:
        initial = initialize(job, final.init_seed)
    else:
        initial, _ = job.read(INITIALIZATION)
    if not STARTS[final.start].needs_level:
        return Origin(initial, {}, {}, blueprint.dense_masks(), {}, blueprint.norms, final.init_seed)
    if job.args.signed_mask:
        signed_mask = read_signed_mask(blueprint, job.args.signed_mask, job.progress.note)
        masks = masks_of(signed_mask, blueprint.prunable)
        return Origin(initial, {}, {}, masks, signed_mask, blueprint.norms, final.init_seed)
    trained, masks = job.read(level_name(final.level))
    signed_mask = extract_signed_mask(trained, masks, blueprint.signed)
    return Origin(initial, trained, rewind(job, trained), masks, signed_mask, blueprint.norms, final.init_seed)


def conclude(job: Job) -> None:
    """Collect what all commands on this run folder have finished, and print its final trainings."""
    write_results_table(job.run)
    results = comparable_results([job.run])
    if results:
        print(f"\n{summary_table(results)}\n")
    print(f"all results: {job.run}")


# ---------------------------------------------------------------------------------------------------------------------
# Before the training
# ---------------------------------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> Job:
    """Check everything that can be checked before hours of training, open the run folder, and say what will be done."""
    device = choose_device(args.device)
    speed = choose_speed(device, args.precision, args.compile, args.cuda_graph)
    if device.type == "cuda":  # the CPU's are deterministic as they are
        choose_kernels(args.deterministic)
    dataset = load_dataset(args.dataset, args.data_root, args.train_images_per_class)
    blueprint = Blueprint(args.arch, args.dataset, dataset.classes, dataset.channels)
    planned_survivors(blueprint.prunable_count, args.prune_rate, args.levels)
    if args.method == "gm":
        freeze_rate(1 - args.prune_rate, args.level_epochs)  # raises where a search is too short
    if args.signed_mask:
        read_signed_mask(blueprint, args.signed_mask, note=lambda text: None)
    check_last_batch(blueprint, dataset, args.batch_size)
    run, finals = args.runs_dir / args.name, planned_finals(args)
    settings = run_settings(args) | data_settings(args, dataset)
    open_run_folder(run, settings, about(args, device), shlex.join(["python", *sys.argv]))
    recipe = Recipe(
        lr=args.lr,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        batch_size=args.batch_size,
        alpha_range=tuple(args.alpha_range),
        checkpoint_seconds=args.checkpoint_seconds,
    )
    epochs = announce(args, run, finals, f"{len(dataset.train):,} images on {device}")
    progress = JobProgress(epochs * len(dataset.train))
    dataset = dataset.to(device)
    trainees = Trainees(blueprint, dataset, recipe, speed)
    return Job(args, device, run, settings, blueprint, dataset, recipe, trainees, progress)


def check_last_batch(blueprint: Blueprint, dataset: Dataset, batch_size: int) -> None:
    last = len(dataset.train) % batch_size or batch_size
    network = blueprint.build(blueprint.initialize(0), blueprint.dense_masks(), torch.device("cpu"))
    # Two images stand for any larger batch.
    check_batch(network, torch.zeros(min(last, 2), dataset.channels, dataset.image_size, dataset.image_size))


def run_settings(args: argparse.Namespace) -> dict:
    """The flags that decide the results; another value of one of them is another run."""
    names = (
        "dataset arch method seed train_images_per_class warmup_epochs level_epochs prune_rate pruning_schedule "
        "rewind_epoch alpha_range final_epochs decays_at lr momentum weight_decay batch_size search_lr score_penalty"
    )
    return {name: getattr(args, name) for name in names.split()}


def data_settings(args: argparse.Namespace, dataset: Dataset) -> dict:
    """The files that decide the results."""
    signed_mask = args.signed_mask and f"sha256 {sha256(args.signed_mask.read_bytes()).hexdigest()}"
    return {"data": dataset.description(), "signed_mask": signed_mask}


def about(args: argparse.Namespace, device: torch.device) -> dict:
    """Where the results come from: every flag, the versions and the project's commit."""
    return {
        "flags": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "commit": project_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": device_name(device),
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def circumstances(job: Job) -> dict:
    """Where and how a network was trained: what may differ between networks that are averaged."""
    return {"device": device_name(job.device), "precision": job.trainees.speed.precision}


def project_commit() -> str:
    """The commit of this program, "-dirty" behind it where files were changed; "unknown" without git."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


def planned_levels(args: argparse.Namespace) -> list[int]:
    """The levels that this command makes: every one up to the last, but for Gem-Miner, whose levels are searches that
    stand alone."""
    if args.method == "gm":
        return list(dict.fromkeys(args.final_levels))
    return list(range(args.levels + 1)) if prunes(args) else []


def level_epochs(args: argparse.Namespace, level: int) -> int:
    return args.level_epochs if level else args.warmup_epochs


def planned_finals(args: argparse.Namespace) -> list[FinalTraining]:
    """Every final training asked for, once; a start that needs no level of this run is not repeated for each."""
    finals = []
    for start in args.start:
        for level in args.final_levels if STARTS[start].needs_level and prunes(args) else [None]:
            for seed in args.final_seeds:
                new_seed = seed if args.init_seed is None else args.init_seed
                init_seed = new_seed if STARTS[start].new_initialization else args.seed
                finals.append(FinalTraining(start, level, init_seed, seed))
    return list(dict.fromkeys(finals))


def planned_run(flags: Sequence[str]) -> PlannedRun:
    """What these flags would have made, for programs that plan many runs."""
    args = parse_arguments(list(flags))
    return PlannedRun(
        folder=args.runs_dir / args.name,
        flags=tuple(flags),
        places=("--device", args.device, "--data-root", str(args.data_root)),
        settings=run_settings(args),
        level_epochs={level: level_epochs(args, level) for level in planned_levels(args)},
        separate_levels=args.method == "gm",
        final_epochs=args.final_epochs,
        finals=tuple(planned_finals(args)),
    )


def announce(args: argparse.Namespace, run: Path, finals: list[FinalTraining], of_what: str) -> int:
    """Say how many epochs ``of_what`` the whole job is; returns that number."""
    levels = planned_levels(args)
    epochs = len(finals) * args.final_epochs + sum(level_epochs(args, level) for level in levels)
    parts = [f"{args.warmup_epochs} warm-up"] if 0 in levels else []
    if levels:
        parts += [f"{len(levels) - levels.count(0)} levels x {args.level_epochs}"]
    names = [level_name(level) for level in levels]
    parts += [f"{len(finals)} final trainings x {args.final_epochs}"]
    names += [final.stage for final in finals]
    finished = sum(is_finished(run / name) for name in names)
    print(
        f"{run}: {' + '.join(parts)} = {epochs:,} epochs of {of_what}; {finished} of {len(names)} stages are finished",
        flush=True,
    )
    return epochs


def identity(
    args: argparse.Namespace, kind: str, start: str | None, level: int | None, init_seed: int, order_seed: int
) -> dict:
    """Which network of which run a result belongs to."""
    return {
        "dataset": args.dataset,
        "arch": args.arch,
        "method": args.method,
        "kind": kind,
        "start": start,
        "level": level,
        "seed": args.seed,
        "init_seed": init_seed,
        "order_seed": order_seed,
    }


def read_signed_mask(blueprint: Blueprint, path: Path, note: Callable[[str], None]) -> SignedMask:
    """The file's signed mask for this run's network; another data set's classifier is left out, and said so."""
    file = load_signed_mask(path)
    signed_mask, names = file.signed_mask, blueprint.signed
    if file.dataset != blueprint.dataset:
        names = [name for name in names if name not in blueprint.classifier]
        signed_mask = {name: signs for name, signs in signed_mask.items() if name not in blueprint.classifier}
        note(f"{path} was found on {file.dataset}: the classifier for {blueprint.dataset} starts fresh")
    check_signed_mask(signed_mask, blueprint.shapes(names), f"{path} ({file.arch} on {file.dataset})")
    return signed_mask


def main() -> int:
    args = parse_arguments()
    return exit_status("main.py", partial(run_job, args))


if __name__ == "__main__":
    sys.exit(main())
