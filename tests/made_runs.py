"""Run folders as `cifar train` leaves them after an evaluation, made from probabilities instead of a training."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar.data.cifar10 import SHA256
from cifar.evaluation.evaluate import evaluate
from cifar.files import write_json
from cifar.recipes import Recipe, cnn, with_fields
from cifar.runs import EVALUATION, PREDICTIONS, SUMMARY, write_recipe

SAMPLE = "SAMPLE OF CIFAR-10"


def make_probs(labels: NDArray[np.int64], fraction: float, *, seed: int) -> NDArray[np.float32]:
    """Probabilities [N, 10] whose top-1 class is the label for about this fraction of the images."""
    generator = np.random.default_rng(seed)
    classes = np.where(generator.random(len(labels)) < fraction, labels, (labels + generator.integers(1, 10)) % 10)
    probs = generator.random((len(labels), 10)) + 2 * np.eye(10)[classes]
    return (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)


def make_predictions(folder: Path, labels: NDArray[np.int64], probs: NDArray[np.float32], *, split: str) -> None:
    """Write predictions.npz as an evaluation does."""
    np.savez_compressed(folder / PREDICTIONS, probs=probs, labels=labels, split=np.array(split))


def make_run(
    folder: Path,
    labels: NDArray[np.int64],
    probs: NDArray[np.float32],
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    split: str = "test",
    data: str = SAMPLE,
) -> Path:
    """A run folder with these predictions."""
    folder.mkdir(parents=True)
    write_recipe(folder, with_fields(recipe or cnn(), seed=seed))
    record = {"data": data, "data_sha256": SHA256[data]["all"]}
    evaluation = evaluate(torch.from_numpy(probs), torch.from_numpy(labels), split=split)
    write_json(folder / EVALUATION, record | {"run": folder.name, "views": "none"} | evaluation)
    write_json(folder / SUMMARY, record | {"test_readings": [{"time": "", "purpose": "a test"}]})
    make_predictions(folder, labels, probs, split=split)
    return folder
