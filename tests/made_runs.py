"""Run folders as `cifar train` leaves them after an evaluation, made from probabilities instead of a training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cifar.data.cifar10 import SHA256
from cifar.evaluation.evaluate import evaluate
from cifar.files import write_json
from cifar.recipes import Recipe, cnn, to_json, to_mapping, with_fields
from cifar.runs import EVALUATION, PREDICTIONS, RECIPE, SUMMARY

SAMPLE = "SAMPLE OF CIFAR-10"


def make_probs(labels: NDArray[np.int64], fraction: float, *, seed: int) -> NDArray[np.float32]:
    """Probabilities [N, 10] whose top-1 class is the label for about this fraction of the images."""
    generator = np.random.default_rng(seed)
    classes = np.where(generator.random(len(labels)) < fraction, labels, (labels + generator.integers(1, 10)) % 10)
    probs = generator.random((len(labels), 10)) + 2 * np.eye(10)[classes]
    return (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)


def summary_of(recipe: Recipe | None = None, **changes: Any) -> dict[str, Any]:
    """What summary.json holds of a tested run, as far as every version writes it, with these fields changed."""
    recipe = recipe or cnn()
    machine = {"processor": "a CPU", "cores": 2, "memory_bytes": 2**34, "gpus": [], "system": "Linux x86_64"}
    return {
        "state": "tested", "finished": True, "model": recipe.model, "recipe": to_mapping(recipe), "seed": recipe.seed,
        "epochs": recipe.epochs, "best_epoch": recipe.epochs, "seconds": 1.0, "images_per_second": 900.0,
        "parameters": 1, "validation_accuracy": 0.5, "test_accuracy": 0.5, "test_interval": [0.4, 0.6],
        "test_readings": [{"time": "", "purpose": "a test"}], "data": SAMPLE, "data_source": "a test",
        "data_sha256": SHA256[SAMPLE]["all"], "command": "cifar train", "device": "cpu", "precision": "fp32",
        "commit": "", "machine": machine, "versions": {}, "num_train": 900, "num_validation": 100,
    } | changes  # fmt: skip


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
    recipe = with_fields(recipe or cnn(), seed=seed)
    (folder / RECIPE).write_text(to_json(recipe))
    record = {"data": data, "data_sha256": SHA256[data]["all"]}
    evaluation = evaluate(torch.from_numpy(probs), torch.from_numpy(labels), split=split)
    write_json(folder / EVALUATION, record | {"run": folder.name, "views": "none"} | evaluation)
    write_json(folder / SUMMARY, summary_of(recipe, **record))
    make_predictions(folder, labels, probs, split=split)
    return folder
