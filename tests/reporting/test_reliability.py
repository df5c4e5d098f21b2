"""The reliability diagram shows the bins of evaluation.json; the gallery, confident errors and uncertain hits."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from torch import Generator, Tensor

from cifar.evaluation.evaluate import effect_of_temperature, evaluate
from cifar.reporting import mistakes
from cifar.reporting.figures import DOTS, png
from cifar.reporting.mistakes import largest_mistakes, mistakes_figure, percent
from cifar.reporting.reliability import reliability_figure

TITLE, NOTE = "resnet20: $costs$ a_b", "sample of CIFAR-10: not a result"
SCALING = {
    "temperature": 1.5, "fitted_on": "validation", "num_fitted": 100,
    "before": {"loss": 1.0, "calibration_error": 0.1}, "after": {"loss": 0.9, "calibration_error": 0.0123},
}  # fmt: skip


def draw(count: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(0)
    labels = torch.randint(10, (count,), generator=generator)
    return (2 * torch.randn(count, 10, generator=generator) + torch.eye(10)[labels]).softmax(dim=1), labels


def words(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("note", ["", NOTE])
@pytest.mark.parametrize("scaling", [None, SCALING])
def test_the_diagram_shows_the_bins(note: str, scaling: dict[str, Any] | None) -> None:
    probs, labels = draw(300)
    evaluation = evaluate(probs, labels, split="test") | {"temperature_scaling": scaling}
    figure = reliability_figure(evaluation, title=TITLE, note=note)
    with Image.open(io.BytesIO(png(figure))) as picture:
        assert picture.size == pytest.approx(tuple(figure.get_size_inches() * DOTS), abs=1)
    upper, lower = figure.axes
    filled = [bin_ for bin_ in evaluation["reliability"] if bin_["count"]]
    bars = [patch for patch in upper.patches if isinstance(patch, Rectangle)]
    assert [bar.get_height() for bar in bars] == pytest.approx([100 * bin_["accuracy"] for bin_ in filled])
    assert upper.lines[1].get_xdata() == pytest.approx([100 * bin_["confidence"] for bin_ in filled])
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(100)  # type: ignore[attr-defined]
    assert ("1.23%" in words(figure)) == bool(scaling)
    assert f"calibration error {evaluation['calibration_error']:.2%}" in words(figure)
    assert (NOTE.upper() in words(figure)) == bool(note)
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 9  # type: ignore[attr-defined]


def test_beside_it_is_the_diagram_at_the_temperature() -> None:
    probs, labels = draw(300)
    effect = effect_of_temperature(probs, labels, 1.5)
    scaling = {"temperature": 1.5, "fitted_on": "validation", "num_fitted": 100, **effect}
    evaluation = evaluate(probs, labels, split="test") | {"temperature_scaling": scaling}
    figure = reliability_figure(evaluation, title=TITLE)
    upper = figure.axes[:2]
    scaled = (probs.double() ** (1 / 1.5) / (probs.double() ** (1 / 1.5)).sum(dim=1, keepdim=True)).float()
    for axes, either in zip(upper, (probs, scaled), strict=True):
        bins = [bin_ for bin_ in evaluate(either, labels, split="test")["reliability"] if bin_["count"]]
        bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert [bar.get_height() for bar in bars] == pytest.approx([100 * bin_["accuracy"] for bin_ in bins])
    assert "at temperature 1.500" in upper[1].get_title(loc="left")
    assert "at temperature" not in upper[0].get_title(loc="left")


def test_a_slow_search_finds_the_same_mistakes() -> None:
    probs, labels = draw(80)
    errors, hits = largest_mistakes(probs, labels, count=12)
    rows = list(zip(probs.max(1).values.tolist(), probs.argmax(1).tolist(), labels.tolist(), range(80), strict=True))
    wrong = sorted((-confidence, index) for confidence, predicted, label, index in rows if predicted != label)
    right = sorted((confidence, index) for confidence, predicted, label, index in rows if predicted == label)
    assert errors.tolist() == [index for _, index in wrong[:12]]
    assert hits.tolist() == [index for _, index in right[:12]]


def test_without_errors_or_hits_a_half_is_empty() -> None:
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    labels = torch.tensor([1, 2, 3])
    certain = torch.eye(10)[labels]
    assert [len(half) for half in largest_mistakes(certain, labels, count=12)] == [0, 3]
    assert [len(half) for half in largest_mistakes(certain.roll(1, 1), labels, count=12)] == [3, 0]
    figure = mistakes_figure(images, labels, certain, title=TITLE)
    assert "most confident errors: none" in words(figure)
    with Image.open(io.BytesIO(png(figure, dots=mistakes.DOTS))) as picture:
        assert picture.size == pytest.approx(tuple(figure.get_size_inches() * mistakes.DOTS), abs=1)


@pytest.mark.parametrize("with_people", [True, False])
def test_captions_say_label_prediction_and_people(with_people: bool) -> None:
    images = torch.arange(2, dtype=torch.uint8)[:, None, None, None].expand(2, 3, 32, 32) * 200
    labels = torch.tensor([3, 9])
    probs = torch.full((2, 10), 0.05)
    probs[0, 5] = probs[1, 9] = 0.55
    people = torch.zeros(2, 10, dtype=torch.float64)
    people[0, 5], people[0, 3], people[1, 9] = 0.75, 0.25, 1.0
    figure = mistakes_figure(images, labels, probs, title=TITLE, people=people if with_people else None, note=NOTE)
    (axes,) = figure.axes
    captions = [text.get_text() for text in axes.texts if text.get_text().startswith("image")]
    expected = ["image 0, label cat\npredicted dog 55.00%", "image 1, label truck\npredicted truck 55.00%"]
    if with_people:
        expected = [f"{expected[0]}\npeople: dog 75%\npeople: cat 25%", f"{expected[1]}\npeople: truck 100%"]
    assert captions == expected
    shown = [int(np.asarray(image.get_array())[5, 5, 0]) for image in axes.images]
    assert shown == [0, 200]
    assert NOTE.upper() in words(figure)
    assert len(png(figure, dots=mistakes.DOTS)) > 10_000


@pytest.mark.parametrize(
    "probability, text", [(1.0, "100.00%"), (0.99999, "over 99.99%"), (0.9999, "99.99%"), (0.5, "50.00%")]
)
def test_less_than_certain_never_reads_as_certain(probability: float, text: str) -> None:
    assert percent(probability) == text
