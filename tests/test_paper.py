"""The paper's panels and tables, from made-up results with known answers."""

from dataclasses import replace

import pytest

from tests.commands import finish_final
from utils.errors import UserError
from utils.method.starts import STARTS
from utils.results.comparisons import COMPARISONS
from utils.results.paired import interval, paired_rows
from utils.results.paper import MeasuredComparison, collect_comparisons, figure_rows, level_row
from utils.results.plan import make_plan, planned_run
from utils.results.plots import choose_styles
from utils.results.tables import Entry, Experiment, collect_results, dense_deviation, summary_rows, summary_table
from utils.runs.records import Record, Records
from utils.runs.run import FinalTraining, open_run_folder

SETTINGS = {"dataset": "digits", "arch": "resnet20", "method": "aws", "seed": 1, "lr": 0.1, "alpha_range": [0.0, 1.0]}
EXPERIMENT = Experiment("digits", "resnet20", "lrr", "signs", 11, "fp32")
RAISED = {0.0: 10.0, 0.5: 30.0, 1.0: 20.0}  # the mean of the ends is 15


def measured(errors):
    """The summary of a path."""
    rows = [{"alpha": alpha, "test_error": error, "test_loss": error / 10} for alpha, error in errors.items()]
    return {"epsilon": 1.0, "positions": rows}


def compared(errors=({},), name="lmc-signs", experiment=EXPERIMENT, reference=False, ratio=0.09):
    """One path a run."""
    summaries = {seed: [measured(path)] for seed, path in enumerate(errors, 1) if path}
    return MeasuredComparison(experiment, COMPARISONS[name], ratio, reference, len(errors), len(errors), summaries)


def make_run(folder, finals, precision="fp32", **settings):
    settings = SETTINGS | settings
    open_run_folder(folder, settings, {})
    for final, accuracy in finals.items():
        finish_final(folder, settings["method"], final, accuracy, precision=precision)
    return Record(folder)


def test_a_curve_is_the_error_above_the_mean_of_the_ends():
    rows = [compared([RAISED, {0.0: 8.0, 0.25: 9.0, 0.5: 12.0, 1.0: 8.0}])]
    (panel,) = figure_rows([], rows)["digits resnet20"]
    (curve,) = panel.curves
    assert list(curve.xs) == [0.0, 0.5, 1.0]  # what both trials have
    assert curve.values == [[-5.0, 0.0], [15.0, 4.0], [5.0, 0.0]]
    assert rows[0].heights() == [15.0, 4.0]
    assert rows[0].heights("test_loss") == pytest.approx([1.5, 0.4])
    assert (rows[0].connected(), rows[0].connected("test_loss")) == (0, None)  # an earlier version's has no ε of it
    assert "above the ends' mean" in panel.y_label


def test_a_run_with_several_final_seeds_is_one_trial_with_their_mean():
    """The mean of the barriers, 15 and 5, not the barrier of the mean; of a single run, both count."""
    flat, dip = {0.0: 10.0, 0.5: 10.0, 1.0: 10.0}, {0.0: 10.0, 0.25: 15.0, 0.5: 0.0, 1.0: 10.0}
    two = replace(compared([{}, flat]), summaries={1: [measured(RAISED), measured(dip)], 2: [measured(flat)]})
    assert two.by_seed() == {1: 10.0, 2: 0.0}
    assert (two.heights(), two.counted) == ([10.0, 0.0], "2")
    (panel,) = figure_rows([], [two])["digits resnet20"]
    assert panel.curves[0].values == [[-2.5, 0.0], [2.5, 0.0], [2.5, 0.0]]
    first = replace(two, summaries={1: two.summaries[1]})
    assert (first.heights(), first.counted) == ([10.0], "1 of 2")  # not yet a mean over trials
    alone = replace(first, planned_runs=1)
    assert (alone.heights(), alone.counted) == ([15.0, 5.0], "2")
    assert len(alone.curve({("lrr", "signs", ""): None}).values[0]) == 2
    results = [{"run": "a", "start": "signs", "test_accuracy": accuracy} for accuracy in (80.0, 90.0)]
    entries = [Entry(EXPERIMENT, results, planned_trials=2, planned_runs=runs) for runs in (1, 2)]
    assert [(entry.accuracies, entry.counted) for entry in entries] == [([80.0, 90.0], "2"), ([85.0], "1 of 2")]


