"""Accuracy on corrupted test images: every corruption and severity in turn, as corruptions.json holds them."""

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from cifar.data.corruptions import CORRUPTIONS, SEVERITIES, VERSION, corrupted_images, corruptions_folder
from cifar.data.split import Split
from cifar.evaluation.metrics import accuracy
from cifar.evaluation.predict import predict

WHAT = "15 common corruptions × 5 severities, regenerated in the manner of CIFAR-10-C (these are not its images)"


def evaluate_corruptions(
    model: nn.Module,
    part: Split,
    *,
    data_sha256: str,
    views: str = "none",
    below: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Predict all corrupted images, one set in memory at a time; JSON-ready, accuracies as fractions.

    Args:
        model: on the device to compute on.
        part: the test split of the data set with this checksum.
        views, below: as in `predict`.
        seed: of the corrupted images, which are made once and kept.
        progress: images done, images in all.

    Raises:
        WorldError: the images cannot be kept.
    """
    digest, num_made, seconds = hashlib.sha256(), 0, {"making": 0.0, "predicting": 0.0}
    accuracies: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    total = len(CORRUPTIONS) * len(SEVERITIES) * len(part)
    before = 0
    for name, rates in accuracies.items():
        for severity in SEVERITIES:
            began = time.perf_counter()
            images, made = corrupted_images(part.images, name, severity, seed=seed, data_sha256=data_sha256)
            digest.update(images.numpy().data)
            num_made += made
            read = time.perf_counter()

            def count(done: int, _total: int, before: int = before) -> None:
                progress(before + done, total)

            rates.append(accuracy(predict(model, images, views=views, below=below, progress=count), part.labels))
            before += len(part)
            seconds["making"] += read - began
            seconds["predicting"] += time.perf_counter() - read
    folder = corruptions_folder(seed=seed, data_sha256=data_sha256)
    return {
        "what": WHAT,
        "seed": seed,
        "version": VERSION,
        "images_sha256": digest.hexdigest(),
        "views": views,
        "num_images": len(part),
        "mean_accuracy": statistics.fmean(map(statistics.fmean, accuracies.values())),
        "severity_accuracy": [statistics.fmean(column) for column in zip(*accuracies.values(), strict=True)],
        "accuracy": accuracies,
        "num_sets_generated": num_made,
        "generation_seconds": round(seconds["making"], 3),
        "prediction_seconds": round(seconds["predicting"], 3),
        "cache_bytes": sum(path.stat().st_size for path in folder.glob("*.npz")),
    }
