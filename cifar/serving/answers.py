"""What the demo shows of each run: the probabilities of an image's classes, an explanation, and the model card."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cifar.errors import InputError, WorldError
from cifar.reporting.card import card_text
from cifar.reporting.explanation import COLOURS
from cifar.reporting.records import distinct_names, read_record
from cifar.serving.classifier import Classifier, load_model
from cifar.serving.explain import describe, explain, method_of

SCALE = 10  # screen pixels per pixel of an image


@dataclass(frozen=True)
class DemoRun:
    """A run in the demo.

    Attributes:
        name: different from that of the other run.
        classifier: its network.
        card: Markdown, or a sentence that says why there is none.
    """

    name: str
    classifier: Classifier
    card: str

    @property
    def warning(self) -> str:
        """What must be said of a run on the sample; else ""."""
        return f"{self.name}: {self.classifier.note}" if self.classifier.note else ""


def load_runs(folders: Sequence[Path], *, device: str, trust_code: bool = False) -> list[DemoRun]:
    """Load the runs to show.

    Args:
        folders: of one run or two.
        device: cpu, mps or cuda; "" is the best available.
        trust_code: as of `load_model`.

    Raises:
        InputError, WorldError: see `load_model`; also where two folders are the same.
    """
    named_folders = zip(distinct_names(folders), folders, strict=True)
    runs = [
        DemoRun(name, load_model(folder, device=device, trust_code=trust_code), run_card(folder, name=name))
        for name, folder in named_folders
    ]
    for run in runs:  # native kernels may have to be compiled, for which no visitor should wait
        run.classifier.predict(torch.full((1, 3, 32, 32), 200, dtype=torch.uint8))
    return runs


def run_card(folder: Path, *, name: str) -> str:
    """The model card of a run, without pictures and without its path on this machine."""
    try:
        return card_text(replace(read_record(folder, name=name), folder=Path(name)))
    except (InputError, WorldError):
        return "There is no card: the folder does not hold a finished run."


def class_probs(image: Tensor, run: DemoRun) -> dict[str, float]:
    """Probabilities by class name; image: uint8 [3, 32, 32]."""
    predictions = run.classifier.predict(image)
    return dict(zip(predictions.classes, predictions.probs[0].tolist(), strict=True))


def explanation(image: Tensor, run: DemoRun) -> tuple[Image.Image | None, str]:
    """What the network looked at.

    Args:
        image: uint8 [3, 32, 32].
        run: whose network to explain.

    Returns:
        the picture and what it means; None and why, where the network cannot be explained.
    """
    try:
        method = method_of(run.classifier.network)
        predictions = run.classifier.predict(image)
        label = int(predictions.labels[0]) if method.by_class else None  # by the mean of all views, as the bars show
        heat = explain(run.classifier.network, image, label=label)
    except (InputError, WorldError) as error:
        return None, str(error)
    _, meaning, text = describe(predictions, method, label=label)
    uniform = "" if heat.any() else " Here the map is the same everywhere."
    return overlay(image, heat), f"Left: the 32×32 pixels that the network sees. Right: {meaning}.{uniform} {text}"


def overlay(image: Tensor, heat: Tensor) -> Image.Image:
    """The image, and next to it the heat map over a grey copy, both enlarged.

    Args:
        image: uint8 [3, 32, 32].
        heat: float [32, 32], from 0 to 1.
    """
    from matplotlib import colormaps

    pixels = image.permute(1, 2, 0).numpy()  # [32, 32, 3]
    grey = np.dot(pixels, (0.299, 0.587, 0.114))[..., None]  # luma of Rec. 601
    coloured = 0.4 * grey + 0.6 * 255 * colormaps[COLOURS](heat.numpy())[..., :3]  # [32, 32, 3]
    left, right = enlarge(pixels), enlarge(coloured.round().astype(np.uint8))
    picture = Image.new("RGBA", (left.width + 2 * SCALE + right.width, left.height))  # transparent in between
    picture.paste(left, (0, 0))
    picture.paste(right, (picture.width - right.width, 0))
    return picture


def enlarge(pixels: NDArray[np.uint8]) -> Image.Image:
    """An image, uint8 [H, W, 3], enlarged so that single pixels can be seen."""
    image = Image.fromarray(pixels)
    return image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST)