def test_a_reference_is_in_every_panel_and_has_none_of_its_own():
    solution = replace(EXPERIMENT, start="subnetwork")
    rows = [
        compared([RAISED]),
        compared([RAISED], "noise-and-initialization-signs"),
        compared([RAISED], "noise-subnetwork", solution, reference=True),
    ]
    panels = figure_rows([], rows)["digits resnet20"]
    assert [panel.title for panel in panels] == [rows[0].comparison.panel, rows[1].comparison.panel]
    for panel in panels:
        assert panel.curves[-1].label == "LRR solution (SGD-noise stability)"
        assert [curve.style[0] for curve in panel.curves] == ["tab:orange", "tab:blue"]


def test_barriers_of_several_levels_are_drawn_against_the_remaining_ratio():
    rows = [
        compared([RAISED, RAISED], experiment=replace(EXPERIMENT, level=level), ratio=0.8**level) for level in (5, 2)
    ]
    (panel,) = figure_rows([], rows)["digits resnet20"]
    (curve,) = panel.curves
    assert list(curve.xs) == [0.8**2, 0.8**5]
    assert curve.values == [[15.0, 15.0]] * 2
    assert panel.shrinking


def test_the_colours_are_the_paper_s_and_each_means_one_thing():
    lrr = {start: choose_styles([("lrr", start, "")]) for start in ("subnetwork", "signs", "mask", "signs-keep-norms")}
    colors = [style[0] for styles in lrr.values() for style in styles.values()]
    assert colors == ["tab:blue", "tab:orange", "tab:purple", "tab:red"]
    both = choose_styles([("lrr", "signs-keep-norms", ""), ("aws", "signs", ""), ("aws", "subnetwork", "")])
    assert both["aws", "signs", ""][0] == "tab:red"
    assert both["aws", "subnetwork", ""][0] == "tab:green"
    assert both["lrr", "signs-keep-norms", ""][0] not in ("tab:red", "tab:green")
    sweep = choose_styles([("aws", "signs", f"alpha-range 0 {high}") for high in (0, 0.5, 1)])
    assert len({color for color, _ in sweep.values()}) == 3
    many = choose_styles([(method, start, "") for method in ("imp", "lrr", "aws") for start in STARTS])
    assert len({color for color, _ in many.values()}) == 3  # a colour a method; the line tells the start


def test_precisions_are_never_averaged(tmp_path):
    for seed, precision, accuracy in ((1, "fp32", 80.0), (2, "fp32", 82.0), (3, "bf16", 60.0), (4, "bf16", 70.0)):
        final, dense = FinalTraining("signs", 11, 2, 2), FinalTraining("dense", None, seed, seed)
        make_run(tmp_path / f"run{seed}", {final: accuracy, dense: accuracy}, precision, seed=seed)
    records = Records().below(tmp_path)
    rows = summary_rows(collect_results(records))
    assert [(row["precision"], row["test accuracy %"], row["n"]) for row in rows] == [
        *(("bf16", "65.00 ± 7.07", 2), ("fp32", "81.00 ± 1.41", 2)),
        *(("bf16", "65.00 ± 7.07", 2), ("fp32", "81.00 ± 1.41", 2)),
    ]
    assert summary_table(collect_results(records)).endswith("\ntrained in bf16 and fp32")
    assert "precision" not in summary_rows(collect_results(records[:2]))[0]
    epsilon, source = dense_deviation(records, records[0].settings, "fp32")
    assert (epsilon, source) == (pytest.approx(2**0.5), "deviation of 2 dense networks, fp32")
    assert dense_deviation(records, records[0].settings, "tf32")[0] is None


