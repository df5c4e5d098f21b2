"""All figures of one set of predictions, as evaluation.json holds them."""

import dataclasses
from typing import Any

from torch import Tensor

from cifar.data.split import CLASSES
from cifar.evaluation.calibration import (
    Bin,
    adaptive_calibration_error,
    at_temperature,
    brier_score,
    calibration_error,
    equal_bins,
    expected_gap,
    fit_temperature,
)
from cifar.evaluation.intervals import wilson_interval
from cifar.evaluation.metrics import accuracy, confusion_matrix, negative_log_likelihood, per_class


def evaluate(probs: Tensor, labels: Tensor, *, split: str) -> dict[str, Any]:
    """Return accuracy with its 95 % interval, loss in nats, calibration, figures per class and confusion counts.

    Args:
        probs: float32 [N, 10].
        labels: int64 [N].
        split: what the images are called in the report, test or validation.

    Returns:
        JSON-ready; accuracies as fractions.

    Raises:
        ValueError: there are no images.
    """
    confusion = confusion_matrix(probs, labels)
    interval = wilson_interval(int(confusion.diagonal().sum()), len(labels))
    figures, bins = per_class(confusion), equal_bins(probs, labels)
    return {
        "split": split,
        "num_images": len(labels),
        "accuracy": accuracy(probs, labels),
        "interval": list(interval),
        "loss": negative_log_likelihood(probs, labels),
        "brier": brier_score(probs, labels),
        "calibration_error": expected_gap(bins),
        "adaptive_calibration_error": adaptive_calibration_error(probs, labels),
        "reliability": [bin_record(bin_) for bin_ in bins],
        "per_class": [
            {"class": name} | {key: values[index] for key, values in figures.items()}
            for index, name in enumerate(CLASSES)
        ],
        "confusion": confusion.tolist(),
    }


def bin_record(bin_: Bin) -> dict[str, Any]:
    """Return a bin of the reliability diagram; confidence and accuracy are None where it holds no images."""
    record = dataclasses.asdict(bin_)
    return record if bin_.count else record | {"confidence": None, "accuracy": None}


def temperature_scaling(
    validation_probs: Tensor, validation_labels: Tensor, probs: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Return a temperature fitted on validation images, and what it changes in other images' loss and calibration.

    Args:
        validation_probs: float [M, 10], of images that the network is not judged by.
        validation_labels: int64 [M].
        probs: float [N, 10], of those that it is judged by.
        labels: int64 [N].

    Returns:
        JSON-ready: the temperature, the accuracy on the images that it was fitted on, and loss (nats) and calibration
        error (fraction) before and after.
    """
    temperature = fit_temperature(validation_probs, validation_labels)
    fitted = {"temperature": temperature, "fitted_on": "validation", "num_fitted": len(validation_labels)}
    fitted["fitted_accuracy"] = accuracy(validation_probs, validation_labels)
    return fitted | effect_of_temperature(probs, labels, temperature)


def effect_of_temperature(probs: Tensor, labels: Tensor, temperature: float) -> dict[str, Any]:
    """Return loss (nats) and calibration error (fraction) before and after, and the bins after.

    Args:
        probs: float [N, 10]; labels: int64 [N].
        temperature: that was fitted on other images.
    """
    scaled = at_temperature(probs, temperature)
    before, after = (
        {"loss": negative_log_likelihood(either, labels), "calibration_error": calibration_error(either, labels)}
        for either in (probs, scaled)
    )
    return {
        "before": before,
        "after": after | {"reliability": [bin_record(bin_) for bin_ in equal_bins(scaled, labels)]},
    }
