"""Accuracies on corrupted images are those of predicting each set, and the second reading makes none anew."""

import json
import statistics
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from cifar.data.cifar10 import Dataset, load
from cifar.data.corruptions import CORRUPTIONS, corrupt
from cifar.evaluation.corruptions import evaluate_corruptions
from cifar.evaluation.predict import predict
from cifar.reporting.corruptions import corruptions_figure, draw_corruptions


def test_every_set_is_read_and_kept(sample: Dataset, tmp_path: Path) -> None:
    part = load(sample, "test").select(torch.arange(0, 200, 4))
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 10))
    seen: list[tuple[int, int]] = []
    first = evaluate_corruptions(model, part, data_sha256="a", progress=lambda *state: seen.append(state))
    json.dumps(first, allow_nan=False)
    assert list(first["accuracy"]) == list(CORRUPTIONS)
    assert all(len(row) == 5 for row in first["accuracy"].values())
    for name, severity in (("fog", 1), ("jpeg compression", 5), ("snow", 3)):
        predicted = predict(model, corrupt(part.images, name, severity, seed=0)).argmax(dim=1)
        share = (predicted == part.labels).double().mean().item()
        assert first["accuracy"][name][severity - 1] == pytest.approx(share)
    every = [rate for row in first["accuracy"].values() for rate in row]
    assert first["mean_accuracy"] == pytest.approx(statistics.fmean(every))
    assert first["severity_accuracy"][4] == pytest.approx(statistics.fmean(every[4::5]))
    assert (first["num_sets_generated"], first["num_images"], first["views"]) == (75, 50, "none")
    assert first["cache_bytes"] > 75 * 50 * 3072
    assert seen[-1] == (75 * 50, 75 * 50)
    assert "regenerated" in first["what"]

    again = evaluate_corruptions(model, part, data_sha256="a", views="mirror")
    assert (again["num_sets_generated"], again["views"]) == (0, "mirror")
    assert again["images_sha256"] == first["images_sha256"]
    other = evaluate_corruptions(model, part, data_sha256="a", seed=1)
    assert other["num_sets_generated"] == 75
    assert other["images_sha256"] != first["images_sha256"]

    first["clean_accuracy"] = 0.5
    for note in ("", "sample"):
        draw_corruptions(first, tmp_path / "corruptions.png", title="run: $a_b$", note=note)
        with Image.open(tmp_path / "corruptions.png") as picture:
            picture.load()
    axes = corruptions_figure(first, title="run").axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    row = list(CORRUPTIONS).index("fog")
    assert shown[2, row] == f"{100 * first['accuracy']['fog'][2]:.1f}"
    assert shown[5, 15] == f"{100 * first['mean_accuracy']:.1f}"
    assert axes.get_title() == "without corruption: 50.00%; views an image: none"
