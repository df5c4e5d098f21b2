"""Evaluation of a run on a split: the only place that opens the test split, and every reading of it is counted."""

import functools
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cifar.data.cifar10 import Dataset, Split, cut, load
from cifar.errors import InputError
from cifar.evaluation.evaluate import evaluate, temperature_scaling
from cifar.evaluation.predict import VIEWS, chosen_views, predict
from cifar.files import write_bytes, write_json
from cifar.models.compiled import use_compiled
from cifar.recipes import Recipe
from cifar.runs import (
    EVALUATION,
    PREDICTIONS,
    SUMMARY,
    load_network,
    read_json,
    run_recipe,
)


@dataclass(frozen=True)
class Reading:
    """A split as a run's best weights see it.

    Attributes:
        evaluation: what evaluation.json holds.
        part: the images with their labels.
        probs: float32 [N, 10].
        model: the network, on the device.
    """

    evaluation: dict[str, Any]
    part: Split
    probs: Tensor
    model: nn.Module


def evaluate_run(
    folder: Path,
    dataset: Dataset,
    *,
    split: str,
    purpose: str,
    views: str = "",
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Reading:
    """Read a split once with a run's best weights; writes evaluation.json and predictions.npz.

    On the test split the run's own validation images, if it has some, are predicted as well, and a temperature is
    fitted to them. On the validation split there is none, since it would be judged by what it was fitted to.

    Args:
        folder: of a run that has at least one epoch.
        dataset: the data that the run was trained on.
        split: "test", or "validation": the part of the training images that this run held out.
        purpose: why the test split is read; goes with the time into summary.json.
        views: instead of the recipe's, "" for those. The result in summary.json is only replaced by what was read
            with the recipe's views, since they are part of it.
        progress: images done, images in all.

    Raises:
        InputError: no run folder, other data, no such split or views, or a run without validation images.
        WorldError: the weights cannot be read.
    """
    recipe, summary = run_recipe(folder), read_json(folder / SUMMARY)
    if summary["data_sha256"] != dataset.sha256:
        raise InputError(
            f"{folder} was trained on {summary['data']}, not on {dataset.name}: evaluate it on the same --data."
        )
    if split not in ("test", "validation"):
        raise InputError(f"There is no split {split!r}: choose test or validation.")
    views, below = chosen_views(recipe, views)
    if views not in VIEWS:
        raise InputError(f"There are no views {views!r}: choose from {', '.join(VIEWS)}.")
    model, held = load_network(folder), validation_images(recipe, dataset)
    if recipe.winograd and device == "cpu":
        use_compiled(model)
    if split == "test":
        count_reading(folder, purpose=purpose)
        part = load(dataset, "test")
    elif held:
        part, held = held, None
    else:
        raise InputError(f"{folder} held no validation images out: evaluate it with --split test.")
    total, began = len(part) + (len(held) if held else 0), time.perf_counter()
    look = functools.partial(predict, model, device=device, views=views, below=below)
    probs = look(part.images, progress=lambda done, _: progress(done, total))
    evaluation: dict[str, Any] = {
        "run": folder.name,
        "views": views,
        "passes_an_image": len(VIEWS[views]),
        "views_below": below,
        "prediction_seconds": round(time.perf_counter() - began, 3),
        "data": dataset.name,
        "data_sha256": dataset.sha256,
    }
    evaluation |= evaluate(probs, part.labels, split=split) | {"temperature_scaling": None}
    if held:
        others = look(held.images, progress=lambda done, _: progress(len(part) + done, total))
        evaluation["temperature_scaling"] = temperature_scaling(others, held.labels, probs, part.labels)
    write_predictions(folder, probs, part, split=split)
    write_json(folder / EVALUATION, evaluation)
    if split == "test" and views == recipe.views:
        result = {"test_accuracy": evaluation["accuracy"], "test_interval": evaluation["interval"]}
        write_json(folder / SUMMARY, read_json(folder / SUMMARY) | result)
    return Reading(evaluation, part, probs, model)


def count_reading(folder: Path, *, purpose: str) -> None:
    """Write into summary.json that the test split is read now, before it is: one that fails half-way has happened."""
    summary = read_json(folder / SUMMARY)
    summary["test_readings"].append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "purpose": purpose})
    write_json(folder / SUMMARY, summary)


def validation_images(recipe: Recipe, dataset: Dataset) -> Split | None:
    """The training images that a run held out; None where it trained on all."""
    if not recipe.validation_fraction and not recipe.num_folds:
        return None
    return cut(
        load(dataset, "train"),
        validation_fraction=recipe.validation_fraction,
        num_folds=recipe.num_folds,
        fold=recipe.fold,
        seed=recipe.split_seed,
    )[1]


def write_predictions(folder: Path, probs: Tensor, part: Split, *, split: str) -> None:
    """Write predictions.npz: probs float32 [N, 10], labels int64 [N] and the split's name, in the original order."""
    data = io.BytesIO()
    np.savez_compressed(data, probs=probs.numpy(), labels=part.labels.numpy(), split=np.array(split))
    write_bytes(folder / PREDICTIONS, data.getvalue())


def average_folds(folders: Sequence[Path]) -> dict[str, Any]:
    """Evaluate the mean of the folds' probabilities on the test split, from their predictions.npz.

    This is the accuracy of an ensemble of the folds, which is not the mean of their accuracies.
    """
    probs, labels = [], torch.empty(0)
    for folder in folders:
        with np.load(folder / PREDICTIONS) as predictions:
            assert str(predictions["split"]) == "test", f"{folder} was last evaluated on {predictions['split']}"
            probs.append(torch.from_numpy(predictions["probs"]))
            labels = torch.from_numpy(predictions["labels"])
    return evaluate(torch.stack(probs).mean(dim=0), labels, split="test")
