"""Where a run ranks among 30 published networks, on the same 10,000 test images (predictions: Recht et al. 2018)."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar.audit.references import PUBLISHED_MODELS, reference_file
from cifar.data.cifar10 import SHA256
from cifar.data.split import NUM_TEST
from cifar.errors import InputError, WorldError
from cifar.evaluation.comparison import EvaluatedRun
from cifar.evaluation.conclusions import LEVEL
from cifar.evaluation.intervals import wilson_interval
from cifar.evaluation.paired import compare_pair, holm


def check_whole_test(run: EvaluatedRun) -> None:
    """Refuse a run that was not evaluated on the 10,000 test images, the only ones that the published networks predict.

    Args:
        run: one of those to rank.

    Raises:
        InputError: says what it was evaluated on.
    """
    if run.split != "test" or run.data_sha256 != SHA256["CIFAR-10"]["all"]:
        raise InputError(
            f"--published compares on the test split of the whole CIFAR-10, and {run.name} was evaluated on the "
            f"{run.split} images of {run.data}: leave --published out, or evaluate a run there."
        )


def read_published(
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
) -> dict[str, NDArray[np.int64]]:
    """Return the classes that each published network predicts, int64 [10000], by its name; fetched where not cached.

    Args:
        say: gets a sentence with source and licence for each file that is fetched.
        progress: gets a label, bytes done and bytes in all.

    Raises:
        WorldError: a file cannot be had, or is no list of 10,000 classes.
    """
    names = {model: f"{model}_predictions.json" for model in PUBLISHED_MODELS}
    return {model: read_classes(reference_file(name, say=say, progress=progress)) for model, name in names.items()}


def read_classes(path: Path) -> NDArray[np.int64]:
    """Return the list of predicted classes in a JSON file, int64 [10000].

    Args:
        path: of the file.

    Raises:
        WorldError: it holds something else.
    """
    try:
        classes = np.array(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError):
        classes = np.empty(0)
    if classes.shape != (NUM_TEST,) or classes.dtype != np.int64 or classes.min() < 0 or classes.max() > 9:
        raise WorldError(f"{path} is no list of {NUM_TEST:,} classes from 0 to 9: remove it, and it is fetched anew.")
    return classes


def rank_runs(
    runs: Sequence[EvaluatedRun], published: Mapping[str, NDArray[np.int64]], *, seed: int
) -> list[dict[str, Any]]:
    """Return each run's rank among the published networks (`rank_published`), under "run" its name, JSON-ready.

    Args:
        runs: evaluated on the 10,000 test images (`check_whole_test`).
        published: as of `read_published`.
        seed: of every bootstrap.
    """
    return [{"run": run.name, **rank_published(run.predicted, run.labels, published, seed=seed)} for run in runs]


def rank_published(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], published: Mapping[str, NDArray[np.int64]], *, seed: int
) -> dict[str, Any]:
    """Return a run's rank among published networks, and each of them against it, JSON-ready.

    Args:
        predicted: the run's classes, int64 [N].
        labels: int64 [N].
        published: predicted classes, int64 [N], by name.
        seed: of every bootstrap.

    Returns:
        rank: 1 is the best; num_ranked: the published networks and this run; models: the best first, each with its
        rank, accuracy, Wilson interval (`accuracy_interval`) and all of `compare_pair`, in which it is the first and
        the run the second; holm_p: its McNemar p corrected for all of them. Equally many hits have the same rank.
    """
    hits = {name: int((classes == labels).sum()) for name, classes in published.items()}
    own_hits, num_images = int((predicted == labels).sum()), len(labels)
    counts = [own_hits, *hits.values()]

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
        "rank": rank(own_hits),
        "num_ranked": len(counts),
        "accuracy": own_hits / num_images,
        "accuracy_interval": list(wilson_interval(own_hits, num_images)),
        "models": [model | {"holm_p": p} for model, p in zip(models, corrected, strict=True)],
    }


def conclude_rank(ranking: Mapping[str, Any]) -> str:
    """Return a run's rank among the published networks, and how many can be told apart from it, in a sentence.

    Args:
        ranking: an item of `rank_runs`.
    """
    apart = [model for model in ranking["models"] if model["holm_p"] < LEVEL]
    better = sum(model["difference"] > 0 for model in apart)
    return (
        f"{ranking['run']} ranks {ranking['rank']} of {ranking['num_ranked']}: {better} of the published networks "
        f"better, {len(apart) - better} worse, {len(ranking['models']) - len(apart)} that cannot be told apart from it "
        f"(McNemar p against {LEVEL}, corrected for {len(ranking['models'])})."
    )
