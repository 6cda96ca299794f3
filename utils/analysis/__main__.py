"""What finished runs hold beyond their accuracies, without training: sign statistics, ensembles, untrained transfers.

    python -m utils.analysis signs RUN ..              # agreement, drift, bits and survivors: needs files only
    python -m utils.analysis ensembles RUN ..          # averaged probabilities of final trainings, without training
    python -m utils.analysis untrained RUN ..          # test errors of transfers before their final training

All print Markdown tables and leave them and CSV files in figures/ beside the first run, the first two also a picture of
each network.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from utils.analysis.ensembles import SMALLEST, common_size, find_teams, measure_team, note_missing
from utils.analysis.presentation import (
    ensemble_figure,
    ensemble_rows,
    pair_rows,
    sign_figure,
    sign_rows,
    untrained_rows,
)
from utils.analysis.signs import SignedRun, compare_runs, finished_levels
from utils.analysis.untrained import measure_untrained
from utils.errors import UserError, exit_status, refuse
from utils.files import write, write_csv
from utils.flags import COUNT, HelpFormatter, add_data_flags, add_sweep_flag, make_parser, number
from utils.results.plots import save_figure
from utils.results.tables import check_same_experiments, grouped, markdown_table
from utils.runs.records import FIGURES_FOLDER, Record
from utils.training.devices import choose_device

PROGRAM = "python -m utils.analysis"


def main() -> int:
    return exit_status(PROGRAM, lambda: analyse(parse_arguments()))


# fmt: off


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(PROGRAM, __doc__)
    analyses = parser.add_subparsers(dest="analysis", required=True, metavar="signs|ensembles|untrained")
    signs = add_analysis(analyses, "signs", "how signs agree over levels, and what survives in each layer")
    signs("--level", type=COUNT, help="the last one to look at, whose layers are shown (default: the last of all runs)")
    ensembles = add_analysis(analyses, "ensembles", "accuracy of averaged probabilities, and disagreement")
    ensembles("--members", type=number(int, SMALLEST), nargs="+", metavar="M",
        help="sizes of the ensembles (default: the most networks that every start has)")
    untrained = add_analysis(analyses, "untrained", "test errors of transfers before their final training")
    for add in (ensembles, untrained):
        add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
        add_data_flags(add)
    args = parser.parse_args(argv)
    args.runs = list(dict.fromkeys(run.resolve() for run in args.runs))  # named twice, a run would be two trials
    args.out = args.out or args.runs[0].parent / FIGURES_FOLDER / args.analysis
    return args


def add_analysis(analyses, name: str, description: str):
    """A subcommand with the flags that all have; returns what adds others."""
    parser = analyses.add_parser(name, help=description, description=description, formatter_class=HelpFormatter)
    parser.error = partial(refuse, parser)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; their seeds are the trials")
    add_sweep_flag(parser.add_argument)
    parser.add_argument("--out", type=Path,
        help="folder of the results (default: figures/ANALYSIS beside the first run)")
    return parser.add_argument


# fmt: on


def analyse(args: argparse.Namespace) -> None:
    records = [Record(folder) for folder in args.runs]
    check_same_experiments(records, args.by)
    sections = ANALYSES[args.analysis](records, args)
    text = "\n\n".join(f"## {title}\n\n{markdown_table(rows)}" for title, rows in sections.items() if rows)
    write(args.out / f"{args.analysis}.md", f"{text}\n".encode())
    print(f"{text}\n\n{args.analysis}: {args.out}")


def analyse_signs(records: Sequence[Record], args: argparse.Namespace) -> dict[str, list[dict]]:
    """Keep numbers and pictures; returns the tables by their titles."""
    runs = [SignedRun(record, args.by) for record in records if finished_levels(record)]
    if not runs:
        raise UserError("none of the runs has a finished level: name runs of a method that prunes, such as aws")
    runs.sort(key=lambda run: run.experiment.order)
    last = choose_level(runs, args.level)
    levels, layers = [], []
    for run in runs:
        for rows, found in zip((levels, layers), run.statistics(last), strict=True):
            rows += [{"run": run.folder.name, "experiment": run.experiment} | row for row in found]
    pairs = compare_runs(runs, last)
    keep(args.out, {"levels": levels, "layers": layers, "pairs": pairs})
    of_network = grouped(layers, network_of)
    for network, own in grouped(levels, network_of).items():
        save_figure(sign_figure(own, of_network[network], last), args.out / network.replace(" ", "_"))
    return {
        "Signs over levels": sign_rows(levels, "level", last),
        f"Signs by layer, level {last}": sign_rows(layers, "layer", last),
        f"Signs of two runs, level {last}": pair_rows(pairs),
    }


def choose_level(runs: Sequence[SignedRun], wanted: int | None) -> int:
    """``wanted``, or the last level that all runs have. Raises UserError if a run does not have it."""
    last = min(run.levels[-1] for run in runs) if wanted is None else wanted
    for run in runs:
        if last not in run.levels:
            there = " ".join(map(str, run.levels))
            raise UserError(f"{run.folder} has no level {last}: choose --level out of its {there}")
        if wanted is None and run.levels[-1] > last:
            print(f"note: {run.folder} has level {run.levels[-1]}, but all runs only {last}", file=sys.stderr)
    return last


def analyse_ensembles(records: Sequence[Record], args: argparse.Namespace) -> dict[str, list[dict]]:
    """Keep numbers and pictures; returns the table by its title."""
    device, rows = choose_device(args.device), []
    for network, teams in grouped(find_teams(records, args.by), lambda team: team.experiment.network).items():
        sizes = sorted({*(args.members or [common_size(teams)])})
        for size in sizes:
            note_missing(teams, size)
        for team in tqdm(teams, desc=network, leave=False, disable=not sys.stderr.isatty()):
            rows += measure_team(team, sizes, args.data_root, device, args.workers)
    if not rows:
        raise UserError("no start has enough networks for an ensemble: --final-seeds 2 3 4 of main.py makes three")
    keep(args.out, {"ensembles": rows})
    for network, own in grouped(rows, network_of).items():
        if any(row["experiment"].level is not None for row in own):
            save_figure(ensemble_figure(own), args.out / network.replace(" ", "_"))
    return {"Ensembles of m networks": ensemble_rows(rows)}


def analyse_untrained(records: Sequence[Record], args: argparse.Namespace) -> dict[str, list[dict]]:
    """Keep the numbers; returns the table by its title."""
    device, rows = choose_device(args.device), []
    for record in tqdm(records, desc="runs", leave=False, disable=not sys.stderr.isatty()):
        rows += measure_untrained(record, args.by, args.data_root, device, args.workers)
    if not rows:
        raise UserError("no run has a transfer of its own level to a new initialization: main.py's --start makes them")
    rows.sort(key=lambda row: row["experiment"].order)
    keep(args.out, {"untrained": rows})
    return {"Transfers before and after training": untrained_rows(rows)}


ANALYSES = {"signs": analyse_signs, "ensembles": analyse_ensembles, "untrained": analyse_untrained}


def network_of(row: dict) -> str:
    return row["experiment"].network


def keep(folder: Path, tables: Mapping[str, Sequence[dict]]) -> None:
    """A CSV file for every table that has rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        if rows:
            write_csv(folder / f"{name}.csv", list(map(columns, rows)))


def columns(row: dict) -> dict:
    """A row with what its experiment has instead of the experiment."""
    experiment = asdict(row["experiment"]) if "experiment" in row else {}
    found = {key: value for key, value in experiment.items() if value not in (None, "")} | row
    return {key: value for key, value in found.items() if key != "experiment"}


if __name__ == "__main__":
    sys.exit(main())
