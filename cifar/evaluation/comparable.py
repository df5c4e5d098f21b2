"""What is compared of a run: its last evaluation, as its folder holds it; and whether runs can be compared at all.

Reads `predictions.npz`, `evaluation.json`, `summary.json` and `recipe.json`. No image and no model is opened, so this
is no new reading of the test split: those were counted when the predictions were made.
"""

import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar.data.cifar10 import SHA256
from cifar.errors import InputError, WorldError
from cifar.recipes import Recipe
from cifar.runs import CROSSVAL, EVALUATION, PREDICTIONS, SUMMARY, read_json, run_recipe


@dataclass(frozen=True, eq=False)
class Run:
    """What is compared of a run: its last evaluation.

    Attributes:
        name: the folder's, or its path where two are called alike.
        folder, recipe: as they are.
        data, data_sha256, split, views: of the evaluation.
        num_readings: of the test split, by this run, so far.
        probs: float32 [N, 10]; labels: int64 [N]; in the original order.
    """

    name: str
    folder: Path
    recipe: Recipe
    data: str
    data_sha256: str
    split: str
    views: str
    num_readings: int
    probs: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The likeliest classes, int64 [N]."""
        return np.asarray(self.probs.argmax(axis=1), dtype=np.int64)

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether each is right, bool [N]."""
        return np.asarray(self.predicted == self.labels)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders, which are comparable.

    Raises:
        InputError: a folder given twice or of no run, or runs that differ in their images (`check_comparable`).
        WorldError: no predictions yet, or damaged ones.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{folder} is given twice: a run compared with itself says nothing.")
    names = [place.name for place in places]
    alike = len(set(names)) < len(names)
    runs = [read_run(folder, name=str(folder) if alike else folder.resolve().name) for folder in folders]
    check_comparable(runs)
    return runs


def read_run(folder: Path, *, name: str) -> Run:
    """A run's last evaluation.

    Raises:
        InputError: no run folder.
        WorldError: it has no predictions, or they cannot be read; gives the command that makes them.
    """
    if (folder / CROSSVAL).exists():
        raise InputError(f"{folder} holds a cross-validation: compare its folds, such as {folder / 'fold-0'}.")
    recipe, path = run_recipe(folder), folder / PREDICTIONS
    remedy = f"make it with `cifar evaluate {shlex.quote(str(folder))}`"
    if not path.exists():
        raise WorldError(f"{folder} has no {PREDICTIONS}: {remedy}, which is counted as a reading of the test set.")
    evaluation, summary = read_json(folder / EVALUATION), read_json(folder / SUMMARY)
    try:
        with np.load(path) as arrays:
            probs, labels, split = arrays["probs"], arrays["labels"], str(arrays["split"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise WorldError(f"{path} is damaged: {remedy} anew.") from None
    if (split, probs.shape) != (evaluation["split"], (evaluation["num_images"], 10)) or len(labels) != len(probs):
        raise WorldError(f"{path} and {EVALUATION} beside it are of two evaluations: {remedy} anew.")
    return Run(
        name, folder, recipe, evaluation["data"], evaluation["data_sha256"], split,
        evaluation.get("views", recipe.views), len(summary["test_readings"]), probs, labels,
    )  # fmt: skip


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that were not evaluated on the same images.

    Raises:
        InputError: says which runs differ from the first, and in what.
    """
    first = runs[0]
    clauses = [f"{run.name} {difference}" for run in runs[1:] if (difference := difference_from(run, first))]
    if clauses:
        raise InputError(
            f"Runs are compared on the same images only, and {'; '.join(clauses)}: evaluate them on one split of one "
            "data set, or leave out what differs."
        )


def difference_from(run: Run, first: Run) -> str:
    """In what the images of a run are not those of another, as the end of a sentence; empty where they are the same."""
    if run.data_sha256 != first.data_sha256:
        data, other = (f"{one.data} (sha256 {one.data_sha256[:8]}…)" for one in (run, first))
        return f"was evaluated on {data}, {first.name} on {other}"
    if run.split != first.split:
        return f"was evaluated on its {run.split} images, {first.name} on its {first.split} images"
    held, wanted = held_out(run.recipe), held_out(first.recipe)
    if run.split == "validation" and held != wanted:
        return f"held out other validation images ({as_words(held)}) than {first.name} ({as_words(wanted)})"
    if len(run.labels) != len(first.labels):
        return f"has predictions for {len(run.labels):,} images, {first.name} for {len(first.labels):,}"
    if not np.array_equal(run.labels, first.labels):
        return f"has other labels in its {PREDICTIONS} than {first.name}"
    return ""


def held_out(recipe: Recipe) -> dict[str, float]:
    """The fields of a recipe that decide which training images are held out."""
    if recipe.num_folds:
        return {"num_folds": recipe.num_folds, "fold": recipe.fold, "split_seed": recipe.split_seed}
    return {"validation_fraction": recipe.validation_fraction, "split_seed": recipe.split_seed}


def as_words(fields: Mapping[str, float]) -> str:
    """Fields with their values, for a sentence."""
    return ", ".join(f"{name} {value:g}" for name, value in fields.items())


def check_whole_test(run: Run) -> None:
    """Refuse a run that was not evaluated on the 10,000 test images, which alone the published networks predict.

    Raises:
        InputError: says what it was evaluated on.
    """
    if run.split != "test" or run.data_sha256 != SHA256["CIFAR-10"]["all"]:
        raise InputError(
            f"--published compares on the test split of the whole CIFAR-10, and {run.name} was evaluated on the "
            f"{run.split} images of {run.data}: leave --published out, or evaluate a run there."
        )
