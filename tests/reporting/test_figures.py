"""Pictures: they have their size, the texts are in them, and what they show is what they were given."""

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from torch import Generator

from cifar.data.split import CLASSES
from cifar.reporting.figures import (
    DOTS,
    ENLARGED,
    GAP,
    confusion_figure,
    contact_figure,
    contact_sheet,
    curves_figure,
    most_confused,
    png,
    runs_figure,
)

TITLE, NOTE = "resnet20: $costs$ a_b", "sample of CIFAR-10: not a result"


def make_rows(accuracies: list[float]) -> list[dict[str, float]]:
    return [
        {
            "epoch": float(epoch),
            "learning_rate": 0.1 / epoch,
            "train_loss": 2 / epoch,
            "train_accuracy": 0.5,
            "validation_loss": math.nan if math.isnan(accuracy) else 1.0,
            "validation_accuracy": accuracy,
        }
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


CONFUSION = torch.randint(100, (10, 10), generator=Generator().manual_seed(0)).tolist()
IMAGES = torch.randint(256, (60, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0))
LABELS = torch.arange(60) % 4  # fifteen of each of four classes, none of the others


def texts(figure: Any) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text()]


def words(figure: Any) -> set[str]:
    return {text.get_text() for text in texts(figure)}


def pixels_of(content: bytes) -> np.ndarray:
    """The pixels of a PNG file, uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("L").getcolors() or range(257)) > 10  # not blank
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("note", ["", NOTE])
def test_pictures_have_the_size_of_their_figures_with_title_and_note(note: str) -> None:
    for figure in (
        curves_figure(make_rows([0.4, 0.6, 0.5]), title=TITLE, note=note),
        confusion_figure(CONFUSION, title=TITLE, note=note),
        contact_figure(IMAGES, LABELS, title=TITLE, note=note),
    ):
        for dots in (DOTS, 50):
            height, width = pixels_of(png(figure, dots=dots)).shape[:2]
            assert (width, height) == pytest.approx(tuple(figure.get_size_inches() * dots), abs=1)
        assert TITLE in words(figure)
        assert (NOTE.upper() in words(figure)) == bool(note)
        assert not {text.get_parse_math() for text in texts(figure) if text.get_text() == TITLE} - {False}
        assert min(text.get_fontsize() for text in texts(figure)) >= 9


def test_curves_show_the_numbers_and_the_first_of_the_best() -> None:
    rows = make_rows([0.4, 0.6, 0.6, 0.5])
    losses, accuracies, rates = curves_figure(rows, title=TITLE).axes
    train, validation, _, best = accuracies.lines  # the third is the line at the best epoch
    assert train.get_ydata() == pytest.approx([50, 50, 50, 50])
    assert validation.get_ydata() == pytest.approx([40, 60, 60, 50])
    assert best.get_xydata().tolist() == [[2, pytest.approx(60)]]
    assert best.get_label() == "best: 60.00%, epoch 2"
    assert losses.lines[0].get_ydata() == pytest.approx([2 / epoch for epoch in (1, 2, 3, 4)])
    assert rates.lines[0].get_ydata() == pytest.approx([0.1 / epoch for epoch in (1, 2, 3, 4)])
    assert rates.get_yscale() == "linear"
    assert rates.get_ylim()[0] == 0
    assert [axes.get_xlabel() for axes in (losses, accuracies, rates)] == 3 * ["epoch"]
    assert [axes.get_ylabel() for axes in (losses, accuracies)] == ["loss (nats)", "accuracy (%)"]


def test_one_epoch_is_a_point_at_a_whole_number() -> None:
    figure = curves_figure(make_rows([0.4]), title=TITLE)
    pixels_of(png(figure))
    for axes in figure.axes:
        assert axes.lines[0].get_marker() == "o"
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_without_validation_there_is_no_best_epoch() -> None:
    figure = curves_figure(make_rows([math.nan, math.nan]), title=TITLE)
    pixels_of(png(figure))
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 1]
    assert "validation" not in words(figure)


def test_values_that_no_axis_holds_are_left_out() -> None:
    rows = make_rows([0.3, math.nan, 0.4])
    rows[1] |= {"train_loss": math.inf, "learning_rate": math.nan}
    figure = curves_figure(rows, title=TITLE)
    pixels_of(png(figure))
    losses, _, rates = figure.axes
    assert np.isnan(losses.lines[0].get_ydata()).tolist() == [False, True, False]
    assert np.isnan(rates.lines[0].get_ydata()).tolist() == [False, True, False]
    nothing = [row | {"train_loss": math.nan, "learning_rate": 0.0} for row in make_rows([math.nan])]
    pixels_of(png(curves_figure(nothing, title=TITLE)))


def test_confusion_shows_each_count_in_its_place() -> None:
    counts = np.array(CONFUSION)
    counts[3] = 0  # a class without images
    counts[4, 5] = 4321
    figure = confusion_figure(counts.tolist(), title=TITLE)
    pixels_of(png(figure))
    axes, scale = figure.axes
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    for row in range(10):
        for predicted in range(10):
            assert shown[predicted, row] == f"{counts[row, predicted]:,}"
    percentages = np.asarray(axes.images[0].get_array())
    assert percentages.sum(axis=1) == pytest.approx([0 if row == 3 else 100 for row in range(10)])
    for axis in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in axis] == list(CLASSES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert "%" in scale.get_ylabel()


def test_the_most_confused_pairs_are_named() -> None:
    counts = [[0] * 10 for _ in range(10)]
    for label, predicted, images in ((3, 5, 52), (5, 3, 47), (1, 9, 12), (2, 0, 3), (4, 7, 2), (6, 6, 900)):
        counts[label][predicted] = images
    assert most_confused(counts) == [
        ("cat", "dog", 52), ("dog", "cat", 47), ("automobile", "truck", 12), ("bird", "airplane", 3),
    ]  # fmt: skip
    title = confusion_figure(counts, title="a run").axes[0].get_title(loc="left")
    assert title.startswith("most often: cat as dog 52, dog as cat 47")
    assert most_confused([[0] * 10] * 10) == []


@pytest.mark.parametrize("mixed", [False, True])
def test_training_on_mixed_images_is_said(mixed: bool) -> None:
    rows = [{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.6,
             "learning_rate": 0.1}]  # fmt: skip
    labels = [line.get_label() for line in curves_figure(rows, title="x", mixed=mixed).axes[1].lines]
    assert ("train, mixed images" in labels) == mixed
    assert ("train" in labels) != mixed


def test_the_sheet_holds_the_first_images_of_each_class() -> None:
    flat = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 3, 32, 32)  # image n is all n
    sheet = contact_sheet(flat, LABELS)
    for row in range(10):
        for column in range(12):
            top, left = row * (ENLARGED + GAP), column * (ENLARGED + GAP)
            expected = 4 * column + row if row < 4 else 255
            assert (sheet[top : top + ENLARGED, left : left + ENLARGED] == expected).all()


def test_the_sheet_is_in_the_picture_dot_for_dot() -> None:
    sheet = contact_sheet(IMAGES, LABELS)
    height, width = sheet.shape[:2]
    pixels = pixels_of(png(contact_figure(IMAGES, LABELS, title=TITLE)))
    assert np.array_equal(pixels[80 : 80 + height, 170 : 170 + width], sheet)


def test_several_runs_share_a_page() -> None:
    rows = [
        {
            "epoch": epoch, "learning_rate": 0.1, "train_loss": 2 / epoch, "train_accuracy": 0.1 * epoch,
            "validation_loss": 2.1 / epoch, "validation_accuracy": 0.09 * epoch,
        }
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    for num_runs in (1, 2, 3):
        runs = {f"run {number}": rows[: number + 1] for number in range(num_runs)}
        figure = runs_figure(runs, title="all of them")
        assert [strip.get_suptitle() for strip in figure.subfigs] == list(runs)
        assert len(figure.axes) == 3 * num_runs
        lengths = [len(axes.lines[0].get_xdata()) for axes in figure.axes[::3]]  # type: ignore[arg-type]
        assert lengths == list(range(1, num_runs + 1))
