"""Where a run stands among 30 published networks, on the same 10,000 test images (predictions: Recht et al. 2018)."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar.data.references import PUBLISHED_MODELS, reference_file
from cifar.data.split import NUM_TEST
from cifar.errors import WorldError
from cifar.evaluation.metrics import wilson_interval
from cifar.evaluation.paired import compare_pair, holm


def read_published(
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
) -> dict[str, NDArray[np.int64]]:
    """The classes that each published network predicts, int64 [10000], by its name; fetched where not cached.

    Raises:
        WorldError: a file cannot be had, or is no list of 10,000 classes.
    """
    names = {model: f"{model}_predictions.json" for model in PUBLISHED_MODELS}
    return {model: read_classes(reference_file(name, say=say, progress=progress)) for model, name in names.items()}


def read_classes(path: Path) -> NDArray[np.int64]:
    """The list of predicted classes in a JSON file, int64 [10000].

    Raises:
        WorldError: it holds something else.
    """
    try:
        classes = np.array(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        classes = np.empty(0)
    if classes.shape != (NUM_TEST,) or classes.dtype != np.int64 or classes.min() < 0 or classes.max() > 9:
        raise WorldError(f"{path} is no list of {NUM_TEST:,} classes from 0 to 9: remove it, and it is fetched anew.")
    return classes


def rank_published(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], published: Mapping[str, NDArray[np.int64]], *, seed: int
) -> dict[str, Any]:
    """A run's rank among published networks, and each of them against it, JSON-ready.

    Args:
        predicted, labels: int64 [N], the run's classes and the true ones.
        published: predicted classes, int64 [N], by name.
        seed: of every bootstrap.

    Returns:
        rank: 1 is the best; num_ranked: the published and this run; models: the best first, each with its rank,
        accuracy, Wilson interval (`accuracy_interval`) and all of `compare_pair`, in which it is the first and the run
        the second; holm_p: its McNemar p corrected for all of them. Equally many hits have the same rank.
    """
    hits = {name: int((classes == labels).sum()) for name, classes in published.items()}
    ours, num_images = int((predicted == labels).sum()), len(labels)
    counts = [ours, *hits.values()]

    def rank(num_correct: int) -> int:
        return 1 + sum(count > num_correct for count in counts)

    models: list[dict[str, Any]] = [
        {
            "rank": rank(hits[name]),
            "model": name,
            "accuracy": hits[name] / num_images,
            "accuracy_interval": list(wilson_interval(hits[name], num_images)),
        }
        | compare_pair(published[name], predicted, labels, generator=np.random.default_rng(seed))
        for name in sorted(published, key=lambda name: (-hits[name], name))
    ]
    corrected = holm([model["mcnemar_p"] for model in models])
    return {
        "rank": rank(ours),
        "num_ranked": len(counts),
        "accuracy": ours / num_images,
        "accuracy_interval": list(wilson_interval(ours, num_images)),
        "models": [model | {"holm_p": p} for model, p in zip(models, corrected, strict=True)],
    }
