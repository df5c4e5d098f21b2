"""Probabilities and labels to numbers; pure functions, by torchmetrics and scipy where they have them."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cifar.data.split import CLASSES


def accuracy(probs: Tensor, labels: Tensor) -> float:
    """Share of images whose likeliest class is the label; probs float [N, 10], labels int64 [N]."""
    return (probs.argmax(dim=1) == labels).double().mean().item()


def negative_log_likelihood(probs: Tensor, labels: Tensor) -> float:
    """Mean of -log of the probability given to the label, in nats; a probability of 0 counts as float32's smallest."""
    tiny = torch.finfo(torch.float32).tiny
    return -probs.gather(1, labels[:, None]).clamp_min(tiny).double().log().mean().item()


def wilson_interval(num_correct: int, num_images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927), as fractions: the luck of which images were drawn.

    Raises:
        ValueError: no images.
    """
    from scipy.stats import binomtest

    interval = binomtest(num_correct, num_images).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float, tuple[float, float]]:
    """Mean, sample standard deviation (n - 1) and Student's interval of the mean; both NaN for one value.

    Args:
        values: one a seed or fold, in any unit; the results are in the same.

    Raises:
        ValueError: no values.
    """
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, (math.nan, math.nan)
    std = statistics.stdev(values)
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return mean, std, (mean - half, mean + half)


def per_class(probs: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Precision, recall, F1 and number of images (support) of each class; 0 where a quotient has no denominator.

    Args:
        probs: float [N, 10]; labels: int64 [N].

    Returns:
        precision, recall, f1 (fractions) and support (whole numbers), each a list of 10.
    """
    metrics, predicted = torchmetrics_classification(), probs.argmax(dim=1)
    every: dict[str, Any] = {"num_classes": len(CLASSES), "average": "none"}
    return {
        "precision": metrics.multiclass_precision(predicted, labels, **every).tolist(),
        "recall": metrics.multiclass_recall(predicted, labels, **every).tolist(),
        "f1": metrics.multiclass_f1_score(predicted, labels, **every).tolist(),
        "support": labels.bincount(minlength=len(CLASSES)).tolist(),
    }


def confusion_matrix(probs: Tensor, labels: Tensor) -> Tensor:
    """Counts, int64 [10, 10]: row the label, column the prediction."""
    matrix: Tensor = torchmetrics_classification().multiclass_confusion_matrix(
        probs.argmax(dim=1), labels, num_classes=len(CLASSES)
    )
    return matrix


def torchmetrics_classification() -> Any:
    """The module of torchmetrics' functions; it imports torchvision, which may need repair first."""
    from cifar.models.repair import repair_torchvision

    repair_torchvision()
    from torchmetrics.functional import classification

    return classification
