"""Pictures whose parts stand clear of each other, whatever they hold."""

import matplotlib.pyplot as plt
import pytest

from utils.results.paper import MOST_CURVES, figure_rows
from utils.results.plots import PANEL_HEIGHT, CategoryPanel, Curve, Panel, choose_colors, choose_styles, panel_figure
from utils.results.tables import Entry, Experiment


def curves(count):
    return [Curve(f"curve {index}", [0.5, 0.25], [[index], [index + 1, index + 2]]) for index in range(count)]


@pytest.mark.parametrize(("count", "networks"), [(1, 1), (5, 3), (30, 1)])
def test_a_legend_of_any_length_covers_no_panel(count, networks):
    panels = [
        Panel("accuracy", "remaining ratio", "%", curves(count), ("dense", [1.0, 2.0]), shrinking=True),
        Panel("stability", "α", "%", curves(1)),
    ]
    figure = panel_figure("title", {f"network {index}": panels for index in range(networks)})
    figure.draw_without_rendering()
    legends = [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
    drawn = [axes for axes in figure.axes if axes.lines]
    assert (len(legends), len(drawn)) == (2, 2 * networks)
    for axes in drawn:
        assert axes.get_window_extent().height > 0.7 * PANEL_HEIGHT * figure.dpi
        assert not any(legend.overlaps(axes.get_tightbbox()) for legend in legends)
    assert all(legend.y0 >= 0 for legend in legends)
    plt.close(figure)


def entries(methods, starts, levels, accuracy=70.0):
    """One finished training for each."""
    result = {"run": "a", "init_seed": 2, "order_seed": 2, "test_accuracy": accuracy}
    return [
        Entry(
            Experiment("digits", "resnet20", "dense" if start == "dense" else method, start, level),
            (result | {"start": start},),
        )
        for method in methods
        for start in starts
        for level in levels
    ]


def panels(shown):
    return figure_rows(shown, [])["digits resnet20"]


def test_many_curves_are_a_panel_for_each_start():
    few = panels(entries(["lrr", "aws"], ["subnetwork", "signs", "mask"], [5, 10]))
    assert [(panel.title, len(panel.curves)) for panel in few] == [("test accuracy", 6)]
    many = panels(entries(["imp", "wr", "lrr", "aws"], ["subnetwork", "signs", "mask"], [5, 10]))
    assert MOST_CURVES < 4 * 3
    assert [(panel.title, len(panel.curves)) for panel in many] == [
        ("test accuracy, subnetwork", 4), ("test accuracy, signs", 4), ("test accuracy, mask", 4),
    ]  # fmt: skip
    # The level line is that of dense networks alone: a network from a signed mask's file has no level either.
    dense, file = entries(["lrr"], ["dense"], [None], 90.0), entries(["signed_mask"], ["signs"], [None], 60.0)
    (panel,) = panels([*dense, *file, *entries(["aws"], ["signs"], [5, 10])])
    assert panel.reference == ("dense A(θ_init)", [90.0])
    assert [curve.values for curve in panel.curves] == [[[70.0], [70.0]]]


def test_a_colour_is_one_setting_in_all_panels_of_a_sweep():
    sweep = [
        ("lrr", "subnetwork", ""),
        ("lrr", "signs", ""),
        ("lrr", "subnetwork", "rewind-norms"),
        ("aws", "signs", ""),
    ]
    styles = choose_styles(sweep)
    assert styles["lrr", "subnetwork", ""][0] == styles["lrr", "signs", ""][0]
    assert styles["lrr", "subnetwork", ""][1] != styles["lrr", "signs", ""][1]
    found = choose_colors([("aws", ""), ("lrr", "rewind-norms"), ("lrr", "")])  # as a panel by start asks for them
    assert len(set(found.values())) == 3
    assert {key: color for key, (color, _) in styles.items()} == {key: found[key[0], key[2]] for key in sweep}


def test_points_stay_beside_the_name_of_their_category():
    groups = {f"method {index}": ("red", {"signs": [1.0, 2.0], "mask": [3.0]}) for index in range(8)}
    figure = panel_figure("title", {"network": [CategoryPanel("accuracy", "%", groups)]})
    points = [list(drawn.lines[0].get_xdata()) for drawn in figure.axes[0].containers]
    assert len({x for xs in points for x in xs}) == 16
    assert all(abs(x - category) < 0.45 for xs in points for category, x in enumerate(xs))
    plt.close(figure)
