"""Error barriers between trained networks: linear mode connectivity and SGD-noise stability (equation 1).

    python calculate_error_barrier.py FIRST SECOND                 # two networks: network.pt files or their folders
    python calculate_error_barrier.py FIRST SECOND THIRD ..        # all pairs, as a matrix
    python calculate_error_barrier.py --normalization-path FIRST   # from its ψ to its initial ψ
    python calculate_error_barrier.py --runs RUN .. --level 11     # the paper's comparisons, over trials

A position costs one pass over the test images and, if the network has batch norm, one before it over the training
images, which gathers the interpolated network's statistics. Finished positions are kept and not measured again.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import combinations
from pathlib import Path

# Ctrl-C while the packages below are imported ends the program without their tracebacks.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from torch.distributed import is_torchelastic_launched

from data import Dataset
from utils.barriers.meter import PositionMeter
from utils.barriers.path import (
    PathMeasurement,
    TrainedNetwork,
    check_comparable,
    find_network,
    measure_path,
    read_network,
    tell_apart,
)
from utils.errors import UserError, exit_status
from utils.files import write_csv, write_json
from utils.flags import (
    COUNT,
    NOT_NEGATIVE,
    POINTS,
    add_data_flags,
    add_sweep_flag,
    flags_of_settings,
    is_run_name,
    make_parser,
)
from utils.method.methods import METHODS
from utils.method.mode_connectivity import positions
from utils.method.network import Blueprint
from utils.results.comparisons import COMPARISONS, PAPER_COMPARISONS
from utils.results.paper import MeasuredComparison, barrier_records, collect_comparisons, figure_rows
from utils.results.plan import Plan, PlannedRun, command_line, make_plan, planned_run
from utils.results.plots import heat_map, panel_figure, save_figure
from utils.results.tables import check_same_experiments, dense_deviation, grouped, precision_of, trained_in
from utils.runs.records import BARRIERS_FOLDER, Record, Records
from utils.runs.run import claim_stage
from utils.training.devices import Speed, choose_device, choose_speed


def main() -> int:
    return exit_status("calculate_error_barrier.py", lambda: run(parse_arguments()))


def run(args: argparse.Namespace) -> None:
    if args.runs:
        compare_runs(args)
    elif args.normalization_path:
        network = read_network(args.networks[0])
        measure_path(network, network.with_initial_norms(), prepare(args, [network], Records()))
    else:
        compare_networks(args)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser("calculate_error_barrier.py", __doc__)
    add_comparison_flags(parser.add_argument_group("what to compare").add_argument)
    add_measurement_flags(parser.add_argument_group("how to measure").add_argument)
    args = parser.parse_args(argv)
    try:
        check(args)
        args.device = choose_device(args.device)
        args.speed = choose_speed(args.device, "fp32", args.compile, args.cuda_graph)
    except UserError as error:
        parser.error(str(error))
    # Named twice, a run would be two trials and a network two rows of a matrix.
    if args.runs:
        args.runs = list(dict.fromkeys(folder.resolve() for folder in args.runs))
        args.runs_dir = args.runs_dir or args.runs[0].parent
    if len(args.networks) > 2:
        args.networks = list(dict.fromkeys(path.resolve() for path in args.networks))
    return args


# fmt: off


def add_comparison_flags(add) -> None:
    add("networks", nargs="*", type=Path, help="network.pt files or their folders; more than two: all pairs")
    add("--normalization-path", action="store_true", help="from a network's ψ to its initial ψ")
    add("--runs", nargs="+", type=Path, help="run folders: compare their final trainings of --level")
    add("--level", type=COUNT, default=11, help="with --runs, the level (the runs' last if they have fewer)")
    add("--comparisons", nargs="+", choices=COMPARISONS, default=list(PAPER_COMPARISONS), help="with --runs, which")
    add_sweep_flag(add)
    add("--list-missing", action="store_true",
        help="with --runs, only print the commands that train what is missing")


def add_measurement_flags(add) -> None:
    add("--points", type=POINTS, default=11, help="positions on the path, including its two ends")
    add("--augment", action=argparse.BooleanOptionalAction, default=True,
        help="estimate batch-norm statistics on augmented training images, as in training")
    add("--epsilon", type=NOT_NEGATIVE, help="connected below this (default: deviation of the dense networks' errors)")
    add("--loss-epsilon", type=NOT_NEGATIVE, help="the same of the loss (default: deviation of their losses)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--compile", action=argparse.BooleanOptionalAction, default=False,
        help="compile the passes, which takes as long as some positions do (python -m utils.benchmark --positions)")
    add("--cuda-graph", action=argparse.BooleanOptionalAction,
        help="run each batch as one CUDA graph (default: on CUDA)")
    add_data_flags(add)
    add("--runs-dir", type=Path,
        help="where dense networks are, and results below barriers (default: beside the first run)")
    add("--share", action="store_true", help="wait for a path that another process measures")
    add("--out", type=Path, help="folder of the results (default: barriers in --runs-dir)")


# fmt: on


def check(args: argparse.Namespace) -> None:
    """Raises UserError if the flags do not go together."""
    if is_torchelastic_launched():
        raise UserError("this works in one process: start it without torchrun, or several with --share, a GPU each")
    if args.runs and args.networks:
        raise UserError("give networks or --runs, not both")
    if args.normalization_path and len(args.networks) != 1:
        raise UserError("give one network: a network.pt file or its folder")
    if not (args.runs or args.normalization_path) and len(args.networks) < 2:
        raise UserError("give at least two networks, network.pt files or their folders; or --runs")
    if args.list_missing and not args.runs:
        raise UserError("--list-missing goes with --runs")


def prepare(args: argparse.Namespace, ends: Sequence[TrainedNetwork], records: Records) -> PathMeasurement:
    """Load the data of networks like the first of these, and find ε: there is none between two precisions."""
    network = ends[0]
    runs_dir = runs_folder(args, network)
    precision = " and ".join(sorted({precision_of(end.result or {}) for end in ends}))
    dataset = network.load_data(args.data_root, args.device, args.workers)
    return PathMeasurement(
        meter=make_meter(network.blueprint, dataset, network.settings["batch_size"], args.augment, args.speed),
        alphas=positions(args.points),
        epsilons={
            measure: (given, "given")
            if given is not None
            else dense_deviation(records.below(runs_dir), network.settings, precision, measure)
            for measure, given in (("test_error", args.epsilon), ("test_loss", args.loss_epsilon))
        },
        folder=args.out or runs_dir / BARRIERS_FOLDER,
        wait=args.share,
    )


@lru_cache(maxsize=1)  # one for many paths
def make_meter(blueprint: Blueprint, dataset: Dataset, batch_size: int, augment: bool, speed: Speed) -> PositionMeter:
    network = blueprint.build(dataset.device)
    return PositionMeter(network, dataset, batch_size, augment, speed)


def runs_folder(args: argparse.Namespace, network: TrainedNetwork) -> Path:
    return args.runs_dir or (network.run.parent if network.run else Path("runs"))


def compare_networks(args: argparse.Namespace) -> None:
    """Every pair; for more than two networks also the matrix of their barriers."""
    if len(args.networks) == 1:
        raise UserError(f"there is no pair: {args.networks[0]} is named several times, and no other network is named")
    networks, records = tell_apart([read_network(path) for path in args.networks]), Records()
    check_comparable(networks)
    labels = [network.label for network in networks]
    matrix = [[0.0] * len(labels) for _ in labels]
    for (row, first), (column, second) in combinations(enumerate(networks), 2):
        height = measure_path(first, second, prepare(args, [first, second], records))["barrier"]
        matrix[row][column] = matrix[column][row] = height
    if len(networks) > 2:
        save_matrix(labels, matrix, args.out or runs_folder(args, networks[0]) / BARRIERS_FOLDER)


def save_matrix(labels: Sequence[str], matrix: Sequence[Sequence[float]], folder: Path) -> None:
    """The barriers of all pairs, zero on the diagonal, as CSV, JSON and heat map."""
    target = folder / f"matrix_of_{len(labels)}_{sha256('|'.join(labels).encode()).hexdigest()[:8]}"
    lines = zip(labels, matrix, strict=True)
    rows = [{"network": label, **dict(zip(labels, line, strict=True))} for label, line in lines]
    with claim_stage(target):
        write_json(target / "matrix.json", {"networks": labels, "barriers": matrix})
        write_csv(target / "matrix.csv", rows)
        save_figure(heat_map(f"error barriers of {len(labels)} networks", labels, matrix), target / "matrix")
    print(f"all pairs: {target}")


def compare_runs(args: argparse.Namespace) -> None:
    """Figures 2, 3 and 6, b and c: one figure and one table for each data set and architecture."""
    records = Records()
    for network, runs in runs_by_network(named_runs(args.runs, records), args.by).items():
        level = common_level(runs, args.level)
        plan = make_plan([plan_run(run, level, args) for run in runs], args.comparisons, [level])
        if args.list_missing:
            missing = [flags for run in plan.runs for flags in run.commands_of_partners()]
            print(*(command_line("main.py", flags) for flags in missing), sep="\n")
        else:
            report_comparisons(f"{' '.join(network)}, level {level}", plan, args, records)


def named_runs(folders: Sequence[Path], records: Records) -> list[Record]:
    """The runs, without those whose folders have names under which main.py would not train what they lack."""
    odd = [folder for folder in folders if not is_run_name(folder.name)]
    for folder in odd:
        print(f"note: passed over: main.py does not take the name of {folder}; rename that folder", file=sys.stderr)
    return [records.of(folder) for folder in folders if folder not in odd]


def runs_by_network(runs: Sequence[Record], by: Sequence[str]) -> dict[tuple[str, str], list[Record]]:
    """(data set, architecture) -> the runs that prune, method by method; their seeds are the trials."""
    # The comparisons are between the starts of levels that were trained; Gem-Miner's are not.
    methods = [name for name, method in METHODS.items() if method.prunes and not method.searches]
    pruning = [run for run in runs if run.settings["method"] in methods]
    if not pruning:
        raise UserError("none of the runs has levels: name runs of --method lrr or aws")
    check_same_experiments(pruning, by)
    pruning.sort(key=lambda run: methods.index(run.settings["method"]))
    return grouped(pruning, lambda run: (run.settings["dataset"], run.settings["arch"]))


def common_level(runs: Sequence[Record], wanted: int) -> int:
    """``wanted``, or the last level that all of the runs have or plan; says so if that is less."""
    last = min(runs, key=lambda run: run.last_level)
    if last.last_level < wanted:
        print(
            f"note: {last.folder} has {last.last_level} levels: all are compared at level {last.last_level}, "
            f"not {wanted}",
            file=sys.stderr,
        )
    return min(wanted, last.last_level)


def plan_run(run: Record, level: int, args: argparse.Namespace) -> PlannedRun:
    """The run continued in its folder up to ``level``, on this command's device and data."""
    flags = [*flags_of_settings(run.settings), "--levels", str(level), "--start", "--device", str(args.device)]
    return planned_run([*flags, "--data-root", str(args.data_root.resolve())], run.folder.resolve())


