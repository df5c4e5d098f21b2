"""The reliability diagram: how often a network is right where it is so and so sure; drawn from evaluation.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar.reporting.figures import BLUE, GREY, ORANGE, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 20  # images: what a bin of fewer shows is chance


def draw_reliability(evaluation: Mapping[str, Any], path: Path, *, title: str, note: str = "") -> None:
    """Accuracy against confidence in 15 bins, and how many images each holds, as a PNG.

    Args:
        evaluation: what evaluation.json holds, with its calibration (older files have none).
        path: replaced whole.
        note: what must be seen, such as that this is only the sample; shown in capitals.

    Raises:
        OSError: the file cannot be written.
    """
    save(reliability_figure(evaluation, title=title, note=note), path)


def reliability_figure(evaluation: Mapping[str, Any], *, title: str, note: str = "") -> "Figure":
    """See `draw_reliability`."""
    figure = new_figure(7.2, 7.4 + 0.3 * bool(note), title=title, note=note)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = evaluation["reliability"]
    draw_bins(upper, [one for one in bins if one["count"]])
    upper.set_title(calibration_text(evaluation), fontsize=10.5, loc="left")
    shares = [100 * one["count"] / evaluation["num_images"] for one in bins]
    lower.bar([middle(one) for one in bins], shares, width=100 / len(bins) - 0.8, color=GREY)
    lower.set_ylabel("images (%)", fontsize=11)
    lower.set_xlabel("confidence: probability of the predicted class (%)", fontsize=11)
    lower.set_xlim(0, 100)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_bins(axes: "Axes", bins: list[dict[str, Any]]) -> None:
    """Bars of accuracy and marks of confidence, a bin each, about the line where both are the same; in per cent."""
    axes.plot([0, 100], [0, 100], "--", color="black", linewidth=1.2, label="as sure as right")
    widths = [100 * (one["high"] - one["low"]) - 0.8 for one in bins]
    heights = [100 * one["accuracy"] for one in bins]
    for one, width, height in zip(bins, widths, heights, strict=True):
        axes.bar(middle(one), height, width=width, color=BLUE, alpha=0.3 if one["count"] < FEW else 1)
    axes.bar([], [], color=BLUE, label=f"accuracy (pale: under {FEW} images)")
    confidence = [100 * one["confidence"] for one in bins]
    axes.plot(
        confidence,
        heights,
        "o",
        color=ORANGE,
        markersize=6,
        markeredgecolor="white",
        label="at the mean confidence",
    )
    axes.set_ylabel("accuracy (%)", fontsize=11)
    axes.set_ylim(0, 100)
    axes.legend(loc="upper left", framealpha=0.9, edgecolor="none")


def middle(one: Mapping[str, Any]) -> float:
    """Middle of a bin, in per cent."""
    return 50 * float(one["low"] + one["high"])


def calibration_text(evaluation: Mapping[str, Any]) -> str:
    """Calibration error, Brier score and the temperature, a line each."""
    error, adaptive = evaluation["calibration_error"], evaluation["adaptive_calibration_error"]
    lines = [
        f"calibration error {error:.2%} in 15 bins, {adaptive:.2%} in adaptive ones",
        f"Brier score {evaluation['brier']:.4f}",
    ]
    scaling = evaluation["temperature_scaling"]
    if scaling:
        lines.append(
            f"at temperature {scaling['temperature']:.3f} (fitted on {scaling['fitted_on']}): "
            f"calibration error {scaling['after']['calibration_error']:.2%}"
        )
    return "\n".join(lines)
