"""Evaluation of a run on a split: the only place that opens the test split, and every reading of it is counted."""

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifar.data.cifar10 import Dataset, Split, cut, load
from cifar.errors import InputError
from cifar.evaluation.evaluate import evaluate
from cifar.evaluation.predict import predict
from cifar.files import write_bytes, write_json
from cifar.runs import (
    EVALUATION,
    PREDICTIONS,
    SUMMARY,
    load_network,
    read_json,
    run_recipe,
)


def evaluate_run(
    folder: Path,
    dataset: Dataset,
    *,
    split: str,
    purpose: str,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Read a split once with a run's best weights; writes evaluation.json and predictions.npz.

    Args:
        folder: of a run that has at least one epoch.
        dataset: the data that the run was trained on.
        split: "test", or "validation": the part of the training images that this run held out.
        purpose: why the test split is read; goes with the time into summary.json.
        progress: images done, images in all.

    Returns:
        what evaluation.json holds.

    Raises:
        InputError: no run folder, other data, no such split, or a run without validation images.
        WorldError: the weights cannot be read.
    """
    recipe, summary = run_recipe(folder), read_json(folder / SUMMARY)
    if summary["data_sha256"] != dataset.sha256:
        raise InputError(
            f"{folder} was trained on {summary['data']}, not on {dataset.name}: evaluate it on the same --data."
        )
    if split not in ("test", "validation"):
        raise InputError(f"There is no split {split!r}: choose test or validation.")
    model = load_network(folder)
    if split == "test":
        # Counted before it is read: a reading that fails half-way has still happened.
        summary["test_readings"].append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "purpose": purpose})
        write_json(folder / SUMMARY, summary)
        part = load(dataset, "test")
    else:
        part = cut(
            load(dataset, "train"),
            validation_fraction=recipe.validation_fraction,
            num_folds=recipe.num_folds,
            fold=recipe.fold,
            seed=recipe.split_seed,
        )[1]
        if len(part) == 0:
            raise InputError(f"{folder} held no validation images out: evaluate it with --split test.")
    probs = predict(model, part.images, device=device, views=recipe.views, progress=progress)
    evaluation = {"run": folder.name, "views": recipe.views, "data": dataset.name, "data_sha256": dataset.sha256}
    evaluation |= evaluate(probs, part.labels, split=split)
    write_predictions(folder, probs, part, split=split)
    write_json(folder / EVALUATION, evaluation)
    if split == "test":
        write_json(
            folder / SUMMARY,
            summary | {"test_accuracy": evaluation["accuracy"], "test_interval": evaluation["interval"]},
        )
    return evaluation


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
