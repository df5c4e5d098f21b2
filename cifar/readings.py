"""What is made of a reading of a split, beyond its evaluation: pictures, references, corruptions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from cifar.data.cifar10 import Dataset
from cifar.data.corruptions import check_room
from cifar.data.references import reference_file
from cifar.data.split import NUM_TEST
from cifar.errors import InputError
from cifar.evaluation.corruptions import evaluate_corruptions
from cifar.evaluation.references import References, compare_with_references, read_references
from cifar.evaluation.testing import Reading
from cifar.files import write_json
from cifar.reporting.corruptions import draw_corruptions
from cifar.reporting.figures import draw_confusion
from cifar.reporting.mistakes import draw_mistakes
from cifar.reporting.reliability import draw_reliability
from cifar.runs import CORRUPTIONS, REFERENCES

SEED = 0  # of the corrupted images: the same for all runs, so that their figures are of the same images
NUM_SAMPLE_TEST = 200


def draw_reading(folder: Path, reading: Reading, *, people: Tensor | None, note: str) -> None:
    """Draw confusion matrix, reliability diagram and largest mistakes of a reading into a run's folder.

    Args:
        people: float [N, 10], the share of people that chose each class, where that is known.
        note: as in `draw_confusion`.
    """
    evaluation, part = reading.evaluation, reading.part
    title = f"{folder.name}, {evaluation['split']}: accuracy {evaluation['accuracy']:.2%}"
    draw_confusion(evaluation["confusion"], folder / "confusion.png", title=title, note=note)
    draw_reliability(evaluation, folder / "reliability.png", title=title, note=note)
    path = folder / "mistakes.png"
    draw_mistakes(part.images, part.labels, reading.probs, path, title=title, people=people, note=note)


def open_references(dataset: Dataset, *, split: str, say: Callable[[str], None]) -> References:
    """The published references of the test images, fetched where they are not in the cache.

    Raises:
        InputError: the images are not the 10,000 that the references are of.
        WorldError: they cannot be had.
    """
    if split != "test" or dataset.is_sample:
        what = "the validation images" if split != "test" else "the sample"
        raise InputError(
            f"--references goes with the test split of the whole CIFAR-10: people saw its 10,000 images, not {what}."
        )
    return read_references(lambda name: reference_file(name, say=say))


def add_references(folder: Path, reading: Reading, known: References) -> dict[str, Any]:
    """Compare a reading of the whole test split with the references; writes references.json and gives what it holds."""
    found = identity(reading) | compare_with_references(reading.probs, reading.part.labels, known)
    write_json(folder / REFERENCES, found)
    return found


def check_corruptions(dataset: Dataset, *, split: str) -> None:
    """See that corrupted images can be read.

    Raises:
        InputError: the split is not the one that is corrupted.
        WorldError: the disk cannot keep them.
    """
    if split != "test":
        raise InputError("--corruptions goes with --split test: only test images are corrupted.")
    check_room(NUM_SAMPLE_TEST if dataset.is_sample else NUM_TEST, seed=SEED, data_sha256=dataset.sha256)


def add_corruptions(
    folder: Path, reading: Reading, *, note: str, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Read the corrupted test images with the same network and views; writes and draws corruptions.json, gives it."""
    evaluation = reading.evaluation
    accuracies = evaluate_corruptions(
        reading.model,
        reading.part,
        data_sha256=evaluation["data_sha256"],
        seed=SEED,
        views=evaluation["views"],
        below=evaluation["views_below"],
        progress=progress,
    )
    found = identity(reading) | {"clean_accuracy": evaluation["accuracy"]} | accuracies
    write_json(folder / CORRUPTIONS, found)
    title = f"{folder.name}, corrupted test images: mean accuracy {found['mean_accuracy']:.2%}"
    draw_corruptions(found, folder / "corruptions.png", title=title, note=note)
    return found


def identity(reading: Reading) -> dict[str, Any]:
    """Of which run, views and data a file is."""
    return {key: reading.evaluation[key] for key in ("run", "views", "data", "data_sha256")}
