"""Metrics against scikit-learn, slow loops and formulas written out."""

import math
import subprocess
import sys

import pytest
import sklearn.metrics
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from cifar.evaluation.metrics import accuracy, confusion_matrix, negative_log_likelihood, per_class
from cifar.models.repair import repair_torchvision


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


def test_per_class_equals_scikit_learn(logits: Tensor, labels: Tensor) -> None:
    expected = sklearn.metrics.precision_recall_fscore_support(labels, logits.argmax(dim=1), labels=range(10))
    figures = per_class(confusion_matrix(logits.softmax(dim=1), labels))
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert figures[key] == pytest.approx(values.tolist(), abs=1e-12), key


def test_per_class_and_confusion_equal_torchmetrics(logits: Tensor, labels: Tensor) -> None:
    repair_torchvision()  # which torchmetrics imports
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    confusion = confusion_matrix(logits.softmax(dim=1), labels)
    assert torch.equal(confusion, metrics.multiclass_confusion_matrix(logits.argmax(dim=1), labels, num_classes=10))
    figures = per_class(confusion)
    for name, function in (("precision", "precision"), ("recall", "recall"), ("f1", "f1_score")):
        every = getattr(metrics, f"multiclass_{function}")(logits.argmax(dim=1), labels, num_classes=10, average="none")
        assert figures[name] == pytest.approx(every.tolist(), abs=1e-6), name


def test_classes_without_images_or_predictions_count_zero() -> None:
    """Class 0 is right, 1 never predicted, 2 predicted but absent, the others neither."""
    figures = per_class(confusion_matrix(torch.eye(10)[torch.tensor([0, 2, 2])], torch.tensor([0, 1, 1])))
    assert figures["precision"] == figures["recall"] == figures["f1"] == [1.0] + 9 * [0.0]
    assert figures["support"] == [1, 2] + 8 * [0]


def test_confusion_equals_a_slow_loop(logits: Tensor, labels: Tensor) -> None:
    expected = torch.zeros(10, 10, dtype=torch.int64)
    for label, predicted in zip(labels.tolist(), logits.argmax(dim=1).tolist(), strict=True):
        expected[label, predicted] += 1
    assert torch.equal(confusion_matrix(logits.softmax(dim=1), labels), expected)


def test_an_evaluation_imports_nothing_heavy_beside_torch() -> None:
    """What runs at the end of every training; scipy.stats alone would cost 0.6 s."""
    heavy = ("scipy", "pandas", "torchmetrics", "torchvision", "matplotlib")
    code = f"""
import sys, torch
from cifar.evaluation.evaluate import evaluate, temperature_scaling
probs, labels = torch.rand(50, 10).softmax(dim=1), torch.arange(50) % 10
evaluate(probs, labels, split="test"), temperature_scaling(probs, labels, probs, labels)
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
