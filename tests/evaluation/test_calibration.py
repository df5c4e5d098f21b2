"""Calibration against torchmetrics, against loops over images, and against models whose calibration is known."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
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
from cifar.models.repair import repair_torchvision


def draw(num_images: int, *, sharpness: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities, and labels that are drawn from them: perfectly calibrated."""
    generator = Generator().manual_seed(seed)
    probs = (sharpness * torch.randn(num_images, 10, generator=generator)).softmax(dim=1)
    return probs, torch.multinomial(probs, 1, generator=generator)[:, 0]


def test_equal_bins_give_the_error_of_torchmetrics() -> None:
    repair_torchvision()  # which torchmetrics imports
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    for seed in range(5):
        probs, labels = draw(997, seed=seed)
        bins = equal_bins(probs, labels)
        assert sum(bin_.count for bin_ in bins) == 997
        theirs = metrics.multiclass_calibration_error(probs, labels, num_classes=10, n_bins=15).item()
        assert expected_gap(bins) == pytest.approx(theirs, abs=1e-6)
        assert calibration_error(probs, labels) == pytest.approx(theirs, abs=1e-6)


def certain(confidences: list[float], labels: list[int]) -> tuple[Tensor, Tensor]:
    """Predictions of class 0 with these confidences, the rest on class 1, and labels."""
    first = torch.tensor(confidences, dtype=torch.float64)
    probs = torch.zeros(len(first), 10, dtype=torch.float64)
    probs[:, 0], probs[:, 1] = first, 1 - first
    return probs, torch.tensor(labels)


def test_a_confidence_of_1_belongs_to_the_last_bin() -> None:
    """In a bin of its own it gave 0.525 (torchmetrics#3510)."""
    probs, labels = certain([0.95, 1, 0.95, 1], [0, 1, 0, 1])
    for precise in (probs, probs.float()):
        assert calibration_error(precise, labels) == pytest.approx(0.475, abs=1e-7)
        assert [bin_.count for bin_ in equal_bins(precise, labels)] == [0] * 14 + [4]


@pytest.mark.parametrize("num_bins", [1, 2, 10, 15, 20])
def test_edges_belong_to_the_bin_below(num_bins: int) -> None:
    """Against a search that compares each confidence with both ends of each bin; also a rounding error above 1."""
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64).tolist()
    nearby = [math.nextafter(edge, end) for edge in edges for end in (0.0, 1.0)]
    confidences = [confidence for confidence in [*edges, *nearby] if confidence > 0.5] + [1 + 1e-7]
    bins = equal_bins(*certain(confidences, [0] * len(confidences)), num_bins)
    inside = [
        [one for one in confidences if low < one <= high or (high == 1 and one > 1)]
        for low, high in itertools.pairwise(edges)
    ]
    assert [bin_.count for bin_ in bins] == [len(members) for members in inside]
    assert sum(bin_.count for bin_ in bins) == len(confidences)


def test_calibration_error_equals_a_slow_loop() -> None:
    for seed in range(5):
        probs, labels = draw(997, sharpness=30.0, seed=seed)  # some confidences round to exactly 1
        slow = 0.0
        for number, bin_ in enumerate(equal_bins(probs, labels)):
            assert (bin_.low, bin_.high) == pytest.approx((number / 15, (number + 1) / 15))
            rows = zip(probs.tolist(), labels.tolist(), strict=True)
            inside = [
                (max(row), row.index(max(row)) == label) for row, label in rows if bin_.low < max(row) <= bin_.high
            ]
            assert bin_.count == len(inside)
            slow += abs(sum(confidence for confidence, _ in inside) - sum(hit for _, hit in inside)) / 997
        assert calibration_error(probs, labels) == pytest.approx(slow, abs=1e-12)
        assert (probs == 1).any()


