"""Pictures of a run: learning curves, confusion matrix, contact sheet; drawn from numbers and pixels.

Colours are Okabe and Ito's, which people with any colour vision can tell apart.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from cifar.data.split import CLASSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
WARNING = "#B03A00"  # the orange, darker: legible as text on white
DOTS = 150  # per inch
ENLARGED, GAP = 96, 6  # dots: side of an image on a contact sheet, space between two
LARGEST_CLASS = 12  # images of a class on a contact sheet


def png(figure: "Figure", *, dots: int = DOTS) -> bytes:
    """Return a figure as a PNG file.

    Args:
        figure: of `new_figure`.
        dots: per inch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    # The pixels of `savefig`, which lays a figure out by drawing it once more, in half of its time.
    figure.set_dpi(dots)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    file = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(file, "png", compress_level=3)
    return file.getvalue()


def new_figure(width: float, height: float, *, title: str, note: str) -> "Figure":
    """Return an empty figure with its title and, in capitals, its note.

    Args:
        width, height: in inches.
        title: shown as it is, above.
        note: what must be seen, such as that this is only the sample; shown below.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    default_style()
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    # No mathematics, and no bytes that are no text: a folder's name may hold both.
    title, note = (text.encode(errors="replace").decode() for text in (title, note))
    figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    if note:
        figure.supxlabel(note.upper(), fontsize=11, fontweight="bold", color=WARNING, parse_math=False)
    return figure


def default_style() -> None:
    """Draw alike whatever a file matplotlibrc says, such as to set text with LaTeX; not in a process with plots."""
    import matplotlib

    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.rcdefaults()


def curves_figure(rows: Sequence[Mapping[str, float]], *, title: str, note: str = "", mixed: bool = False) -> "Figure":
    """Draw losses, accuracies and learning rate over epochs, the best epoch marked.

    Args:
        rows: of metrics.csv; accuracies as fractions, losses in nats; validation may be NaN.
        title, note: as of `new_figure`.
        mixed: whether the training mixed images, which makes its loss and accuracy worse than those of whole ones.
    """
    figure = new_figure(12.6, 4.4 + 0.3 * bool(note), title=title, note=note)
    draw_run(figure.subplots(1, 3, sharex=True), rows, mixed=mixed)
    return figure


def runs_figure(runs: Mapping[str, Sequence[Mapping[str, float]]], *, title: str, note: str = "") -> "Figure":
    """Draw the curves of several runs on one page, a run per row under its name.

    Args:
        runs: rows of metrics.csv (as of `curves_figure`) by the run's name.
        title, note: as of `new_figure`.
    """
    figure = new_figure(12.6, 0.6 + 3.9 * len(runs) + 0.3 * bool(note), title=title, note=note)
    strips = figure.subfigures(len(runs), 1, squeeze=False)
    for strip, (name, rows) in zip(strips[:, 0], runs.items(), strict=True):
        strip.suptitle(name, fontsize=12, parse_math=False)
        draw_run(strip.subplots(1, 3, sharex=True), rows)
    return figure


def draw_run(panels: "Sequence[Axes]", rows: Sequence[Mapping[str, float]], *, mixed: bool = False) -> None:
    """Draw a run's losses, accuracies and learning rate over epochs on three axes; the rest as of `curves_figure`."""
    from matplotlib.ticker import MaxNLocator

    losses, accuracies, rates = panels
    epochs = column(rows, "epoch")
    marker = "o" if len(rows) <= 30 else ""  # one epoch is no line
    for axes, quantity, unit, scale in ((losses, "loss", "nats", 1), (accuracies, "accuracy", "%", 100)):
        for split, colour, style in (("train", GREY, "--"), ("validation", BLUE, "-")):
            values = scale * column(rows, f"{split}_{quantity}")
            label = "train, mixed images" if mixed and split == "train" else split
            if np.isfinite(values).any():
                axes.plot(epochs, values, style, color=colour, linewidth=1.7, label=label, marker=marker, markersize=4)
        axes.set_ylabel(f"{quantity} ({unit})", fontsize=11)
    draw_rates(rates, epochs, column(rows, "learning_rate"), marker=marker)
    mark_best(panels, epochs, column(rows, "validation_accuracy"))
    for axes in (losses, accuracies):
        if axes.lines:
            axes.legend(edgecolor="none", framealpha=0.9)
    for axes in panels:
        axes.set_xlabel("epoch", fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)


