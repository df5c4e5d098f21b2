"""Metrics against scikit-learn, slow loops and formulas written out."""

import math
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from cifar.evaluation.metrics import (
    accuracy,
    confusion_matrix,
    mean_interval,
    negative_log_likelihood,
    per_class,
    wilson_interval,
)


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(317, 10, generator=Generator().manual_seed(0))


@pytest.fixture
def labels(logits: Tensor) -> Tensor:
    """Two thirds of them what the logits say."""
    generator = Generator().manual_seed(1)
    random = torch.randint(10, (len(logits),), generator=generator)
    return torch.where(torch.rand(len(logits), generator=generator) < 2 / 3, logits.argmax(dim=1), random)


def test_accuracy_and_loss_equal_scikit_learn(logits: Tensor, labels: Tensor) -> None:
    probs = logits.softmax(dim=1)
    assert accuracy(probs, labels) == sklearn.metrics.accuracy_score(labels, probs.argmax(dim=1))
    expected = sklearn.metrics.log_loss(labels, probs.double() / probs.double().sum(dim=1, keepdim=True))
    assert negative_log_likelihood(probs, labels) == pytest.approx(expected, rel=1e-5)
    assert negative_log_likelihood(probs, labels) == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_accuracy_is_no_mean_of_batch_means() -> None:
    probs = torch.eye(10)[torch.tensor([0, 0, 0, 0, 1])]
    labels = torch.tensor([0, 0, 0, 0, 0])  # batches of 4 and 1 would give (1 + 0) / 2
    assert accuracy(probs, labels) == pytest.approx(0.8)


def test_both_ends_of_accuracy_and_loss() -> None:
    labels = torch.arange(10)
    assert accuracy(torch.eye(10), labels) == 1.0
    assert negative_log_likelihood(torch.eye(10), labels) == 0.0
    assert accuracy(torch.eye(10).roll(1, dims=1), labels) == 0.0
    impossible = negative_log_likelihood(torch.eye(10).roll(1, dims=1), labels)
    assert impossible == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))


@pytest.mark.parametrize("num_correct, num_images", [(0, 10), (10, 10), (1, 3), (9_412, 10_000)])
@pytest.mark.parametrize("confidence, z", [(0.95, 1.959963984540054), (0.99, 2.5758293035489004)])
def test_wilson_interval_equals_its_formula(num_correct: int, num_images: int, confidence: float, z: float) -> None:
    share = num_correct / num_images
    centre = (share + z**2 / (2 * num_images)) / (1 + z**2 / num_images)
    spread = math.sqrt(share * (1 - share) / num_images + z**2 / (4 * num_images**2))
    half = z * spread / (1 + z**2 / num_images)
    low, high = wilson_interval(num_correct, num_images, confidence=confidence)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert 0 <= low <= share <= high <= 1


def test_no_images_have_no_interval() -> None:
    with pytest.raises(ValueError, match="n must be"):
        wilson_interval(0, 0)


def test_mean_interval_equals_the_table_of_student() -> None:
    values = [0.941, 0.938, 0.944, 0.940, 0.943]
    mean, std, (low, high) = mean_interval(values)
    assert mean == pytest.approx(np.mean(values))
    assert std == pytest.approx(np.std(values, ddof=1))
    half = 2.7764451051977987 * np.std(values, ddof=1) / math.sqrt(5)  # t, 4 degrees of freedom, 97.5 %
    assert (low, high) == pytest.approx((mean - half, mean + half))


def test_mean_interval_at_its_ends() -> None:
    mean, std, (low, high) = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(std)
    assert math.isnan(low)
    assert math.isnan(high)
    assert mean_interval([0.25, 0.25]) == (0.25, 0.0, (0.25, 0.25))
    with pytest.raises(ValueError, match="data point"):
        mean_interval([])


def test_per_class_equals_scikit_learn(logits: Tensor, labels: Tensor) -> None:
    expected = sklearn.metrics.precision_recall_fscore_support(labels, logits.argmax(dim=1), labels=range(10))
    found = per_class(logits.softmax(dim=1), labels)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert found[key] == pytest.approx(values.tolist(), abs=1e-6), key


def test_classes_without_images_or_predictions_count_zero() -> None:
    """Class 0 is right, 1 never predicted, 2 predicted but absent, the others neither."""
    found = per_class(torch.eye(10)[torch.tensor([0, 2, 2])], torch.tensor([0, 1, 1]))
    assert found["precision"] == found["recall"] == found["f1"] == [1.0] + 9 * [0.0]
    assert found["support"] == [1, 2] + 8 * [0]


def test_confusion_equals_a_slow_loop(logits: Tensor, labels: Tensor) -> None:
    expected = torch.zeros(10, 10, dtype=torch.int64)
    for label, predicted in zip(labels.tolist(), logits.argmax(dim=1).tolist(), strict=True):
        expected[label, predicted] += 1
    assert torch.equal(confusion_matrix(logits.softmax(dim=1), labels), expected)


def test_metrics_need_nothing_that_was_imported_before() -> None:
    """torchmetrics imports torchvision, which cannot be imported beside every build of torch."""
    code = "import torch; from cifar.evaluation.metrics import per_class; per_class(torch.eye(10), torch.arange(10))"
    subprocess.run([sys.executable, "-c", code], check=True)