def test_a_sweep_has_a_row_for_each_value(tmp_path):
    final, dense = FinalTraining("signs", 11, 2, 2), FinalTraining("dense", None, 1, 1)
    runs = [
        make_run(tmp_path / f"run{index}", {final: 80.0 + index, dense: 90.0}, seed=seed, alpha_range=[0.0, high])
        for index, (seed, high) in enumerate(((1, 0.0), (2, 0.0), (1, 1.0)))
    ]
    with pytest.raises(UserError, match=r"--alpha-range \[0.0, 1.0\] \(there: \[0.0, 0.0\]\).*--by"):
        collect_results(runs)
    rows = summary_rows(collect_results(runs, by=["alpha_range"]))
    assert [(row.get("setting"), row["test accuracy %"], row["n"]) for row in rows] == [
        ("", "90.00", 1),  # α does not decide a dense network
        ("alpha-range 0.0 0.0", "80.50 ± 0.71", 2),
        ("alpha-range 0.0 1.0", "82.00", 1),
    ]


@pytest.mark.parametrize(
    ("method", "start", "marks"),
    [
        *(("dense", "dense", "--"), ("aws", "subnetwork", "✓×"), ("lrr", "signs", "×✓"), ("aws", "signs", "✓✓")),
        *(("imp", "rewound", "×✓"), ("wr", "rewound", "×✓"), ("imp", "subnetwork", "××")),
    ],
)
def test_marks_of_the_paper_s_tables(method, start, marks):
    row = level_row(Entry(Experiment("digits", "resnet20", method, start, 11), ()), False, [])
    assert row["Use AWS subnetwork"] + row["Trained from θ_init"] == marks


def test_the_solution_of_imp_begins_at_the_initialization():
    first, second = COMPARISONS["lmc-signs"].stages("imp", run_seed=1, level=11)
    assert (first.start, second.start) == ("signs", "rewound")
    assert second == COMPARISONS["noise-subnetwork"].stages("imp", 1, 11)[0]
    assert COMPARISONS["lmc-signs"].stages("lrr", 1, 11)[1].start == "subnetwork"


def test_trials_that_are_not_measured_are_counted(tmp_path):
    """Two runs, one of which has its networks and their barrier."""
    runs = [
        planned_run(f"--dataset digits --arch resnet20 --method lrr --seed {seed} --runs-dir {tmp_path}".split())
        for seed in (1, 2)
    ]
    plan = make_plan(runs, ["lmc-signs"], [15])
    first = plan.barriers[0]
    make_run(first.run.folder, {first.stages[0]: 80.0, first.stages[1]: 81.0}, "bf16", method="lrr")
    (row,) = collect_comparisons(plan, Records(), lambda barrier: measured(RAISED) if barrier is first else None)
    assert (row.shown(), row.counted, row.experiment.precision) == ("15.00", "1 of 2", "bf16")


def test_every_final_seed_that_is_planned_has_a_path_to_the_solution_of_its_own():
    line = "--dataset digits --arch resnet20 --method lrr --seed 1 --start signs --final-levels 3 --final-seeds 2 3"
    plan = make_plan([planned_run(line.split())], ["lmc-signs", "lmc-mask", "noise-signs"], [3])
    assert [[end.name for end in barrier.ends] for barrier in plan.barriers] == [
        *(["level_03_signs_seed2", "level_03_subnetwork_seed2"], ["level_03_signs_seed3", "level_03_subnetwork_seed3"]),
        *(["level_03_mask_seed2", "level_03_subnetwork_seed2"], ["level_03_signs_seed2", "level_03_signs_seed3_init2"]),
    ]


