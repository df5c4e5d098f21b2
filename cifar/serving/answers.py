"""What the demo shows of one or two runs: the classes of an image, what was looked at in it, and the card."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cifar.errors import InputError, WorldError
from cifar.reporting.card import card_text
from cifar.reporting.explanation import COLOURS
from cifar.reporting.records import distinct_names, read_record
from cifar.serving.classifier import Classifier, load_model
from cifar.serving.explain import describe, explain, method_of

ENLARGED = 10  # screen pixels a pixel of an image


@dataclass(frozen=True)
class Shown:
    """A run as the demo shows it.

    Attributes:
        name: unlike the other's.
        classifier: its network.
        card: Markdown, or the sentence that tells why there is none.
    """

    name: str
    classifier: Classifier
    card: str

    @property
    def warning(self) -> str:
        """What must be said in capitals of a network trained on the sample; else nothing."""
        data = self.classifier.trained_on
        return (
            f"{data}: {self.name} HAS SEEN 1,000 IMAGES AND KNOWS NEXT TO NOTHING" if data.startswith("SAMPLE") else ""
        )


def read_shown(folders: Sequence[Path], *, device: str) -> list[Shown]:
    """The runs in these folders.

    Raises:
        InputError, WorldError: as `load_model` does; or two folders are the same.
    """
    named = zip(distinct_names(folders), folders, strict=True)
    return [Shown(name, load_model(folder, device=device), run_card(folder, name=name)) for name, folder in named]


def run_card(folder: Path, *, name: str) -> str:
    """The card of a run, without pictures and without where it lies on this machine."""
    try:
        return card_text(replace(read_record(folder, name=name), folder=Path(name)))
    except (InputError, WorldError):
        return "There is no card: the folder does not hold what a finished training leaves."


def class_probs(image: Tensor, shown: Shown) -> dict[str, float]:
    """Probabilities by class; image uint8 [3, 32, 32]."""
    predictions = shown.classifier.predict(image)
    return dict(zip(predictions.classes, predictions.probs[0].tolist(), strict=True))


def looked_at(image: Tensor, shown: Shown) -> tuple[Image.Image | None, str]:
    """A picture of what the network looked at, and in words what it means; no picture where there is none to have.

    Args:
        image: uint8 [3, 32, 32].
    """
    try:
        method = method_of(shown.classifier.network)
        predictions = shown.classifier.predict(image)
        label = int(predictions.labels[0]) if method.by_class else None  # of all views, as the bars are
        heat = explain(shown.classifier.network, image, label=label)
    except (InputError, WorldError) as error:
        return None, str(error)
    _, meaning, text = describe(predictions, method, label=label)
    nothing = "" if heat.any() else " Here no place stands out."
    return overlay(image, heat), f"Left: the 32×32 pixels that it gets. Right: {meaning}.{nothing} {text}"


def overlay(image: Tensor, heat: Tensor) -> Image.Image:
    """The image, and beside it the image in grey under the heat, both enlarged.

    Args:
        image: uint8 [3, 32, 32]; heat: float [32, 32], from 0 to 1.
    """
    from matplotlib import colormaps

    pixels = image.permute(1, 2, 0).numpy()  # [32, 32, 3]
    grey = np.dot(pixels, (0.299, 0.587, 0.114))[..., None]  # luma of Rec. 601
    warm = 0.4 * grey + 0.6 * 255 * colormaps[COLOURS](heat.numpy())[..., :3]  # [32, 32, 3]
    left, right = enlarge(pixels), enlarge(warm.round().astype(np.uint8))
    both = Image.new("RGBA", (left.width + 2 * ENLARGED + right.width, left.height))  # transparent between them
    both.paste(left, (0, 0))
    both.paste(right, (both.width - right.width, 0))
    return both


def enlarge(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels that can be seen one by one: [H, W, 3]."""
    small = Image.fromarray(pixels)
    return small.resize((small.width * ENLARGED, small.height * ENLARGED), Image.Resampling.NEAREST)
