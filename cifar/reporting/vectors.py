"""Figures for a page: small, as SVG inside the HTML, in the page's own colours, which have a dark mode."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cifar.reporting.figures import BLUE, GREY, ORANGE, column, default_style, draw_run
from cifar.reporting.records import Record
from cifar.reporting.reliability import draw_bins
from cifar.runs import EVALUATION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LEAST_ERROR = 1e-3  # per cent: a logarithmic axis has no zero
WIDTH, HEIGHT = 4.6, 3.4  # inches: three side by side on a desk, one under the other on a phone
# Okabe and Ito's, without yellow, which is too pale for lines; then the same with other strokes.
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", GREY)
STROKES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")
# The colours that matplotlib writes, and what the page has for them.
THEME = {
    "#000000": "currentColor", "#ffffff": "var(--card)", "#666666": "var(--grey)", "#0072b2": "var(--blue)",
    "#d55e00": "var(--orange)", "#b0b0b0": "var(--grey)",
}  # fmt: skip


def small_figure(width: float = WIDTH, height: float = HEIGHT) -> "tuple[Figure, Axes]":
    """Return an empty figure, its size in inches, with one pair of axes."""
    from matplotlib.figure import Figure

    default_style()
    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Axes = figure.subplots()
    return figure, axes


def themed_svg(figure: "Figure", *, label: str) -> str:
    """Return a figure as an SVG element whose black, white and lines are the page's; text stays text.

    Args:
        figure: of `small_figure`.
        label: what it shows, for those who cannot see it.
    """
    import matplotlib

    data = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = data.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure; only definitions are referred to
    for colour, variable in THEME.items():
        svg = re.sub(colour, variable, svg, flags=re.IGNORECASE)
    return svg


def escape(text: str) -> str:
    """Return text for an attribute in double quotes."""
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def legend_text(name: str) -> str:
    """Return a run's name as matplotlib shows it whole: no formula, no hidden label, nothing that is not text."""
    shown = name.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def curves_of_run(record: Record) -> list[str]:
    """Return losses, accuracies and learning rate over epochs: three figures as SVG."""
    figures, panels = zip(*(small_figure() for _ in range(3)), strict=True)
    recipe = record.summary["recipe"]
    draw_run(panels, record.rows, mixed=bool(recipe.get("mixup") or recipe.get("cutmix")))
    quantities = ("loss", "accuracy", "learning rate")
    return [
        themed_svg(figure, label=f"{record.name}: {quantity} over epochs")
        for figure, quantity in zip(figures, quantities, strict=True)
    ]


def reliability_diagram(record: Record) -> str:
    """Return accuracy against confidence in the bins of the run's evaluation, as SVG."""
    figure, axes = small_figure(WIDTH * 1.1, HEIGHT * 1.15)
    draw_bins(axes, record.evaluations[EVALUATION]["reliability"])
    axes.set_xlabel("confidence: probability of the predicted class (%)", fontsize=11)
    axes.set_ylabel("accuracy (%)", fontsize=11)
    axes.set_xlim(0, 100)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return themed_svg(figure, label=f"{record.name}: accuracy against confidence")


def overlaid_curves(records: Sequence[Record]) -> list[str]:
    """Return validation accuracy of all runs, over epochs and over minutes of training: two figures as SVG."""
    figures = []
    for key, unit, scale in (("epoch", "epoch", 1), ("seconds", "minutes of training", 60)):
        figure, axes = small_figure(WIDTH * 1.2, HEIGHT * 1.15)
        for index, record in enumerate(records):
            values = 100 * column(record.rows, "validation_accuracy")
            if np.isfinite(values).any():
                marker = "o" if len(record.rows) == 1 else ""
                colour, stroke, _ = style(index)
                times = column(record.rows, key) / scale
                axes.plot(
                    times, values, stroke, color=colour, marker=marker, linewidth=1.7, label=legend_text(record.name)
                )
        finish(axes, x=unit, y="validation accuracy (%)")
        figures.append(themed_svg(figure, label=f"validation accuracy of all runs over {unit}"))
    return figures


def accuracy_against(records: Sequence[Record], *, value: Callable[[Record], float], unit: str) -> str:
    """Return test error with its interval against a quantity of each run, both on logarithmic axes, as SVG.

    Args:
        records: of the runs.
        value: returns the quantity, which is positive: its axis is logarithmic.
        unit: what the axis says of it.
    """
    figure, axes = small_figure(WIDTH * 1.2, HEIGHT * 1.15)
    for index, record in enumerate(records):
        accuracy, (low, high) = record.summary["test_accuracy"], record.summary["test_interval"]
        around = [[100 * (high - accuracy)], [100 * (accuracy - low)]]  # of the error: the ends change places
        colour, _, marker = style(index)
        axes.errorbar(
            value(record),
            max(100 * (1 - accuracy), LEAST_ERROR),
            yerr=around,
            fmt=marker,
            color=colour,
            capsize=3,
            label=legend_text(record.name),
        )
    axes.set_xscale("log")
    axes.set_yscale("log", nonpositive="clip")
    axes.margins(x=0.15, y=0.1)
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        label_decades(axis, limits)
    finish(axes, x=f"{unit} (log scale)", y="test error (%, log scale)")
    return themed_svg(figure, label=f"test error of all runs against {unit}")


def label_decades(axis: "Axis", limits: tuple[float, float]) -> None:
    """Label an axis with plain numbers at 1, 2 and 5 of every decade, or more where it spans less than one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = limits
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 10 else (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda number, _: short_number(number)))
    axis.set_minor_formatter(NullFormatter())


def short_number(number: float) -> str:
    """Return a number with k, M or B for thousands, millions and billions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def style(index: int) -> tuple[str, str, str]:
    """Return colour, stroke and marker of the run at an index, unlike those of the 27 before it."""
    cycle = index // len(COLOURS) % len(STROKES)
    return COLOURS[index % len(COLOURS)], STROKES[cycle], MARKERS[cycle]


def finish(axes: "Axes", *, x: str, y: str) -> None:
    """Add labels, grid and, where anything is labelled, a legend."""
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(edgecolor="none", framealpha=0.8, fontsize=9)