def test_adaptive_bins_hold_equally_many_images() -> None:
    probs, labels = draw(1000)
    bins = adaptive_bins(probs, labels)
    assert {bin_.count for bin_ in bins} == {66, 67}
    assert [bin_.confidence for bin_ in bins] == sorted(bin_.confidence for bin_ in bins)
    order = sorted(range(1000), key=lambda index: probs[index].max().item())
    first = order[: bins[0].count]
    assert bins[0].confidence == pytest.approx(sum(probs[index].max().item() for index in first) / len(first))
    right = sum(int(probs[index].argmax() == labels[index]) for index in first)
    assert bins[0].accuracy == pytest.approx(right / len(first))
    assert adaptive_calibration_error(probs, labels) == pytest.approx(expected_gap(bins))


def test_few_images_leave_bins_empty() -> None:
    probs, labels = draw(4)
    for bins in (equal_bins(probs, labels), adaptive_bins(probs, labels)):
        assert sum(bin_.count for bin_ in bins) == 4
        assert all(math.isnan(bin_.accuracy) == (bin_.count == 0) for bin_ in bins)
        assert 0 <= expected_gap(bins) <= 1


def test_calibration_error_is_small_of_a_calibrated_and_large_of_an_overconfident_model() -> None:
    probs, labels = draw(50_000)
    assert calibration_error(probs, labels) < 0.01
    assert adaptive_calibration_error(probs, labels) < 0.012
    overconfident = at_temperature(probs, 0.4)
    assert calibration_error(overconfident, labels) > 0.1


def test_brier_score_equals_a_slow_loop_and_its_ends() -> None:
    probs, labels = draw(50)
    slow = 0.0
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        slow += sum((value - (index == label)) ** 2 for index, value in enumerate(row))
    assert brier_score(probs, labels) == pytest.approx(slow / 50)
    right = F.one_hot(labels, 10).float()
    assert brier_score(right, labels) == 0
    assert brier_score(right.roll(1, dims=1), labels) == 2


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_fit_temperature_finds_the_temperature_that_was_applied(temperature: float) -> None:
    probs, labels = draw(50_000)
    changed = at_temperature(probs, 1 / temperature)
    assert fit_temperature(changed, labels) == pytest.approx(temperature, rel=0.03)
    torch.testing.assert_close(at_temperature(changed, temperature), probs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 6.0])
def test_fit_temperature_equals_scipys_minimum(sharpness: float) -> None:
    for seed in range(3):
        probs, labels = draw(800, sharpness=sharpness, seed=seed)
        for temperature in (0.2, 1.0, 3.0):
            log_probs = at_temperature(probs, temperature).double().log()

            def loss(log_temperature: float, log_probs: Tensor = log_probs, labels: Tensor = labels) -> float:
                return F.cross_entropy(log_probs / math.exp(log_temperature), labels).item()

            minimum = minimize_scalar(
                loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-8}
            )
            fitted = fit_temperature(at_temperature(probs, temperature), labels)
            assert math.log(fitted) == pytest.approx(minimum.x, abs=1e-5)
            assert loss(math.log(fitted)) <= minimum.fun + 1e-12


def test_fit_temperature_stops_at_its_bounds() -> None:
    labels = torch.arange(10)
    right = at_temperature(torch.eye(10), 30.0)  # any lower temperature is better, if every image is right
    assert fit_temperature(right, labels) == pytest.approx(0.05)
    assert fit_temperature(right, labels.roll(1)) == pytest.approx(20)


def test_at_temperature_keeps_predictions_and_survives_certainty() -> None:
    probs, labels = draw(200)
    for temperature in (0.1, 1.0, 10.0):
        assert torch.equal(at_temperature(probs, temperature).argmax(1), probs.argmax(1))
    certain = F.one_hot(labels, 10).float()
    assert torch.isfinite(at_temperature(certain, 3.0)).all()
    assert 0.05 <= fit_temperature(certain, labels) <= 20
    assert 0.05 <= fit_temperature(certain, labels.roll(1)) <= 20
