"""The reliability diagram, accuracy against confidence, drawn from evaluation.json."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cifar.reporting.figures import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 20  # images: what a smaller bin shows is mostly chance


def reliability_figure(evaluation: Mapping[str, Any], *, title: str, note: str = "") -> "Figure":
    """Draw accuracy against confidence in 15 bins, and how many images each holds; also at the fitted temperature.

    Args:
        evaluation: what evaluation.json holds, with its calibration (older files have none, or no bins at the
            temperature).
        title, note: as of `figures.new_figure`.
    """
    lines, scaling = calibration_lines(evaluation), evaluation["temperature_scaling"]
    columns = [("\n".join(lines), evaluation["reliability"])]
    if scaling and "reliability" in scaling["after"]:
        columns = [
            ("\n".join(lines[:-1]), evaluation["reliability"]), (lines[-1], scaling["after"]["reliability"]),
        ]  # fmt: skip
    figure = new_figure(7.2 if len(columns) == 1 else 12.6, 7.4 + 0.3 * bool(note), title=title, note=note)
    panels = figure.subplots(2, len(columns), sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False)
    for (upper, lower), (text, bins) in zip(panels.T, columns, strict=True):
        draw_bins(upper, bins)
        percentages = [100 * bin_["count"] / evaluation["num_images"] for bin_ in bins]
        lower.bar([middle(bin_) for bin_ in bins], percentages, width=100 / len(bins) - 0.8, color=GREY)
        lower.set_xlabel("confidence: probability of the predicted class (%)", fontsize=11)
        lower.set_xlim(0, 100)
        upper.set_title(text, fontsize=10.5, loc="left")
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("accuracy (%)", fontsize=11)
    panels[1, 0].set_ylabel("images (%)", fontsize=11)
    return figure


def draw_bins(axes: "Axes", bins: Sequence[Mapping[str, Any]]) -> None:
    """Draw bars of accuracy and marks of confidence, a bin each, about the line where both are equal; in per cent.

    Args:
        axes: to draw on.
        bins: "reliability" of evaluation.json; empty ones are left out.
    """
    axes.plot([0, 100], [0, 100], "--", color="black", linewidth=1.2, label="perfect calibration")
    filled = [bin_ for bin_ in bins if bin_["count"]]
    heights = [100 * bin_["accuracy"] for bin_ in filled]
    for bin_, height in zip(filled, heights, strict=True):
        width = 100 * (bin_["high"] - bin_["low"]) - 0.8
        axes.bar(middle(bin_), height, width=width, color=BLUE, alpha=0.3 if bin_["count"] < FEW else 1)
    axes.bar([], [], color=BLUE, label=f"accuracy (pale: under {FEW} images)")
    confidence = [100 * bin_["confidence"] for bin_ in filled]
    label = "at the mean confidence"
    axes.plot(confidence, heights, "o", color=ORANGE, markersize=6, markeredgecolor="white", label=label)
    axes.set_ylim(0, 100)
    axes.legend(loc="upper left", framealpha=0.9, edgecolor="none")


def middle(bin_: Mapping[str, Any]) -> float:
    """Return the middle of a bin, in per cent."""
    return 50 * float(bin_["low"] + bin_["high"])


def calibration_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Return calibration error, Brier score and, if there is one, the temperature; the argument: evaluation.json."""
    error, adaptive = evaluation["calibration_error"], evaluation["adaptive_calibration_error"]
    lines = [
        f"calibration error {error:.2%} in 15 bins, {adaptive:.2%} in adaptive bins",
        f"Brier score {evaluation['brier']:.4f}",
    ]
    scaling = evaluation["temperature_scaling"]
    if scaling:
        lines.append(
            f"at temperature {scaling['temperature']:.3f} (fitted on {scaling['fitted_on']}): "
            f"calibration error {scaling['after']['calibration_error']:.2%}"
        )
    return lines
