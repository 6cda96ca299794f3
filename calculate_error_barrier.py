"""Error barriers between trained networks: linear mode connectivity and SGD-noise stability (equation 1).

    python calculate_error_barrier.py FIRST SECOND                 # two networks: network.pt files or their folders
    python calculate_error_barrier.py FIRST SECOND THIRD ..        # all pairs, as a matrix
    python calculate_error_barrier.py --normalization-path FIRST   # from its ψ to its initial ψ
    python calculate_error_barrier.py --runs RUN .. --level 11     # the paper's comparisons, over trials

A position costs one pass over the training images, which gathers the batch-norm statistics of the interpolated network,
and one over the test images. Finished positions are kept and not measured again.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import torch

from data import Dataset, load_dataset
from main import HelpFormatter
from utils.blueprint import Blueprint
from utils.comparisons import COMPARISONS, PAPER_COMPARISONS, Comparison, missing_trainings, planned_level
from utils.devices import DeviceError, choose_device, choose_kernels
from utils.errors import exit_status, refuse
from utils.fast_path import Speed, choose_speed
from utils.figures import heat_map, panel_figure, save_figure
from utils.measured_path import (
    PathMeasurement,
    TrainedNetwork,
    check_comparable,
    measure_path,
    read_network,
    tell_apart,
)
from utils.mode_connectivity import positions
from utils.paper import MeasuredComparison, barrier_panels, barrier_records
from utils.position import PositionMeter
from utils.results import METHOD_NAMES, check_same_experiments, dense_deviation
from utils.run_folder import BARRIERS_FOLDER, RunFolderError, claim_stage, settings_of, write_csv, write_json

MOST_POINTS = 1001

# ---------------------------------------------------------------------------------------------------------------------
# Flags
# ---------------------------------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="calculate_error_barrier.py",
        description=__doc__.splitlines()[0],
        formatter_class=HelpFormatter,
    )
    parser.error = partial(refuse, parser)
    what = parser.add_argument_group("what to compare")
    what.add_argument(
        "networks", nargs="*", type=Path, help="network.pt files or their folders; more than two: all pairs"
    )
    what.add_argument("--normalization-path", action="store_true", help="from a network's ψ to its initial ψ")
    what.add_argument("--runs", nargs="+", type=Path, help="run folders: compare their final trainings of --level")
    what.add_argument(
        "--level", type=int, default=11, help="with --runs, the level (the runs' last where they have fewer)"
    )
    what.add_argument(
        "--comparisons", nargs="+", choices=COMPARISONS, default=list(PAPER_COMPARISONS), help="with --runs, which"
    )
    what.add_argument(
        "--list-missing", action="store_true", help="with --runs, only print the commands that train what is missing"
    )
    how = parser.add_argument_group("how to measure")
    how.add_argument("--points", type=int, default=11, help="positions on the path, the two ends among them")
    how.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="estimate batch-norm statistics on augmented training images, as in training",
    )
    how.add_argument(
        "--epsilon", type=float, help="connected below this (default: deviation of the dense networks' errors)"
    )
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    how.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="compile the passes, which takes as long as some positions do (benchmark.py --positions)",
    )
    how.add_argument(
        "--cuda-graph", action=argparse.BooleanOptionalAction, help="a batch is one CUDA graph (default on CUDA)"
    )
    how.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the data sets")
    how.add_argument(
        "--runs-dir", type=Path, help="where dense networks are looked for (default: beside the first run)"
    )
    how.add_argument("--share", action="store_true", help="wait for a path that another process measures")
    how.add_argument("--out", type=Path, help="folder of the results (default: barriers in --runs-dir)")
    args = parser.parse_args(argv)
    complete_arguments(parser, args)
    return args


def complete_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what does not go together, and find the device."""
    if args.runs and args.networks:
        parser.error("give networks or --runs, not both")
    if args.normalization_path and len(args.networks) != 1:
        parser.error("give one network: a network.pt file or its folder")
    if not (args.runs or args.normalization_path) and len(args.networks) < 2:
        parser.error("give at least two networks, network.pt files or their folders; or --runs")
    if args.list_missing and not args.runs:
        parser.error("--list-missing goes with --runs")
    if not 2 <= args.points <= MOST_POINTS:
        parser.error(f"--points counts the two ends: give 2 to {MOST_POINTS}")
    if args.level < 0:
        parser.error("--level counts from 0")
    if args.epsilon is not None and not args.epsilon >= 0:
        parser.error("--epsilon is a number of percentage points, at least 0")
    # Named twice, a run would be two trials and a network two rows of a matrix.
    args.runs = args.runs and list(dict.fromkeys(run.resolve() for run in args.runs))
    if len(args.networks) > 2:
        args.networks = list(dict.fromkeys(path.resolve() for path in args.networks))
    try:
        args.device = choose_device(args.device)
        args.speed = choose_speed(args.device, "fp32", args.compile, args.cuda_graph)
    except DeviceError as error:
        parser.error(str(error))
    if args.device.type == "cuda":
        choose_kernels(deterministic=False)


