"""main.py's command line: its flags, which of them decide the results, and the stages that they ask for. Other programs
share some of the flags."""

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from data import DATASETS
from data.batches import count_batches
from models import ARCHITECTURES
from utils.errors import UserError, refuse
from utils.method.gem_miner import freeze_rate
from utils.method.methods import INITIALIZATION, METHODS
from utils.method.network import Blueprint
from utils.method.signed_mask import has_values, load_subnetwork
from utils.method.starts import STARTS
from utils.runs.records import BARRIERS_FOLDER, FIGURES_FOLDER, NOT_FLAGS
from utils.runs.run import FinalTraining, Level, is_level
from utils.training.devices import PRECISIONS
from utils.training.optimization import OPTIMIZERS, SCHEDULES, Recipe, final_rates

# The flags that decide the results; another value of one of them is another run.
SETTINGS = (
    *("dataset", "arch", "method", "seed", "train_images_per_class", "pixels", "warmup_epochs", "level_epochs"),
    *("prune_rate", "pruning_schedule", "rewind_epoch", "rewind_norms", "alpha_range", "alpha_per_layer"),
    *("final_epochs", "decays_at", "lr", "momentum", "weight_decay", "batch_size", "search_lr", "score_penalty"),
    *("optimizer", "final_schedule", "level_ramp_epochs", "final_ramp_epochs", "clip_norm", "label_smoothing"),
    *("micro_batch_size", "sign_in_epochs", "cache_short_side"),
)


LARGEST_COUNT = 1_000_000  # of epochs, images in a batch and the like
OWN = "own"  # signs of the level itself
SCORE_PENALTY = 1e-5  # Gem-Miner's λ


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default, except for flags whose help already says what happens without them."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default in (False, "", [])
        return action.help if says_nothing else super()._get_help_string(action)


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description.splitlines()[0], formatter_class=HelpFormatter)
    parser.allow_abbrev = False  # a plan looks flags up by their names
    parser.error = partial(refuse, parser)
    return parser


