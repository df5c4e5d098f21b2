"""Calibration against torchmetrics, against loops over images, and against models whose calibration is known."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from cifar.evaluation.calibration import (
    adaptive_bins,
    adaptive_calibration_error,
    at_temperature,
    brier_score,
    calibration_error,
    equal_bins,
    expected_gap,
    fit_temperature,
)
from cifar.evaluation.metrics import torchmetrics_classification


def draw(num_images: int, *, sharpness: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities, and labels that are drawn from them: perfectly calibrated."""
    generator = Generator().manual_seed(seed)
    probs = (sharpness * torch.randn(num_images, 10, generator=generator)).softmax(dim=1)
    return probs, torch.multinomial(probs, 1, generator=generator)[:, 0]


def test_equal_bins_give_torchmetrics_error() -> None:
    metrics = torchmetrics_classification()
    for seed in range(5):
        probs, labels = draw(997, seed=seed)
        bins = equal_bins(probs, labels)
        assert sum(one.count for one in bins) == 997
        theirs = metrics.multiclass_calibration_error(probs, labels, num_classes=10, n_bins=15).item()
        assert expected_gap(bins) == pytest.approx(theirs, abs=1e-6)
        assert calibration_error(probs, labels) == pytest.approx(theirs, abs=1e-7)
        for one in bins:
            confidences = probs.max(dim=1).values
            inside = [index for index, value in enumerate(confidences.tolist()) if one.low < value <= one.high]
            assert one.count == len(inside)


def test_adaptive_bins_hold_equally_many() -> None:
    probs, labels = draw(1000)
    bins = adaptive_bins(probs, labels)
    assert {one.count for one in bins} == {66, 67}
    assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)
    order = sorted(range(1000), key=lambda index: probs[index].max().item())
    first = order[: bins[0].count]
    assert bins[0].confidence == pytest.approx(sum(probs[index].max().item() for index in first) / len(first))
    right = sum(int(probs[index].argmax() == labels[index]) for index in first)
    assert bins[0].accuracy == pytest.approx(right / len(first))
    assert adaptive_calibration_error(probs, labels) == pytest.approx(expected_gap(bins))


def test_few_images_leave_bins_empty() -> None:
    probs, labels = draw(4)
    for bins in (equal_bins(probs, labels), adaptive_bins(probs, labels)):
        assert sum(one.count for one in bins) == 4
        assert all(math.isnan(one.accuracy) == (one.count == 0) for one in bins)
        assert 0 <= expected_gap(bins) <= 1


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large() -> None:
    probs, labels = draw(50_000)
    assert calibration_error(probs, labels) < 0.01
    assert adaptive_calibration_error(probs, labels) < 0.012
    surer = at_temperature(probs, 0.4)
    assert calibration_error(surer, labels) > 0.1


def test_brier_score() -> None:
    probs, labels = draw(50)
    slow = 0.0
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        slow += sum((value - (index == label)) ** 2 for index, value in enumerate(row))
    assert brier_score(probs, labels) == pytest.approx(slow / 50)
    right = F.one_hot(labels, 10).float()
    assert brier_score(right, labels) == 0
    assert brier_score(right.roll(1, dims=1), labels) == 2


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_was_applied_is_found_again(temperature: float) -> None:
    probs, labels = draw(50_000)
    changed = at_temperature(probs, 1 / temperature)
    assert fit_temperature(changed, labels) == pytest.approx(temperature, rel=0.03)
    torch.testing.assert_close(at_temperature(changed, temperature), probs, rtol=1e-4, atol=1e-6)


def test_a_temperature_changes_no_prediction_and_survives_certainty() -> None:
    probs, labels = draw(200)
    for temperature in (0.1, 1.0, 10.0):
        assert torch.equal(at_temperature(probs, temperature).argmax(1), probs.argmax(1))
    certain = F.one_hot(labels, 10).float()
    assert torch.isfinite(at_temperature(certain, 3.0)).all()
    assert 0.05 <= fit_temperature(certain, labels) <= 20
    assert 0.05 <= fit_temperature(certain, labels.roll(1)) <= 20
