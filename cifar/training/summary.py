"""What training writes into summary.json: state, provenance, and the figures of the training itself."""

import hashlib
from pathlib import Path
from typing import Any

from cifar.data.cifar10 import Dataset
from cifar.machine import choose_compile, describe_commit, describe_machine, describe_versions
from cifar.models import num_parameters
from cifar.models.onnx_weights import PACKAGED, packaged_weights
from cifar.recipes import Recipe, to_mapping
from cifar.runs import WEIGHTS
from cifar.training.resume import how_computed
from cifar.training.state import State
from cifar.training.step import precision_of


def describe_run(
    recipe: Recipe,
    dataset: Dataset,
    *,
    device: str,
    compile: bool,
    deterministic: bool,
    sync_batchnorm: bool = False,
    command: str,
) -> dict[str, Any]:
    """What summary.json says of a run before its first step; the results are still null.

    Args:
        recipe: of the run.
        dataset: that it is trained on.
        device: cpu, mps or cuda.
        compile, deterministic, sync_batchnorm: whether they were asked for.
        command: what was typed.

    Raises:
        OSError: the file of pretrained weights cannot be read.
    """
    precision, compiled = (
        precision_of(recipe, device=device)[0],
        choose_compile(compile, device=device)[0],
    )
    computed = how_computed(
        device=device, compiled=compiled, precision=precision, deterministic=deterministic,
        sync_batchnorm=sync_batchnorm,
    )  # fmt: skip
    return {
        "state": "unfinished",
        "finished": False,
        "model": recipe.model,
        "recipe": to_mapping(recipe),
        "seed": recipe.seed,
        "epochs": 0,
        "best_epoch": None,
        "seconds": None,
        "sittings": 1,
        "images_per_second": None,
        "parameters": None,
        "validation_accuracy": None,
        "test_accuracy": None,
        "test_interval": None,
        "test_readings": [],
        "weights_sha256": weights_sha256(recipe.network.weights),
        "data": dataset.name,
        "data_source": dataset.source,
        "data_sha256": dataset.sha256,
        "command": command,
        **{name: value for name, value in computed.items() if name != "torch"},  # which is among the versions
        "commit": describe_commit(),
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def weights_sha256(weights: str) -> str | None:
    """SHA-256 of the file that pretrained weights came from; None where they came from the hub or there are none."""
    if not weights:
        return None
    path = packaged_weights() if weights == PACKAGED else Path(weights)
    if path.is_dir():
        path = path / WEIGHTS
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_training(recipe: Recipe, state: State, *, num_images: int) -> dict[str, Any]:
    """What a finished training adds to summary.json; accuracies as fractions.

    Args:
        recipe, state: of the run.
        num_images: that it was trained on.
    """
    return {
        "state": "trained",
        "finished": True,
        "epochs": state.epoch,
        "stopped_early": state.epoch < recipe.epochs,
        "skipped_steps": state.skipped_steps,
        "changes": state.changes,
        "best_epoch": state.best_epoch,
        "seconds": round(state.seconds, 2),
        "images_per_second": round(num_images * state.epoch / state.seconds, 1),
        "parameters": num_parameters(state.model),
        "validation_accuracy": state.validation_accuracy,
    }
