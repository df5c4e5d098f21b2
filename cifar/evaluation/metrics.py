"""Probabilities and labels to accuracy, loss and figures per class: pure functions."""

import torch
from torch import Tensor


def accuracy(probs: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose top-1 class is the label; probs: float [N, 10], labels: int64 [N]."""
    return (probs.argmax(dim=1) == labels).double().mean().item()


def negative_log_likelihood(probs: Tensor, labels: Tensor) -> float:
    """Return the mean of -log of the label's probability, in nats; a probability of 0 counts as float32's smallest.

    Args:
        probs: float [N, 10].
        labels: int64 [N].
    """
    tiny = torch.finfo(torch.float32).tiny
    return -probs.gather(1, labels[:, None]).clamp_min(tiny).double().log().mean().item()


def confusion_matrix(probs: Tensor, labels: Tensor) -> Tensor:
    """Return counts of label (row) against top-1 class (column), int64 [10, 10].

    Args:
        probs: float [N, 10].
        labels: int64 [N].
    """
    num_classes = probs.shape[1]
    cells = num_classes * labels + probs.argmax(dim=1)  # [N]
    return cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def per_class(confusion: Tensor) -> dict[str, list[float]]:
    """Return precision, recall, F1 and number of images (support) of each class; 0 where a quotient has no denominator.

    Args:
        confusion: int64 [10, 10], as of `confusion_matrix`.

    Returns:
        precision, recall, f1 (fractions) and support (counts), each a list of 10.
    """
    hits, support, predicted = confusion.diagonal().double(), confusion.sum(dim=1), confusion.sum(dim=0)
    return {
        "precision": (hits / predicted.clamp_min(1)).tolist(),
        "recall": (hits / support.clamp_min(1)).tolist(),
        "f1": (2 * hits / (support + predicted).clamp_min(1)).tolist(),
        "support": support.tolist(),
    }
