"""Tables and figures from run folders: mean ± standard deviation over trials.

    python report.py                                        # a table of every run below runs/
    python report.py runs/cifar100_*                        # of the runs named
    python report.py --paired runs/precision/fp32 runs/precision/bf16    # runs of the same names, pair by pair
    python report.py runs/alpha/* --by alpha-range          # a row for every value of a setting
    python report.py --transfers runs/transfer/*            # signed masks on the data sets that they were not found on
    python report.py --plan FILE --name figure3 --levels 11 --comparisons noise-signs lmc-signs

A plan has a line of main.py's flags for every run; script/paper/figure3.sh and its like write one. The figure shows the
planned final trainings and nothing else; what is missing is a gap, and is listed with the command that makes it.
"""

import argparse
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

# Ctrl-C while the packages below are imported ends the program without their tracebacks.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from utils.errors import UserError, exit_status
from utils.files import write, write_csv
from utils.flags import COUNT, POINTS, add_sweep_flag, make_parser
from utils.method.methods import METHODS
from utils.results.comparisons import COMPARISONS
from utils.results.paired import paired_rows
from utils.results.paper import (
    accuracy_records,
    barrier_records,
    barrier_table,
    collect_comparisons,
    collect_entries,
    describe_plan,
    figure_rows,
    kept_summary,
    level_tables,
    work_table,
)
from utils.results.plan import Plan, command_line, make_plan, planned_run
from utils.results.plots import panel_figure, save_figure
from utils.results.tables import (
    check_same_experiments,
    collect_results,
    markdown_table,
    rows_of_twins,
    summary_table,
    trained_in,
)
from utils.results.transfers import collect_transfers, transfer_records, transfer_text
from utils.runs.records import FIGURES_FOLDER, Record, Records
from utils.runs.tensorboard import SCALARS_FOLDER, group_scalars


def main() -> int:
    return exit_status("report.py", lambda: report(parse_arguments()))


def report(args: argparse.Namespace) -> None:
    records = Records()
    if args.paired:
        print(markdown_table(rows_of_twins(*map(records.below, args.paired))))
    elif args.transfers:
        print_transfers(args, records)
    elif args.plan is None:
        print_table(args, records)
    else:
        plan = read_plan(args, records)
        if args.dry_run:
            print(work_table(plan.runs), *describe_plan(plan), sep="\n")
        elif args.list:
            print(*commands(plan, args.list, args.points), sep="\n")
        else:
            make_figure(plan, args, records)


# fmt: off


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser("report.py", __doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders (default: all below --runs-dir)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where the runs are")
    parser.add_argument("--paired", nargs=2, type=Path, metavar="FOLDER",
        help="two folders of runs of the same names: their differences")
    parser.add_argument("--transfers", action="store_true",
        help="rows are the data sets that signed masks were found on, columns those that they are trained on")
    add_sweep_flag(parser.add_argument)
    add = parser.add_argument_group("a figure of planned runs").add_argument
    add("--plan", type=Path, metavar="FILE", help="a line of main.py's flags for every run")
    add("--name", default="figure", help="of the picture and tables")
    add("--title", default="", help="of the picture")
    add("--comparisons", nargs="*", choices=COMPARISONS, default=[], help="error barriers, in panels of their own")
    add("--points", type=POINTS, help="positions of each error barrier that is to be measured")
    add("--levels", "--level", type=COUNT, nargs="+", default=[11], help="levels of the error barriers")
    add("--reference", nargs=2, metavar=("METHOD", "COMPARISON"),
        help="a comparison of this method's runs that all panels of barriers show")
    add("--parts", action="store_true", help="tables say where each part of a subnetwork comes from")
    add("--out", type=Path,
        help="folder of the figure, or of --transfers (default: figures/NAME or figures/transfer beside the first run)")
    add("--dry-run", action="store_true", help="only print the runs, their epochs and what is done")
    add("--list", choices=("runs", "stages", "barriers", "next"),
        help="only print the commands that make what is missing: run by run, or stage by stage for workers side by "
        "side, or the error barriers between trained networks; next: the runs or, if none is missing, the barriers")
    args = parser.parse_args(argv)
    if args.paired and (args.plan or args.runs):
        parser.error("--paired takes its two folders and nothing else")
    if args.transfers and (args.plan or args.paired or args.by):
        parser.error("--transfers takes run folders and --out")
    if args.plan and args.runs:
        parser.error("give runs or --plan, not both")
    if (args.list or args.dry_run) and not args.plan:
        parser.error("--list and --dry-run go with --plan")
    if args.reference and (args.reference[0] not in METHODS or args.reference[1] not in COMPARISONS):
        parser.error(f"--reference {' '.join(args.reference)} is no method and comparison: lrr noise-subnetwork is")
    return args


# fmt: on


def named_runs(args: argparse.Namespace, records: Records) -> list[Record]:
    """The runs named, or all below --runs-dir."""
    folders = args.runs or [args.runs_dir]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"there is no finished final training, and no folder {missing[0]}: name one, or run main.py")
    # Named twice, a run would be two trials.
    return list(dict.fromkeys(records.of(run.resolve()) for run in args.runs)) or records.below(args.runs_dir)


