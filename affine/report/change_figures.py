"""Two commits as pictures: scores with intervals before and after, and training curves laid over each other."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from affine.pareto.plots import COLOURS, png, rows_axis, style
from affine.report.changes import Changes

SHOWN = (
    "sft/train/loss",
    "sft/validation/loss",
    "ppo/validation_score",
    "ppo/score/overall",
    "ppo/approx_kl",
    "ppo/reference_kl",
    "ppo/informative",
    "ppo/entropy",
    "ppo/invalid",
)
"""The curves a reviewer looks at first, by their names below metrics/curves."""

SIDES = (("before", COLOURS[0]), ("after", COLOURS[1]))


def scores(changes: Changes) -> bytes:
    """A forest plot of the model's scores in both commits, as PNG."""
    with style():
        figure = Figure(figsize=(7.0, 0.9 + 0.36 * len(changes.effects)), layout="constrained")
        axes = figure.subplots()
        for side, (label, colour) in enumerate(SIDES):
            shown = [(effect.before, effect.after)[side] for effect in changes.effects]
            axes.errorbar(
                [score.mean for score in shown],
                [row + (side - 0.5) * 0.3 for row in range(len(shown))],
                xerr=[[s.mean - s.low for s in shown], [s.high - s.mean for s in shown]],
                fmt="os"[side],
                color=colour,
                markersize=4.5,
                elinewidth=1.6,
                label=label,
            )
        rows_axis(axes, [effect.env for effect in changes.effects])
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"mean score of {changes.model} on test tasks, with intervals")
        figure.legend(loc="outside upper center", ncols=2)
        return png(figure)


def curves(changes: Changes) -> bytes:
    """Training curves of both commits, a panel each, as PNG."""
    names = [name for name in SHOWN if name in changes.curves]
    with style():
        columns = min(4, len(names)) or 1
        rows = math.ceil(len(names) / columns) or 1
        figure = Figure(figsize=(2.6 * columns, 2.1 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(panels.flat, names, strict=False):
            axes.set_title(name, fontsize=9)
            axes.grid(axis="y")
            for (label, colour), points in zip(SIDES, changes.curves[name], strict=True):
                axes.plot(*zip(*points, strict=True) if points else ([], []), color=colour, linewidth=1.3, label=label)
        if names:
            figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return png(figure)


def draw(changes: Changes) -> dict[str, bytes]:
    """File name -> PNG, of the figures that have something to show: scores need those of both commits."""
    drawn = {}
    if changes.effects:
        drawn["scores.png"] = scores(changes)
    if any(name in changes.curves for name in SHOWN):
        drawn["curves.png"] = curves(changes)
    return drawn
