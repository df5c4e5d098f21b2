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
    fit_temperature,
)
from cifar.evaluation.metrics import (
    accuracy,
    confusion_matrix,
    negative_log_likelihood,
    per_class,
    wilson_interval,
)


def evaluate(probs: Tensor, labels: Tensor, *, split: str) -> dict[str, Any]:
    """Accuracy with its 95 % interval, loss in nats, calibration, figures a class, confusion counts; JSON-ready.

    Args:
        probs: float32 [N, 10]; labels: int64 [N].
        split: what the images are called in the report, test or validation.

    Raises:
        ValueError: no images.
    """
    num_correct = int((probs.argmax(dim=1) == labels).sum())
    interval = wilson_interval(num_correct, len(labels))
    figures = per_class(probs, labels)
    return {
        "split": split,
        "num_images": len(labels),
        "accuracy": accuracy(probs, labels),
        "interval": list(interval),
        "loss": negative_log_likelihood(probs, labels),
        "brier": brier_score(probs, labels),
        "calibration_error": calibration_error(probs, labels),
        "adaptive_calibration_error": adaptive_calibration_error(probs, labels),
        "reliability": [bin_record(one) for one in equal_bins(probs, labels)],
        "per_class": [
            {"class": name} | {key: values[index] for key, values in figures.items()}
            for index, name in enumerate(CLASSES)
        ],
        "confusion": confusion_matrix(probs, labels).tolist(),
    }


def bin_record(one: Bin) -> dict[str, Any]:
    """A bin of the reliability diagram; confidence and accuracy are None where it holds no images."""
    record = dataclasses.asdict(one)
    return record if one.count else record | {"confidence": None, "accuracy": None}


def temperature_scaling(held_probs: Tensor, held_labels: Tensor, probs: Tensor, labels: Tensor) -> dict[str, Any]:
    """A temperature fitted on held-out images, and what it does to other images' loss and calibration, JSON-ready.

    Args:
        held_probs: float [M, 10]; held_labels: int64 [M]: of images that the result is not read on.
        probs: float [N, 10]; labels: int64 [N]: those that it is read on.
    """
    temperature = fit_temperature(held_probs, held_labels)
    scaled = at_temperature(probs, temperature)
    before, after = (
        {"loss": negative_log_likelihood(either, labels), "calibration_error": calibration_error(either, labels)}
        for either in (probs, scaled)
    )
    return {
        "temperature": temperature,
        "fitted_on": "validation",
        "num_fitted": len(held_labels),
        "before": before,
        "after": after,
    }