def number(kind: type, low: float = -math.inf, high: float = math.inf, ends: bool = True) -> Callable[[str], float]:
    """The type of a flag: a number from ``low`` to ``high``, or strictly between them without ``ends``."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' * (kind is int)}number") from error
        if kind is int and value > LARGEST_COUNT:
            raise argparse.ArgumentTypeError(f"{value} is above {LARGEST_COUNT}")
        if not (low <= value <= high if ends else low < value < high):
            limits = {
                (True, True): f"at least {low}", (True, False): f"from {low} to {high}",
                (False, True): f"above {low}", (False, False): f"between {low} and {high}",
            }[ends, high == math.inf]  # fmt: skip
            raise argparse.ArgumentTypeError(f"{value} should be {limits}")
        return value

    return parse


def level_number(text: str) -> float | str:
    """The type of a flag: a number that is not negative, or LEVEL:NUMBER for one level."""
    level, colon, value = text.rpartition(":")
    return f"{COUNT(level)}:{NOT_NEGATIVE(value)}" if colon else NOT_NEGATIVE(value)


COUNT, POSITIVE = number(int, 0), number(int, 1)
POINTS = number(int, 2, 1001)  # of a path
RATE, SHARE, NOT_NEGATIVE = number(float, 0, ends=False), number(float, 0, 1), number(float, 0)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser("main.py", "Find a winning sign: warm-up, levels, signed masks, final trainings, results.")
    add_run_flags(parser.add_argument_group("what to train").add_argument)
    add_pruning_flags(parser.add_argument_group("warm-up and levels").add_argument)
    add_final_flags(parser.add_argument_group("final trainings").add_argument)
    add_optimization_flags(parser.add_argument_group("optimization").add_argument)
    title = "Gem-Miner's search, of --level-epochs for every level in --final-levels"
    add_search_flags(parser.add_argument_group(title).add_argument)
    add_machine_flags(parser.add_argument_group("machine and folders").add_argument)
    args = parser.parse_args(argv)
    fill_defaults(args)
    try:
        check(args)
    except UserError as error:
        parser.error(str(error))
    return args


# fmt: off


def add_run_flags(add: Callable) -> None:
    add("--dataset", choices=DATASETS, default="cifar100", help="data set")
    add("--arch", choices=ARCHITECTURES, default="resnet50", help="network")
    typed_methods = [name for name in METHODS if name != "signed_mask"]  # that one is --signed-mask
    add("--method", choices=typed_methods, default="aws",
        help="; ".join(f"{name}: {METHODS[name].description}" for name in typed_methods))
    add("--seed", type=int, default=1, help="initialization and order of the warm-up and the levels")
    add("--train-images-per-class", type=POSITIVE, metavar="N", help="train on the first N images of each class only")
    add("--pixels", type=POSITIVE, metavar="N",
        help="make the images smaller, N pixels a side; of ImageNet, the crops (default: 224)")
    add("--cache-short-side", type=POSITIVE, metavar="N",
        help="train on copies of ImageNet's images with N pixels on the shorter side (data/prepare_imagenet.py)")


def add_pruning_flags(add: Callable) -> None:
    add("--warmup-epochs", type=COUNT, default=10, help="dense epochs before the first level")
    add("--levels", type=COUNT, default=15, help="how often to prune and train")
    add("--level-epochs", type=POSITIVE, default=10, help="epochs of a level")
    add("--prune-rate", type=number(float, 0, 1, ends=False), default=0.2,
        help="share of the survivors that a level removes")
    add("--pruning-schedule", choices=("constant", "dense"), default="constant",
        help="learning rate within the warm-up and within each level: constant as in the paper, or decayed as in a "
        "final training (classic LRR and IMP, for which a level has as many epochs as a final training)")
    add("--rewind-epoch", type=COUNT, metavar="EPOCH",
        help="with --method wr, the epoch of the warm-up to whose end the weights go back (default: its last)")
    add("--rewind-norms", action="store_true", default=None, help="set ψ back to ψ_init at every level")
    add("--alpha-per-layer", action="store_true", default=None, help="AWS draws an α for every layer, not one for all")
    add("--alpha-range", type=SHARE, nargs=2, default=[0.0, 1.0], metavar=("LOW", "HIGH"), help="of AWS's uniform α")


def add_final_flags(add: Callable) -> None:
    add("--start", choices=STARTS, nargs="*",
        help="where they begin; nothing after the flag: none (default: dense for --method dense, signs mask with "
        "--signed-mask, else the method's solution, subnetwork or rewound, and signs mask)")
    add("--final-levels", type=COUNT, nargs="+",
        help="levels to start from (default: the last; a dense network has none)")
    add("--final-epochs", type=POSITIVE, default=100, help="epochs of a final training")
    add("--final-seeds", type=int, nargs="+",
        help="one training for each: order of the images and, without --init-seed, the new initialization "
        "(default: --seed for --method dense, else the seed after it)")
    add("--init-seed", type=int, help="one initialization for all --final-seeds")
    add("--flip-signs", type=SHARE, nargs="+", default=[0.0], metavar="SHARE",
        help="shares of the transferred signs that are flipped, a training for each; 0.5 is random signs")
    add("--signs-from", nargs="+", default=[OWN], metavar="SOURCE",
        help="where transferred signs come from, a training for each: own (the level), another LEVEL of this run, or a "
        "FILE (a signed mask or network.pt); a weight that is pruned there takes the new initialization's sign")
    add("--sign-in-epochs", type=POSITIVE, default=1, metavar="EPOCHS",
        help="of the start sign-in, which trains every weight as a product: how often its factors are reset")
    add("--signed-mask", type=Path, metavar="FILE",
        help="start from this signed-mask file, or from a network.pt, which has values for all starts; --method and "
        "levels are not used")


def add_optimization_flags(add: Callable) -> None:
    add("--optimizer", choices=OPTIMIZERS, default="sgd",
        help="of levels and final trainings; adam has the L2 kind of weight decay, as in the paper")
    add("--lr", type=RATE, default=0.1, help="initial learning rate")
    add("--momentum", type=SHARE, default=0.9, help="of SGD, Gem-Miner's search included")
    add("--weight-decay", type=SHARE, default=5e-4, help="on every parameter")
    add("--clip-norm", type=RATE, metavar="NORM",
        help="scale a step's gradients down to this norm of all together (default: do not)")
    add("--label-smoothing", type=SHARE, default=0.0, help="of the training loss")
    add("--batch-size", type=POSITIVE, default=128, help="images a step")
    add("--micro-batch-size", type=POSITIVE, metavar="N",
        help="images of a forward pass, if those of a step are too many for the memory: the same to rounding, except "
        "that a batch norm sees a micro-batch (default: all of them)")
    add("--final-schedule", choices=SCHEDULES, default="step",
        help="learning rate of a final training: divided by ten at --decays-at, or half a cosine towards 0")
    add("--decays-at", type=SHARE, nargs="+", default=[0.5, 0.75], metavar="SHARE",
        help="shares of a final training's epochs after which its learning rate is divided by ten")
    add("--level-ramp-epochs", type=COUNT, default=0,
        help="epochs of the warm-up and of each level in which the learning rate rises from 0, step by step")
    add("--final-ramp-epochs", type=COUNT, default=0, help="the same of a final training")


def add_search_flags(add: Callable) -> None:
    add("--search-lr", type=RATE, default=0.1, help="initial learning rate of the scores")
    add("--score-penalty", type=level_number, nargs="+", default=[SCORE_PENALTY], metavar="λ",
        help="weight of the scores' squares; LEVEL:λ is that of one level")


def add_machine_flags(add: Callable) -> None:
    add("--device", default="auto", help="auto (CUDA if there is a GPU), cpu, cuda, cuda:1")
    add("--precision", choices=PRECISIONS,
        help="of training's forward and backward passes (default: bf16 on CUDA, fp32 on the CPU); results are fp32's")
    add("--compile", action=argparse.BooleanOptionalAction,
        help="compile the forward and backward pass (default: on CUDA)")
    add("--cuda-graph", action=argparse.BooleanOptionalAction,
        help="run each training step as one CUDA graph (default: on CUDA)")
    add("--deterministic", action="store_true", help="on CUDA: the same weights, bit for bit, from the same command")
    add_data_flags(add)
    add("--runs-dir", type=Path, default=Path("runs"), help="folder of the run folders")
    add("--name", help="the run folder's name (default: <dataset>_<arch>_<method>_seed<seed>)")
    add("--share", action="store_true",
        help="share the run with other processes: leave to them what they work on, but wait for levels that a final "
        "training needs")
    add("--test-every", type=POSITIVE, default=1, metavar="EPOCHS", help="evaluate a network in training this often")
    add("--checkpoint-seconds", type=NOT_NEGATIVE, default=60.0, help="least time between two saves inside a stage")


def add_data_flags(add: Callable) -> None:
    """For programs that load data."""
    add("--data-root", type=Path, default=Path("data"), help="folder of the data sets")
    add("--workers", type=COUNT, metavar="N",
        help="processes that decode ImageNet's images, 0 for none beside this one (default: one for each processor)")


def add_sweep_flag(add: Callable) -> None:
    """For programs that show results."""
    add("--by", nargs="+", choices=SETTINGS, type=lambda text: text.replace("-", "_"), default=[], metavar="SETTING",
        help="a sweep: settings in which runs may differ, such as alpha-range; each value has rows and curves")


# fmt: on


def fill_defaults(args: argparse.Namespace) -> None:
    """The defaults that depend on other flags."""
    if args.signed_mask:
        args.method = "signed_mask"
    method = METHODS[args.method]
    if not method.prunes:
        args.levels, args.final_levels = 0, None
    if args.start is None:
        args.start = ["dense"] if args.method == "dense" else [method.solution] * method.prunes + ["signs", "mask"]
    if args.final_seeds is None:
        args.final_seeds = [args.seed + (args.method != "dense")]
    if args.final_levels is None:
        args.final_levels = [args.levels]
    if method.searches:
        args.warmup_epochs = 0  # it searches at initialization
    else:
        args.search_lr, args.score_penalty = None, [None]
    if not method.interpolates:
        args.alpha_range = None
    if len(args.score_penalty) == 1:
        args.score_penalty = args.score_penalty[0]
    if args.final_schedule != "step":
        args.decays_at = None
    if args.method == "wr" and args.rewind_epoch is None:
        args.rewind_epoch = args.warmup_epochs
    if args.name is None:
        args.name = f"{args.dataset}_{args.arch}_{args.method}_seed{args.seed}"


def check(args: argparse.Namespace) -> None:
    """Raises UserError if the flags do not go together."""
    method = METHODS[args.method]
    for start in args.start:
        if start == "rewound" and method.rewinds_to is None:
            raise UserError("--start rewound goes with --method imp or wr: the others set no weight back")
        if STARTS[start].needs_level and args.method == "dense":
            raise UserError(f"--start {start} needs a level, which --method dense does not have: choose lrr or aws")
        if STARTS[start].needs_trained and not (method.prunes or has_values(args.signed_mask)):
            raise UserError(
                f"--start {start} needs a level's own weights: name its network.pt instead of a signed mask alone"
            )
    check_levels(args)
    levels = {level.stage for level in planned_levels(args)}
    for source in args.signs_from:
        stage = Level(int(source)).stage if source.isdecimal() else source
        if is_level(stage) and stage not in levels:
            raise UserError(f"--signs-from {source}: this run makes no such level; name one of its levels, or a file")
    if method.searches:
        freeze_rate(1 - args.prune_rate, args.level_epochs)  # raises if a search is too short
    if args.alpha_per_layer and not method.interpolates:
        raise UserError("--alpha-per-layer goes with --method aws: the others draw no α")
    if args.rewind_norms and (method.searches or not method.prunes):
        raise UserError("--rewind-norms needs levels: choose --method lrr, aws, imp or wr")
    if args.micro_batch_size and method.searches:
        raise UserError("--micro-batch-size: Gem-Miner's search takes whole batches")
    if args.cache_short_side and not DATASETS[args.dataset].on_disk:
        raise UserError(f"--cache-short-side goes with --dataset imagenet: {args.dataset} is held in memory")
    if args.batch_size % (args.micro_batch_size or args.batch_size):
        raise UserError(
            f"--micro-batch-size {args.micro_batch_size} should divide --batch-size {args.batch_size} without remainder"
        )
    if args.alpha_range and args.alpha_range[0] > args.alpha_range[1]:
        raise UserError("--alpha-range wants the low end first")
    if not is_run_name(args.name):
        raise UserError(f"--name {args.name!r} should be one folder's name of letters, digits and .,+=-_")


def check_levels(args: argparse.Namespace) -> None:
    """Raises UserError if levels and epochs are asked for that there will not be."""
    if METHODS[args.method].searches and 0 in args.final_levels:
        raise UserError("--method gm searches for a mask: --final-levels counts from 1")
    too_high = [level for level in args.final_levels if level > args.levels]
    if too_high:
        raise UserError(f"--final-levels {too_high[0]} is above --levels {args.levels}: ask for more levels")
    if args.rewind_epoch is not None and args.method != "wr":
        raise UserError("--rewind-epoch: only weight rewinding (--method wr) goes back to an epoch of choice")
    if args.rewind_epoch is not None and args.rewind_epoch > args.warmup_epochs:
        raise UserError(
            f"--rewind-epoch: the warm-up has epochs 0 to {args.warmup_epochs}, and {args.rewind_epoch} is none of them"
        )


def is_run_name(name: str) -> bool:
    """Whether a run's folder may have the name."""
    return bool(re.fullmatch(r"\w[\w.,+= -]{0,150}", name)) and name not in (BARRIERS_FOLDER, FIGURES_FOLDER)


