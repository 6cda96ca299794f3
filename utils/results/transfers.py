"""Signed masks on other data sets: rows are where a mask was found, columns where its networks are trained."""

from collections.abc import Sequence

from data import DATASETS
from utils.errors import UserError
from utils.method.methods import METHODS
from utils.method.starts import STARTS
from utils.results.tables import (
    DENSE_SETTINGS,
    GAP,
    check_same_experiments,
    final_of,
    grouped,
    markdown_table,
    mean_and_deviation,
    precision_of,
    statistics_of,
    trials,
)
from utils.runs.records import Record, differences

UNKNOWN = "unknown"
CAPTION = """# Signed masks on other data sets

Test accuracy in %: mean ± sample standard deviation (n). A column is the data set trained on. If a mask was found on
it, `subnetwork` is the solution; from another data set a mask comes without the classifier, which starts fresh.
"""

Row = tuple[str, str, str]  # start, found on, found by
Cells = dict[str, list[float]]  # test accuracies, one a trial, by the data set trained on


def collect_transfers(records: Sequence[Record]) -> list[dict]:
    """The final trainings' results with their ``run`` and ``row``. A mask was found on a run's own data set, by its
    method, unless the run was given a signed mask.

    Transfers of flipped or borrowed signs are no part of it. Raises UserError if runs cannot stand in one table.
    """
    check_same_experiments(records)
    check_columns(records)
    return [
        result | {"run": record.folder.name, "precision": precision_of(result), "row": row_of(record, result)}
        for record in records
        for result in record.finals
        if not (final_of(result).flipped or final_of(result).signs_from)
    ]


def check_columns(records: Sequence[Record]) -> None:
    """Raises UserError if final trainings of one network on one data set differ in more than where they start."""
    for column in grouped(records, lambda record: (record.settings["dataset"], record.settings["arch"])).values():
        for record in column:
            differing = differences(record.settings, column[0].settings, DENSE_SETTINGS)
            if differing:
                both = f"{record.folder} cannot be in one column with {column[0].folder}"
                raise UserError(f"{both}: {', '.join(differing)}; name the runs to use")


def row_of(record: Record, result: dict) -> Row:
    if result["start"] == "dense":
        return "dense", GAP, GAP
    source = {name: result[name] for name in ("dataset", "method", "level")}
    if not METHODS[record.settings["method"]].prunes:
        source = record.settings["signed_mask_source"] or {}
    by = f"{METHODS[source['method']].label}, level {source['level']}" if source.get("method") else UNKNOWN
    return result["start"], source.get("dataset", UNKNOWN), by


def transfer_tables(results: Sequence[dict]) -> dict[tuple[str, str, float], dict[Row, Cells]]:
    """A table for every network, precision and remaining ratio of which anything was transferred, or for all of them if
    nothing was yet. Dense networks are in each. Rows are in the order of starts, then of data sets."""
    dense, pruned = ([result for result in results if (result["start"] == "dense") is kind] for kind in (True, False))
    places = grouped(pruned, lambda result: (result["arch"], result["precision"], round(result["remaining_ratio"], 6)))
    transferred = {place: own for place, own in places.items() if any(one["row"][1] != one["dataset"] for one in own)}
    tables = {}
    for place, own in (transferred or places).items():
        same = [result for result in dense if (result["arch"], result["precision"]) == place[:2]]
        rows = sorted(grouped([*same, *own], lambda result: result["row"]).items(), key=lambda row: row_order(row[0]))
        tables[place] = {
            row: {
                name: trials(cell, "test_accuracy") for name, cell in grouped(found, lambda one: one["dataset"]).items()
            }
            for row, found in rows
        }
    return tables


def row_order(row: Row) -> tuple[int, int, str]:
    return list(STARTS).index(row[0]), [*DATASETS, UNKNOWN, GAP].index(row[1]), row[2]


def transfer_text(results: Sequence[dict]) -> str:
    """The tables in Markdown."""
    sections = []
    for (arch, precision, ratio), table in transfer_tables(results).items():
        there = {name for cells in table.values() for name in cells}
        rows = [
            {"start": f"{start} {STARTS[start].formula}", "found on": found_on, "by": found_by}
            | {f"on {name}": cell_text(cells.get(name, [])) for name in DATASETS if name in there}
            for (start, found_on, found_by), cells in table.items()
        ]
        title = f"## {arch}, {ratio:.3f} of the weights remain, trained in {precision}"
        sections.append(f"{title}\n\n{markdown_table(rows)}\n")
    return "\n".join([CAPTION, *sections])


def cell_text(values: Sequence[float]) -> str:
    return f"{mean_and_deviation(values)} ({len(values)})" if values else GAP


def transfer_records(results: Sequence[dict]) -> list[dict]:
    """The rows of the CSV file, one a cell of the tables."""
    return [
        {
            **{"arch": arch, "precision": precision, "remaining_ratio": ratio},
            **dict(zip(("start", "found_on", "found_by"), row, strict=True)),
            "trained_on": dataset,
            **statistics_of("test_accuracy", values),
        }
        for (arch, precision, ratio), table in transfer_tables(results).items()
        for row, cells in table.items()
        for dataset, values in cells.items()
    ]
