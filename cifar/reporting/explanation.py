"""The picture of an explanation: the image, the heat map over it, and the heat map alone."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from cifar.reporting.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "viridis"  # lightness grows evenly, in print and for any colour vision
LINE = 140  # letters per line under the picture


def explanation_figure(
    image: Tensor, heat: Tensor, *, title: str, answer: str, looked_at: str, text: str, note: str = ""
) -> "Figure":
    """Draw the image enlarged, the heat map over its grey copy, and the heat map alone beside its scale.

    Args:
        image: uint8 [3, 32, 32].
        heat: float [32, 32], from 0 to 1.
        title: what was explained.
        answer: the prediction, such as "cat 87.3%", above the image.
        looked_at: what the heat map shows, above the other two.
        text: what the method is and what it does not show, under the picture.
        note: what must be seen, such as that this is only the sample; shown in capitals.
    """
    lines = textwrap.fill(text, LINE, break_long_words=False)
    height = 4.6 + 0.19 * (lines.count("\n") + 1) + 0.3 * bool(note)
    figure = new_figure(11.4, height, title=title, note=note)
    grid = figure.add_gridspec(2, 4, height_ratios=(1, 0.01), width_ratios=(1, 1, 1, 0.05))
    pixels = image.permute(1, 2, 0).numpy()  # [32, 32, 3]
    grey = np.dot(pixels / 255, (0.299, 0.587, 0.114))  # luma of Rec. 601
    panels = [figure.add_subplot(grid[0, index]) for index in range(3)]
    panels[0].imshow(pixels, interpolation="nearest")
    panels[1].imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    panels[1].imshow(heat.numpy(), cmap=COLOURS, vmin=0, vmax=1, alpha=0.6, interpolation="nearest")
    shown = panels[2].imshow(heat.numpy(), cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest")
    for axes, name in zip(panels, (answer, f"{looked_at}, over the image", f"{looked_at}, alone"), strict=True):
        axes.set_title(name, fontsize=11.5, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, cax=figure.add_subplot(grid[0, 3], box_aspect=20))
    bar.set_label(f"strength, scaled as explained below ({COLOURS})", fontsize=10.5)
    bar.outline.set_visible(False)
    under = figure.add_subplot(grid[1, :])
    under.axis("off")
    under.set_title(lines, fontsize=10.5, loc="left", y=-1, va="top", parse_math=False)
    return figure