def run_settings(args: argparse.Namespace) -> dict:
    return {name: getattr(args, name) for name in SETTINGS} | {"network_version": ARCHITECTURES[args.arch].version}


def signed_mask_settings(path: Path | None, source: dict | None) -> dict:
    """Which file --signed-mask names, by its digest, and where that was found."""
    digest = f"sha256 {sha256(path.read_bytes()).hexdigest()}" if path else None
    return {"signed_mask": digest, "signed_mask_source": source}


def check_signs_from(args: argparse.Namespace, blueprint: Blueprint) -> None:
    """Raises UserError or FileNotFoundError, before the levels are trained, if a file of --signs-from does not fit this
    network."""
    for source in dict.fromkeys(final.signs_from for final in planned_finals(args)):
        if source and not is_level(source):
            load_subnetwork(Path(source), blueprint)


def training_recipe(args: argparse.Namespace) -> Recipe:
    """Of levels and final trainings."""
    return Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})


def flags_of_settings(settings: Mapping[str, object]) -> list[str]:
    """The command line that has these settings."""
    flags = []
    for name, value in settings.items():
        if value is not None and name not in NOT_FLAGS:
            values = value if isinstance(value, list) else [] if value is True else [value]
            flags += [f"--{name.replace('_', '-')}", *map(str, values)]
    return flags