def report_comparisons(title: str, plan: Plan, args: argparse.Namespace, records: Records) -> None:
    summaries = {}
    for end in (end for barrier in plan.barriers for end in barrier.ends):
        find_network(end)  # before hours of measuring
    for barrier in plan.barriers:
        first, *others = ends = list(map(read_network, barrier.ends))
        measurement = prepare(args, ends, records)
        summaries[barrier] = measure_path(first, *others or [first.with_initial_norms()], measurement)
    compared = collect_comparisons(plan, records, summaries.get, args.by)
    target = measurement.folder / title.replace(", ", "_").replace(" ", "_")
    rows, trained = barrier_records(compared), trained_in(row.experiment for row in compared)
    with claim_stage(target):
        write_csv(target / "comparisons.csv", rows)
        write_json(target / "comparisons.json", {"title": title, "comparisons": rows})
        save_figure(panel_figure(f"{title} ({trained})", figure_rows([], compared)), target / "comparisons")
    print(f"\n{title}, trained in {trained}: {target}")
    print(*map(describe_comparison, compared), sep="\n")


def describe_comparison(row: MeasuredComparison) -> str:
    parts = []
    for measure, unit, digits in (("test_error", "", 2), ("test_loss", " of the loss", 3)):
        epsilon, connected = row.epsilon(measure), row.connected(measure)
        verdict = "" if connected is None else f", below ε = {epsilon:.{digits}f} in {connected} of {row.counted}"
        parts.append(
            f"{'rise' if row.is_valley else 'barrier'}{unit} {row.shown(measure)} (n = {row.counted}){verdict}"
        )
    return f"  {row.comparison.panel}, {row.label}: {'; '.join(parts)}"


if __name__ == "__main__":
    sys.exit(main())
