"""Accuracies on corrupted images are those of predicting each set, the second evaluation makes none anew; drawn."""

import io
import json
import statistics

import pytest
import torch
from PIL import Image
from torch import nn

from cifar.data.cifar10 import Dataset, load
from cifar.evaluation.predict import predict
from cifar.reporting.figures import DOTS, png
from cifar.robustness.corruptions import CORRUPTIONS, corrupt
from cifar.robustness.draw import corruptions_figure
from cifar.robustness.evaluate import evaluate_corruptions


def test_every_set_is_evaluated_and_cached(sample: Dataset) -> None:
    test = load(sample, "test").select(torch.arange(0, 200, 4))
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 10))
    seen: list[tuple[int, int]] = []
    first = evaluate_corruptions(model, test, data_sha256="a", progress=lambda *state: seen.append(state))
    json.dumps(first, allow_nan=False)
    assert list(first["accuracy"]) == list(CORRUPTIONS)
    assert all(len(row) == 5 for row in first["accuracy"].values())
    for name, severity in (("fog", 1), ("jpeg compression", 5), ("snow", 3)):
        predicted = predict(model, corrupt(test.images, name, severity, seed=0)).argmax(dim=1)
        fraction = (predicted == test.labels).double().mean().item()
        assert first["accuracy"][name][severity - 1] == pytest.approx(fraction)
    every = [rate for row in first["accuracy"].values() for rate in row]
    assert first["mean_accuracy"] == pytest.approx(statistics.fmean(every))
    assert first["severity_accuracy"][4] == pytest.approx(statistics.fmean(every[4::5]))
    assert (first["num_sets_generated"], first["num_images"], first["views"]) == (75, 50, "none")
    assert first["cache_bytes"] > 75 * 50 * 3072
    assert seen == [(50 * number, 75 * 50) for number in range(1, 76)]
    assert "regenerated" in first["what"]

    second = evaluate_corruptions(model, test, data_sha256="a", views="mirror")
    assert (second["num_sets_generated"], second["views"]) == (0, "mirror")
    assert second["images_sha256"] == first["images_sha256"]
    other = evaluate_corruptions(model, test, data_sha256="a", seed=1)
    assert other["num_sets_generated"] == 75
    assert other["images_sha256"] != first["images_sha256"]


@pytest.mark.parametrize("note", ["", "sample"])
def test_the_picture_shows_every_accuracy_in_its_cell(note: str) -> None:
    rates = torch.rand(15, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    corruptions = {
        "accuracy": dict(zip(CORRUPTIONS, rates.tolist(), strict=True)),
        "severity_accuracy": rates.mean(dim=0).tolist(),
        "mean_accuracy": rates.mean().item(),
        "clean_accuracy": 0.5,
        "views": "none",
    }
    figure = corruptions_figure(corruptions, title="run: $a_b$", note=note)
    with Image.open(io.BytesIO(png(figure))) as picture:
        assert picture.size == pytest.approx(tuple(figure.get_size_inches() * DOTS), abs=1)
    axes = figure.axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    table = torch.cat([rates, rates.mean(dim=0, keepdim=True)])  # [16, 5]
    table = torch.cat([table, table.mean(dim=1, keepdim=True)], dim=1)  # [16, 6]
    for row in range(16):
        for column in range(6):
            assert shown[column, row] == f"{100 * table[row, column]:.1f}"
    assert axes.get_title() == "without corruption: 50.00%; test-time augmentation: none"
