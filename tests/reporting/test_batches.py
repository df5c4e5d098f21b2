"""The picture of a batch: each image in its place, captions and colours, hostile titles."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cifar.reporting.batches import CAPTION, GAP, HEADING, batch_picture
from cifar.reporting.figures import ENLARGED, WARNING, enlarge


def drawn(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def test_each_image_is_in_its_place() -> None:
    pixels = torch.randint(0, 256, (11, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sheet = drawn(batch_picture(pixels, ["cat"] * 11, title="a run"))
    for index, image in enumerate(pixels):
        row, column = divmod(index, 8)
        left, top = GAP + column * (ENLARGED + GAP), HEADING + row * (ENLARGED + 6 + CAPTION + GAP)
        expected = enlarge(image.permute(1, 2, 0).contiguous().numpy())
        assert np.array_equal(sheet[top : top + ENLARGED, left : left + ENLARGED], expected)


def test_errors_are_in_another_colour() -> None:
    warning = np.array([int(WARNING[place : place + 2], 16) for place in (1, 3, 5)])
    for marked in (True, False):
        sheet = drawn(
            batch_picture(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["cat 90%"], marked=[marked], title="x")
        )
        below = sheet[HEADING + ENLARGED :]
        assert (below == warning).all(axis=2).any() == marked


@pytest.mark.parametrize("title", ["$x^2$", "a\nb", "\udcff", "x" * 500])
def test_whatever_a_run_is_called_it_is_drawn(title: str) -> None:
    sheet = drawn(
        batch_picture(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), ["cat\nis dog"] * 3, title=title, note=title)
    )
    assert sheet.shape[1] == GAP + 8 * (ENLARGED + GAP)
