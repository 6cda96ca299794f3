"""Tables from run folders: test accuracy by method, start and level, as mean ± standard deviation over trials.

python report.py                       # every run below runs/
python report.py runs/cifar100_*       # the runs named
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from utils.errors import exit_status, refuse
from utils.results import comparable_results, markdown_table, summary_rows
from utils.run_folder import CONFIG_FILE, RunFolderError, is_run


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = partial(refuse, parser)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders (default: all below --runs-dir)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where the runs are (default: runs)")
    return parser.parse_args()


def print_table(args: argparse.Namespace) -> None:
    found = sorted(config.parent for config in args.runs_dir.glob(f"*/{CONFIG_FILE}"))
    named = list(dict.fromkeys(run.resolve() for run in args.runs))  # named twice, a run would be two trials
    results = comparable_results(named or [run for run in found if is_run(run)])
    if not results:
        raise RunFolderError("there is no finished final training: run main.py first, or name other runs")
    print(markdown_table(summary_rows(results)))


def main() -> int:
    args = parse_arguments()
    return exit_status("report.py", partial(print_table, args))


if __name__ == "__main__":
    sys.exit(main())
