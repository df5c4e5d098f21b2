"""Accuracy on corrupted test images: every corruption and severity in turn, as corruptions.json holds them."""

import hashlib
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from cifar.data.split import Split
from cifar.evaluation.metrics import accuracy
from cifar.evaluation.predict import predict
from cifar.robustness.corruptions import (
    CORRUPTIONS,
    NOT_COMPARABLE,
    SEED,
    SEVERITIES,
    VERSION,
    corrupted_images,
    corruptions_folder,
)

WHAT = "15 common corruptions × 5 severities, regenerated in the manner of CIFAR-10-C (these are not its images)"


def evaluate_corruptions(
    model: nn.Module,
    test: Split,
    *,
    data_sha256: str,
    views: str = "none",
    below: float = 1.0,
    seed: int = SEED,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Return the accuracy on every set of corrupted images, one set in memory at a time.

    Args:
        model: on the device to compute on.
        test: the test split of the data set with this checksum.
        data_sha256: of the data set; identifies the cached images.
        views, below: as of `predict`.
        seed: of the corrupted images, which are made once and cached.
        progress: gets images done and images in all.

    Returns:
        JSON-ready, as corruptions.json holds it; accuracies as fractions.

    Raises:
        WorldError: the images cannot be cached.
    """
    digest, num_made, seconds = hashlib.sha256(), 0, {"making": 0.0, "predicting": 0.0}
    accuracies: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    total = len(CORRUPTIONS) * len(SEVERITIES) * len(test)
    for index, (name, severity) in enumerate(itertools.product(CORRUPTIONS, SEVERITIES)):
        began = time.perf_counter()
        images, made = corrupted_images(test.images, name, severity, seed=seed, data_sha256=data_sha256)
        digest.update(images.numpy().data)
        num_made += made
        ready = time.perf_counter()

        def count(done: int, _total: int, before: int = index * len(test)) -> None:
            progress(before + done, total)

        probs = predict(model, images, views=views, below=below, progress=count)
        accuracies[name].append(accuracy(probs, test.labels))
        seconds["making"] += ready - began
        seconds["predicting"] += time.perf_counter() - ready
    folder = corruptions_folder(seed=seed, data_sha256=data_sha256)
    return {
        "what": WHAT,
        "seed": seed,
        "version": VERSION,
        "images_sha256": digest.hexdigest(),
        "not_comparable": list(NOT_COMPARABLE),
        "views": views,
        "num_images": len(test),
        "mean_accuracy": statistics.fmean(map(statistics.fmean, accuracies.values())),
        "severity_accuracy": [statistics.fmean(rates) for rates in zip(*accuracies.values(), strict=True)],
        "accuracy": accuracies,
        "num_sets_generated": num_made,
        "generation_seconds": round(seconds["making"], 3),
        "prediction_seconds": round(seconds["predicting"], 3),
        "cache_bytes": sum(path.stat().st_size for path in folder.glob("*.npz")),
    }
