"""Whether a probability means what it says: calibration error, Brier score, temperature; pure functions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_BINS = 15
TEMPERATURES = 0.05, 20.0  # the range in which one is sought


@dataclass(frozen=True)
class Bin:
    """Images whose confidence (their top-1 probability) lies in a range.

    Attributes:
        low, high: the range, low excluded.
        count: images in it.
        confidence: their mean confidence; NaN without images.
        accuracy: the fraction of them whose top-1 class is the label; NaN without images.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def brier_score(probs: Tensor, labels: Tensor) -> float:
    """Return the mean over images of the squared distance between probabilities and label, 0 to 2 (Brier 1950).

    Args:
        probs: float [N, 10].
        labels: int64 [N].
    """
    target = torch.nn.functional.one_hot(labels, probs.shape[1])
    return (probs.double() - target).square().sum(dim=1).mean().item()


def calibration_error(probs: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error over 15 bins of equal width (Guo et al. 2017), a fraction.

    Args:
        probs: float [N, 10].
        labels: int64 [N].
    """
    return expected_gap(equal_bins(probs, labels))


def adaptive_calibration_error(probs: Tensor, labels: Tensor) -> float:
    """Return the same over 15 bins of equally many images (Nixon et al. 2019), of the top-1 probability alone."""
    return expected_gap(adaptive_bins(probs, labels))


def equal_bins(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> list[Bin]:
    """Return bins of equal width from 0 to 1, those of a reliability diagram.

    Args:
        probs: float [N, 10].
        labels: int64 [N].
        num_bins: how many.
    """
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
    confidence, correct = probs.max(dim=1).values.double(), probs.argmax(dim=1) == labels
    index = torch.bucketize(confidence, edges[1:-1])  # low < confidence ≤ high
    return [
        make_bin(confidence[index == number], correct[index == number], low=low, high=high)
        for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    ]


def adaptive_bins(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> list[Bin]:
    """Return bins of equally many images, but for a remainder, by confidence; arguments as of `equal_bins`."""
    confidence, order = probs.max(dim=1).values.double().sort(stable=True)
    correct = (probs.argmax(dim=1) == labels)[order]
    bins, low = [], 0.0
    for confidences, hits in zip(confidence.tensor_split(num_bins), correct.tensor_split(num_bins), strict=True):
        high = confidences[-1].item() if len(confidences) else low
        bins.append(make_bin(confidences, hits, low=low, high=high))
        low = high
    return bins


def make_bin(confidence: Tensor, correct: Tensor, *, low: float, high: float) -> Bin:
    """Return the bin of these images; confidence: float64 [M], correct: bool [M]."""
    if len(confidence) == 0:
        return Bin(low, high, 0, math.nan, math.nan)
    return Bin(low, high, len(confidence), confidence.mean().item(), correct.double().mean().item())


def expected_gap(bins: list[Bin]) -> float:
    """Return the mean distance of accuracy from confidence over all images of the bins, of which there is one."""
    filled = [bin_ for bin_ in bins if bin_.count]
    gaps = sum(bin_.count * abs(bin_.accuracy - bin_.confidence) for bin_ in filled)
    return gaps / sum(bin_.count for bin_ in filled)


def fit_temperature(probs: Tensor, labels: Tensor) -> float:
    """Return the temperature that maximises the likelihood of the labels (Guo et al. 2017), from 0.05 to 20.

    Args:
        probs: float [N, 10] of images that the network was not trained on and that it is not judged by.
        labels: int64 [N].
    """
    log_probs = logs(probs)
    log_prob_of_label = log_probs.gather(1, labels[:, None])[:, 0]  # [N]
    low, high = map(math.log, TEMPERATURES)
    for _ in range(40):  # each halves the range: 6 / 2^40
        middle = (low + high) / 2
        # The loss is convex in 1 / temperature: the sign of its derivative tells on which side the minimum lies.
        weights = (log_probs * math.exp(-middle)).softmax(dim=1)  # [N, 10]
        slope = ((weights * log_probs).sum(dim=1) - log_prob_of_label).mean()
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def at_temperature(probs: Tensor, temperature: float) -> Tensor:
    """Return probabilities whose logarithms are divided by a temperature: above 1 less confident, below 1 more.

    Args:
        probs: float [N, 10].
        temperature: greater than 0.

    Returns:
        [N, 10], of the same type.
    """
    return (logs(probs) / temperature).softmax(dim=1).to(probs.dtype)


def logs(probs: Tensor) -> Tensor:
    """Return logarithms, float64 [N, 10]; a probability of 0 counts as float32's smallest."""
    return probs.double().clamp_min(torch.finfo(torch.float32).tiny).log()