def column(rows: Sequence[Mapping[str, float]], key: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return the values of a column [N], one per epoch; NaN for what no axis can hold."""
    values = np.array([row[key] for row in rows], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def draw_rates(axes: "Axes", epochs: np.ndarray, rates: np.ndarray, *, marker: str) -> None:
    """Draw learning rates [N] from zero on."""
    axes.plot(epochs, rates, color="black", linewidth=1.7, marker=marker, markersize=4)
    axes.set_ylabel("learning rate", fontsize=11)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))


def mark_best(panels: "Sequence[Axes]", epochs: np.ndarray, accuracies: np.ndarray) -> None:
    """Mark the epoch of the best validation accuracy (fractions [N]; the first of equals), if there is one."""
    if not np.isfinite(accuracies).any():
        return
    best = int(np.nanargmax(accuracies))
    for axes in panels:
        axes.axvline(epochs[best], color=ORANGE, linestyle=":", linewidth=1.3, zorder=1)
    label = f"best: {accuracies[best]:.2%}, epoch {epochs[best]:.0f}"
    panels[1].plot(
        epochs[best], 100 * accuracies[best], "*", color=ORANGE, markersize=12, markeredgecolor="white", label=label
    )


def confusion_figure(confusion: Sequence[Sequence[int]], *, title: str, note: str = "") -> "Figure":
    """Draw counts of label (rows) against prediction (columns), shaded by their fraction of the row.

    The colour scale is a square root, so that an error of a few per cent can be seen.

    Args:
        confusion: counts [10][10].
        title, note: as of `new_figure`.
    """
    from matplotlib.colors import PowerNorm

    pairs = most_confused(confusion)
    counts = np.asarray(confusion)  # [10, 10]
    percentages = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # [10, 10], of the row
    figure = new_figure(8.6, 7.7 + 0.3 * bool(note), title=title, note=note)
    axes = figure.subplots()
    image = axes.imshow(percentages, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    for (row, predicted), count in np.ndenumerate(counts):
        colour = "white" if percentages[row, predicted] > 35 else "black" if count else GREY
        weight = "bold" if row == predicted else "normal"
        axes.text(predicted, row, f"{count:,}", ha="center", va="center", fontsize=10.5, color=colour, weight=weight)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=40, ha="right", rotation_mode="anchor", fontsize=11)
    axes.set_yticks(range(len(CLASSES)), CLASSES, fontsize=11)
    axes.set_xlabel("predicted class", fontsize=12)
    axes.set_ylabel("true class", fontsize=12)
    if pairs:
        shown = ", ".join(f"{label} as {predicted} {count:,}" for label, predicted, count in pairs)
        axes.set_title(f"most often: {shown}", fontsize=10.5, loc="left")
    axes.set_xticks(np.arange(0.5, len(CLASSES) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(CLASSES) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    scale = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    scale.set_label("images of the true class (%)", fontsize=11)
    scale.outline.set_visible(False)
    return figure


def most_confused(confusion: Sequence[Sequence[int]], count: int = 4) -> list[tuple[str, str, int]]:
    """Return the largest counts off the diagonal, the largest first: label, predicted class, images; none of 0.

    Args:
        confusion: counts [10][10].
        count: how many at most.
    """
    errors = [
        (images, CLASSES[label], CLASSES[predicted])
        for label, row in enumerate(confusion)
        for predicted, images in enumerate(row)
        if images and label != predicted
    ]
    return [
        (label, predicted, images) for images, label, predicted in sorted(errors, key=lambda error: -error[0])[:count]
    ]


def contact_figure(images: Tensor, labels: Tensor, *, title: str, note: str = "") -> "Figure":
    """Draw the first dozen images of every class, a class per row.

    At DOTS per inch the axes have the sheet's own size in dots, so that it is not resampled again.

    Args:
        images: uint8 [N, 3, 32, 32].
        labels: int64 [N].
        title, note: as of `new_figure`.
    """
    sheet = contact_sheet(images, labels)
    height, width = sheet.shape[:2]
    left, right, top, bottom = 170, 30, 80, 70 if note else 30  # dots
    full_height, full_width = top + height + bottom, left + width + right
    figure = new_figure(full_width / DOTS, full_height / DOTS, title=title, note=note)
    figure.set_layout_engine("none")
    axes = figure.add_axes((left / full_width, bottom / full_height, width / full_width, height / full_height))
    axes.imshow(sheet, interpolation="none", aspect="auto")
    axes.set_yticks([row * (ENLARGED + GAP) + ENLARGED / 2 for row in range(len(CLASSES))], CLASSES, fontsize=11)
    axes.set_xticks([])
    axes.tick_params(length=0, pad=8)
    axes.spines[:].set_visible(False)
    return figure


def contact_sheet(images: Tensor, labels: Tensor) -> np.ndarray:
    """Return the first images of every class, enlarged, a class per row, white where there are too few: [H, W, 3]."""
    step = ENLARGED + GAP
    sheet = np.full((len(CLASSES) * step - GAP, LARGEST_CLASS * step - GAP, 3), 255, dtype=np.uint8)
    for label in range(len(CLASSES)):
        chosen = images[(labels == label).nonzero().flatten()[:LARGEST_CLASS]]  # [M, 3, 32, 32]
        for column, pixels in enumerate(chosen.permute(0, 2, 3, 1).numpy()):  # [32, 32, 3]
            top, left = label * step, column * step
            sheet[top : top + ENLARGED, left : left + ENLARGED] = enlarge(pixels)
    return sheet


def enlarge(pixels: np.ndarray) -> np.ndarray:
    """Return an image, uint8 [32, 32, 3], smoothly enlarged: uint8 [96, 96, 3]."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((ENLARGED, ENLARGED), Image.Resampling.LANCZOS))
