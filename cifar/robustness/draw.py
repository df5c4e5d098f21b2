"""The picture of accuracies on corrupted images; drawn from corruptions.json."""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar.reporting.figures import new_figure, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def corruptions_figure(corruptions: Mapping[str, Any], *, title: str, note: str = "") -> "Figure":
    """Draw the accuracy on every corruption and severity, a corruption per row, with their means.

    Args:
        corruptions: what corruptions.json holds.
        title, note: as of `reporting.figures.new_figure`.
    """
    from matplotlib.colors import Normalize

    names = [*corruptions["accuracy"], "mean"]
    rows = [[*row, statistics.fmean(row)] for row in corruptions["accuracy"].values()]
    rows.append([*corruptions["severity_accuracy"], corruptions["mean_accuracy"]])
    table = 100 * np.array(rows)  # [16, 6], %
    figure = new_figure(8.6, 8.4 + 0.3 * bool(note), title=title, note=note)
    axes = figure.subplots()
    image = axes.imshow(table, cmap="Blues", norm=Normalize(0, 100), aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        is_mean = row == len(names) - 1 or column == table.shape[1] - 1
        colour, weight = "white" if value > 60 else "black", "bold" if is_mean else "normal"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=10.5, color=colour, weight=weight)
    axes.set_xticks(range(6), [*map(str, range(1, 6)), "mean"], fontsize=11)
    axes.set_yticks(range(len(names)), names, fontsize=11)
    axes.set_xlabel("severity", fontsize=12)
    axes.set_ylabel("corruption (regenerated, not CIFAR-10-C)", fontsize=12)
    axes.axhline(len(names) - 1.5, color="white", linewidth=4)
    axes.axvline(4.5, color="white", linewidth=4)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    clean, views = corruptions["clean_accuracy"], corruptions["views"]
    axes.set_title(f"without corruption: {clean:.2%}; test-time augmentation: {views}", fontsize=11)
    scale = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    scale.set_label("accuracy (%)", fontsize=11)
    scale.outline.set_visible(False)
    return figure


def corruption_pictures(corruptions: Mapping[str, Any], *, note: str) -> dict[str, bytes]:
    """The picture of corruptions.json by the name of its file.

    Args:
        corruptions: what corruptions.json holds.
        note: what the picture must say, such as that this is only the sample.
    """
    title = f"{corruptions['run']}, corrupted test images: mean accuracy {corruptions['mean_accuracy']:.2%}"
    return {"corruptions.png": png(corruptions_figure(corruptions, title=title, note=note))}
