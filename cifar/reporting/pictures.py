"""The pictures in a run folder, by the names of their files: what each figure is titled, and its PNG."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cifar.data.split import Split
from cifar.reporting.figures import confusion_figure, curves_figure, png
from cifar.reporting.mistakes import DOTS, mistakes_figure
from cifar.reporting.reliability import reliability_figure


def training_pictures(
    rows: Sequence[Mapping[str, float]], *, title: str, note: str, mixed: bool = False
) -> dict[str, bytes]:
    """Learning curves.

    Args:
        rows: of metrics.csv.
        title: of the picture.
        note: what it must say, such as that this is only the sample.
        mixed: whether the training mixed images, by mixup or CutMix.
    """
    return {"curves.png": png(curves_figure(rows, title=title, note=note, mixed=mixed))}


def evaluation_pictures(
    evaluation: Mapping[str, Any], images: Split, probs: Tensor, *, people: Tensor | None, note: str
) -> dict[str, bytes]:
    """Confusion matrix, reliability diagram and largest mistakes.

    Args:
        evaluation: what evaluation.json holds.
        images: N images and their labels.
        probs: float [N, 10].
        people: float [N, 10], the fraction of people that chose each class, where it was compared.
        note: as in `training_pictures`.
    """
    title = f"{evaluation['run']}, {evaluation['split']}: accuracy {evaluation['accuracy']:.2%}"
    mistakes = mistakes_figure(images.images, images.labels, probs, title=title, people=people, note=note)
    return {
        "confusion.png": png(confusion_figure(evaluation["confusion"], title=title, note=note)),
        "reliability.png": png(reliability_figure(evaluation, title=title, note=note)),
        "mistakes.png": png(mistakes, dots=DOTS),
    }