def print_table(args: argparse.Namespace, records: Records) -> None:
    table = summary_table(collect_results(named_runs(args, records), args.by))
    if not table:
        raise UserError("there is no finished final training: run main.py first, or name other runs")
    print(table)


def print_transfers(args: argparse.Namespace, records: Records) -> None:
    """The table of signed masks on other data sets, kept with its CSV file."""
    runs = named_runs(args, records)
    results = collect_transfers(runs)
    if all(result["start"] == "dense" for result in results):
        raise UserError("no final training from a level or a signed mask is finished: train some, or name other runs")
    folder = args.out or runs[0].folder.parent / FIGURES_FOLDER / "transfer"
    folder.mkdir(parents=True, exist_ok=True)
    text = transfer_text(results)
    write(folder / "transfer.md", text.encode())
    write_csv(folder / "transfer.csv", transfer_records(results))
    print(f"{text}\ntransfer: {folder}")


def read_plan(args: argparse.Namespace, records: Records) -> Plan:
    try:
        lines = [shlex.split(line) for line in args.plan.read_text().splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{args.plan} is no plan ({error}): give it a line of main.py's flags for every run") from error
    if not lines:
        raise UserError(f"{args.plan} plans no run: give it a line of main.py's flags for each")
    plan = make_plan(map(planned_run, lines), args.comparisons, args.levels, args.reference)
    plan.check_folders(records)
    found = [records.of(run.folder) for run in plan.runs]
    check_same_experiments([record for record in found if record.is_run], args.by)
    return plan


def commands(plan: Plan, kind: str, points: int | None) -> list[str]:
    """Plain command lines that make what is missing."""
    if kind == "next":
        return commands(plan, "runs", points) or commands(plan, "barriers", points)
    if kind == "barriers":
        wanted = ("--points", str(points)) if points else ()
        program, listed = "calculate_error_barrier.py", [(*one, *wanted) for one in plan.commands_of_barriers()]
    else:
        program, listed = "main.py", plan.commands_of_runs() if kind == "runs" else plan.commands_of_stages()
    return [command_line(program, (*arguments, "--share")) for arguments in listed]


def make_figure(plan: Plan, args: argparse.Namespace, records: Records) -> None:
    """Picture, tables and TensorBoard's view of the planned runs, from what of them is finished."""
    folder = args.out or plan.runs[0].folder.parent / FIGURES_FOLDER / args.name
    folder.mkdir(parents=True, exist_ok=True)
    entries = collect_entries(plan, records, args.by)
    if not entries and not plan.barriers:
        raise UserError(f"{args.plan} plans no final training to show: give its lines a --start")
    comparisons = collect_comparisons(plan, records, partial(kept_summary, records), args.by)
    title, trained = args.title or args.name, trained_in(entry.experiment for entry in entries)
    caption = f"{title} ({trained})" if trained else title
    save_figure(panel_figure(caption, figure_rows(entries, comparisons)), folder / args.name)
    write_csv(folder / f"{args.name}.csv", accuracy_records(entries))
    text = f"# {caption}\n\n{level_tables(entries, args.parts)}"
    if comparisons:
        write_csv(folder / f"{args.name}_barriers.csv", barrier_records(comparisons))
        text += f"\n## Error barriers\n\n{barrier_table(comparisons)}\n"
    pairs = paired_rows(entries, comparisons)
    if pairs:
        write_csv(folder / f"{args.name}_paired.csv", pairs)
        text += f"\n## Paired differences over seeds\n\n{markdown_table(pairs)}\n"
    write(folder / f"{args.name}.md", text.encode())
    group_scalars({run.folder: "_".join(run.network) for run in plan.runs}, folder / SCALARS_FOLDER)
    print(text)
    missing = commands(plan, "next", args.points)
    if missing:
        counts = f"{plan.missing_stages()} trainings, {len(plan.missing_barriers())} error barriers"
        print(f"missing: {counts}; next:", *missing, "", sep="\n")
    print(f"{args.name}: {folder}")


if __name__ == "__main__":
    sys.exit(main())