# ---------------------------------------------------------------------------------------------------------------------
# Networks named one by one
# ---------------------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    if args.runs and args.list_missing:
        print(*missing_commands(args), sep="\n")
    elif args.runs:
        compare_runs(args)
    elif args.normalization_path:
        network = read_network(args.networks[0])
        measure_path(network, network.with_initial_norms(), prepare(args, network))
    else:
        compare_networks(args)


def prepare(args: argparse.Namespace, network: TrainedNetwork) -> PathMeasurement:
    """Load the data of networks like this one, and find ε."""
    runs = args.runs_dir or (network.run.parent if network.run else Path("runs"))
    epsilon, source = (args.epsilon, "given") if args.epsilon is not None else dense_deviation(runs, network.settings)
    return PathMeasurement(
        meter=meter_of(network, args),
        alphas=positions(args.points),
        epsilon=epsilon,
        epsilon_source=source,
        folder=args.out or runs / BARRIERS_FOLDER,
        wait=args.share,
    )


@cache  # many comparisons share one data set
def load_described(
    name: str, data_root: Path, train_images_per_class: int | None, device: torch.device
) -> tuple[Dataset, str]:
    dataset = load_dataset(name, data_root, train_images_per_class)
    return dataset.to(device), dataset.description()


def meter_of(network: TrainedNetwork, args: argparse.Namespace) -> PositionMeter:
    """For networks like this one. Raises RunFolderError where the data root holds other data than it was trained on."""
    settings = network.settings
    place = network.blueprint.dataset, args.data_root, settings["train_images_per_class"], args.device
    _, description = load_described(*place)
    if description != settings["data"]:
        raise RunFolderError(
            f"{network.label} was trained on {settings['data']}, and {args.data_root} holds {description}: "
            "name the folder of its data with --data-root"
        )
    return make_meter(network.blueprint, place, settings["batch_size"], args.augment, args.speed)


@lru_cache(maxsize=1)  # one for many paths
def make_meter(blueprint: Blueprint, place: tuple, batch_size: int, augment: bool, speed: Speed) -> PositionMeter:
    dataset, _ = load_described(*place)
    network = blueprint.build(blueprint.initialize(0), {}, dataset.mean.device)
    return PositionMeter(network, dataset, batch_size, augment, speed)


def compare_networks(args: argparse.Namespace) -> None:
    """Every pair; for more than two networks also the matrix of their barriers."""
    networks = tell_apart([read_network(path) for path in args.networks])
    check_comparable(networks)
    heights = {pair: measure_path(*pair, prepare(args, pair[0]))["barrier"] for pair in combinations(networks, 2)}
    if len(networks) > 2:
        save_matrix(networks, heights, prepare(args, networks[0]).folder)


def save_matrix(networks: Sequence[TrainedNetwork], heights: dict, folder: Path) -> None:
    """The barriers of all pairs, zero on the diagonal, as CSV, JSON and heat map."""
    labels = [network.label for network in networks]
    matrix = [[0.0] * len(networks) for _ in networks]
    for (first, second), height in heights.items():
        row, column = networks.index(first), networks.index(second)
        matrix[row][column] = matrix[column][row] = height
    target = folder / f"matrix_of_{len(labels)}_{sha256('|'.join(labels).encode()).hexdigest()[:8]}"
    lines = zip(labels, matrix, strict=True)
    with claim_stage(target):
        write_json(target / "matrix.json", {"networks": labels, "barriers": matrix})
        write_csv(
            target / "matrix.csv", [{"network": label, **dict(zip(labels, row, strict=True))} for label, row in lines]
        )
        save_figure(heat_map(f"error barriers of {len(labels)} networks", labels, matrix), target / "matrix")
    print(f"all pairs: {target}")