def score_penalty(args: argparse.Namespace, level: int) -> float:
    """λ of Gem-Miner's search for a level: its own, or the one for all."""
    given = args.score_penalty if isinstance(args.score_penalty, list) else [args.score_penalty]
    of_level = {"": SCORE_PENALTY} | dict(str(value).rpartition(":")[::2] for value in given)
    return float(of_level.get(str(level), of_level[""]))


def rewound_to(args: argparse.Namespace) -> int | None:
    """The epoch of the warm-up to which surviving weights return, 0 for the initialization; None if they are kept."""
    return 0 if METHODS[args.method].rewinds_to == INITIALIZATION else args.rewind_epoch


def planned_levels(args: argparse.Namespace) -> list[Level]:
    """Every level up to the last; Gem-Miner's are searches that do not need each other."""
    method = METHODS[args.method]
    numbers = dict.fromkeys(args.final_levels) if method.searches else range(args.levels + 1) if method.prunes else ()
    return [Level(number) for number in numbers]


def level_epochs(args: argparse.Namespace, level: int) -> int:
    return args.level_epochs if level else args.warmup_epochs


def level_rates(args: argparse.Namespace, level: int) -> list[float]:
    """Constant as in the paper, or a final training's. Weights that go back to an epoch of the warm-up go back to its
    place in the schedule."""
    epochs = level_epochs(args, level)
    if args.pruning_schedule == "constant":
        return [args.lr] * epochs
    ahead = (rewound_to(args) or 0) if level else 0
    return final_rates(args.final_schedule, args.lr, ahead + epochs, args.decays_at)[ahead:]


