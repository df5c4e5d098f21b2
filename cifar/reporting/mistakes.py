"""The gallery of the largest mistakes: a network's most confident errors and its least certain hits."""

from typing import TYPE_CHECKING

from torch import Tensor

from cifar.data.split import CLASSES
from cifar.reporting.figures import WARNING, enlarge, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 100  # per inch: photographs of 32×32 pixels gain nothing from more, and the file is half as large
COLUMNS, ROWS = 6, 2  # of each half of the gallery
STEP, SIDE, HEADING = 2.1, 1.8, 0.4  # inches: from image to image, an image, the heading of a half


def largest_mistakes(probs: Tensor, labels: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Return positions of the most confident errors and of the least certain hits, most telling first.

    Args:
        probs: float [N, 10].
        labels: int64 [N].
        count: how many of each at most.

    Returns:
        int64 [≤ count] each.
    """
    confidence, predicted = probs.max(dim=1)
    order = confidence.argsort(descending=True, stable=True)
    wrong = predicted[order] != labels[order]
    hits = confidence.argsort(stable=True)
    right = predicted[hits] == labels[hits]
    return order[wrong][:count], hits[right][:count]


def mistakes_figure(
    images: Tensor, labels: Tensor, probs: Tensor, *, title: str, people: Tensor | None = None, note: str = ""
) -> "Figure":
    """Draw the twelve most confident errors and the twelve least certain hits.

    One pair of axes, in inches from the upper left, holds everything.

    Args:
        images: uint8 [N, 3, 32, 32].
        labels: int64 [N].
        probs: float [N, 10].
        title, note: as of `figures.new_figure`.
        people: float [N, 10], the fraction of people that chose each class, where that is known.
    """
    cell = SIDE + (1.15 if people is not None else 0.75)  # with its caption
    half = HEADING + ROWS * cell
    height = 0.55 + 2 * half + 0.4 * bool(note)
    figure = new_figure(COLUMNS * STEP, height, title=title, note=note)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, COLUMNS * STEP), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    names = ("most confident errors", "least certain hits")
    halves = largest_mistakes(probs, labels, count=COLUMNS * ROWS)
    for number, (name, indices) in enumerate(zip(names, halves, strict=True)):
        top = 0.55 + number * half
        heading = name if len(indices) else f"{name}: none"
        axes.text(COLUMNS * STEP / 2, top + HEADING / 2, heading, ha="center", va="center", fontsize=12)
        for position, index in enumerate(indices.tolist()):
            row, column = divmod(position, COLUMNS)
            corner = (column * STEP + (STEP - SIDE) / 2, top + HEADING + row * cell)
            text = caption(index, labels, probs, people)
            draw_image(axes, images[index], text, corner=corner, colour="black" if number else WARNING)
    return figure


def draw_image(axes: "Axes", pixels: Tensor, text: str, *, corner: tuple[float, float], colour: str) -> None:
    """Draw an image with its caption below.

    Args:
        axes: in inches, from the upper left.
        pixels: uint8 [3, 32, 32].
        text: the caption.
        corner: the upper left one of the image, (left, top).
        colour: of the caption.
    """
    left, top = corner
    large = enlarge(pixels.permute(1, 2, 0).contiguous().numpy())
    axes.imshow(large, extent=(left, left + SIDE, top + SIDE, top), aspect="auto")
    axes.text(left + SIDE / 2, top + SIDE + 0.07, text, ha="center", va="top", fontsize=9.5, color=colour)


def caption(index: int, labels: Tensor, probs: Tensor, people: Tensor | None) -> str:
    """Return label, prediction with its probability, and what most people chose, a line each.

    Args:
        index: of the image.
        labels: int64 [N].
        probs: float [N, 10].
        people: as of `mistakes_figure`.
    """
    confidence, predicted = probs[index].max(dim=0)
    lines = [
        f"image {index}, label {CLASSES[int(labels[index])]}",
        f"predicted {CLASSES[int(predicted)]} {percent(confidence.item())}",
    ]
    if people is not None:
        fractions, classes = people[index].topk(2)
        lines += [
            f"people: {CLASSES[number]} {fraction:.0%}"
            for fraction, number in zip(fractions.tolist(), classes.tolist(), strict=True)
            if fraction > 0
        ]
    return "\n".join(lines)


def percent(probability: float) -> str:
    """Return a probability in per cent; one below 1 never reads as 100.00%."""
    return "over 99.99%" if 0.99995 <= probability < 1 else f"{probability:.2%}"
