"""The gallery of the largest mistakes: what a network was surest of and wrong, and what it hardly got right."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from cifar.data.split import CLASSES
from cifar.reporting.figures import WARNING, enlarge, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 100  # an inch: photographs of 32×32 pixels gain nothing from more, and the file is half as large
COLUMNS, ROWS = 6, 2  # of each half of the gallery
STEP, SIDE, HEADING = 2.1, 1.8, 0.4  # inches: from image to image, an image, the heading of a half


def draw_mistakes(
    images: Tensor,
    labels: Tensor,
    probs: Tensor,
    path: Path,
    *,
    title: str,
    people: Tensor | None = None,
    note: str = "",
) -> None:
    """The twelve most confident errors and the twelve least certain hits, as a PNG.

    Args:
        images: uint8 [N, 3, 32, 32]; labels: int64 [N]; probs: float [N, 10].
        path: replaced whole.
        people: float [N, 10], the share of people that chose each class, where that is known.
        note: what must be seen, such as that this is only the sample; shown in capitals.

    Raises:
        OSError: the file cannot be written.
    """
    save(mistakes_figure(images, labels, probs, title=title, people=people, note=note), path, dots=DOTS)


def largest_mistakes(probs: Tensor, labels: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Positions of the most confident errors and of the least certain hits, most telling first: int64 [≤ count] each.

    Args:
        probs: float [N, 10]; labels: int64 [N].
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
    """See `draw_mistakes`. One pair of axes, in inches from the upper left, holds everything."""
    cell = SIDE + (1.15 if people is not None else 0.75)  # with its caption
    half = HEADING + ROWS * cell
    height = 0.55 + 2 * half + 0.4 * bool(note)
    figure = new_figure(COLUMNS * STEP, height, title=title, note=note)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, COLUMNS * STEP), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    names = ("most confident errors", "least certain hits")
    chosen = largest_mistakes(probs, labels, count=COLUMNS * ROWS)
    for number, (name, indices) in enumerate(zip(names, chosen, strict=True)):
        top = 0.55 + number * half
        heading = name if len(indices) else f"{name}: none"
        axes.text(COLUMNS * STEP / 2, top + HEADING / 2, heading, ha="center", va="center", fontsize=12)
        for place, index in enumerate(indices.tolist()):
            row, column = divmod(place, COLUMNS)
            corner = (column * STEP + (STEP - SIDE) / 2, top + HEADING + row * cell)
            text = caption(index, labels, probs, people)
            draw_image(axes, images[index], text, corner=corner, colour="black" if number else WARNING)
    return figure


def draw_image(axes: "Axes", pixels: Tensor, text: str, *, corner: tuple[float, float], colour: str) -> None:
    """One image, uint8 [3, 32, 32], with its upper left corner there, in inches, and its caption under it."""
    left, top = corner
    large = enlarge(pixels.permute(1, 2, 0).contiguous().numpy())
    axes.imshow(large, extent=(left, left + SIDE, top + SIDE, top), aspect="auto")
    axes.text(left + SIDE / 2, top + SIDE + 0.07, text, ha="center", va="top", fontsize=9.5, color=colour)


def caption(index: int, labels: Tensor, probs: Tensor, people: Tensor | None) -> str:
    """Label, prediction with its probability, and the people's first choices, a line each."""
    confidence, predicted = probs[index].max(dim=0)
    lines = [
        f"image {index}, label {CLASSES[int(labels[index])]}",
        f"predicted {CLASSES[int(predicted)]} {percent(confidence.item())}",
    ]
    if people is not None:
        shares, classes = people[index].topk(2)
        lines += [
            f"people: {CLASSES[number]} {share:.0%}"
            for share, number in zip(shares.tolist(), classes.tolist(), strict=True)
            if share > 0
        ]
    return "\n".join(lines)


def percent(probability: float) -> str:
    """A probability in per cent; what is less than certain never reads as certain."""
    return "over 99.99%" if 0.99995 <= probability < 1 else f"{probability:.2%}"
