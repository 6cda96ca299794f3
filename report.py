"""Tables and figures from run folders: mean ± standard deviation over trials.

    python report.py                                        # a table of every run below runs/
    python report.py runs/cifar100_*                        # of the runs named
    python report.py --paired runs/precision/fp32 runs/precision/bf16    # runs of the same names, pair by pair
    python report.py --plan FILE --name figure3 --level 11 --comparisons noise-signs lmc-signs

A plan has a line of main.py's flags for every run; script/paper/figure3.sh and its like write one. The figure takes the
planned final trainings and nothing else; what is missing is a gap, and is listed with the command that makes it.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from main import planned_run
from utils.checkpoint import write_atomically
from utils.comparisons import COMPARISONS
from utils.errors import exit_status, refuse
from utils.figures import panel_figure, save_figure
from utils.paper import (
    accuracy_records,
    barrier_records,
    barrier_table,
    collect_accuracies,
    collect_comparisons,
    figure_rows,
    level_tables,
    work_table,
)
from utils.plan import (
    PlannedBarrier,
    PlannedRun,
    check_folders,
    commands_of_barriers,
    commands_of_runs,
    commands_of_stages,
    last_of_each,
    plan_barriers,
)
from utils.results import check_same_experiments, comparable_results, markdown_table, paired_rows, summary_table
from utils.run_folder import CONFIG_FILE, FIGURES_FOLDER, RunFolderError, is_run, write_csv
from utils.tensorboard import SCALARS_FOLDER, group_scalars

PROJECT = Path(__file__).resolve().parent


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = partial(refuse, parser)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders (default: all below --runs-dir)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where the runs are (default: runs)")

    parser.add_argument(
        "--paired",
        nargs=2,
        type=Path,
        metavar="FOLDER",
        help="two folders of runs of the same names: their differences",
    )

    planned = parser.add_argument_group("a figure of planned runs")
    planned.add_argument("--plan", type=Path, metavar="FILE", help="a line of main.py's flags for every run")
    planned.add_argument("--name", default="figure", help="of the picture and tables (default: figure)")
    planned.add_argument("--title", default="", help="of the picture")
    planned.add_argument(
        "--comparisons", nargs="*", choices=COMPARISONS, default=[], help="error barriers, in panels of their own"
    )
    planned.add_argument("--level", type=int, default=11, help="level of the error barriers (default: 11)")
    planned.add_argument("--parts", action="store_true", help="tables say where each part of a subnetwork comes from")
    planned.add_argument("--out", type=Path, help="folder of the figure (default: figures/NAME beside the first run)")
    planned.add_argument("--dry-run", action="store_true", help="only print the runs, their epochs and what is done")
    planned.add_argument(
        "--list", choices=("runs", "stages", "barriers"), help="only print the commands that make what is missing: run "
        "by run, or stage by stage for workers side by side, or the error barriers between what is trained"
    )  # fmt: skip
    args = parser.parse_args()
    if args.paired and (args.plan or args.runs):
        parser.error("--paired takes its two folders and nothing else")
    if args.plan and args.runs:
        parser.error("give runs or --plan, not both")
    if (args.list or args.dry_run) and not args.plan:
        parser.error("--list and --dry-run go with --plan")
    return args


@dataclass(frozen=True)
class Plan:
    """All that a figure needs."""

    runs: list[PlannedRun]
    barriers: list[PlannedBarrier]


def report(args: argparse.Namespace) -> None:
    if args.paired:
        rows = paired_rows(*map(runs_below, args.paired))
        print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))
        return
    if args.plan is None:
        print_table(args)
        return
    plan = read_plan(args)
    if args.dry_run:
        print_work(plan)
    elif args.list:
        print(*commands(plan, args.list), sep="\n")
    else:
        make_figure(plan, args)


def runs_below(folder: Path) -> list[Path]:
    return [config.parent for config in sorted(folder.glob(f"*/{CONFIG_FILE}")) if is_run(config.parent)]


def print_table(args: argparse.Namespace) -> None:
    named = list(dict.fromkeys(run.resolve() for run in args.runs))  # named twice, a run would be two trials
    results = comparable_results(named or runs_below(args.runs_dir))
    if not results:
        raise RunFolderError("there is no finished final training: run main.py first, or name other runs")
    print(summary_table(results))


def read_plan(args: argparse.Namespace) -> Plan:
    """The planned runs, with the final trainings that the comparisons need beside their own."""
    runs = [planned_run(shlex.split(line)) for line in args.plan.read_text().splitlines() if line.strip()]
    if not runs:
        raise RunFolderError(f"{args.plan} plans no run: give it a line of main.py's flags for each")
    check_folders(runs)
    check_same_experiments([run.folder for run in runs if is_run(run.folder)])
    barriers = plan_barriers(runs, args.comparisons, args.level)
    for index, run in enumerate(runs):
        needed = [final for barrier in barriers if barrier.run is run for final in (barrier.first, barrier.second)]
        partners = tuple(final for final in dict.fromkeys(needed) if final not in run.finals)
        runs[index] = replace(run, partners=partners)
    return Plan(runs, barriers)


def print_work(plan: Plan) -> None:
    print(work_table(plan.runs))
    if plan.barriers:
        measured = sum(barrier.file.exists() for barrier in plan.barriers)
        print(f"\n{len(plan.barriers)} error barriers, of which measured: {measured}")


def commands(plan: Plan, kind: str) -> list[str]:
    """Plain command lines that make what is missing."""
    if kind == "barriers":
        listed = commands_of_barriers(plan.barriers)
        return [command("calculate_error_barrier.py", (*arguments, "--share")) for arguments in listed]
    of_kind = commands_of_runs if kind == "runs" else commands_of_stages
    return [command("main.py", last_of_each((*flags, "--share"))) for flags in of_kind(plan.runs)]


def command(program: str, arguments: Sequence[str]) -> str:
    return shlex.join([sys.executable, str(PROJECT / program), *arguments])


def make_figure(plan: Plan, args: argparse.Namespace) -> None:
    """Picture, tables and TensorBoard's view of the planned runs, from what of them is finished."""
    folder = args.out or plan.runs[0].folder.parent / FIGURES_FOLDER / args.name
    folder.mkdir(parents=True, exist_ok=True)
    accuracies, comparisons = collect_accuracies(plan.runs), collect_comparisons(plan.barriers)
    rows = figure_rows(accuracies, comparisons)
    save_figure(panel_figure(args.title, rows), folder / args.name)
    write_csv(folder / f"{args.name}.csv", accuracy_records(accuracies))
    text = f"# {args.title or args.name}\n\n{level_tables(accuracies, args.parts)}"
    if comparisons:
        write_csv(folder / f"{args.name}_barriers.csv", barrier_records(comparisons))
        text += f"\n## Error barriers, level {args.level}\n\n{barrier_table(comparisons)}\n"
    write_atomically(folder / f"{args.name}.md", text.encode())
    group_scalars({run.folder: "_".join(run.network) for run in plan.runs}, folder / SCALARS_FOLDER)
    print(text)
    print_missing(plan)
    print(f"{args.name}: {folder}")


def print_missing(plan: Plan) -> None:
    """What the gaps are, with the commands that fill them."""
    missing = commands(plan, "runs") or commands(plan, "barriers")
    if missing:
        stages = sum(not run.has(stage) for run in plan.runs for stage in run.stages())
        barriers = sum(not barrier.file.exists() for barrier in plan.barriers)
        print(f"missing: {stages} trainings, {barriers} error barriers; next:", *missing, "", sep="\n")


def main() -> int:
    args = parse_arguments()
    return exit_status("report.py", partial(report, args))


if __name__ == "__main__":
    sys.exit(main())