def test_the_valley_is_drawn_as_it_is_from_the_initial_norms():
    trial = {0.0: 40.0, 0.5: 30.0, 1.0: 22.0}
    row = compared([trial, {0.0: 38.0, 0.5: 30.0, 1.0: 22.0}], "valley", replace(EXPERIMENT, start="subnetwork"))
    error, loss = figure_rows([], [row])["digits resnet20"]
    assert error.curves[0].values == [[40.0, 38.0], [30.0, 30.0], [22.0, 22.0]]
    assert loss.curves[0].values[0] == [4.0, 3.8]
    assert row.by_seed() == {1: 18.0, 2: 16.0}


def test_paired_differences_by_hand():
    """LRR's rises 18, 16, 17 and AWS's −2, 0, −2: 20, 16, 19 is 18.33 on average, t · s / √3 = 4.303 · 2.08 / 1.73."""
    assert interval([20.0, 16.0, 19.0]) == pytest.approx((18.333, 5.171), abs=1e-3)
    lrr, aws = (
        compared([{0.0: 20.0 + rise, 1.0: 20.0} for rise in rises], "valley", replace(EXPERIMENT, method=method))
        for method, rises in (("lrr", (18, 16, 17)), ("aws", (-2, 0, -2)))
    )
    (row,) = paired_rows([], [lrr, aws])
    assert row["paired difference (percentage points)"] == "rise from ψ to ψ_init: LRR − AWS"
    assert (row["mean"], row["95 % interval"], row["n"]) == ("18.33", "13.16 to 23.50", 3)
    mask, signs = compared([RAISED, RAISED], "lmc-mask"), compared([{0.0: 10, 1.0: 10}, RAISED])
    labels = [row["paired difference (percentage points)"] for row in paired_rows([], [mask, signs])]
    assert labels == ["LRR: barrier of mask to solution − barrier of signs to solution"]


def test_test_errors_are_paired_at_the_last_level_of_each_network():
    def entry(arch, method, level):
        results = [{"seed": seed, "run": f"{seed}", "start": "signs", "test_error": 20.0 + seed} for seed in (1, 2)]
        return Entry(replace(EXPERIMENT, arch=arch, method=method, level=level), results)

    levels = {"resnet20": (3, 5), "vgg11_bn": (3, 4)}
    entries = [entry(arch, method, level) for arch in levels for method in ("lrr", "aws") for level in levels[arch]]
    rows = paired_rows([Entry(replace(EXPERIMENT, method="dense", level=None), []), *entries], [])
    assert [(row["Model"], row["level"]) for row in rows] == [("digits resnet20", 5), ("digits vgg11_bn", 4)]


def test_starts_that_differ_in_one_part_are_paired():
    """The one that has the part from the level is subtracted; mask and subnetwork differ in three parts."""

    def entry(start):
        results = [{"seed": seed, "run": f"{seed}", "start": start, "test_error": 20.0 + seed} for seed in (1, 2)]
        return Entry(replace(EXPERIMENT, start=start), results)

    starts = "subnetwork signs mask random-signs sign-in weights"
    labels = [row["paired difference (percentage points)"] for row in paired_rows([*map(entry, starts.split())], [])]
    found = [label.removeprefix("LRR: ").replace("test error of ", "") for label in labels]
    assert sorted(found) == [
        *("mask − signs", "random-signs − mask", "random-signs − signs"),
        *("sign-in − mask", "signs − weights", "weights − subnetwork"),
    ]


def test_a_method_s_variants_are_paired_with_it():
    """And the first method with all others."""
    trials = [{0.0: 20.0, 1.0: 20.0}] * 2
    rows = [
        compared(trials, experiment=replace(EXPERIMENT, method=method, flipped=flipped))
        for method, flipped in (("lrr", 0.1), ("lrr", 0.0), ("aws", 0.0), ("aws", 0.1))
    ]
    labels = [row["paired difference (percentage points)"] for row in paired_rows([], rows)]
    assert [label.removeprefix("barrier of signs to solution: ") for label in labels] == [
        *("LRR, flipped 0 − LRR, flipped 0.1", "LRR, flipped 0 − AWS, flipped 0"),
        *("LRR, flipped 0 − AWS, flipped 0.1", "AWS, flipped 0 − AWS, flipped 0.1"),
    ]