# ---------------------------------------------------------------------------------------------------------------------
# The paper's comparisons, over the trials of whole runs
# ---------------------------------------------------------------------------------------------------------------------


def compare_runs(args: argparse.Namespace) -> None:
    """Figures 2, 3 and 6, b and c: one figure and one table for each data set and architecture."""
    for network, runs_of in group_runs(args.runs).items():
        level = common_level(runs_of, args.level)
        compared = []
        for method, runs in runs_of.items():
            for comparison in (COMPARISONS[name] for name in args.comparisons):
                pairs = [read_pair(run, level, comparison) for run in runs]
                measurement = prepare(args, pairs[0][0])
                summaries = tuple(measure_path(*pair, measurement) for pair in pairs)
                compared.append(
                    MeasuredComparison(network, method, comparison, len(pairs), summaries, measurement.epsilon)
                )
        report_comparisons(f"{' '.join(network)}, level {level}", compared, measurement.folder)


def read_pair(run: Path, level: int, comparison: Comparison) -> list[TrainedNetwork]:
    trainings = comparison.trainings(settings_of(run)["seed"], level)
    return [read_network(run / final.stage) for final in trainings]


def report_comparisons(title: str, compared: Sequence[MeasuredComparison], folder: Path) -> None:
    target = folder / title.replace(", ", "_").replace(" ", "_")
    rows = barrier_records(compared)
    with claim_stage(target):
        write_csv(target / "comparisons.csv", rows)
        write_json(target / "comparisons.json", {"title": title, "comparisons": rows})
        save_figure(panel_figure(title, {"": barrier_panels(compared)}), target / "comparisons")
    print(f"\n{title}: {target}")
    for row in compared:
        verdict = "" if row.epsilon is None else f", below ε = {row.epsilon:.2f} in {row.connected} of {row.counted}"
        print(f"  {row.comparison.panel}, {row.label}: barrier {row.shown} (n = {row.counted}){verdict}")


def missing_commands(args: argparse.Namespace) -> list[str]:
    """The commands that train what the comparisons need and the runs have not, on this command's device and data."""
    comparisons = [COMPARISONS[name] for name in args.comparisons]
    places = ["--device", str(args.device), "--data-root", str(args.data_root.resolve())]
    program = str(Path(__file__).resolve().with_name("main.py"))
    return [
        shlex.join([sys.executable, program, *flags, *places])
        for runs_of in group_runs(args.runs).values()
        for runs in runs_of.values()
        for run in runs
        for flags in missing_trainings(run, common_level(runs_of, args.level), comparisons)
    ]


def group_runs(runs: Sequence[Path]) -> dict[tuple[str, str], dict[str, list[Path]]]:
    """(data set, architecture) -> method -> the runs that prune, whose seeds are the trials."""
    # The comparisons are between the starts of levels that were trained; Gem-Miner's are not.
    pruning = [run for run in runs if settings_of(run)["method"] not in ("dense", "signed_mask", "gm")]
    if not pruning:
        raise RunFolderError("none of the runs has levels: name runs of --method lrr or aws")
    check_same_experiments(pruning)
    groups: dict[tuple[str, str], dict[str, list[Path]]] = {}
    for run in pruning:
        settings = settings_of(run)
        group = groups.setdefault((settings["dataset"], settings["arch"]), {})
        group.setdefault(settings["method"], []).append(run)
    order = list(METHOD_NAMES)
    return {key: dict(sorted(group.items(), key=lambda item: order.index(item[0]))) for key, group in groups.items()}


def common_level(runs_of: Mapping[str, Sequence[Path]], wanted: int) -> int:
    """``wanted``, or the last level that all of the runs have or plan; says so where that is less."""
    last = min((planned_level(run), run) for runs in runs_of.values() for run in runs)
    if last[0] < wanted:
        print(
            f"note: {last[1]} has {last[0]} levels: all are compared at level {last[0]}, not {wanted}", file=sys.stderr
        )
    return min(wanted, last[0])


def main() -> int:
    args = parse_arguments()
    return exit_status("calculate_error_barrier.py", partial(run, args))


if __name__ == "__main__":
    sys.exit(main())
