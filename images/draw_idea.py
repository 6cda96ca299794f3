"""Draw idea.png, the picture in the README:  python images/draw_idea.py"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

POSITIVE, NEGATIVE, PRUNED = "#d1495b", "#2e6f9e", "#e9e9e9"
SIZE = 6


def draw_weights(axes, weights: np.ndarray, title: str, formula: str) -> None:
    """Draw a Hinton diagram: colour shows the sign, area the magnitude, and a dot a pruned weight."""
    for (row, column), weight in np.ndenumerate(weights):
        if weight == 0:
            axes.plot(column, row, ".", color="#b5b5b5", markersize=3)
            continue
        side = 0.92 * np.sqrt(min(abs(weight), 1))
        corner = (column - side / 2, row - side / 2)
        axes.add_patch(plt.Rectangle(corner, side, side, color=POSITIVE if weight > 0 else NEGATIVE, linewidth=0))
    axes.set(xlim=(-0.7, SIZE - 0.3), ylim=(SIZE - 0.3, -0.7), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=11, pad=8)
    axes.set_xlabel(formula, fontsize=12, labelpad=7)
    for spine in axes.spines.values():
        spine.set_color("#888888")


def draw_interpolation(axes) -> None:
    """Draw the training steps of one level: each uses a different point between ψ_init and ψ."""
    alphas = np.random.default_rng(5).uniform(size=14)
    axes.plot([0, 1], [0, 0], color="#777777", linewidth=1.5, zorder=1)
    axes.scatter(alphas, np.zeros_like(alphas), s=34, color="#3a9d5d", zorder=2)
    axes.scatter([0, 1], [0, 0], s=90, color="black", zorder=3)
    axes.text(0, 0.3, r"$\psi_{\rm init}$", ha="center", fontsize=14)
    axes.text(1, 0.3, r"$\psi$", ha="center", fontsize=14)
    step = r"AWS, every training step:  $\alpha\,\psi + (1-\alpha)\,\psi_{\rm init}$,   $\alpha \sim U(0,1)$"
    axes.text(0.5, 0.36, step, ha="center", fontsize=12)
    kept = "the normalization parameters can then be reinitialized: signs and zeros carry the rest"
    axes.text(0.5, -0.52, kept, ha="center", fontsize=10.5, color="#444444")
    axes.set(xlim=(-0.18, 1.18), ylim=(-0.75, 0.75))
    axes.axis("off")


def draw() -> plt.Figure:
    rng = np.random.default_rng(2)
    trained = rng.normal(size=(SIZE, SIZE)) * 0.6
    trained[np.abs(trained) < np.quantile(np.abs(trained), 0.6)] = 0
    initial = rng.normal(size=(SIZE, SIZE)) * 0.6
    panels = [
        (trained, "trained and pruned", r"$\theta_T \odot m_T$"),
        (np.sign(trained) * 0.5, "signed mask", r"$s_T = {\rm sign}_0(\theta_T \odot m_T)$"),
        (initial, "any random initialization", r"$\theta_{\rm init}$"),
        (np.abs(initial) * np.sign(trained), "trains like the dense network", r"$|\theta_{\rm init}| \odot s_T$"),
    ]
    figure = plt.figure(figsize=(11, 4.6), dpi=150)
    for index, (weights, title, formula) in enumerate(panels):
        axes = figure.add_axes((0.03 + 0.245 * index, 0.4, 0.2, 0.5))
        draw_weights(axes, weights, title, formula)
        if index < 3:
            symbol = ("→", "+", "→")[index]
            figure.text(0.243 + 0.245 * index, 0.63, symbol, fontsize=20, ha="center")
    draw_interpolation(figure.add_axes((0.16, 0.0, 0.68, 0.27)))
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("idea.png"), facecolor="white")
