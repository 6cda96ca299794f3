"""Pictures whose parts stand clear of each other, whatever they hold."""

import matplotlib.pyplot as plt
import pytest

from utils.figures import PANEL_HEIGHT, Curve, Panel, panel_figure
from utils.paper import MOST_CURVES, PlannedAccuracy, accuracy_panels


def curves(count):
    return [Curve(f"curve {index}", [0.5, 0.25], [[index], [index + 1, index + 2]]) for index in range(count)]


@pytest.mark.parametrize("count", [1, 5, 30])
@pytest.mark.parametrize("networks", [1, 3])
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


def planned(methods, starts, levels):
    return [
        PlannedAccuracy(("digits", "resnet20"), method, start, level, 0.8**level, 1, ())
        for method in methods
        for start in starts
        for level in levels
    ]


def test_many_curves_are_a_panel_a_start():
    few = accuracy_panels(planned(["lrr", "aws"], ["subnetwork", "signs", "mask"], [5, 10]))
    assert [(panel.title, len(panel.curves)) for panel in few] == [("test accuracy", 6)]
    many = accuracy_panels(planned(["imp", "wr", "lrr", "aws"], ["subnetwork", "signs", "mask"], [5, 10]))
    assert MOST_CURVES < 4 * 3
    assert [(panel.title, len(panel.curves)) for panel in many] == [
        ("test accuracy, subnetwork", 4), ("test accuracy, signs", 4), ("test accuracy, mask", 4),
    ]  # fmt: skip
