"""Whether a probability means what it says: calibration error, Brier score, temperature; pure functions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar.evaluation.metrics import torchmetrics_classification

NUM_BINS = 15


@dataclass(frozen=True)
class Bin:
    """Images whose highest probability lies in a range.

    Attributes:
        low, high: the range, low excluded.
        count: images in it.
        confidence: their mean highest probability; accuracy: the share of them that is right. Both NaN without images.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def brier_score(probs: Tensor, labels: Tensor) -> float:
    """Mean over images of the squared distance between probabilities and the label, 0 to 2 (Brier 1950).

    Args:
        probs: float [N, 10]; labels: int64 [N].
    """
    target = torch.nn.functional.one_hot(labels, probs.shape[1])
    return (probs.double() - target).square().sum(dim=1).mean().item()


def calibration_error(probs: Tensor, labels: Tensor) -> float:
    """Expected calibration error over 15 bins of equal width (Guo et al. 2017), as a fraction."""
    error = torchmetrics_classification().multiclass_calibration_error(
        probs, labels, num_classes=probs.shape[1], n_bins=NUM_BINS, norm="l1"
    )
    return float(error)


def adaptive_calibration_error(probs: Tensor, labels: Tensor) -> float:
    """The same over 15 bins of equally many images (Nixon et al. 2019), of the highest probability alone."""
    return expected_gap(adaptive_bins(probs, labels))


def equal_bins(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> list[Bin]:
    """Bins of equal width from 0 to 1: those of a reliability diagram."""
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
    confidence, correct = probs.max(dim=1).values.double(), probs.argmax(dim=1) == labels
    index = torch.bucketize(confidence, edges[1:-1])  # low < confidence ≤ high
    return [
        make_bin(confidence[index == number], correct[index == number], low=low, high=high)
        for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    ]


def adaptive_bins(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> list[Bin]:
    """Bins of equally many images, but for a remainder, by their highest probability."""
    confidence, order = probs.max(dim=1).values.double().sort(stable=True)
    correct = (probs.argmax(dim=1) == labels)[order]
    parts = zip(confidence.tensor_split(num_bins), correct.tensor_split(num_bins), strict=True)
    bins, low = [], 0.0
    for part, right in parts:
        high = part[-1].item() if len(part) else low
        bins.append(make_bin(part, right, low=low, high=high))
        low = high
    return bins


def make_bin(confidence: Tensor, correct: Tensor, *, low: float, high: float) -> Bin:
    """A bin of these images."""
    if len(confidence) == 0:
        return Bin(low, high, 0, math.nan, math.nan)
    return Bin(low, high, len(confidence), confidence.mean().item(), correct.double().mean().item())


def expected_gap(bins: list[Bin]) -> float:
    """Mean distance of accuracy from confidence over all images of the bins."""
    filled = [one for one in bins if one.count]
    return sum(one.count * abs(one.accuracy - one.confidence) for one in filled) / sum(one.count for one in filled)


def fit_temperature(probs: Tensor, labels: Tensor) -> float:
    """The temperature that makes the labels likeliest (Guo et al. 2017), from 0.05 to 20.

    Args:
        probs: float [N, 10] of images that the network was not trained on and that the result is not read on.
        labels: int64 [N].
    """
    from scipy.optimize import minimize_scalar

    log_probs = logs(probs)

    def loss(log_temperature: float) -> float:
        scaled = log_probs / math.exp(log_temperature)
        return torch.nn.functional.cross_entropy(scaled, labels).item()

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))


def at_temperature(probs: Tensor, temperature: float) -> Tensor:
    """Probabilities [N, 10] whose logarithms are divided by a temperature: above 1 less sure, below 1 surer."""
    return (logs(probs) / temperature).softmax(dim=1).to(probs.dtype)


def logs(probs: Tensor) -> Tensor:
    """Logarithms, float64 [N, 10]; a probability of 0 counts as float32's smallest."""
    return probs.double().clamp_min(torch.finfo(torch.float32).tiny).log()
