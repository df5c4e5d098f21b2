"""All figures of one set of predictions, as evaluation.json holds them."""

from typing import Any

from torch import Tensor

from cifar.data.split import CLASSES
from cifar.evaluation.metrics import (
    accuracy,
    confusion_matrix,
    negative_log_likelihood,
    per_class,
    wilson_interval,
)


def evaluate(probs: Tensor, labels: Tensor, *, split: str) -> dict[str, Any]:
    """Accuracy with its 95 % interval, loss in nats, figures a class and confusion counts, JSON-ready.

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
        "per_class": [
            {"class": name} | {key: values[index] for key, values in figures.items()}
            for index, name in enumerate(CLASSES)
        ],
        "confusion": confusion_matrix(probs, labels).tolist(),
    }