def clock(args: argparse.Namespace, rates: Sequence[float], images: int) -> float | None:
    """How often weight decay could have replaced a parameter in epochs at these rates: the sum over steps of
    lr/(1 − momentum) · weight decay, without ramps. None unless SGD trains, with a momentum below 1."""
    if args.optimizer != "sgd" or args.momentum == 1:
        return None
    return sum(rates) * count_batches(images, args.batch_size) / (1 - args.momentum) * args.weight_decay


def level_clock(args: argparse.Namespace, level: int, images: int) -> float | None:
    """The clock of ψ at the end of a level, since it was ψ_init last. None for a search too, which trains no ψ."""
    if METHODS[args.method].searches:
        return None
    rates = level_rates(args, level)
    if level and not args.rewind_norms:
        begun = rewound_to(args)  # the epoch of the warm-up that ψ goes back to, if it does
        before = range(level) if begun is None else [0]
        rates = [rate for earlier in before for rate in level_rates(args, earlier)][:begun] + rates
    return clock(args, rates, images)


def planned_finals(args: argparse.Namespace) -> list[FinalTraining]:
    """Every final training asked for, once; a start that needs no level of this run is not repeated for each."""
    finals = []
    for start in args.start:
        for level in args.final_levels if STARTS[start].needs_level and METHODS[args.method].prunes else [None]:
            for seed in args.final_seeds:
                new_seed = seed if args.init_seed is None else args.init_seed
                init_seed = new_seed if STARTS[start].new_initialization else args.seed
                final = FinalTraining(start, level, init_seed, seed)
                finals += sign_variants(args, final) if STARTS[start].transfers_signs else [final]
    return list(dict.fromkeys(finals))


def sign_variants(args: argparse.Namespace, final: FinalTraining) -> list[FinalTraining]:
    """A sign transfer for every source and share of flipped signs that is asked for."""
    sources = {source: Level(int(source)).stage if source.isdecimal() else source for source in args.signs_from}
    return [
        replace(final, flipped=flipped, signs_from="" if source in (OWN, Level(final.level or 0).stage) else source)
        for source in sources.values()
        for flipped in args.flip_signs
    ]


def stage_epochs(args: argparse.Namespace) -> dict[str, int]:
    """The epochs of every stage that is asked for, by its folder."""
    levels = {level.stage: level_epochs(args, level.level) for level in planned_levels(args)}
    return levels | {final.stage: args.final_epochs for final in planned_finals(args)}


def describe_work(args: argparse.Namespace) -> str:
    """What is asked for, such as "10 warm-up + 15 levels x 10 + 3 final trainings x 100"."""
    levels = [level.level for level in planned_levels(args)]
    parts = [f"{args.warmup_epochs} warm-up"] if 0 in levels else []
    if levels:
        parts.append(f"{len(levels) - levels.count(0)} levels x {args.level_epochs}")
    return " + ".join([*parts, f"{len(planned_finals(args))} final trainings x {args.final_epochs}"])


def describe_clock(args: argparse.Namespace, images: int) -> str:
    """The clock of ψ at the end of the last level. LRR's ψ can leave ψ_init only if this is well above 1; empty without
    levels, and unless SGD trains them."""
    last = level_clock(args, args.levels, images) if METHODS[args.method].prunes else None
    if last is None:
        return ""
    slow = last < 5 and rewound_to(args) is None
    note = ", below 5: LRR's ψ hardly leaves ψ_init, so that little can tell LRR from AWS" * slow
    return f"; clock of ψ {last:.1f}{note}"
